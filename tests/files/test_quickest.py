"""Small files are called clean by SHA-256 alone, where no sums have been computed yet."""

from dataclasses import replace

import pytest

from parimend import check_file, protect_file, repair_file
from parimend.carriers import base
from parimend.carriers.base import find, find_hashed
from parimend.files import checking
from parimend.files.seals import sidecar_of
from parimend.formats import layout_of
from parimend.outcomes import Verdict
from parimend.seal import read_unsealed
from parimend.stores.file import FileTensors
from tests.files.conftest import flip


@pytest.fixture(params=["fresh", "computing", "large"])
def how(request, monkeypatch):
    """A process that has just begun, one that has computed sums, and a file that is large."""
    monkeypatch.setattr("parimend.kernels.loaded", lambda: request.param == "computing")
    if request.param == "large":
        monkeypatch.setattr(checking, "_HASHED", 0)
    return request.param


@pytest.mark.parametrize("act", [check_file, repair_file])
def test_what_is_clean_is_read_in_one_way(model, monkeypatch, how, act):
    protect_file(model, errors=20)
    asked = []

    def told(name):
        kept = getattr(base, name)
        find = lambda *given: asked.append(name) or kept.find(*given)  # noqa: E731
        return kept._replace(find=find)

    for name in ("BY_SUMS", "BY_SHA256"):
        monkeypatch.setattr(checking, name, told(name))
    assert act(model).verdict is Verdict.CLEAN
    assert asked == ["BY_SHA256" if how == "fresh" else "BY_SUMS"]


@pytest.mark.parametrize("count", [1, 20])
def test_damage_is_found_and_repaired_alike(model, rng, how, count):
    protect_file(model, errors=20)
    original = model.read_bytes()
    flip(model, rng, count)
    found = check_file(model)
    assert found.verdict is Verdict.CORRECTABLE
    assert 0 < len(found.changes) <= count
    assert repair_file(model).changes == found.changes
    assert model.read_bytes() == original


@pytest.mark.parametrize("errors", [20, 2000])
def test_nothing_is_clean_that_is_not_as_sealed(model, errors):
    protect_file(model, errors)
    seal = read_unsealed(sidecar_of(model)).seal
    [word] = seal.words
    other = replace(word, sha256=bytes(32))
    with model.open("rb") as file:
        tensors = FileTensors(file, layout_of(file, model))
        assert find_hashed(word, tensors).verdict is find(word, tensors).verdict is Verdict.CLEAN
        finding = find_hashed(other, tensors)
        bare = replace(word, sha256=b"")
        assert find_hashed(bare, tensors).verdict is Verdict.CLEAN
    assert finding.verdict is Verdict.UNCORRECTABLE
    assert "SHA-256 is not as sealed" in finding.reason
