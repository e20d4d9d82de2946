"""Benchmarks run, as small as they may be, and find what has to be found."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SMALL = {
    "adaptive --seeds 2 --settings 1": r"\| adaptive, .* \| 0 of 2 runs, .* \| 0 of \d+ \|",
    "decoding --rows 173 --trials 2 --codes 1 --only-peeling": r"\| 3.4% \|( 100\.00 \|){10}",
    "guards overhead --cases linear*784*1 --seconds 0.05": r"\| linear .*, 1 \|( -?[\d.]+ \|){9}",
    "healing --data digits --seeds 1 --epochs 1 --rates 1": r"\| 1 \| healing \| .* \| 1 of 1 \|",
    "l1 --words 256 --errors 3 --rows 64 --trials 1": r"\| normal \| l1 \| 64 \| 1 of 1 \|",
    "lowbits --weights 600 --errors 5 --rows 60 --codes 1 --trials 1": r"\| 60 \| 9 of 9 \|",
    "other_copy --megabytes 1": r"\| anywhere \| 999,571 \| 1,000,000 \| .* \| corrected \|",
    "power --patterns 14": r"\| all \| 1 to 210 \| (\d+) \| \1 \| 0 \(",
    "shards --shards 2 --megabytes 1 --rounds 1": r"\| a wrong word in each \| [\d.]+ s \|",
    "shares --trials 2": r"\| 16 \| 5,120 \| 210 \| 4.1% \| 173 \| 0\.00 \(.*\) \| 0 \|",
    "sidecar floor --words 100000 --trials 2": r"\| 10 \| 2 \| 0 \| .* \| 0 \|",
    "sidecar repair --words 100000 --errors 20 --trials 2": r"\| 20 \| .* \| 18 \| 0 \| .* \| 0 \|",
    "sidecar speed --words 100000 --rounds 1": r"\| SHA-256 \| [\d,]+ \(1\.00\) \|",
    "training fnn --rounds 1": r"\| fnn \| heal, copies \| - \| - \| [\d.]+ \|",
}
"""What is called, and what is to be found in what it shows."""
LONG = {
    "other_copy --megabytes 1",  # kills a process
    "power --patterns 14",  # of 17 million words
    "training fnn --rounds 1",  # as the benchmark of a GPU does it, and that is always tried
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark in this process: what it shows."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "called", [pytest.param(c, marks=pytest.mark.long) if c in LONG else c for c in SMALL]
)
def test_it_finds_what_it_is_for(called, run):
    assert re.search(SMALL[called], run(*called.split()))
