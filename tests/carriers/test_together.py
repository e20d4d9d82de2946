"""Small words that are read and looked at together: what is said of each is what is said of it
alone.
"""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import parimend as pm
from parimend.carriers import LowBits, Real, Request, Sidecar, diagnose, protect_, repair_, summing
from parimend.carriers import together as small
from parimend.carriers.base import BY_SHA256, BY_SUMS, Search, renewed
from parimend.carriers.protect import choose
from parimend.codes import Hashed, Modular, PowerSums, Screened
from parimend.errors import SpecError
from parimend.outcomes import Verdict
from parimend.scrub import Scrubber
from parimend.stores.file import LoadedTensors
from parimend.stores.model import ModelTensors

DTYPES = (torch.float32, torch.bfloat16, torch.uint8, torch.float64)
CARRIERS = (Sidecar(), Sidecar(digest=False), Real(bits=16), LowBits())


def network(seed, rows, widths, only_floats):
    """Tensors of several dtypes and lengths: weights with biases, and vectors; some not
    contiguous.
    """
    draw = torch.Generator().manual_seed(seed)

    def tensor(i, *shape):
        dtype = torch.float32 if only_floats else DTYPES[i % 4]
        return (100 * torch.randn(shape, generator=draw)).to(dtype)

    tensors = {}
    for i, width in enumerate(widths):
        tensors[f"l{i}.weight"] = tensor(i, width, rows).T if i % 2 else tensor(i, rows, width)
        tensors[f"l{i}.bias"] = tensor(i + 1, rows)
    return tensors | {f"v{i}": tensor(i, 3 * width) for i, width in enumerate(widths)}


def damage(tensors, rng, count):
    names = sorted(tensors)
    for _ in range(count):
        cells = tensors[names[rng.integers(len(names))]]
        index = tuple(int(rng.integers(size)) for size in cells.shape)
        cell = cells[index].clone().reshape(1)
        cell.view(torch.uint8)[rng.integers(cell.element_size())] ^= int(rng.integers(1, 256))
        cells[index] = cell[0]


def states(tensors):
    return {name: bytes(ModelTensors({name: t}).read(ModelTensors({name: t}).whole()[0]))
            for name, t in tensors.items()}  # fmt: skip


@pytest.mark.parametrize("joined", [1 << 9, 1 << 20])
@pytest.mark.parametrize("carrier", CARRIERS, ids=repr)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(2, 9),
    widths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    per=st.sampled_from(["row", "tensor"]),
    wrong=st.integers(0, 12),
)
@settings(max_examples=6, deadline=None)
def test_what_is_said_of_words_is_what_is_said_of_each_alone(
    joined, carrier, seed, rows, widths, per, wrong
):
    if carrier.moves:
        per, rows, widths = "tensor", 40, [50 + width for width in widths]
    tensors = network(seed, rows, widths, only_floats=carrier.moves)
    store = ModelTensors(tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "JOINED", joined)
        only = ["*.weight"] if carrier.moves else None
        store = ModelTensors({n: t for n, t in tensors.items() if not only or "weight" in n})
        seal = protect_(store, Request(2, carrier, only, per))
        assert diagnose(seal, store).verdict is Verdict.CLEAN
        damage(store.held, np.random.default_rng(seed), wrong)
        found = diagnose(seal, store)
        for search in (Search(BY_SUMS.find), BY_SHA256, Search(BY_SHA256.find)):
            assert diagnose(seal, store, search) == found
        copies = [ModelTensors({n: t.clone() for n, t in store.held.items()}) for _ in range(2)]
        done = repair_(seal, copies[0])
        assert done == repair_(seal, copies[1], Search(BY_SUMS.find))
        assert states(copies[0].held) == states(copies[1].held)
        assert [was.verdict.ok for was in done.words] == [
            was.verdict is not Verdict.UNCORRECTABLE for was in found.words
        ]


@given(
    seed=st.integers(0, 999),
    rows=st.integers(2, 9),
    widths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    per=st.sampled_from(["row", "tensor"]),
    errors=st.sampled_from([1, 3, 20, 2000]),
)
@settings(max_examples=15, deadline=None)
def test_words_are_sealed_together_as_each_alone(seed, rows, widths, per, errors):
    store = ModelTensors(network(seed, rows, widths, only_floats=False))
    carrier = Sidecar()
    chosen = choose(store, Request(errors, carrier, per=per))
    sealed = carrier.seal_(chosen, store).words
    assert [word.word for word in sealed] == [each.word for each in chosen]
    for word, each in zip(sealed, chosen, strict=True):
        [alone] = carrier.seal_([each], store).words
        assert (word.code, word.sha256, word.blocks) == (alone.code, alone.sha256, b"")
        np.testing.assert_array_equal(word.target, alone.target)
        np.testing.assert_array_equal(word.target, summing.sums(each.code, each.word, store))
        data = b"".join(bytes(store.read(part)) for part in each.word)
        assert word.sha256 == hashlib.sha256(data).digest()
    bare = [replace(word, sha256=b"") if i % 2 else word for i, word in enumerate(sealed)]
    for word, again in zip(bare, renewed(bare, store), strict=True):
        assert again.sha256 == word.sha256
        np.testing.assert_array_equal(again.target, word.target)


CODES = [
    PowerSums(640, 2), PowerSums(640, 24), PowerSums(640, 600), Screened(640, 24),
    Hashed(640, 136), Modular(640, 64), Modular(640, 64, version=2),
]  # fmt: skip


@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_sums_of_each_are_those_of_each_alone(monkeypatch, code, fuses, rng):
    if not fuses:
        monkeypatch.setattr("parimend.kernels.power_numba.fuses", lambda: False)
    lengths = np.array([16, 640, 8, 32, 16, 304, 5]) if fuses else np.array([16, 48, 5])
    ends = np.cumsum(lengths)
    words = rng.integers(0, 1 << 32, ends[-1], dtype=np.uint32)
    for few in (False, True):
        found = code.of_each(words, ends, few)
        for mine, each in zip(found, np.split(words, ends[:-1]), strict=True):
            right = code.accumulate(code.zeros(few), each)
            np.testing.assert_array_equal(mine.ravel(), right.ravel())


@pytest.mark.parametrize("ends", [[16, 40], [16, 16, 32], [24, 16, 32], [-8, 32], []])
def test_ends_that_are_none_are_refused(ends):
    for code in (PowerSums(64, 4), Modular(64, 64)):
        with pytest.raises(SpecError, match="where such words end"):
            code.of_each(np.zeros(32, np.uint32), np.array(ends, np.int64))
        with pytest.raises(SpecError, match="where such words end"):
            code.of_each(np.zeros(96, np.uint32), np.array([16, 96]))
        with pytest.raises(SpecError, match="uint32"):
            code.of_each(np.zeros(32, np.float32), np.array([32]))


def test_codes_of_one_kind_differ_in_nothing_but_lengths():
    kinds = [
        Screened(n, m, seed).kind() for n in (64, 96) for m in (12, 20) for seed in (0, 1)
    ]  # fmt: skip
    assert len(set(kinds)) == 4
    assert Screened(64, 12).kind(few=True) == Screened(96, 20).kind(few=True)
    assert Screened(64, 12).kind(few=True) != Screened(64, 12, 1).kind(few=True)
    assert Modular(64, 64).kind() != Modular(96, 64).kind()


def test_rows_are_read_at_once():
    """And nothing is read twice that is clean."""
    reads = []

    class Told(LoadedTensors):
        def read(self, part):
            reads.append(part)
            return super().read(part)

    weights = {"fc.weight": torch.randn(500, 40), "fc.bias": torch.randn(500)}
    store = Told(ModelTensors(weights))
    seal = protect_(store, Request(2, Sidecar(), per="row"))
    for search in (BY_SUMS, BY_SHA256):
        reads.clear()
        assert diagnose(seal, store, search).verdict is Verdict.CLEAN
        assert len(reads) == 2
        assert sum(part.count for part in reads) == 500 * 41


@pytest.mark.parametrize("late", [False, True])
def test_damage_that_comes_after_words_were_looked_at_is_found_by_the_next_look(monkeypatch, late):
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(40)}
    seal = pm.protect_(tensors, 2, per="tensor")
    sums = small.Read.sums

    def strikes(*given, **kwargs):
        found = sums(*given, **kwargs) if late else None
        tensors["t3"][7] = tensors["t33"][7] = -1.0
        return found or sums(*given, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(small.Read, "sums", strikes)
        found = pm.check(tensors, seal)
    wrong = ["t3", "t33"]
    assert sorted(change.tensor for change in found.changes) == ([] if late else wrong)
    assert sorted(change.tensor for change in pm.check(tensors, seal).changes) == wrong


@pytest.mark.parametrize("carrier", CARRIERS, ids=repr)
def test_a_scrubber_repairs_each_of_many_words(carrier):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(60, 50) for _ in range(20)))
    only = ["*.weight"]
    seal = pm.protect_(model, 3, carrier, per="tensor", only=only)
    right = {name: value.clone() for name, value in model.state_dict().items()}
    scrubber = Scrubber(model, seal)
    assert scrubber.sweep() == []
    size = sum(value.nbytes for name, value in right.items() if "weight" in name)
    assert scrubber.counters.bytes_read == size
    with torch.no_grad():
        for i in (0, 7, 8, 19):
            model[i].weight[i, :3] += 1.0
    events = scrubber.sweep()
    assert [event.kind for event in events] == ["repaired"] * 4
    assert [event.changes[0].tensor for event in events] == [
        f"{i}.weight" for i in (0, 7, 8, 19)
    ]  # fmt: skip
    assert all(torch.equal(value, right[name]) for name, value in model.state_dict().items())
    assert scrubber.sweep() == []


def test_what_is_replaced_or_updated_while_it_is_read_is_not_called_right(monkeypatch):
    model = torch.nn.Sequential(*(torch.nn.Linear(30, 20) for _ in range(10)))
    scrubber = Scrubber(model, pm.protect_(model, 3, per="tensor"))
    read, todo = ModelTensors.read, []

    def meanwhile(self, part):
        data = read(self, part)
        while todo:
            todo.pop()()
        return data

    def replaced():
        model[4].weight = torch.nn.Parameter(torch.zeros(20, 30))

    def updated():
        with scrubber.update(), torch.no_grad():
            model[4].weight[0, :9] = 5.0

    monkeypatch.setattr(ModelTensors, "read", meanwhile)
    todo.append(updated)
    assert [event.kind for event in scrubber.sweep()] == []
    assert pm.check(model, scrubber.seal).ok
    todo.append(replaced)
    done = scrubber.counters.sweeps
    assert scrubber.sweep() == []
    assert scrubber.counters.sweeps == done  # not all was seen
    [event] = scrubber.sweep()
    assert event.kind == "uncorrectable"
    assert "was replaced" in event.reason


@pytest.mark.parametrize("fresh", [True, False])
def test_a_file_of_many_words(tmp_path, monkeypatch, fresh):
    from safetensors.torch import save_file

    monkeypatch.setattr("parimend.kernels.loaded", lambda: not fresh)
    path = tmp_path / "a.safetensors"
    tensors = {f"t{i}": torch.full((10 + 7 * i,), float(i)) for i in range(60)}
    save_file(tensors, path)
    pm.protect_file(path, 2, per="tensor")
    original = path.read_bytes()
    report = pm.check_file(path)
    assert report.verdict is Verdict.CLEAN
    assert len(report.words) == 60
    data = bytearray(original)
    data[-2] ^= 0x40
    data[-500] ^= 0x40
    path.write_bytes(data)
    wrong = [word.name for word in pm.check_file(path).words if word.verdict is not Verdict.CLEAN]
    assert len(wrong) == 2
    assert pm.repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    path.write_bytes(original[:-6])
    assert pm.repair_file(path).ok
    assert path.read_bytes() == original


def test_the_bad_one_of_many_rows_is_named():
    model = torch.nn.Linear(40, 300)
    seal = pm.protect_(model, 2, per="row")
    with torch.no_grad():
        model.weight[217] = 0.0
        model.weight[3, 1] = 7.0
    wrong = [word.name for word in pm.check(model, seal).words if word.verdict != "clean"]
    assert wrong == ["weight[3] .. bias[3]", "weight[217] .. bias[217]"]
    assert "weight[217] .. bias[217]: uncorrectable" in str(pm.check(model, seal))
    assert [event.word.name for event in Scrubber(model, seal).sweep()] == wrong
