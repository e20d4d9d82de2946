"""What proves a repair: SHA-256, or sums where the weights are elsewhere or nobody took one."""

import json
from types import SimpleNamespace

import pytest
import torch

import parimend as pm
from parimend import decoders
from parimend.carriers.base import find
from parimend.errors import SealError, SpecError
from parimend.outcomes import Verdict
from parimend.seal import Seal
from parimend.stores.model import ModelTensors
from tests.elsewhere import Distant, brought, state

__all__ = ["brought"]
BY_SUMS = pm.Sidecar(digest=False)


def damage(weights, count=10):
    """Damage words; gives the weights as they were."""
    before = {name: tensor.clone() for name, tensor in weights.items()}
    weights["weight"].view(-1)[100 : 100 + 500 * count : 500] = float("nan")
    return before


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_weights_elsewhere_are_repaired_there(brought):
    here = state()
    seal = pm.protect_(here, errors=10)
    before = damage(here)
    there = {name: Distant(tensor) for name, tensor in here.items()}
    assert pm.check(there, seal).verdict is Verdict.CORRECTABLE
    [word] = pm.repair_(there, seal).files[0].words
    assert (word.verdict, word.proof, len(word.changes)) == (Verdict.CORRECTED, "sums", 10)
    assert same(here, before)
    assert 0 < brought() < 20_000  # sums, and the words that were wrong


def test_sha256_proves_them_where_it_is_asked_for(brought):
    here = state()
    seal = pm.protect_(here, errors=10)
    before = damage(here)
    there = {name: Distant(tensor) for name, tensor in here.items()}
    [word] = pm.repair_(there, seal, proof="sha256").files[0].words
    assert (word.verdict, word.proof) == (Verdict.CORRECTED, "sha256")
    assert same(here, before)
    assert brought() > 240_000


def test_they_are_sealed_there_without_sha256(brought):
    here = state()
    there = {name: Distant(tensor) for name, tensor in here.items()}
    seal = pm.protect_(there, 10, BY_SUMS)
    assert 0 < brought() < 20_000
    assert seal.to_bytes() == pm.protect_(here, 10, BY_SUMS).to_bytes()


def test_without_sha256_in_memory():
    weights = state()
    seal = Seal.from_bytes(pm.protect_(weights, 10, BY_SUMS).to_bytes())
    assert [word.sha256 for word in seal.words] == [b""]
    assert pm.check(weights, seal).verdict is Verdict.CLEAN
    before = damage(weights)
    [word] = pm.repair_(weights, seal).files[0].words
    assert (word.verdict, word.proof) == (Verdict.CORRECTED, "sums")
    assert same(weights, before)
    assert json.loads(word.to_json())["proof"] == "sums"


def test_it_stays_without_when_it_is_renewed():
    weights = state()
    seal = pm.protect_(weights, 10, BY_SUMS)
    weights["weight"] *= 2
    renewed = pm.refresh(weights, seal)
    assert [word.sha256 for word in renewed.words] == [b""]
    assert pm.check(weights, renewed).verdict is Verdict.CLEAN


def test_what_is_clean_rests_on_nothing_more():
    weights = state()
    seal = pm.protect_(weights, 10)
    assert [word.proof for word in pm.check(weights, seal).files[0].words] == [""]


@pytest.mark.parametrize("count", [11, 40])
def test_more_damage_than_the_code_repairs_is_left(count):
    weights = state()
    seal = pm.protect_(weights, 10, BY_SUMS)
    damage(weights, count)
    found = {name: tensor.clone() for name, tensor in weights.items()}
    [word] = pm.repair_(weights, seal).files[0].words
    assert (word.verdict, word.proof) == (Verdict.UNCORRECTABLE, "")
    torch.testing.assert_close(weights, found, rtol=0, atol=0, equal_nan=True)


def test_memory_that_does_not_hold_what_is_written(monkeypatch):
    weights = state()
    seal = pm.protect_(weights, 10, BY_SUMS)
    damage(weights)
    monkeypatch.setattr(ModelTensors, "write", lambda *args: None)
    [word] = pm.repair_(weights, seal).files[0].words
    assert word.verdict is Verdict.UNCORRECTABLE
    assert "does not hold" in word.reason


def test_a_file_without_sha256(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = {"weight": state()["weight"]}
    save_file(weights, tmp_path / "m.safetensors")
    pm.protect_file(tmp_path / "m.safetensors", 10, carrier=BY_SUMS)
    assert pm.check_file(tmp_path / "m.safetensors").verdict is Verdict.CLEAN
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-1000] ^= 255
    (tmp_path / "m.safetensors").write_bytes(data)
    assert pm.repair_file(tmp_path / "m.safetensors").verdict is Verdict.CORRECTED
    assert torch.equal(load_file(tmp_path / "m.safetensors")["weight"], weights["weight"])


def test_what_cannot_be_proven_so_is_refused():
    weights = state()
    with pytest.raises(SpecError, match="sums for 1001 errors are no proof"):
        pm.protect_(weights, 1001, BY_SUMS)
    hashed, without = pm.protect_(weights, 1001), pm.protect_(weights, 10, BY_SUMS)
    with pytest.raises(SpecError, match=r"hashed.* are no proof: take proof='sha256'"):
        pm.check(weights, hashed, proof="sums")
    with pytest.raises(SpecError, match="was sealed without SHA-256: take proof='sums'"):
        pm.repair_(weights, without, proof="sha256")
    with pytest.raises(SpecError, match="proof must be 'sha256', 'sums' or None, not a str: 'crc'"):
        pm.check(weights, without, proof="crc")


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_other_carriers_need_their_sha256(carrier):
    weights = {"w": torch.randn(64, 32)}
    seal = pm.protect_(weights, 3, carrier)
    with pytest.raises(SpecError, match="are no proof"):
        pm.check(weights, seal, proof="sums")
    [word] = seal.words
    bare = Seal(seal.carrier, seal.errors, (type(word)(word.code, word.word, word.target, b""),))
    with pytest.raises(SealError, match="has no SHA-256, which its"):
        Seal.from_bytes(bare.to_bytes())
    assert find(bare.words[0], ModelTensors(weights)).verdict is not Verdict.CORRECTABLE


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("again", [7, 9])
def test_what_changes_while_damage_is_located_is_not_put_back_as_it_never_was(
    monkeypatch, digest, again
):
    """Sums and weights that are read one after the other are not of the same moment then."""
    tensors = {"w": torch.arange(100.0)}
    seal = pm.protect_(tensors, 3, pm.Sidecar(digest=digest))
    tensors["w"][7] = 123.0
    prepared, strikes = decoders.prepared, [77.0, 55.0]

    def decoder(code):
        def decode(*args):
            decoding = prepared(code).decode(*args)
            if strikes:
                tensors["w"][again] = strikes.pop()
            return decoding

        return SimpleNamespace(decode=decode)

    monkeypatch.setattr(decoders, "prepared", decoder)
    right = {7: 7.0, 9: 9.0}
    for change in pm.check(tensors, seal).changes:
        assert change.value(change.original) == right[change.index[0]]
    strikes[:] = [66.0]
    events = pm.Scrubber(tensors, seal).sweep()
    assert events[-1].kind == "repaired"
    for event in events:
        for change in event.changes:
            assert change.value(change.original) == right[change.index[0]]
    assert torch.equal(tensors["w"], torch.arange(100.0))


def test_memory_that_gives_one_value_and_then_another(monkeypatch):
    """Sums see what is there before and after, and not what the weights were read as between."""
    tensors = {"w": torch.arange(100.0)}
    seal = pm.protect_(tensors, 3, BY_SUMS)
    tensors["w"][7] = 123.0
    read, strikes = ModelTensors._read, [77.0]

    def reads(store, part):
        data = read(store, part)
        if part.count == 1 and strikes:
            data = torch.tensor([strikes.pop()]).numpy().view("u1")
        return data

    monkeypatch.setattr(ModelTensors, "_read", reads)
    [change] = pm.check(tensors, seal).changes
    assert not strikes
    assert (change.index, change.value(change.original)) == ((7,), 7.0)
