"""Data flows one way: what each part of the package may import."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

GROUND = {"errors", "dtypes", "names", "rng", "atomic", "hashing"}
LEAVES = GROUND - {"atomic"} | {"showing", "record", "outcomes", "events", "kernels"}
SEALING = LEAVES | {
    "arguments",
    "codes",
    "decoders",
    "words",
    "impose",
    "reedsolomon",
    "armor",
    "regular",
    "atomic",
    "seal",
}
PROTECTION = SEALING | {
    "removable",
    "carriers",
    "model",
    "sharded",
    "training",
    "files",
    "hub",
    "scrub",
}
LIBRARY = PROTECTION | {"guards", "faults", "upsets", "experiment", "datasets"}

# Part of the package (a module or a subpackage) -> the parts that it may import.
MAY_IMPORT = {
    "errors": set(),
    "hashing": set(),
    "kernels": {"hashing", "errors"},
    "dtypes": {"errors"},
    "names": {"errors"},
    "rng": {"errors"},
    "showing": set(),
    "record": {"showing"},
    "outcomes": {"record", "showing"},
    "events": {"outcomes", "record", "showing"},
    "arguments": {"errors"},
    "codes": LEAVES,
    "decoders": LEAVES | {"codes"},
    "words": LEAVES,
    "impose": LEAVES | {"codes", "words"},
    "reedsolomon": set(),
    "armor": {"reedsolomon", "errors"},
    "regular": {"errors"},
    "atomic": {"errors", "regular"},
    "removable": set(),
    "seal": LEAVES | {"arguments", "codes", "words", "armor", "regular", "atomic"},
    "carriers": SEALING,
    "model": PROTECTION,
    "sharded": PROTECTION,
    "training": PROTECTION,
    "integrations": PROTECTION,
    "files": PROTECTION,
    "hub": PROTECTION,
    "scrub": PROTECTION,
    "guards": LEAVES | {"removable", "codes", "words", "impose"},
    "faults": GROUND,
    "upsets": LEAVES | {"removable", "faults"},
    "campaign": LIBRARY,
    "report": {"outcomes"},
    "__init__": LIBRARY | {"report"},
    "demo": LIBRARY,
    "cli": LIBRARY | {"demo", "__init__"},
    "__main__": {"cli"},
}

# Not even inside a function.
NO_TORCH = {
    "errors",
    "names",
    "rng",
    "showing",
    "record",
    "outcomes",
    "events",
    "codes",
    "decoders",
    "faults",
}
# `parimend check FILE` must not wait for torch: loading these does not load it anywhere below.
LOADS_NO_TORCH = NO_TORCH | {"dtypes", "atomic", "seal", "files", "cli"}


def part(name):
    """The part that a dotted name of the package belongs to; a public name is the __init__'s."""
    first = name.split(".")[1]
    return first if first in MAY_IMPORT else "__init__"


def imported(nodes, package):
    """Dotted names that these ast nodes import, as seen from inside ``package``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # The name may be a part itself: `from parimend import codes`.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(path, source):
    """What the file at ``path`` (relative to src/) imports and may not."""
    *packages, module = path.with_suffix("").parts
    own = [*packages, module][1]
    if own not in MAY_IMPORT:
        return [f"{path}: {own} has no row in MAY_IMPORT"]
    tree, package = ast.parse(source, path), ".".join(packages)
    names = set(imported(ast.walk(tree), package))
    ours = {n for n in names if n.startswith("parimend.")}
    wrong = {n for n in ours if part(n) not in MAY_IMPORT[own] | {own}}
    if own in NO_TORCH:
        wrong |= {n for n in names if n.split(".")[0] == "torch"}
    if module == "__init__":  # a package must be quick to load
        wrong |= {n for n in imported(tree.body, package) if n.split(".")[0] in ("torch", "numba")}
    return [f"{path} may not import {name}" for name in sorted(wrong)]


def test_every_file_keeps_to_the_table():
    files = sorted((SRC / "parimend").rglob("*.py"))
    found = [v for file in files for v in violations(file.relative_to(SRC), file.read_text())]
    assert files
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("codes/sparse.py", "from parimend import words"),
        ("codes/sparse.py", "from ..words import grid"),
        ("codes/sparse.py", "def f():\n    import torch.nn"),
        ("decoders/__init__.py", "import parimend.impose.rounding"),
        ("words/__init__.py", "from torch import Tensor"),
        ("decoders/__init__.py", "import numba as nb"),
        ("faults/flip.py", "from parimend.words import bits"),
        ("faults/flip.py", "def f():\n    import torch"),
        ("model.py", "from parimend import protect_"),
        ("__init__.py", "from parimend.cli import main"),
        ("extra.py", ""),
    ],
)
def test_a_violation_is_caught(path, source):
    assert len(violations(Path("parimend", path), source)) == 1


def test_an_allowed_import_is_not():
    source = "from ..codes import Code\nfrom . import base\nfrom parimend.outcomes import Verdict"
    assert violations(Path("parimend/decoders/peeling.py"), source) == []


def test_loading_brings_no_torch():
    modules = [
        ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted((SRC / "parimend").rglob("*.py"))
        if file.relative_to(SRC / "parimend").with_suffix("").parts[0] in LOADS_NO_TORCH
    ]
    script = f"""import importlib, sys
import parimend
assert not {{"torch", "numba"}} & set(sys.modules), "parimend"
for name in {modules}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
