"""What is said of a live model is true: over all carriers, dtypes, memory layouts and kinds of
damage, from half to fifty times the budget.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.errors import SpecError
from parimend.faults import draw
from parimend.model import sealed_tensors
from parimend.stores.model import ModelTensors
from parimend.words.bits import byte_view

ERRORS = 6
HELD = {
    "sidecar": [
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.int16,
        torch.int8,
        torch.complex128,
        torch.float8_e4m3fn,
    ],
    "real": [torch.float32, torch.float64, torch.int16, torch.int8],
    "lowbits": [torch.float32],
}
ALL = [(carrier, dtype) for carrier, dtypes in HELD.items() for dtype in dtypes]
IDS = [f"{carrier}-{str(dtype).removeprefix('torch.')}" for carrier, dtype in ALL]
ODD = (0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC0DEAD, 0x80000000, 0)
"""Subnormals, huge values, infinities, a NaN with a payload, zeros with either sign."""


def state(dtype, rng):
    """Tensors in memory of all kinds: plain, turned, every other row, a single element."""
    draw = torch.from_numpy(rng.normal(size=9000) * (40 if dtype == torch.int8 else 1000))
    if dtype.is_floating_point or dtype.is_complex:
        draw = draw / 1000
    draw = draw.to(dtype)
    return {
        "plain": draw[:4000].view(50, 80),
        "turned": draw[4000:6000].view(40, 50).t(),
        "rows": draw[6000:8400].view(60, 40)[::2],
        "one": draw[8400],
        "tied": draw[:4000].view(50, 80),
    }


def contents(tensors):
    return {name: byte_view(tensor).tobytes() for name, tensor in tensors.items()}


def spoil_(tensors, seal, words, rng):
    """Make ``words`` different 32-bit words wrong, through the memory that the seal covers."""
    live = sealed_tensors(tensors, seal)
    parts = [part for part in live.whole() if part.count]
    ends = np.cumsum([-(-len(live.read(part)) // 4) for part in parts])
    wrong = rng.choice(ends[-1], min(words, ends[-1]), replace=False)
    for part, first, end in zip(parts, (0, *ends), ends, strict=False):
        data = live.read(part).copy()
        for word in wrong[(first <= wrong) & (wrong < end)] - first:
            inside = data[4 * word : 4 * word + 4]
            kind = rng.integers(3)
            if kind == 0:
                inside ^= np.uint8(1) << rng.integers(8, size=inside.size, dtype=np.uint8)
            elif kind == 1:
                inside[...] = rng.integers(0, 256, inside.size)
            else:
                inside[...] = np.array([rng.choice(ODD)], "<u4").view(np.uint8)[: inside.size]
        live.write(part, None, data.reshape(part.count, -1))


def protected(carrier, dtype, rng):
    tensors = state(dtype, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few weights have to move far
        return tensors, pm.protect_(tensors, ERRORS, carrier)


@pytest.mark.parametrize(("carrier", "dtype"), ALL, ids=IDS)
def test_verdicts_are_true_and_what_is_not_repaired_is_left_as_found(carrier, dtype, rng):
    tensors, seal = protected(carrier, dtype, rng)
    good = contents(tensors)
    for words in (0, 3, 6, 6, 8, 24, 300):
        spoil_(tensors, seal, words, rng)
        found = contents(tensors)
        checked = pm.check(tensors, seal)
        assert contents(tensors) == found
        verdict = pm.repair_(tensors, seal).verdict
        if words <= ERRORS:
            assert verdict == ("corrected" if found != good else "clean")
        if verdict == "uncorrectable":
            assert checked.verdict == "uncorrectable"
            assert contents(tensors) == found
        else:
            assert checked.verdict == ("correctable" if found != good else "clean")
            assert contents(tensors) == good
        live = sealed_tensors(tensors, seal)
        for part in live.whole():
            size = len(good[part.name])
            data = np.frombuffer(good[part.name], np.uint8)
            live.write(part, None, data.reshape(part.count, size // part.count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.int8])
def test_errors_are_words_of_32_bits(dtype, rng):
    """All weights in a wrong word may be wrong: two of 16 bits, four of 8."""
    tensors = {"w": (torch.from_numpy(rng.normal(size=(80, 80))) * 30).to(dtype)}
    seal = pm.protect_(tensors, 10, "real")
    assert seal.errors == 10
    good = contents(tensors)
    for _ in range(10):
        data = byte_view(tensors["w"])
        for word in rng.choice(data.size // 4, 10, replace=False):
            data[4 * word : 4 * word + 4] ^= rng.integers(1, 256, 4, dtype=np.uint8)
        repair = pm.repair_(tensors, seal)
        assert repair.verdict == "corrected"
        assert len(repair.changes) >= 10 * max(4 // tensors["w"].element_size(), 1) // 2
        assert contents(tensors) == good


@pytest.mark.parametrize(
    ("dtype", "width", "errors"),
    [
        (torch.bfloat16, 33, 2),
        (torch.int8, 31, 3),
        (torch.uint8, 7, 4),
        (torch.bool, 127, 1),
        (torch.float16, 2101, 600),
        (torch.float16, 32, 5),
        (torch.float64, 9, 3),
    ],
)
def test_errors_are_words_of_a_tensor_also_where_rows_begin_within_one(dtype, width, errors, rng):
    """A word of 32 bits that lies across two of a row's makes both of them wrong."""
    tensors = {"x.weight": torch.from_numpy(rng.integers(0, 2, (7, width))).to(dtype)}
    seal = pm.protect_(tensors, errors, per="row", guaranteed=errors)
    assert seal.promise.guaranteed == errors
    good = contents(tensors)
    data = byte_view(tensors["x.weight"])
    size = width * tensors["x.weight"].element_size()
    for row in range(7):
        first, last = -(-row * size // 4), (row + 1) * size // 4
        for word in rng.choice(range(first, last), min(errors, last - first), replace=False):
            data[4 * word : 4 * word + 4] ^= rng.integers(1, 256, 4, dtype=np.uint8)
        assert pm.repair_(tensors, seal).verdict == "corrected"
        assert contents(tensors) == good


@pytest.mark.parametrize("carrier", ["sidecar", pm.Sidecar(digest=False)], ids=["sha256", "sums"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.bool, torch.float32])
def test_errors_are_words_of_memory_whatever_its_order(dtype, carrier, rng):
    """Of weights that are channels last, 32 bits in a row lie far apart in the model's order."""
    values = torch.from_numpy(rng.integers(0, 2, (16, 8, 3, 3))).to(dtype)
    tensors = {"w": values.to(memory_format=torch.channels_last), "b": torch.zeros(3)}
    seal = pm.protect_(tensors, 10, carrier)
    assert seal.promise.guaranteed == 10
    good = contents(tensors)
    data = tensors["w"].permute(0, 2, 3, 1).view(torch.uint8).flatten().numpy()  # as it lies there
    for _ in range(10):
        for word in rng.choice(data.size // 4, 10, replace=False):
            data[4 * word : 4 * word + 4] ^= rng.integers(1, 256, 4, dtype=np.uint8)
        assert pm.repair_(tensors, seal).verdict == "corrected"
        assert contents(tensors) == good


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float32])
def test_errors_are_words_of_memory_also_in_views_into_it(dtype, rng):
    """A view into a flat buffer may begin within a word of it."""
    flat = (torch.from_numpy(rng.normal(size=4004)) * 40).to(dtype)
    tensors = {"w": flat[1:4001].view(50, 80)}
    seal = pm.protect_(tensors, 10)
    good = contents(tensors)
    data = byte_view(flat)
    for _ in range(10):
        for word in rng.choice(range(1, 4000 * flat.element_size() // 4), 10, replace=False):
            data[4 * word : 4 * word + 4] ^= rng.integers(1, 256, 4, dtype=np.uint8)
        assert pm.repair_(tensors, seal).verdict == "corrected"
        assert contents(tensors) == good


def test_errors_are_words_of_memory_also_where_it_is_that_of_several_tensors():
    """A word of a flat buffer may hold a tensor of one element, and the ends of two others."""
    flat = torch.arange(64, dtype=torch.uint8)
    sizes = (17, 8, 1, 1, 1, 1, 4, 30)
    tensors = {str(i): view for i, view in enumerate(flat[1:].split(sizes))}
    seal = pm.protect_(tensors, 1)
    good = flat.clone()
    for word in range(16):
        flat[4 * word : 4 * word + 4] ^= 255
        assert pm.repair_(tensors, seal).verdict == "corrected"
        assert torch.equal(flat[1:], good[1:])


def test_a_row_that_begins_within_a_word_notices_half_as_many():
    tensors = {"x.weight": torch.zeros(2, 33, dtype=torch.bfloat16), "y": torch.zeros(9)}
    seal = pm.protect_(tensors, 2, per="row")
    assert [word.promise(2).noticed for word in seal.words] == [4, 2, 4]
    few = [replace(word, code=seal.words[0].code) for word in seal.words[:2]]
    assert [word.promise(2).guaranteed for word in few] == [2, 1]


def test_small_weights_take_more_checks():
    small, large = (
        pm.plan({"w": torch.ones(6400, dtype=dtype)}, 10, "real").words[0]
        for dtype in (torch.int8, torch.int16)
    )
    assert small.checks > 1.5 * large.checks
    few = {"w": torch.ones(30, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"w: 5 errors are 20 weights: 30 weights are too few"):
        pm.plan(few, 5, "real")


def test_tied_weights_are_repaired_and_reported_once(rng):
    tensors, seal = protected("sidecar", torch.float32, rng)
    assert {part.name for word in seal.words for part in word.parts} == {
        "plain",
        "turned",
        "rows",
        "one",
    }
    before = contents(tensors)
    tensors["tied"][3, 4] = float("nan")
    [change] = pm.repair_(tensors, seal).changes
    assert (change.tensor, change.index) == ("plain", (3, 4))
    assert contents(tensors) == before


def test_weights_of_inference_mode_are_repaired():
    with torch.inference_mode():
        model = torch.nn.Linear(30, 20)
    seal = pm.protect_(model, 4)
    good = contents(model.state_dict())
    draw("bitflip", {"w": model.weight.detach().numpy()}, 4, 0).apply_(
        {"w": model.weight.detach().numpy()}
    )
    assert pm.repair_(model, seal).verdict == "corrected"
    assert contents(model.state_dict()) == good


class Stuck(ModelTensors):
    """Memory in which one element of ``w`` is what it is."""

    def __init__(self, tensors, element):
        super().__init__(tensors)
        self._element = element

    def write(self, part, elements, values):
        before = self.held["w"].flatten()[self._element].clone()
        super().write(part, elements, values)
        if part.name == "w":
            self.held["w"].view(-1)[self._element] = before


@pytest.mark.parametrize("carrier", HELD)
def test_memory_that_does_not_hold_is_left_as_found(carrier):
    torch.manual_seed(0)
    tensors = {"w": torch.randn(50, 40), "v": torch.randn(40, 30)}
    seal = pm.protect_(tensors, 4, carrier)
    tensors["w"][2, 3] = tensors["w"][4, 5] = tensors["v"][6, 7] = 0.125
    found = contents(tensors)
    repair = pm.carriers.repair_(seal, Stuck(tensors, 2 * 40 + 3))
    [word] = repair.words
    assert (word.verdict, word.changes) == ("uncorrectable", ())
    assert word.reason == "the memory does not hold what is written to it"
    assert contents(tensors) == found


class Restless(ModelTensors):
    """Memory in which something else goes wrong right after a repair, ``times`` times."""

    def __init__(self, tensors, times, spoil):
        super().__init__(tensors)
        self._times, self._spoil = times, spoil

    def write(self, part, elements, values):
        super().write(part, elements, values)
        if self._times:
            self._times -= 1
            self._spoil()


@pytest.mark.parametrize("carrier", HELD)
def test_damage_that_comes_meanwhile_is_repaired_too(carrier):
    torch.manual_seed(0)
    tensors = {"w": torch.randn(50, 40)}
    seal = pm.protect_(tensors, 4, carrier)
    good = contents(tensors)
    tensors["w"][2, 3] = 0.125
    repair = pm.carriers.repair_(
        seal, Restless(tensors, 1, lambda: tensors["w"][7, 1:3].fill_(0.25))
    )
    assert repair.verdict == "corrected"
    assert [change.index for change in repair.changes] == [(2, 3), (7, 1), (7, 2)]
    assert contents(tensors) == good


@pytest.mark.parametrize("carrier", HELD)
def test_a_repair_that_fails_later_is_undone(carrier):
    torch.manual_seed(0)
    tensors = {"w": torch.randn(50, 40)}
    seal = pm.protect_(tensors, 4, carrier)
    tensors["w"][2, 3] = 0.125
    repair = pm.carriers.repair_(
        seal, Restless(tensors, 1, lambda: tensors["w"][10:40].fill_(0.25))
    )
    assert repair.verdict == "uncorrectable"
    assert repair.changes == ()
    assert tensors["w"][2, 3] == 0.125


@pytest.mark.parametrize("errors", [3, 10, 50, 210])
def test_weights_are_moved_as_far_as_planned_and_no_farther(errors):
    torch.manual_seed(errors)
    moved = []
    for seed in range(20):
        model = torch.nn.Linear(512, 10, bias=False)
        moved += pm.protect_(model, errors, "real", seed=seed).notes["moved"]
    [word] = pm.plan(model, errors, "real").words
    assert np.sqrt(np.mean(np.square(moved))) == pytest.approx(word.moved, rel=0.1)


@pytest.mark.parametrize(("errors", "proven"), [(512, True), (513, False)])
def test_weights_with_other_strides_are_not_promised_more_errors_than_are_repaired(errors, proven):
    values = torch.arange(64 * 64 * 9, dtype=torch.int64).to(torch.int8).reshape(64, 64, 3, 3)
    tensors = {"w": values.to(memory_format=torch.channels_last)}
    assert (pm.protect_(tensors, errors).promise.guaranteed == errors) is proven
    if not proven:
        with pytest.raises(SpecError, match="512 where weights of 8 bits have other strides"):
            pm.protect_(tensors, errors, guaranteed=errors)


@pytest.mark.parametrize(("n", "errors"), [(38_410, 210), (5120, 50), (2100, 210), (1700, 210)])
def test_lowest_bits_move_weights_about_as_far_as_planned(n, errors):
    torch.manual_seed(0)
    model = {"w": torch.randn(n) * 0.05}
    [word] = pm.plan(model, errors, "lowbits", measure=False).words
    [moved] = pm.protect_(model, errors, "lowbits").notes["moved"]
    assert moved == pytest.approx(word.moved, rel=0.25)
