"""Every format on the command line, from protecting to repairing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samples import SAMPLES, load

from parimend.formats import FORMATS

GOLDEN = Path(__file__).parents[1] / "golden" / "formats"


@pytest.mark.parametrize("name", FORMATS)
def test_from_protect_to_repair(name, run, tmp_path, rng):
    path = SAMPLES[name](tmp_path, rng)
    original, tensors, hurt = path.read_bytes(), load(path), tmp_path / "hurt"
    assert run("protect", path, "--errors", 20)[0] == 0
    code, out, _ = run("inspect", path, "--json")
    [file] = json.loads(out)["files"]
    assert (code, file["format"]) == (0, name)
    assert set(tensors) & {tensor["name"] for tensor in file["tensors"]}
    code, out, _ = run("inspect", path)
    assert (code, file["tensors"][0]["name"] in out) == (0, True)
    assert run("inject", path, "-o", hurt, "--fault", "bitflip", "--count", 9)[0] == 0
    path.write_bytes(hurt.read_bytes())
    code, out, _ = run("check", path, "--list", "--json")
    [file] = json.loads(out)["files"]
    assert (code, file["verdict"], file["covered"]) == (1, "correctable", file["elements"])
    code, out, _ = run("check", path, "--list")
    assert (code, file["words"][0]["changes"][0]["tensor"] in out) == (1, True)
    assert run("repair", path, "--in-place")[0] == 0
    assert path.read_bytes() == original


def test_checking_loads_no_parser_of_others():
    files = [
        max(f for f in folder.iterdir() if f.suffix != ".parimend") for folder in GOLDEN.iterdir()
    ]
    script = (
        "import sys; from parimend import check_file\n"
        "for path in sys.argv[1:]: assert check_file(path).ok\n"
        "print({'torch', 'onnx', 'gguf', 'google.protobuf', 'pickletools'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
