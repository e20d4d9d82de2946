"""Sphinx configuration. `make docs` builds with warnings as errors and without a network."""

from importlib.metadata import version as installed

project = "Parimend"
author = "The Parimend developers"
version = release = installed("parimend")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Parimend {version}"
html_show_copyright = False

default_role = "py:obj"  # `name` in a docstring links to name
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # the attributes of a dataclass are documented once
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
