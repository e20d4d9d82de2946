"""Records say in one line what they hold."""

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.records import (
    Change,
    Decoding,
    Diagnosis,
    FileReport,
    Repair,
    Report,
    TrainingEvent,
    Verdict,
    WordOutcome,
    worst,
)

CHANGE = Change("layer" * 100, (3, 4), "F32", b"\0\0\0\0", b"\0\0\x80\x3f")
WORD = WordOutcome("w" * 5000, Verdict.CORRECTABLE, 10**9, (CHANGE,) * 10_000)
LOST = WordOutcome("\x1b[31m\n", Verdict.UNCORRECTABLE, 5, unexplained=9, reason="r" * 5000)
FILE = FileReport("/long" * 1000, Diagnosis((WORD, LOST) * 500), "sidecar", 210, 10**9, missing=3)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (Decoding(Verdict.CORRECTED, np.arange(10**5), np.arange(10**5)), "100000 wrong words"),
        (WORD, "correctable"),
        (LOST, "uncorrectable"),
        (Diagnosis((WORD, LOST) * 500), "1000 words"),
        (Repair((WORD,) * 500), "<Repair: correctable"),
        (FILE, "3 bytes missing"),
        (FileReport.unknown("a", "missing"), "unknown, missing"),
        (Report((FILE,) * 1000), "1000 files"),
        (TrainingEvent("repaired", 7, "r" * 1000, (CHANGE,) * 1000), "1000 elements"),
        (pm.protect_({"w" * 1000: torch.ones(10_000)}, errors=300), "300 errors"),
        (pm.protect_({"w" * 1000: torch.ones(10_000)}, errors=300).words[0], "Screened"),
    ],
)
def test_a_repr_is_short(record, says):
    text = repr(record)
    assert says in text
    assert len(text) < 300
    assert text.isprintable()


def test_what_is_not_known_is_not_right():
    assert not Verdict.UNKNOWN.ok
    assert worst(Verdict.CORRECTABLE, Verdict.UNKNOWN, Verdict.CLEAN) is Verdict.UNKNOWN
    assert worst(Verdict.UNKNOWN, Verdict.UNCORRECTABLE) is Verdict.UNCORRECTABLE
