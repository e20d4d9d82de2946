"""What every carrier promises. A new one goes into `CARRIERS`, with everything else as it is."""

import warnings
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.carriers import Carrier, carrier, carrier_of
from parimend.carriers.base import find
from parimend.carriers.finding import Place
from parimend.errors import SealError, SpecError
from parimend.stores.model import ModelTensors

ERRORS = 12
CARRIERS = [pm.Sidecar(), pm.Real(), pm.Real(rows=150, bits=20), pm.LowBits(), pm.LowBits(rows=90)]


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(0)
    return {f"layer.{i}": torch.randn(40, 30, generator=draw) for i in range(3)}


@pytest.fixture(params=CARRIERS, ids=repr)
def wanted(request):
    return request.param


@pytest.fixture
def sealed(wanted, tensors):
    """Seal in memory, with the state of before and of after: (seal, before, after)."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few weights have to move far
        seal = pm.protect_(tensors, ERRORS, wanted)
    return seal, before, {name: tensor.clone() for name, tensor in tensors.items()}


def same(a, b):
    return all(torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a)


def break_(tensors, count, seed=0):
    """Flips bits of ``count`` different weights."""
    rng = np.random.default_rng(seed)
    sizes = [tensor.numel() for tensor in tensors.values()]
    flat = torch.cat([tensor.view(-1) for tensor in tensors.values()]).numpy().view(np.uint32)
    chosen = rng.choice(sum(sizes), count, replace=False)
    flat[chosen] ^= np.uint32(1) << rng.integers(0, 32, count, dtype=np.uint32)
    for tensor, piece in zip(tensors.values(), np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
        tensor.view(-1)[:] = torch.from_numpy(piece.view(np.float32))


def test_it_is_frozen_and_its_fields_are_its_options(wanted):
    assert isinstance(wanted, Carrier)
    assert wanted == type(wanted)(**{f.name: getattr(wanted, f.name) for f in fields(wanted)})
    with pytest.raises((FrozenInstanceError, AttributeError)):
        wanted.name = "other"
    with pytest.raises(TypeError, match="unexpected keyword"):
        type(wanted)(option_of_nobody=1)


def test_it_is_known_by_its_name_and_by_its_codes(wanted, sealed):
    seal, _, _ = sealed
    assert type(carrier(wanted.name)) is type(wanted)
    assert carrier(wanted) is wanted
    assert {type(carrier_of(word.code)) for word in seal.words} == {type(wanted)}
    assert {word.code.family for word in seal.words} <= set(wanted.families)
    assert seal.carrier == wanted.name


def test_intact_weights_are_clean_and_stay(wanted, sealed, tensors):
    seal, _, after = sealed
    report = pm.check(tensors, seal)
    assert report.verdict is pm.Verdict.CLEAN
    assert report.files[0].covered == seal.covered == sum(map(torch.Tensor.numel, after.values()))
    assert pm.repair_(tensors, seal).verdict is pm.Verdict.CLEAN
    assert same(tensors, after)


def test_weights_are_moved_only_by_carriers_that_say_so(wanted, sealed):
    _, before, after = sealed
    assert same(before, after) is not wanted.moves


@pytest.mark.parametrize("count", [1, ERRORS // 2, ERRORS])
def test_damage_within_the_budget_is_found_and_repaired(sealed, tensors, count):
    seal, _, after = sealed
    break_(tensors, count)
    damaged = {name: tensor.clone() for name, tensor in tensors.items()}
    found = pm.check(tensors, seal)
    assert found.verdict is pm.Verdict.CORRECTABLE
    assert same(tensors, damaged)  # a look changes nothing
    assert len(found.changes) == count
    assert pm.repair_(tensors, seal).verdict is pm.Verdict.CORRECTED
    assert same(tensors, after)


@pytest.mark.parametrize("count", [0, 1, ERRORS - 3])
def test_places_that_are_known_to_fail_may_be_right_or_wrong(sealed, tensors, count):
    seal, _, after = sealed
    [word] = seal.words
    break_(tensors, count)
    tensors["layer.2"][7, 7] = 9.0
    right, wrong = [Place(0, 5), Place(1, 1199), Place(2, 0)], [Place(2, 7 * 30 + 7)]
    store = ModelTensors(tensors)
    for erased in (right, wrong, right + wrong):
        finding = find(word, store, erased=erased)
        assert finding.verdict is pm.Verdict.CORRECTABLE
        assert finding == find(word, store)
    tensors["layer.2"].copy_(after["layer.2"])
    assert count or find(word, store, erased=right).verdict is pm.Verdict.CLEAN


def test_too_much_damage_is_called_so_and_left(sealed, tensors):
    seal, _, _ = sealed
    break_(tensors, 600)
    damaged = {name: tensor.clone() for name, tensor in tensors.items()}
    assert pm.repair_(tensors, seal).verdict is pm.Verdict.UNCORRECTABLE
    assert same(tensors, damaged)


def test_a_look_agrees_with_the_whole_answer(wanted, sealed, tensors):
    seal, _, _ = sealed

    def looks():
        store, clean = ModelTensors(tensors), True
        for word in seal.words:
            looking, read = carrier_of(word.code).look(word, store), 0
            while True:
                try:
                    read += next(looking)
                except StopIteration as end:
                    clean &= end.value
                    break
            assert read == sum(part.nbytes for part in word.parts)
        return clean

    assert looks()
    break_(tensors, 1)
    assert not looks()


def test_a_look_reads_no_more_than_the_whole_answer(sealed, tensors):
    class Counted(ModelTensors):
        count = 0

        def _read(self, part):
            self.count += part.nbytes
            return super()._read(part)

    looked, found = Counted(tensors), Counted(tensors)
    for word in sealed[0].words:
        list(carrier_of(word.code).look(word, looked))
        find(word, found)
    assert 0 < looked.count <= found.count


def test_what_is_planned_is_what_is_sealed(wanted, sealed, tensors):
    seal, before, _ = sealed
    planned = pm.plan(before, ERRORS, wanted).words
    assert [p.name for p in planned] == [word.name for word in seal.words]
    assert [p.checks for p in planned] == [word.code.m for word in seal.words]
    assert sum(p.elements for p in planned) == seal.covered


def test_a_seal_keeps_everything(wanted, sealed, tensors):
    seal, _, after = sealed
    again = pm.Seal.from_bytes(seal.to_bytes())
    break_(tensors, ERRORS)
    assert pm.repair_(tensors, again).verdict is pm.Verdict.CORRECTED
    assert same(tensors, after)


def test_an_update_is_sealed_anew_or_refused_with_a_reason(wanted, sealed, tensors):
    seal, _, _ = sealed
    tensors["layer.1"][3, 4] += 1
    if wanted.moves:
        with pytest.raises(SpecError, match=f"the {wanted.name} carrier lives in the weights"):
            pm.refresh(tensors, seal)
    else:
        assert pm.check(tensors, pm.refresh(tensors, seal)).verdict is pm.Verdict.CLEAN


def test_other_code_is_told(wanted):
    with pytest.raises(SpecError, match=r"there are .*'sidecar'"):
        carrier(wanted.name + "s")
    with pytest.raises(SealError, match="gaussian codes are not sealed"):
        carrier_of(pm.codes.Gaussian(n=10, m=5))
