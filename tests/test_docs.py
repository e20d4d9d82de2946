"""The page of the API has every public name."""

import re
from pathlib import Path
from types import ModuleType

import parimend as pm

API = (Path(__file__).parents[1] / "docs" / "api.md").read_text()


def test_every_public_name_is_in_the_api():
    modules = dict(re.findall(r"automodule:: (\S+)\n   :members:(.*(?:\n {4,}\S.*)*)", API))
    shown = {name for names in modules.values() for name in re.findall(r"\w+", names)}
    shown |= {name.rpartition(".")[2] for name in re.findall(r"autoclass:: (\S+)", API)}
    whole = {module for module, names in modules.items() if not names.strip()}
    for name in pm.__all__:
        public = getattr(pm, name)
        if isinstance(public, ModuleType):
            assert public.__name__ in modules
        else:
            assert name in shown or public.__module__ in whole, name
