"""Power sums in Triton, interpreted, are those of the compiled loops, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend import kernels
from parimend.codes import PowerSums
from parimend.kernels import power_torch, power_triton, product_triton, stream_triton
from parimend.kernels.field_numba import PRIME
from parimend.kernels.pieces_torch import launching_on
from parimend.words.bits import byte_view, words_of
from tests.interpreted import small_portions
from tests.kernels.test_power_torch import DTYPES, elements_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    with small_portions(monkeypatch):
        yield


def expected(code, pieces):
    sums = code.zeros()
    for elements, start in pieces:
        code.accumulate(sums, words_of(byte_view(elements)), start)
    return sums


@settings(max_examples=10)
@given(
    dtype=st.sampled_from(DTYPES),
    m=st.sampled_from([2, 4, 6, 18]),
    counts=st.lists(st.integers(1, 700), min_size=1, max_size=3),
    gaps=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    offset=st.integers(0, 5),
)
def test_sums_are_those_of_the_processor(dtype, m, counts, gaps, offset):
    pieces, start = [], 0
    for count, gap in zip(counts, gaps, strict=False):
        elements = elements_of(dtype, count + offset, seed=count)[offset:]
        start += 16 * gap
        pieces.append((elements, start))
        start += -(-elements.numel() * elements.element_size() // 64) * 16
    code = PowerSums(start, m, seed=start)
    found = power_triton.sums_of(code.places, m, pieces)
    np.testing.assert_array_equal(found, expected(code, pieces))


@pytest.mark.parametrize("m", [4, 18])
@pytest.mark.parametrize("value", [-1, 0, -(1 << 31)])
def test_extreme_words(m, value):
    elements = torch.full((403,), value, dtype=torch.int32)
    code = PowerSums(elements.numel() + 48, m)
    found = power_triton.sums_of(code.places, m, [(elements, 48)])
    np.testing.assert_array_equal(found, expected(code, [(elements, 48)]))


def test_items_of_full_size(monkeypatch):
    monkeypatch.undo()
    stream_triton._tables.cache_clear()
    elements = elements_of(torch.int32, 3 * stream_triton.WIDTH + 5)
    code = PowerSums(elements.numel() + 16, 4)
    begin = stream_triton.Prepared(code.places, [(elements.view(torch.uint8), 16)]).start
    found = begin().numpy() % PRIME
    np.testing.assert_array_equal(found, expected(code, [(elements, 16)]))


@pytest.mark.parametrize(
    ("least", "most"),
    [(2, 8), *(pytest.param(least, 8, marks=pytest.mark.long) for least in (8, 16))],
)
def test_items_are_smaller_where_there_are_few_words(monkeypatch, least, most):
    monkeypatch.setattr(stream_triton, "_LEAST", least)
    monkeypatch.setattr(stream_triton, "_ITEMS", 3)
    rows = set()
    for words in (700, 900, 1700, 4000):
        elements = elements_of(torch.int32, words)
        code = PowerSums(words + 16, 4)
        prepared = stream_triton.Prepared(code.places, [(elements.view(torch.uint8), 16)])
        rows.add(prepared._rows)
        found = prepared.start().numpy() % PRIME
        np.testing.assert_array_equal(found, expected(code, [(elements, 16)]))
    assert rows == ({2, 4, 8} if least < most else {8})


def test_more_pieces_than_a_launch_takes(monkeypatch):
    monkeypatch.setattr(stream_triton, "_AT_ONCE", 2)
    pieces = [(elements_of(torch.int8, 33, seed), 16 * seed) for seed in range(5)]
    code = PowerSums(100, 4)
    found = power_triton.sums_of(code.places, 4, pieces)
    np.testing.assert_array_equal(found, expected(code, pieces))


def test_a_device_begins_before_all_pieces_are_found(monkeypatch):
    monkeypatch.setattr(power_triton, "_FIRST", 2)
    begun, seen, start = [], [], stream_triton.Prepared.start

    def counted(self, *few):
        begun.append(len(self._pieces))
        return start(self, *few)

    def found():
        for piece in pieces:
            seen.append(len(begun))
            yield piece

    monkeypatch.setattr(stream_triton.Prepared, "start", counted)
    pieces = [(elements_of(torch.int8, 33 + seed, seed), 16 * seed) for seed in range(9)]
    code = PowerSums(200, 4)
    sums = power_triton.sums_of(code.places, 4, found())
    np.testing.assert_array_equal(sums, expected(code, pieces))
    assert begun == [2, 4, 3]
    assert seen == [0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_many_pieces_are_written_together_and_tables_are_kept():
    pieces = [(elements_of(torch.int8, 33 + seed, seed), 16 * seed) for seed in range(12)]
    code = PowerSums(200, 6)
    for _ in range(2):
        found = power_triton.sums_of(code.places, 6, pieces)
        np.testing.assert_array_equal(found, expected(code, pieces))
    assert product_triton._units.cache_info()[:2] == (1, 1)  # found, made


@pytest.mark.parametrize(("seed", "lacking"), [(0, []), (204, [7]), (369, [3])])
def test_every_power_has_four_digits(seed, lacking):
    """Digits are the powers for a sum times a factor, which is 1 but where some had none then."""
    code = PowerSums(1 << 16, 30, seed)
    both = product_triton._unit(code.places, 256, range(0, 16, 8), 1, CPU)
    digits, offsets, steps = (part[1] for part in both)  # the second of two units
    assert (steps[0] != 1).nonzero().flatten().tolist() == lacking
    values = sum(digits[d].numpy().astype(object) * 256**d for d in range(4))
    words = np.arange(64, 128)
    points, factors = (f(words).astype(np.int64).tolist() for f in (code.points, code.factors))
    for j in range(8):
        scale = pow(int(steps[0, j]), -1, PRIME)
        right = [
            scale * u * pow(x, 8 + j, PRIME) * 256**byte % PRIME
            for x, u in zip(points, factors, strict=True)
            for byte in range(4)
        ]
        assert [value % PRIME for value in values[j]] == right
        assert int(offsets[j]) == 128 * sum(right) % PRIME


def test_pieces_in_any_order_at_places_far_apart():
    pieces = [(elements_of(torch.int32, 40, seed), at) for seed, at in enumerate((1 << 20, 0, 64))]
    for m in (4, 6):
        code = PowerSums((1 << 20) + 40, m)
        found = power_triton.sums_of(code.places, m, pieces)
        np.testing.assert_array_equal(found, expected(code, pieces))


@settings(max_examples=5)
@given(
    m=st.sampled_from([2, 4, 6, 18]),
    counts=st.lists(st.integers(1, 150), min_size=1, max_size=7),
    dtype=st.sampled_from(DTYPES),
)
def test_what_is_prepared_computes_what_is_there_now(m, counts, dtype):
    pieces, start = [], 0
    for count in counts:
        pieces.append((elements_of(dtype, count), start))
        start += -(-pieces[-1][0].nbytes // 64) * 16 + 16
    code = PowerSums(start, m)
    begin = power_triton.prepare(code.places, m, pieces)
    for seed in range(2):
        for elements, _ in pieces:
            elements.copy_(elements_of(dtype, len(elements), seed))
        found = begin()
        assert found.shape == (m,)
        np.testing.assert_array_equal(found.numpy() % PRIME, expected(code, pieces))


def test_what_has_to_be_waited_for_is_not_prepared(monkeypatch):
    pieces = [(elements_of(torch.int32, 64), 0)]
    code = PowerSums(64, 6)
    assert power_torch.prepare(code.places, 4, pieces) is None
    elsewhere = [*pieces, (torch.empty(3, device="meta"), 64)]
    assert power_triton.prepare(code.places, 4, elsewhere) is None
    # Copies would be of what was there before.
    unaligned, conjugate = pieces[0][0][1:], torch.zeros(8, dtype=torch.complex64).conj()
    assert power_triton.prepare(code.places, 4, [(unaligned, 0)]) is None
    assert power_triton.prepare(code.places, 6, [(unaligned, 0)]) is not None
    for copied in (conjugate, pieces[0][0][::2]):
        assert power_triton.prepare(code.places, 6, [(copied, 0)]) is None
    monkeypatch.setattr(power_triton, "works", lambda device: False)
    assert power_triton.prepare(code.places, 4, pieces) is None


@pytest.mark.parametrize("m", [4, 6])
def test_nothing_has_no_sums(m):
    code = PowerSums(100, m)
    assert power_triton.prepare(code.places, m, [(torch.empty(0), 0)]) is None
    assert not power_triton.sums_of(code.places, m, [(torch.empty(0), 0)]).any()
    assert not power_triton.sums_of(code.places, m, []).any()


@pytest.mark.parametrize("launch", [1, 1 << 30])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_pieces_are_brought_together_in_words_and_in_bytes(monkeypatch, launch, cut):
    monkeypatch.setattr(product_triton, "_LAUNCH", launch)  # one by one, and all at once
    pieces = [
        (elements_of(torch.uint8, 256, seed)[cut:], 64 * seed + 16 * (seed == 2))
        for seed in range(4)
    ]
    code = PowerSums(400, 6)
    found = power_triton.sums_of(code.places, 6, pieces)
    np.testing.assert_array_equal(found, expected(code, pieces))


def test_too_little_memory_is_met_with_smaller_matrices(monkeypatch):
    rooms = []
    start = product_triton.Prepared._start

    def scarce(prepared, room):
        rooms.append(room)
        if room > 1 << 13:
            raise torch.OutOfMemoryError("no memory left")
        return start(prepared, room)

    monkeypatch.setattr(product_triton.Prepared, "_start", scarce)
    elements = elements_of(torch.int32, 3000)
    code = PowerSums(3000, 6)
    found = power_triton.sums_of(code.places, 6, [(elements, 0)])
    np.testing.assert_array_equal(found, expected(code, [(elements, 0)]))
    assert rooms == [1 << 14, 1 << 13]
    monkeypatch.setattr(product_triton, "_LEAST", 1 << 14)
    with pytest.raises(torch.OutOfMemoryError):
        power_triton.sums_of(code.places, 6, [(elements, 0)])


class TestDevices:
    """What a device has to show before it is trusted."""

    @pytest.fixture(autouse=True)
    def tried(self, small, monkeypatch):
        monkeypatch.undo()
        stream_triton._tables.cache_clear()
        power_triton.works.forget()
        monkeypatch.setattr(product_triton, "ROWS", 4)
        monkeypatch.setattr(product_triton, "SUMS", 8)
        monkeypatch.setattr(product_triton, "CHUNK", 1 << 8)
        yield
        power_triton.works.forget()

    def test_one_that_computes_right_is(self):
        assert power_triton.works(CPU)

    @pytest.mark.parametrize("module", [stream_triton, product_triton])
    @pytest.mark.parametrize(
        ("kernel", "reason"),
        [
            (lambda *args: torch.zeros(8, dtype=torch.int64), "wrong sums"),
            (lambda *args: 1 // 0, "ZeroDivisionError"),
        ],
    )
    def test_torch_takes_the_place_of_others(self, monkeypatch, module, kernel, reason):
        monkeypatch.setattr(module.Prepared, "start", kernel)
        elements = elements_of(torch.int32, 300)
        code = PowerSums(300, 4)
        with pytest.warns(RuntimeWarning, match=f"Triton does not work on cpu.*{reason}"):
            found = power_triton.sums_of(code.places, 4, [(elements, 0)])
        np.testing.assert_array_equal(found, expected(code, [(elements, 0)]))

    def test_too_little_memory_says_nothing_of_a_device(self, monkeypatch):
        def start(*args):
            raise torch.OutOfMemoryError("no memory left")

        monkeypatch.setattr(stream_triton.Prepared, "start", start)
        with pytest.raises(torch.OutOfMemoryError):
            power_triton.works(CPU)


@pytest.mark.parametrize(
    ("version", "picked"), [("3.6.0", power_triton), ("3.1.0", power_torch), (None, power_torch)]
)
def test_it_is_picked_where_triton_is_there_and_new_enough(monkeypatch, version, picked):
    find = kernels.find_spec
    monkeypatch.setattr(
        kernels, "find_spec", lambda name: None if name == "triton" and not version else find(name)
    )
    monkeypatch.setattr("triton.__version__", version or "none")
    kernels._has_triton.cache_clear()
    try:
        assert kernels.on("power", "cuda") is picked
        assert kernels.on("power", "mps") is power_torch
        assert kernels.on("modular", "cuda").__name__.endswith("modular_torch")
    finally:
        kernels._has_triton.cache_clear()


def test_kernels_go_to_the_device_of_their_tensors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda device: device)
    assert launching_on(torch.device("cuda", 0)) == torch.device("cuda", 0)
    for here in (torch.device("cuda", 1), torch.device("cpu")):
        with launching_on(here) as switched:
            assert switched is None
