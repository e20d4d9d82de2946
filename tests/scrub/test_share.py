"""What a scrubber does takes its share of the time, and what others do does not count."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import parimend as pm
import parimend.model
from parimend.scrub import Scrubber, lanes
from parimend.scrub.gate import Gate
from parimend.scrub.weights import Weights


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(30, 80), torch.nn.ReLU(), torch.nn.Linear(80, 10))


@pytest.mark.parametrize("count", [2, 500])
def test_waiting_for_others_is_no_work(monkeypatch, count):
    """At a share of 1 %, a callback of ten seconds would keep weights from being looked at for a
    quarter of an hour, and so would a repair that waits for a forward pass.
    """
    now = [0.0]
    monkeypatch.setattr(lanes, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    exclusive = Gate.exclusive

    @contextmanager
    def waits(self, *arguments):
        now[0] += 10.0
        with exclusive(self, *arguments) as entered:
            now[0] += 0.5
            yield entered

    monkeypatch.setattr(Gate, "exclusive", waits)

    def alert(event):
        now[0] += 10.0

    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5), on_event=alert)
    model[0].weight.data.view(-1)[:count] = 7.0
    [event] = scrubber.sweep()
    assert event.kind == ("repaired" if count == 2 else "uncorrectable")
    assert now[0] >= 10.0
    assert scrubber.counters.busy_seconds == 0.0


@pytest.mark.parametrize("nested", [False, True])
def test_a_model_is_not_gone_through_for_every_word(monkeypatch, nested):
    """A model has thousands of tensors, and as many words or more."""
    model = network()
    there = {"model": {"weights": [*model.parameters()]}} if nested else model
    seal = pm.protect_(there, 2, per="row")
    calls, leaves = [], parimend.model.leaves

    def counted(*arguments, **options):
        calls.append(arguments)
        return leaves(*arguments, **options)

    monkeypatch.setattr(parimend.model, "leaves", counted)
    scrubber = Scrubber(there, seal)
    calls.clear()
    model[0].weight.data[7, 3] = 7.0
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]
    if not nested:
        assert len(seal.words) > 50
        assert len(calls) == 1
    model[2].weight = torch.nn.Parameter(model[2].weight + 1.0)
    kinds = {event.kind for event in scrubber.sweep()}
    assert kinds == (set() if nested else {"uncorrectable"})


def test_what_is_done_for_all_words_is_work(monkeypatch):
    now, words = [0.0], Weights.words
    monkeypatch.setattr(lanes, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slowly(self):
        now[0] += 1.0
        return words(self)

    monkeypatch.setattr(Weights, "words", slowly)
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5, per="row"))
    assert scrubber.sweep() == []
    assert scrubber.counters.busy_seconds == 1.0
