"""Data flows one way, and what has to start at once loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "parimend"

# Not even inside a function: whatever needs no tensors must not wait for torch.
NO_TORCH = (
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
    "datasets",
)
# `parimend check FILE` must not wait for torch: loading these does not load it anywhere below.
LOADS_NO_TORCH = (
    *NO_TORCH,
    "dtypes",
    "atomic",
    "formats",
    "seal",
    "files",
    "loading",
    "fingerprints",
    "experiment",
    "cli",
)


def modules(parts):
    """Dotted names of all modules of some parts of the package."""
    for file in sorted(SRC.rglob("*.py")):
        names = file.relative_to(SRC).with_suffix("").parts
        if names[0] in parts:
            yield ".".join(("parimend", *names)).removesuffix(".__init__")


def test_layers_are_kept(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_parts_without_torch_do_not_name_it():
    named = [
        module
        for module in modules(NO_TORCH)
        for line in _source(module).splitlines()
        if line.split()[:2] in (["import", "torch"], ["from", "torch"])
    ]
    assert named == []


def test_loading_brings_no_torch():
    script = f"""import importlib, sys
import parimend
assert not {{"torch", "numba"}} & set(sys.modules), "parimend"
for name in {list(modules(LOADS_NO_TORCH))}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def _source(module):
    path = SRC.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text()


FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


def test_tensors_are_made_on_a_device_that_is_named():
    # Else they are where `torch.set_default_device` says, and not where those are they meet.
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                makes = ast.unparse(node.func.value) == "torch" and node.func.attr in FACTORIES
                where = {keyword.arg for keyword in node.keywords}
                assert not makes or "device" in where, f"{path}:{node.lineno}"
