"""Seals of files: damaged, hostile, of other models, of other versions."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from parimend import Seal, check_file, protect_file, repair_file
from parimend.armor import armor, unarmor
from parimend.errors import MismatchError, SealError
from parimend.files import sidecar_of
from parimend.outcomes import Verdict
from tests.files.conftest import damage, flip, repaired


def test_a_damaged_sidecar_repairs_and_is_repaired(model, rng):
    protect_file(model, errors=20)
    original, seal = model.read_bytes(), sidecar_of(model).read_bytes()
    flip(model, rng, 20)
    flip(sidecar_of(model), rng, 12, start=0)
    report = check_file(model)
    assert report.files[0].seal is Verdict.CORRECTABLE
    assert "seal damaged, can be restored" in report.files[0].findings
    assert repaired(model, original).files[0].seal is Verdict.CORRECTED
    assert sidecar_of(model).read_bytes() == seal


def test_a_shortened_sidecar_is_good_enough(model):
    protect_file(model, errors=20)
    seal = sidecar_of(model).read_bytes()
    os.truncate(sidecar_of(model), len(seal) - 60)
    assert repair_file(model).files[0].seal is Verdict.CORRECTED
    assert sidecar_of(model).read_bytes() == seal


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000, b"PARIMEND" * 9])
def test_no_sidecar(model, content):
    protect_file(model, errors=20)
    sidecar_of(model).write_bytes(content)
    with pytest.raises(SealError, match=r"model\.safetensors\.parimend: this is no seal"):
        check_file(model)


def test_no_seal_is_written_that_is_too_large_to_be_read(model, monkeypatch):
    monkeypatch.setattr("parimend.seal.seal.MAX_BYTES", 2000)
    protect_file(model, errors=20)
    before = sidecar_of(model).read_bytes()
    with pytest.raises(SealError, match="none of more than 2000 is read: ask for fewer errors"):
        protect_file(model, errors=210, force=True)
    assert sidecar_of(model).read_bytes() == before


def test_a_newer_seal_is_not_understood(model):
    protect_file(model, errors=20)
    path = sidecar_of(model)
    payload = bytes(unarmor(path.read_bytes(), "")[0])
    path.write_bytes(armor(payload.replace(b'"version":1,"words"', b'"version":9,"words"')))
    with pytest.raises(SealError, match=r"its version is 9, .*: install a newer one"):
        check_file(model)


PAYLOAD = {}


@pytest.fixture
def payload(model):
    if not PAYLOAD:
        protect_file(model, errors=3, per="tensor")
        PAYLOAD[0] = bytes(unarmor(sidecar_of(model).read_bytes(), "")[0])
    return PAYLOAD[0]


def test_hostile_seals_are_errors(payload):
    """Payloads with right checksums: what somebody might have made on purpose."""

    @given(st.data())
    def run(data):
        raw = bytearray(payload)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(raw) - 1))
            kind = data.draw(st.sampled_from(["change", "insert", "delete"]))
            more = data.draw(
                st.sampled_from([b"9", b"[", b"}", b'"', b",", b"-1", b"9" * 30, b"\xff"])
            )
            raw[at : at + (kind != "insert")] = b"" if kind == "delete" else more
        try:
            seal = Seal.from_bytes(armor(bytes(raw)))
        except SealError:
            return
        assert all(part.count > 0 for word in seal.words for part in word.parts)

    run()


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_seal(data):
    for content in (data, armor(data), armor(len(data).to_bytes(4, "little") + data)):
        with pytest.raises(SealError):
            Seal.from_bytes(content)


def test_the_seal_of_another_model_is_refused(model):
    path = model.with_name("other.safetensors")
    safetensors.numpy.save_file({"other": np.ones(9, np.float32)}, path)
    model_seal = Seal.load(protect_file(path, errors=3)[0].sidecar)
    replace(model_seal, blobs={}).save(sidecar_of(model))
    with pytest.raises(MismatchError, match="the seal protects other, which is not there"):
        check_file(model)


FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = [
    case
    for name in ("sidecar", "files", "hashed_files")
    for case in json.loads((FOLDER / f"{name}.json").read_text())
]


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_sidecars(tmp_path, case):
    path = tmp_path / "model"
    path.write_bytes(bytes.fromhex(case["file"]))
    sidecar_of(path).write_bytes(bytes.fromhex(case["sidecar"]))
    assert Seal.load(sidecar_of(path)).to_bytes() == sidecar_of(path).read_bytes()
    report = check_file(path)
    assert (report.verdict, report.files[0].seal) == (Verdict.CLEAN, Verdict.CLEAN)
    damage(path, -6, b"??")
    repaired(path, bytes.fromhex(case["file"]))
