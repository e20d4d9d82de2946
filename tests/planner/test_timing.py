"""How long all of it takes follows from a sample."""

import pytest
import torch

import parimend as pm
from parimend.carriers import Sidecar
from parimend.carriers.carrier import Sealing
from parimend.carriers.lowbits import LowBits
from parimend.planner import timing


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on only when something takes some."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    monkeypatch.setattr(timing, "time", clock := Clock())
    return clock


def spending(clock, per_byte, per_check=0.0):
    """Protecting that takes its time for bytes and for checks, and does nothing."""

    def seal_(carrier, chosen, tensors):
        nbytes = sum(part.nbytes for each in chosen for part in each.word)
        clock.now += per_byte * nbytes + per_check * sum(each.code.m for each in chosen)
        return Sealing(())

    return seal_


@pytest.mark.parametrize("errors", [1, 210, 5000])
@pytest.mark.parametrize("tensors", [1, 3])
def test_checks_take_their_time_once_however_many_weights_there_are(
    clock, monkeypatch, errors, tensors
):
    per_byte, per_check = 1e-8, 1e-3
    monkeypatch.setattr(LowBits, "seal_", spending(clock, per_byte, per_check))
    weights = {f"w{i}": torch.randn(2**20) for i in range(tensors)}
    made = pm.plan(weights, errors, "lowbits", per="tensor")
    checks = sum(word.code.m for word in made.words)
    expected = per_byte * 2**22 * tensors + per_check * checks
    assert made.seconds.protect == pytest.approx(expected, rel=0.2)
    assert made.seconds.sample == 2**20


def test_a_word_that_is_all_of_it_is_measured_as_it_is(clock, monkeypatch):
    monkeypatch.setattr(LowBits, "seal_", spending(clock, 1e-8, 1e-3))
    made = pm.plan({"w": torch.randn(5120)}, 210, "lowbits")
    assert made.seconds.protect == pytest.approx(1e-8 * 20_480 + 1e-3 * 319)


def test_weights_that_half_a_sample_cannot_hold_are_taken_in_proportion(clock, monkeypatch):
    monkeypatch.setattr(LowBits, "seal_", spending(clock, 1e-8, 1e-3))
    monkeypatch.setattr(timing, "_WEIGHTS", 64)
    made = pm.plan({"w": torch.randn(5120)}, 210, "lowbits")
    assert made.seconds.protect > 1e-3 * 319


def test_sums_are_taken_in_proportion(clock, monkeypatch):
    monkeypatch.setattr(Sidecar, "seal_", spending(clock, 1e-9))
    made = pm.plan({"w": torch.empty(20_000_000)}, 210)
    assert made.seconds.protect == pytest.approx(0.08)
    assert made.seconds.sample == timing.SAMPLE
