"""Memory that fails again and again: its places are known, and nothing else suffers from it."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parimend as pm
from parimend.carriers.finding import Place, places_of
from parimend.scrub import Scrubber
from parimend.scrub.memory import FAILURES, Memory
from parimend.stores.model import ModelTensors
from parimend.words.layout import whole


def tensors():
    draw = torch.Generator().manual_seed(0)
    return {
        "w": torch.randn(50, 40, generator=draw),
        "v": torch.randn(40, 30, generator=draw),
    }


def protected(state, errors, carrier="sidecar"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pm.protect_(state, errors, carrier)


@pytest.fixture
def cells(monkeypatch):
    """Elements that keep what is in them, whatever is written: a set of (name, flat index)."""
    stuck = set()
    write = ModelTensors.write

    def writing(self, part, elements, values):
        before = {(name, i): self.held[name].flatten()[i].clone() for name, i in stuck}
        write(self, part, elements, values)
        for (name, i), value in before.items():
            self.held[name].view(-1)[i] = value

    monkeypatch.setattr(ModelTensors, "write", writing)
    return stuck


@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_other_damage_is_repaired_beside_a_cell_that_holds_nothing(carrier, cells):
    state = tensors()
    seal = protected(state, 6, carrier)
    good = copy.deepcopy(state)
    scrubber = Scrubber(state, seal)
    cells.add(("w", 2 * 40 + 3))
    state["w"][2, 3] = state["v"][6, 7] = 0.125

    repaired, stuck = scrubber.sweep()
    assert (repaired.kind, stuck.kind) == ("repaired", "stuck")
    assert [(c.tensor, c.index) for c in repaired.changes] == [("v", (6, 7))]
    assert [(c.tensor, c.index) for c in stuck.changes] == [("w", (2, 3))]
    assert stuck.reason == "w [2, 3]: the memory does not hold what is written to it"
    assert {repaired.word.verdict, stuck.word.verdict} == {"correctable"}
    assert scrubber.stuck == (("w", (2, 3)),)
    assert torch.equal(state["v"], good["v"])

    assert scrubber.sweep() == []  # it is told once, and nothing fights with it
    assert scrubber.counters.repairs == scrubber.counters.elements_repaired == 1
    assert scrubber.counters.changed == scrubber.counters.uncorrectable == 0
    assert pm.check(state, seal).verdict == "correctable"

    state["v"][0, 0] = 0.25
    [again] = scrubber.sweep()
    assert (again.kind, again.word.verdict) == ("repaired", "correctable")
    assert torch.equal(state["v"], good["v"])

    cells.clear()  # the memory holds again
    [last] = scrubber.sweep()
    assert (last.kind, last.word.verdict) == ("repaired", "corrected")
    assert all(torch.equal(state[name], good[name]) for name in state)
    assert pm.check(state, seal).verdict == "clean"
    assert scrubber.sweep() == []


def fail(state, scrubber, places, times=FAILURES):
    """Break elements of w, and let them be repaired, again and again."""
    events = []
    for _ in range(times):
        for place in places:
            state["w"].view(-1)[place] = 0.125
        events += scrubber.sweep()
    return events


@pytest.mark.parametrize("carrier", ["sidecar", "lowbits"])
def test_a_word_that_was_repaired_often_is_stuck_and_told_once(carrier):
    state = tensors()
    scrubber = Scrubber(state, protected(state, 6, carrier))
    events = fail(state, scrubber, [70, 900], times=FAILURES + 2)
    assert [event.kind for event in events] == ["repaired"] * 3 + ["stuck"] + ["repaired"] * 2
    assert events[3].reason == "w [1, 30] and 1 more: it had to be repaired 3 times"
    assert {event.word.verdict for event in events} == {"corrected"}
    assert scrubber.stuck == (("w", (1, 30)), ("w", (22, 20)))


def test_stuck_words_leave_more_of_the_budget():
    """Errors and erasures together: 2 e + f is at most twice the budget."""
    state = tensors()
    seal = protected(state, 4)
    good = state["w"].clone()
    scrubber = Scrubber(state, seal)
    fail(state, scrubber, [70, 900])
    for place in (70, 900, 5, 333, 1999):
        state["w"].view(-1)[place] = 0.5
    assert pm.check(state, seal).verdict == "uncorrectable"  # five words, a budget of four
    [event] = scrubber.sweep()
    assert (event.kind, len(event.changes)) == ("repaired", 5)
    assert torch.equal(state["w"], good)
    for place in (70, 900, 5, 333, 1999, 7):
        state["w"].view(-1)[place] = 0.5
    damaged = state["w"].clone()
    assert [event.kind for event in scrubber.sweep()] == ["uncorrectable"]
    assert torch.equal(state["w"], damaged)


def test_more_stuck_words_than_the_budget_do_not_keep_others_from_being_repaired():
    state = tensors()
    good = state["w"].clone()
    scrubber = Scrubber(state, protected(state, 1))
    for place in (10, 200, 300):
        fail(state, scrubber, [place])
    assert len(scrubber.stuck) == 3
    for place in (200, 1500):
        state["w"].view(-1)[place] = 0.5
        [event] = scrubber.sweep()
        assert (event.kind, event.word.verdict) == ("repaired", "corrected")
        assert torch.equal(state["w"], good)


def test_a_cell_that_flickers_does_not_keep_others_from_being_repaired(cells, monkeypatch):
    """It changes between being decoded and being written."""
    state = tensors()
    good = copy.deepcopy(state)
    scrubber = Scrubber(state, protected(state, 6))
    cells.add(("w", 83))
    state["w"][2, 3] = 0.125
    assert [event.kind for event in scrubber.sweep()] == ["stuck"]
    find, values = pm.scrub.looks.find, iter(range(1, 9))

    def flickering(*args, **kwargs):
        finding = find(*args, **kwargs)
        state["w"][2, 3] = float(next(values))
        return finding

    monkeypatch.setattr(pm.scrub.looks, "find", flickering)
    state["v"][3, 3] = 0.5
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]
    assert torch.equal(state["v"], good["v"])
    assert scrubber.counters.changed == 0


def test_other_memory_is_not_stuck():
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 10))
    scrubber = Scrubber(model, pm.protect_(model, 5))

    def fail_again():
        for _ in range(FAILURES):
            with torch.no_grad():
                model[0].weight[2, 3] = model[1].weight[4, 5] = 0.125
            scrubber.sweep()

    fail_again()
    assert {name for name, _ in scrubber.stuck} == {"0.weight", "1.weight"}
    model[0] = copy.deepcopy(model[0])
    assert scrubber.sweep() == []
    assert scrubber.stuck == (("1.weight", (4, 5)),)
    with scrubber.update():
        model[1].weight.data += 1.0
    assert scrubber.stuck == ()
    fail_again()
    assert len(scrubber.stuck) == 2


def test_chance_does_not_make_memory_stuck():
    """Repairs of long ago do not count."""
    state = tensors()
    [word] = protected(state, 4).words
    memory = Memory([word])
    for number in range(20_000):
        assert memory.note(word, [Place(0, number % 1000)], []) == []
    assert len(memory) == 0
    assert memory.note(word, [], [Place(1, 7)]) == [Place(1, 7)]
    assert memory.note(word, [Place(1, 7)], [Place(1, 7)]) == []
    assert memory.stuck_in(word) == [Place(1, 7)]


@given(
    dtype=st.sampled_from(["U8", "I16", "F32", "F64", "C128"]),
    bytes_=st.sets(st.integers(0, 159), max_size=12),
)
def test_places_are_words_of_32_bits_from_the_first_byte_on(dtype, bytes_):
    size = whole("w", dtype, (1,)).itemsize
    part = whole("w", dtype, (160 // size,))
    received = bytearray(160)
    for at in bytes_:
        received[at] = 1
    elements = [
        (0, i, bytes(received[i * size : (i + 1) * size]), bytes(size)) for i in range(160 // size)
    ]
    places = list(places_of([part], elements))
    assert places == [Place(0, i) for i in sorted({at // 4 for at in bytes_})]
    for place in places:
        lies = [i for i in range(part.count) if i * size < 4 * place.word + 4]
        assert list(place.elements(part)) == [i for i in lies if (i + 1) * size > 4 * place.word]


def test_what_is_told_is_counted_for_prometheus_and_written_as_json(cells, tmp_path):
    state = tensors()
    scrubber = Scrubber(state, protected(state, 6), log=tmp_path / "log")
    cells.add(("w", 83))
    state["w"][2, 3] = 0.125
    [event] = scrubber.sweep()
    assert (tmp_path / "log").read_text() == event.to_json() + "\n"
    assert '"kind": "stuck"' in event.to_json()
    assert np.isclose(event.changes[0].as_dict()["received_value"], 0.125)
