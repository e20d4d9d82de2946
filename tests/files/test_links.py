"""A link may lead to another file tomorrow; its seal is that of the file that it led to."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from parimend import load_file, protect_, verified, verify
from parimend.errors import DamageError, MismatchError
from parimend.files import check_file, protect_file, repair_file, sidecar_of
from parimend.outcomes import Verdict
from tests.files.conftest import flip_bit


@pytest.fixture
def versions(tmp_path, rng):
    """Two files that differ in few elements, and a link to the first one."""
    first = rng.standard_normal(5000)
    second = first.copy()
    second[:20] += 1
    for name, values in (("1.npy", first), ("2.npy", second)):
        np.save(tmp_path / name, values)
    link = tmp_path / "latest.npy"
    link.symlink_to("1.npy")
    return link, tmp_path / "1.npy", tmp_path / "2.npy"


def lead(link, to):
    link.unlink()
    link.symlink_to(to)


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_where_a_file_has_a_seal_a_link_to_it_has_no_other(versions):
    link, _, second = versions
    for path in (link, second):
        protect_file(path, 100)
    lead(link, second.name)
    before = contents(link.parent)
    assert (check_file(link).verdict, repair_file(link).verdict) == (Verdict.CLEAN, Verdict.CLEAN)
    for policy in ("raise", "repair"):
        assert (load_file(link, on_damage=policy) == np.load(second)).all()
        with verified(link, policy) as path:
            assert (np.load(path) == np.load(second)).all()
        with verified(link, policy, copy_to=link.parent) as path:
            assert path.read_bytes() == second.read_bytes()
    told = {Path(file.path).name: file for file in check_file(link.parent).files}
    assert {name: file.verdict.value for name, file in told.items()} == {
        "1.npy": "unknown",  # it has no seal any more: nothing leads to it
        "2.npy": "clean",
        "latest.npy": "clean",
    }
    assert {file.note for file in told.values()} == {""}
    assert contents(link.parent) == before
    flip_bit(second)
    assert check_file(link).verdict is Verdict.CORRECTABLE
    assert repair_file(link).verdict is Verdict.CORRECTED
    assert contents(link.parent) == before


def test_a_link_needs_no_seal_where_its_file_has_one(versions, tmp_path):
    link, first, _ = versions
    protect_file(first, 100)
    far = tmp_path / "elsewhere" / "best.npy"
    far.parent.mkdir()
    far.symlink_to(link)
    before = first.read_bytes()
    for path in (link, far, far.parent):
        flip_bit(first)
        assert [file.verdict.value for file in check_file(path).files] == ["correctable"]
        with pytest.raises(DamageError):
            verify(path)
        told = pytest.warns(UserWarning, match="is damaged, what is loaded is not: 1 wrong element")
        with told, verified(path, "repair", copy_to=tmp_path) as copy:
            copied = copy / far.name if path == far.parent else copy
            assert copied.read_bytes() == before
        assert verify(path, "repair").verdict is Verdict.CORRECTED
        assert first.read_bytes() == before
    assert check_file(far.parent).ok  # what lies around the file is not missing around the link


@pytest.mark.parametrize("is_apart", [False, True])
def test_nothing_is_written_to_another_file_than_the_link_led_to(versions, tmp_path, is_apart):
    link, first, second = versions
    where = {"seal_dir": tmp_path / "seals"} if is_apart else {}
    protect_file(link, 100, **where)
    lead(link, second.name)
    before = contents(tmp_path)
    says = re.escape(f"{link} leads to {second}, and its seal ") + ".* while it led to 1.npy, "
    for use in (check_file, repair_file, load_file):
        with pytest.raises(MismatchError, match=says):
            use(link, **where)
    with pytest.raises(MismatchError, match=says):
        load_file(link, "repair", **where)
    for copy_to in (None, tmp_path):
        with (
            pytest.raises(MismatchError, match=says),
            verified(link, "repair", copy_to=copy_to, **where),
        ):
            pass
    with pytest.raises(MismatchError, match=r"is not as it was then.*: check it"):
        protect_file(link, 100, **where)
    assert contents(tmp_path) == before
    lead(link, first.name)
    assert check_file(link, **where).ok
    lead(link, second.name)
    protect_file(link, 100, force=True, **where)
    flip_bit(second)
    assert repair_file(link, **where).ok
    assert second.read_bytes() == before[second]


def test_links_of_a_folder_that_lead_elsewhere(tmp_path, versions, rng):
    """As in the cache of a hub; a folder of it may have been copied, and be files."""
    _, first, second = versions
    folder, blobs = tmp_path / "snapshots" / "a", tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for path, name in ((first, "aaa"), (second, "bbb")):
        path.rename(blobs / name)
    (folder / "m.npy").symlink_to("../../blobs/aaa")
    protect_file(folder, 100)
    original = (blobs / "aaa").read_bytes()
    flip_bit(blobs / "aaa")
    assert repair_file(folder).ok
    assert (blobs / "aaa").read_bytes() == original
    shutil.copytree(folder, tmp_path / "copy")
    flip_bit(tmp_path / "copy" / "m.npy")
    assert repair_file(tmp_path / "copy").ok
    (tmp_path / "copy").rename(tmp_path / "moved")
    lead(folder / "m.npy", "../../blobs/bbb")
    before = contents(tmp_path)
    for look in (check_file, repair_file):
        [file] = look(folder).files
        assert (file.verdict, "while it led to ../../blobs/aaa" in file.problem) == (
            Verdict.UNKNOWN,
            True,
        )
    with pytest.raises(DamageError, match="while it led to"), verified(folder, "repair"):
        pass
    assert contents(tmp_path) == before
    # The same content by another name is what it was.
    shutil.copy(blobs / "aaa", blobs / "ccc")
    lead(folder / "m.npy", "../../blobs/ccc")
    assert check_file(folder).ok
    assert protect_file(folder, 100)[0].is_kept
    flip_bit(blobs / "ccc")
    assert repair_file(folder).ok
    assert (blobs / "ccc").read_bytes() == original


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_seal_that_came_with_a_file_from_a_hub(tmp_path, rng, is_apart):
    """It was made of a file, and both are links in the cache, or the seals are elsewhere."""
    folder, blobs, seals = (tmp_path / name for name in ("snapshot", "blobs", "seals"))
    where = {"seal_dir": seals} if is_apart else {}
    folder.mkdir()
    np.save(folder / "m.npy", rng.standard_normal(900))
    protect_file(folder / "m.npy", 20, **where)
    blobs.mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(blobs / f"0123-{len(path.name)}")
        path.symlink_to(f"../blobs/0123-{len(path.name)}")
    before = contents(tmp_path)
    flip_bit(folder / "m.npy")
    for path in (folder / "m.npy", folder):
        assert repair_file(path, **where).ok
    assert contents(tmp_path) == before
    assert (folder / "m.npy").is_symlink()


def test_a_link_to_a_seal_is_that_of_the_file_beside_it(versions, tmp_path):
    link, first, second = versions
    protect_file(first, 100)
    sidecar_of(link).symlink_to(sidecar_of(first).name)
    before = contents(tmp_path)
    flip_bit(first)
    assert repair_file(link).ok
    assert contents(tmp_path) == before
    flip_bit(first)
    protect_file(link, 100, force=True)
    assert check_file(first).ok
    assert sidecar_of(link).is_symlink()
    lead(link, second.name)
    before = contents(tmp_path)
    with pytest.raises(MismatchError, match="is something else"):
        repair_file(link)
    assert contents(tmp_path) == before


def test_a_link_to_a_file_of_the_same_name_elsewhere(tmp_path, versions):
    _, first, second = versions
    for path, name in ((first, "1"), (second, "2")):
        (tmp_path / name).mkdir()
        path.rename(tmp_path / name / "m.npy")
    link = tmp_path / "m.npy"
    link.symlink_to("1/m.npy")
    protect_file(link, 100)
    lead(link, "2/m.npy")
    before = contents(tmp_path)
    with pytest.raises(MismatchError, match=r"while it led to 1/m\.npy"):
        repair_file(link)
    assert contents(tmp_path) == before


def test_a_file_that_was_moved_and_left_a_link(versions, tmp_path):
    _, first, second = versions
    protect_file(first, 100)
    (tmp_path / "large").mkdir()
    original = first.read_bytes()
    first.rename(tmp_path / "large" / first.name)
    first.symlink_to(tmp_path / "large" / first.name)
    flip_bit(first)
    assert repair_file(first).ok
    assert (first.read_bytes(), first.is_symlink()) == (original, True)
    lead(first, second)
    with pytest.raises(MismatchError, match=r"made of 1\.npy, not of that file, which is"):
        repair_file(first)


def test_the_seal_of_a_model_beside_a_link(tmp_path):
    """It knows no file."""
    import safetensors.torch
    import torch

    weights = {"w": torch.arange(900.0)}
    for name, values in (("1", weights), ("2", {"w": weights["w"].clone().add_(1)})):
        values["w"][100:] = weights["w"][100:]
        safetensors.torch.save_file(values, tmp_path / f"{name}.safetensors")
    link = tmp_path / "latest.safetensors"
    link.symlink_to("1.safetensors")
    protect_(weights, 200).save(tmp_path / "latest.parimend")
    assert check_file(link).ok
    lead(link, "2.safetensors")
    before = contents(tmp_path)
    with pytest.raises(MismatchError, match="not of that file"):
        repair_file(link)
    assert contents(tmp_path) == before


def test_a_seal_in_the_file_goes_before_that_of_a_link_that_led_elsewhere(tmp_path, rng):
    import safetensors.numpy

    values = rng.standard_normal(3000, dtype=np.float32)
    for name in ("1", "2"):
        safetensors.numpy.save_file({"w": values}, tmp_path / f"{name}.safetensors")
        values[:10] += 1
    protect_file(tmp_path / "2.safetensors", 20, "lowbits", tmp_path / "3.safetensors")
    link = tmp_path / "latest.safetensors"
    link.symlink_to("1.safetensors")
    protect_file(link, 100)
    lead(link, "3.safetensors")
    before = contents(tmp_path)
    assert check_file(link).files[0].carrier == "lowbits"
    assert repair_file(link).verdict is Verdict.CLEAN
    assert contents(tmp_path) == before


def test_protecting_a_link_to_a_protected_file(versions):
    """All of its names say the same."""
    link, first, _ = versions
    protect_file(first, 100)
    protect_file(link, 100)
    assert sidecar_of(link).exists()
    assert protect_file(link, 100)[0].is_kept
    flip_bit(first)
    for path in (link, first):
        with pytest.raises(MismatchError, match="is not as it was then"):
            protect_file(path, 100)
    sidecar_of(link).unlink()
    with pytest.raises(MismatchError, match="is not as it was then"):
        protect_file(link, 100)
    assert protect_file(link, 100, force=True)[0].sidecar == str(sidecar_of(link))
    assert check_file(first).ok
    assert check_file(link.parent).files[-1].ok
    assert {file.note for file in check_file(link.parent).files} == {""}
    os.remove(sidecar_of(first))
    assert check_file(link).ok
