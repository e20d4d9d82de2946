"""Words of some bits of elements: what is in a plane is repaired, and nothing else is touched."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import parimend as pm
from parimend.carriers import Balance, LowBits, Real, Request, Share, Sidecar, choose
from parimend.codes import sums_for
from parimend.dtypes import DTYPES
from parimend.errors import MismatchError, SealError, SpecError
from parimend.seal import SealedWord
from parimend.stores.base import masked
from parimend.stores.model import ModelTensors
from parimend.words.layout import Part, Word, whole
from scripts.make_golden_planes import PLANES, weights

GOLDEN = Path(__file__).parents[1] / "golden" / "seal-planes.parimend"
NAMES = ("F32", "BF16", "F16", "F64", "I8", "C64")
STRONG, FLOOR = 12, 4


def tensors_of(name, count=150, seed=0):
    draw = torch.Generator().manual_seed(seed)
    size = count * DTYPES[name].itemsize
    data = torch.randint(0, 256, (size,), generator=draw, dtype=torch.uint8)
    return {
        "a": data.view(DTYPES[name].torch_dtype()),
        "b": torch.randn(40, 30, generator=draw),
    }


def plan_of(tensors, masks, strong=STRONG, floor=FLOOR):
    """What `protect_` takes: ``masks`` are those of the strong share; 0 leaves a tensor out."""
    parts = ModelTensors(tensors).whole()
    rest = {p.name: masks[p.name] ^ ((1 << 8 * p.itemsize) - 1) for p in parts}
    shares = [
        (n, {k: m for k, m in some.items() if m}) for n, some in ((strong, masks), (floor, rest))
    ]
    balance = Balance.of(parts, [share for share in shares if share[1]])
    return SimpleNamespace(request=Request(balance.errors, Sidecar(), balance=balance))


def numbers(tensor):
    """The elements as Python numbers of their bits."""
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().reshape(-1, tensor.element_size())
    return [int.from_bytes(row.tobytes(), "little") for row in data]


def flip(tensor, elements, mask, rng):
    """Flip a bit of the mask in some elements."""
    cells = tensor.view(-1).view(torch.uint8).view(-1, tensor.element_size()).numpy()
    bits = [b for b in range(mask.bit_length()) if mask >> b & 1]
    for k in elements:
        bit = int(rng.choice(bits))
        cells[k, bit // 8] ^= 1 << bit % 8


def copied(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(a, b):
    return all(numbers(a[name]) == numbers(b[name]) for name in a)


@st.composite
def planes(draw):
    name = draw(st.sampled_from(NAMES))
    every = (1 << DTYPES[name].bits) - 1
    return name, draw(st.integers(1, every - 1)), draw(st.integers(1, (1 << 32) - 2))


@given(planes(), st.integers(0, 2**32 - 1))
def test_a_store_reads_and_writes_the_bits_of_a_part(plane, seed):
    name, mask, _ = plane
    rng = np.random.default_rng(seed)
    tensors = tensors_of(name, seed=seed)
    store, before = ModelTensors(tensors), numbers(tensors["a"])
    part = replace(whole("a", name, (150,)), start=20, count=100, mask=mask)
    read = store.read(part).reshape(100, -1)
    assert [int.from_bytes(row.tobytes(), "little") for row in read] == [
        number & mask for number in before[20:120]
    ]
    places = np.sort(rng.choice(100, 30, replace=False))
    values = rng.integers(0, 256, (30, part.itemsize), dtype=np.uint8)
    store.write(part, places, values)
    expected = list(before)
    for k, row in zip(places, values, strict=True):
        new = int.from_bytes(row.tobytes(), "little")
        expected[20 + k] = before[20 + k] & ~mask | new & mask
    assert numbers(tensors["a"]) == expected
    store.write(part, None, read)
    assert numbers(tensors["a"]) == before


@given(planes())
def test_elements_on_a_device_are_masked_there(plane):
    name, mask, _ = plane
    tensors = tensors_of(name)

    class Elsewhere(ModelTensors):
        def _resident(self, part):
            return self.held[part.name].view(-1)[part.start : part.start + part.count]

    part = Part("a", name, (150,), 7, 90, mask=mask)
    there = Elsewhere(tensors).resident(part)
    assert there.dtype == torch.uint8
    np.testing.assert_array_equal(there.numpy(), ModelTensors(tensors).read(part))
    unmasked = Elsewhere(tensors).resident(replace(part, mask=0))
    assert unmasked.dtype == tensors["a"].dtype


@given(planes(), st.integers(0, 2**32 - 1), st.integers(0, STRONG), st.integers(0, FLOOR))
@settings(max_examples=50)
def test_damage_within_both_budgets_is_repaired(plane, seed, inside, outside):
    name, mask, other = plane
    rng = np.random.default_rng(seed)
    tensors = tensors_of(name)
    seal = pm.protect_(tensors, plan_of(tensors, {"a": mask, "b": other}))
    assert (len(seal.words), seal.errors, seal.covered) == (2, FLOOR, 150 + 1200)
    before = copied(tensors)
    flip(tensors["a"], rng.choice(150, inside, replace=False), mask, rng)
    flip(tensors["b"], rng.choice(1200, outside, replace=False), other ^ 0xFFFFFFFF, rng)
    found = pm.check(tensors, seal)
    assert len(found.changes) == inside + outside
    strong = found.words[0].changes
    assert {change.mask for change in strong} <= {mask, other}
    for change in strong:
        assert int.from_bytes(change.received, "little") & ~change.mask == 0
    assert pm.repair_(tensors, seal).verdict.ok
    assert same(tensors, before)


@given(planes(), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_damage_outside_of_a_plane_does_not_concern_it(plane, seed):
    name, mask, other = plane
    rng = np.random.default_rng(seed)
    tensors = tensors_of(name)
    seal = pm.protect_(tensors, plan_of(tensors, {"a": mask, "b": other}))
    before = copied(tensors)
    flip(tensors["b"], rng.choice(1200, 300, replace=False), other ^ 0xFFFFFFFF, rng)
    outside = copied(tensors)
    flip(tensors["b"], rng.choice(1200, STRONG, replace=False), other, rng)
    found = pm.repair_(tensors, seal)
    assert [word.verdict for word in found.words] == ["corrected", "uncorrectable"]
    assert same(tensors, outside)  # the floor's bits are left as found
    assert [n & other for n in numbers(tensors["b"])] == [n & other for n in numbers(before["b"])]
    assert len(found.words[0].changes) == STRONG
    for change in found.changes:
        assert change.value(change.received).startswith("0x")
        assert f"F32, bits {other:#x}" in repr(change)
        assert change.as_dict()["mask"] == f"{other:#x}"


def test_a_tensor_may_be_in_one_share_alone():
    tensors = tensors_of("F32")
    seal = pm.protect_(tensors, plan_of(tensors, {"a": 0xFFFFFFFF, "b": 0x7F800000}))
    assert [dict(zip(("a", "b"), [p.mask for p in w.parts], strict=False)) for w in seal.words] == [
        {"a": 0, "b": 0x7F800000},
        {"a": 0x007FFFFF ^ 0x80000000},
    ]
    assert [part.name for part in seal.words[1].parts] == ["b"]
    assert seal.words[0].name == "a .. b (8 to 32 bits of each)"
    tensors["a"][:STRONG] = 7.0
    assert pm.repair_(tensors, seal).verdict == "corrected"


def test_updated_weights_are_sealed_anew_in_their_planes():
    tensors = tensors_of("BF16")
    seal = pm.protect_(tensors, plan_of(tensors, {"a": 0xFF80, "b": 0xFF800000}))
    tensors["b"].mul_(0.5)
    again = pm.refresh(tensors, seal)
    assert [word.parts for word in again.words] == [word.parts for word in seal.words]
    assert pm.check(tensors, again).verdict == "clean"
    model = torch.nn.Linear(30, 40)
    seal = pm.protect_(model, plan_of(model.state_dict(), {"weight": 1 << 30, "bias": 1 << 31}))
    scrubber = pm.Scrubber(model, seal)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.view(torch.int32)[3, 2:9] ^= 1 << 30
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]
    assert torch.equal(model.weight, before)


class TestFiles:
    @pytest.fixture
    def made(self, tmp_path):
        tensors = tensors_of("BF16")
        plan = plan_of(tensors, {"a": 0xFF80, "b": 0xFF800000})
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        [made] = pm.protect_file(path, plan)
        return path, plan, made

    def test_from_protection_to_repair(self, made):
        path, plan, made = made
        data = path.read_bytes()
        assert (made.seal.covered, made.covered_bytes) == (made.elements, made.data_bytes)
        assert pm.check_file(path).files[0].covered == 1350
        [again] = pm.protect_file(path, plan)
        assert again.is_kept
        broken = bytearray(data)
        begin = len(data) - made.data_bytes  # of b: wider elements come first
        for k in range(STRONG):
            broken[begin + 4 * (100 * k + 1) + 3] ^= 0x40
        path.write_bytes(broken)
        report = pm.repair_file(path)
        assert report.verdict == "corrected"
        assert path.read_bytes() == data

    def test_what_is_missing_at_the_end_is_put_back_in_both_planes(self, made):
        path, *_ = made
        data = path.read_bytes()
        path.write_bytes(data[: -4 * 2 * FLOOR])
        assert pm.repair_file(path).verdict == "corrected"
        assert path.read_bytes() == data
        path.write_bytes(data + b"more")
        assert pm.repair_file(path).verdict == "corrected"
        assert path.read_bytes() == data
        path.write_bytes(data[: -4 * (2 * FLOOR + 1)])
        assert pm.check_file(path).verdict == "uncorrectable"

    def test_another_file(self, made, tmp_path):
        _, plan, _ = made
        other = tmp_path / "other.safetensors"
        for tensors, message in (
            ({"b": torch.ones(40, 30)}, "the plan is of a, which is not there"),
            (
                {"a": torch.ones(150), "b": torch.ones(40, 30)},
                r"a is F32 \[150\], but the plan was made for BF16 \[150\]",
            ),
        ):
            save_file(tensors, other)
            with pytest.raises(MismatchError, match=message):
                pm.protect_file(other, plan)
            with pytest.raises(MismatchError, match=message):
                pm.protect_(tensors, plan)

    def test_a_set_of_files(self, tmp_path, made):
        folder = tmp_path / "set"
        folder.mkdir()
        for name in "ab":
            save_file({name: torch.ones(4)}, folder / f"{name}.safetensors")
        with pytest.raises(SpecError, match="has 2 files, and this plan is for the tensors of one"):
            pm.protect_file(folder, made[1])


class TestRequests:
    W = whole("w", "F32", (9, 7))

    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ([(9, {"w": 0xFF})], "the bits 0xffffff00 of w are in no share"),
            ([(9, {"w": 0xFF}), (4, {"w": 0xFFFFFF80})], "the bits 0x80 of w are in two shares"),
            ([(9, {"w": 0}), (4, {"w": 1})], "the bits 0x1 of w are in two shares"),
            ([(9, {"w": 1 << 32})], "w is F32: it has no bits 0x100000000"),
            ([(9, {"v": 0})], "a share is of v, which is not there"),
            ([(0, {"w": 0})], "errors must be at least 1, not 0"),
            ([(2.5, {"w": 0})], "a whole number, not a float"),
            ([], "a balance needs at least one share"),
        ],
    )
    def test_balances_that_are_none(self, shares, message):
        with pytest.raises(SpecError, match=message):
            Balance.of([self.W], shares)

    def test_all_bits_are_one_way_to_say_so(self):
        assert Balance.of([self.W], [(9, {"w": 0xFFFFFFFF})]) == Balance.of(
            [self.W], [(9, {"w": 0})]
        )
        assert Balance.of([self.W], [(9, {"w": 0})]).shares[0].masks == {"w": 0}

    def test_nothing_goes_with_a_plan(self):
        tensors = {"w": torch.ones(9, 7)}
        plan = plan_of(tensors, {"w": 0xFF})
        for options in ({"seed": 3}, {"only": ["w"]}, {"carrier": "lowbits"}, {"carrier": Real()}):
            with pytest.raises(SpecError, match="give no carrier or option beside it"):
                pm.protect_(tensors, plan, **options)
        with pytest.raises(SpecError, match="give no buffers beside it"):
            pm.protect_(tensors, plan, buffers=True)

    def test_only_the_sidecar_has_planes(self):
        balance = plan_of({"w": torch.ones(9, 7)}, {"w": 0xFF}).request.balance
        for carrier in (Real(), LowBits()):
            with pytest.raises(SpecError, match="takes carrier='sidecar'"):
                Request(4, carrier, balance=balance)
        for other in ({"only": ["w"]}, {"per": "tensor"}, {"errors": 9}):
            with pytest.raises(SpecError, match="give no others"):
                Request(**{"errors": 4, "carrier": Sidecar(), "balance": balance} | other)

    def test_one_word_for_every_share(self):
        tensors = {"w": torch.ones(9, 7)}
        chosen = choose(ModelTensors(tensors), plan_of(tensors, {"w": 0xFF}).request)
        assert [(c.code, c.word.parts[0].mask) for c in chosen] == [
            (sums_for(64, STRONG), 0xFF),
            (sums_for(64, FLOOR), 0xFFFFFF00),
        ]
        assert Share(4, Word((self.W,))).masks == {"w": 0}


class TestSeals:
    """Masks in the byte format."""

    def test_golden(self):
        tensors = weights()
        seal = pm.Seal.load(GOLDEN)
        assert seal.to_bytes() == GOLDEN.read_bytes()
        assert [tuple(p.mask for p in word.parts) for word in seal.words] == [
            tuple(masks.values()) for _, masks in PLANES
        ]
        assert pm.check(tensors, seal).verdict == "clean"
        before = copied(tensors)
        tensors["fc.weight"].view(torch.int32)[2, :10] ^= 1 << 30
        assert pm.repair_(tensors, seal).verdict == "corrected"
        assert same(tensors, before)

    @given(planes())
    def test_there_and_back(self, plane):
        name, mask, other = plane
        tensors = tensors_of(name)
        seal = pm.protect_(tensors, plan_of(tensors, {"a": mask, "b": other}))
        again = pm.Seal.from_bytes(seal.to_bytes())
        assert [word.parts for word in again.words] == [word.parts for word in seal.words]
        assert again.to_bytes() == seal.to_bytes()

    @staticmethod
    def of(*parts, code=None):
        words = []
        for part in parts:
            word = Word((part,))
            mine = code or sums_for(word.padded, 2)
            words.append(
                SealedWord(mine, word, np.zeros(mine.syndrome_shape, np.uint64), bytes(32))
            )
        return pm.Seal("sidecar", 2, tuple(words))

    def test_neighbours_of_one_mask_take_one_run(self):
        a, b = (replace(whole(name, "F32", (64,)), mask=3) for name in "ab")
        code = sums_for(128, 2)
        seal = pm.Seal(
            "sidecar",
            2,
            (SealedWord(code, Word((a, b)), np.zeros(code.syndrome_shape, np.uint64), bytes(32)),),
        )
        data = seal.to_bytes()
        assert b'"parts":[[0,1,3]]' in data
        assert pm.Seal.from_bytes(data).words[0].parts == (a, b)

    @given(
        st.lists(
            st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(0, 254)),
            min_size=1,
            max_size=5,
        )
    )
    def test_words_may_share_elements_but_no_bit(self, ranges):
        parts = [Part("w", "U8", (40,), start, count, mask=mask) for start, count, mask in ranges]
        bits = [
            (k, b)
            for p in parts
            for k in range(p.start, p.start + p.count)
            for b in range(8)
            if (p.mask or 255) >> b & 1
        ]
        data = self.of(*parts).to_bytes()
        if len(set(bits)) == len(bits):
            assert [word.parts[0] for word in pm.Seal.from_bytes(data).words] == parts
        else:
            with pytest.raises(SealError, match="overlap"):
                pm.Seal.from_bytes(data)

    @pytest.mark.parametrize("mask", [-1, 0xFFFFFFFF, 1 << 32, 10**400])
    def test_masks_that_are_none(self, mask):
        part = replace(whole("w", "F32", (64,)), mask=mask)
        with pytest.raises(SealError, match="is not one of some bits of w"):
            pm.Seal.from_bytes(self.of(part).to_bytes())

    @pytest.mark.parametrize("carrier", ["real", "lowbits"])
    def test_codes_on_weights_have_no_masks(self, carrier):
        seal = pm.protect_({"w": torch.linspace(-1, 1, 4000)}, 2, carrier)
        [word] = seal.words
        masked_word = replace(word, word=Word((replace(word.parts[0], mask=7),)))
        with pytest.raises(SealError, match="does not fit its tensors"):
            pm.Seal.from_bytes(replace(seal, words=(masked_word,)).to_bytes())


def test_masked_bytes_of_the_largest_elements():
    part = Part("w", "C128", (2,), 0, 2, mask=1 << 127 | 0xFF)
    data = masked(np.full(32, 0xFF, np.uint8), part).reshape(2, 16)
    assert [row[[0, 1, 15]].tolist() for row in data] == [[255, 0, 128]] * 2
