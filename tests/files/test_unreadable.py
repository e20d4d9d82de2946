"""Disks that do not give a file's bytes."""

import errno
import os

import pytest
import torch

from parimend import check_file, fingerprint, plan, protect_file, repair_file, save_file
from parimend.files import sidecar_of

ASKED = {
    "check": check_file,
    "repair": repair_file,
    "protect": lambda path: protect_file(path, 10, force=True),
    "plan": lambda path: plan(path, 10),
    "fingerprint": fingerprint,
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(100_000)}, path, errors=10)
    return path


@pytest.fixture
def refuse(monkeypatch):
    """Lets reads fail that reach some byte of a file."""

    def put(path, at):
        def refusing(descriptor, buffers, offset):
            is_it = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if is_it and offset + sum(map(len, buffers)) > at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(descriptor, buffers, offset)

        read = os.preadv
        monkeypatch.setattr("os.preadv", refusing)

    return put


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("at", [0, 200_000])
def test_the_file_is_named_and_what_to_do(path, refuse, asked, at):
    refuse(path, at)
    with pytest.raises(OSError, match=r"Input/output error in bytes .* to another disk") as raised:
        asked(path)
    assert raised.value.filename == str(path)
    assert raised.value.errno == errno.EIO


def test_a_seal(path, refuse):
    refuse(sidecar_of(path), 0)
    with pytest.raises(OSError, match="Input/output error") as raised:
        check_file(path)
    assert raised.value.filename == str(sidecar_of(path))


def test_one_of_several(path, refuse, tmp_path):
    save_file({"a": torch.zeros(1000)}, tmp_path / "other.safetensors", errors=3)
    refuse(path, 200_000)
    report = check_file(tmp_path)
    assert "cannot be looked at: Input/output error in bytes" in report.files[1].problem
    assert report.files[0].ok
