"""Commands on files where PyTorch is not installed."""

import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file
from samples import SAMPLES

COMMANDS = """
import sys

sys.modules["torch"] = None  # as if it were not there: importing it is an error

from parimend.cli import main

for line in sys.stdin.read().splitlines():
    expected, *arguments = line.split()
    try:
        main(arguments)
    except SystemExit as end:
        assert (end.code or 0) == int(expected), (arguments, end.code)
"""


def run(lines, folder):
    return subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input="\n".join(lines.strip().split("\n")),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_needs_it_says_so(tmp_path, rng):
    path = SAMPLES["torch"](tmp_path, rng)
    told = run(f"2 fingerprint {path.name}", tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stderr.count("\n") == 1
    assert "this needs PyTorch, which is not installed here: pip install torch" in told.stderr


def test_files_are_protected_checked_and_repaired_without_it(tmp_path, rng):
    weights = rng.standard_normal((40, 64)).astype(np.float32)
    lines, results = "", {}
    for carrier in ("sidecar", "lowbits", "real"):
        (tmp_path / carrier).mkdir()
        model, out, broken = (
            f"{carrier}/{name}.safetensors" for name in ("model", "protected", "broken")
        )
        save_file({"w": weights}, tmp_path / model)
        goal = f"-o {out}"
        if carrier == "sidecar":
            out, goal = model, ""
        results[broken] = out
        lines += f"""
        0 protect {model} --errors 20 --carrier {carrier} {goal}
        0 check {out} --receipt {carrier}/receipt.json
        0 inject {out} -o {broken} --fault bitflip --count 20
        1 check {broken} --list
        0 repair {broken} --in-place
        0 inspect {broken}
        0 plan {out} --errors 20 --carrier {carrier} --environment leo"""
    told = run(lines, tmp_path)
    assert told.returncode == 0, told.stderr
    for broken, out in results.items():
        assert (tmp_path / broken).read_bytes() == (tmp_path / out).read_bytes()
