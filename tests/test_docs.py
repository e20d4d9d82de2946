"""The page of the API has every public name, examples of pages run, and links lead somewhere."""

import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest

import parimend as pm

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.glob("docs/**/*.md")}
ALONE = re.compile(r"```python\n(import torch\n.*?)```", re.DOTALL)


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


def test_completion_shows_what_is_public_and_nothing_else():
    assert {name for name in dir(pm) if not name.startswith("__")} == set(pm.__all__)


def test_names_that_pages_use_are_public():
    for page, text in {**PAGES, "README.md": (ROOT / "README.md").read_text()}.items():
        for first, second in re.findall(r"\bpm\.(\w+)(?:\.(\w+))?", text):
            assert first in pm.__all__, f"{page}: pm.{first}"
            public = getattr(pm, first)
            if isinstance(public, ModuleType) and second:
                assert hasattr(public, second), f"{page}: pm.{first}.{second}"


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if ">>>" in text])
def test_examples_that_show_their_output(page):
    found = doctest.testfile(str(ROOT / page), module_relative=False)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if ALONE.search(text)])
def test_examples_that_stand_alone(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in ALONE.findall(PAGES[page]):
        exec(compile(example, page, "exec"), {})


def test_links_of_pages_outside_of_the_documentation():
    # Sphinx looks at those of the documentation itself.
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
            assert link.startswith("https://") or (ROOT / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("folder", ["src", "benchmarks", "recipes", "tests"])
def test_pages_that_are_named_in_the_code(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for page in re.findall(r"(?<![/\w])docs/[a-z_/]+\.md", path.read_text()):
            assert (ROOT / page).exists(), f"{path.relative_to(ROOT)}: {page}"
