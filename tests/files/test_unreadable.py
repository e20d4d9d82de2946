"""Disks that do not give a file's bytes."""

import errno
import os
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from parimend import (
    Verdict,
    check_file,
    fingerprint,
    load_file,
    load_folder,
    plan,
    protect_,
    protect_file,
    repair_file,
    save_file,
    verified,
)
from parimend.carriers import Balance, Request, Sidecar
from parimend.errors import DamageError
from parimend.files import sidecar_of
from parimend.stores.file import copy_data
from parimend.stores.model import ModelTensors

PAGE = 4096
ENOUGH = 700
"""Errors that a budget has to repair for a page of 1,024 words that are known to be lost."""

REFUSED = {
    "protect": lambda path: protect_file(path, 10, force=True),
    "plan": lambda path: plan(path, 10),
    "fingerprint": fingerprint,
    "load": load_file,
    "load what is damaged": lambda path: load_file(path, "warn"),
    "load a copy": lambda path: verified(path, "repair", copy_to=path.parent).__enter__(),
}


@pytest.fixture(params=["the page", "all that is asked for"])
def refuse(request, monkeypatch):
    """Lets reads fail that reach some pages of a file; the disk gives what lies before, or not."""
    lost = {}
    held = []  # so that no other file gets the number of one that is gone

    def put(path, *pages):
        held.append(os.open(path, os.O_RDONLY))
        lost[os.fstat(held[-1]).st_ino] = pages

    def refusing(descriptor, buffers, at):
        size = sum(map(len, buffers))
        pages = lost.get(os.fstat(descriptor).st_ino, ())
        begins = [max(PAGE * p, at) for p in pages if PAGE * p < at + size and at < PAGE * (p + 1)]
        if not begins:
            return read(descriptor, buffers, at)
        before = min(begins) - at
        if before and request.param == "the page":
            return read(descriptor, [buffers[0][:before]], at)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    read = os.preadv
    monkeypatch.setattr("os.preadv", refusing)
    yield put
    for descriptor in held:
        os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["sums first", "SHA-256 first"])
def loaded(request, monkeypatch):
    monkeypatch.setattr("parimend.kernels.loaded", lambda: request.param)


def saved(path, errors=ENOUGH, **options):
    """A file of 198 pages."""
    tensors = {"a": torch.arange(1, 100_001), "zeros": torch.zeros(2_000)}
    safetensors.torch.save_file(tensors, path)
    protect_file(path, errors, **options)
    return path, path.read_bytes()


def spoilt_at_its_end(path, good):
    content = bytearray(good)
    content[-1] ^= 1
    path.write_bytes(content)
    return content


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("pages", [(0,), (50,), (195, 197)])
def test_loading_repairs_it_in_memory(file, refuse, pages):
    path, good = file
    expected = load_file(path)
    refuse(path, *pages)
    with pytest.warns(UserWarning, match="what is loaded is not"):
        found = load_file(path, "repair")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found.keys() == expected.keys()
    with pytest.warns(UserWarning, match="what is loaded is not"):
        assert load_folder(path.parent, "repair").keys() == expected.keys()
    assert path.read_bytes() == good


@pytest.mark.parametrize("options", [{"errors": 10}, {"only": ["zeros"]}])
def test_loading_makes_nothing_up(tmp_path, refuse, options):
    path, _ = saved(tmp_path / "weights.safetensors", **options)
    refuse(path, 50)
    with pytest.raises(DamageError, match="4,096 bytes in one range cannot be read"):
        load_file(path, "repair")


@pytest.mark.parametrize("asked", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("page", [0, 50])
def test_the_file_is_named_and_what_to_do(file, refuse, asked, page):
    path, _ = file
    refuse(path, page)
    with pytest.raises(
        OSError, match=r"Input/output error in bytes .*: parimend repair puts"
    ) as raised:
        asked(path)
    assert raised.value.filename == str(path)
    assert raised.value.errno == errno.EIO


def test_a_seal(file, refuse):
    path, _ = file
    refuse(sidecar_of(path), 0)
    with pytest.raises(OSError, match="Input/output error") as raised:
        check_file(path)
    assert raised.value.filename == str(sidecar_of(path))


def test_a_seal_that_is_not_read_is_told_as_such_where_the_header_is_not_either(tmp_path, refuse):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors := {"a": torch.arange(9)}, path)
    protect_(tensors, errors=1).save(seal := tmp_path / "weights.parimend")
    refuse(path, 0)
    refuse(seal, 0)
    with pytest.raises(
        OSError, match=r"^\[Errno 5\] Input/output error in .* fetch this seal"
    ) as told:
        check_file(path)
    assert told.value.filename == str(seal)


def test_a_page_of_a_large_seal(tmp_path, refuse):
    path, _ = saved(tmp_path / "weights.safetensors", errors=20_000)
    side = sidecar_of(path)
    good = side.read_bytes()
    for page in range(0, len(good) // PAGE, 10):
        refuse(side, page)
        report = check_file(path)
        assert report.files[0].seal is Verdict.CORRECTABLE
        told = pytest.warns(UserWarning, match="itself is right: seal damaged, restored")
        with told, verified(path, "repair", copy_to=tmp_path) as copy:
            assert copy.read_bytes() == path.read_bytes()
        assert repair_file(path).verdict is Verdict.CORRECTED
        assert side.read_bytes() == good
        assert check_file(path).verdict is Verdict.CLEAN


@pytest.mark.parametrize("pages", [(0,), (50,), (195,), (0, 197), (197,)])
def test_what_is_lost_is_repaired_within_the_budget(file, refuse, loaded, pages):
    path, good = file
    refuse(path, *pages)
    lost = tuple((PAGE * page, min(PAGE * (page + 1), len(good))) for page in pages)
    report = check_file(path)
    assert report.verdict is Verdict.CORRECTABLE
    assert report.files[0].unreadable == lost
    size = sum(end - begin for begin, end in lost)
    assert f"{size:,} bytes in " in report.files[0].said
    assert "cannot be read from the disk" in report.files[0].said
    assert path.read_bytes() == good
    before = path.stat().st_ino
    report = repair_file(path)
    assert report.verdict is Verdict.CORRECTED
    assert path.stat().st_ino != before  # on other pages of the disk
    assert path.read_bytes() == good
    assert check_file(path).verdict is Verdict.CLEAN


@given(
    pages=st.sets(st.integers(0, 197), min_size=1, max_size=3),
    zero=st.sets(st.integers(0, 197), max_size=3),
    wrong=st.integers(0, 3),
    errors=st.sampled_from([10, 300, ENOUGH, 3_000]),
)
def test_nothing_unreadable_is_clean_and_nothing_is_made_up(
    tmp_path_factory, pages, zero, wrong, errors
):
    path = tmp_path_factory.mktemp("disk") / "weights.bin"
    content = np.arange(1, 197 * PAGE // 4 + 100, dtype=np.uint32)
    for page in zero:
        content[1024 * page : 1024 * (page + 1)] = 0
    good = content.tobytes()
    path.write_bytes(good)
    protect_file(path, errors)
    content[5000 : 5000 + wrong] += 1
    path.write_bytes(content.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        node, read = path.stat().st_ino, os.preadv

        def refusing(descriptor, buffers, at):
            end = at + sum(map(len, buffers))
            is_it = os.fstat(descriptor).st_ino == node
            if is_it and any(PAGE * page < end and at < PAGE * (page + 1) for page in pages):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(descriptor, buffers, at)

        patch.setattr("os.preadv", refusing)
        checked = check_file(path).verdict
        assert checked in (Verdict.CORRECTABLE, Verdict.UNCORRECTABLE)
        report = repair_file(path)
        assert report.ok == (checked is Verdict.CORRECTABLE)
        assert report.ok or 1024 * len(pages - zero) + 2 * wrong >= errors
    assert path.read_bytes() == (good if report.ok else content.tobytes())


def test_zeros_that_are_not_read_are_not_clean(tmp_path, refuse, loaded):
    path = tmp_path / "weights.bin"
    path.write_bytes(good := bytes(10 * PAGE))
    protect_file(path, errors=3)
    refuse(path, 4)
    report = check_file(path)
    assert report.verdict is Verdict.CORRECTABLE
    assert not report.changes
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good
    assert check_file(path).verdict is Verdict.CLEAN


def test_zeros_that_are_not_read_at_the_second_time_are_not_clean(tmp_path, monkeypatch):
    path = tmp_path / "weights.bin"
    path.write_bytes(good := bytes(41))
    protect_file(path, errors=10)
    path.write_bytes(b"\x01" + good[1:])
    monkeypatch.setattr("parimend.kernels.loaded", lambda: False)  # the SHA-256 is asked first
    with path.open("rb") as file:
        node, read, reads = os.fstat(file.fileno()).st_ino, os.preadv, []

        def once(descriptor, buffers, at):
            if os.fstat(descriptor).st_ino == node:
                reads.append(at)
                if len(reads) > 1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(descriptor, buffers, at)

        monkeypatch.setattr("os.preadv", once)
        report = check_file(path)
    assert report.files[0].unreadable == ((0, 41),)
    assert report.verdict is Verdict.CORRECTABLE


def test_beyond_the_budget_another_copy_helps_which_may_be_on_such_a_disk(tmp_path, refuse):
    path, good = saved(tmp_path / "weights.safetensors", errors=10)
    other = tmp_path / "other"
    other.write_bytes(good)
    refuse(path, 50)
    refuse(other, 100)
    report = check_file(path)
    assert report.verdict is Verdict.UNCORRECTABLE
    assert any(begin <= 50 * PAGE < end for begin, end in report.files[0].ranges)
    assert not repair_file(path).ok
    assert repair_file(path, sources=other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


@pytest.mark.parametrize(("errors", "wrong"), [(10, 0), (530, 0), (530, 30), (530, 40)])
def test_two_disks_that_lost_the_same(tmp_path, refuse, errors, wrong):
    """Where these copies differ is known, too: both are erasures then."""
    path, good = saved(tmp_path / "weights.safetensors", errors)
    other = tmp_path / "other"
    other.write_bytes(good)
    content = bytearray(good)
    for word in range(wrong):
        content[52 * PAGE + 8 * word] ^= 1
    path.write_bytes(content)
    refuse(path, 50)
    refuse(other, 50)
    is_enough = 1024 + 1 + wrong <= 2 * errors
    verdict = Verdict.CORRECTED if is_enough else Verdict.UNCORRECTABLE
    assert repair_file(path, sources=other).verdict is verdict
    assert path.read_bytes() == (good if is_enough else content)


@pytest.mark.parametrize(
    "cut",
    [
        1,
        pytest.param(400, marks=pytest.mark.long),
        1000,
        pytest.param(1600, marks=pytest.mark.long),
    ],
)
def test_the_end_is_missing_as_well(tmp_path, refuse, loaded, cut):
    path, array = tmp_path / "weights.safetensors", np.arange(1, 100_001, dtype=np.int32)
    safetensors.numpy.save_file({"a": array}, path)
    protect_file(path, ENOUGH)
    good = path.read_bytes()
    path.write_bytes(good[:-cut])
    refuse(path, 50)
    [found] = check_file(path).files
    is_enough = 1024 + 1 + cut // 4 + 1 <= 2 * ENOUGH
    verdict = Verdict.CORRECTABLE if is_enough else Verdict.UNCORRECTABLE
    assert (found.verdict, found.missing) == (verdict, cut)
    if is_enough:
        with pytest.warns(UserWarning, match="what is loaded is not"):
            assert np.array_equal(load_file(path, on_damage="repair")["a"], array)
    assert repair_file(path).ok == is_enough
    assert path.read_bytes() == (good if is_enough else good[:-cut])


def test_a_renamed_file_is_known_by_what_is_left_of_it(tmp_path, refuse):
    seals = tmp_path / "seals"
    path, good = saved(tmp_path / "weights.safetensors", seal_dir=seals)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.arange(100_000), "zeros": torch.ones(2_000)}, other)
    protect_file(other, ENOUGH, seal_dir=seals)
    path = path.rename(tmp_path / "renamed.safetensors")
    refuse(path, 50)
    assert repair_file(path, seal_dir=seals).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


def test_what_nobody_knows_is_not_filled_with_zeros(tmp_path, refuse):
    path, good = saved(tmp_path / "weights.safetensors", only=["zeros"])
    content = spoilt_at_its_end(path, good)  # one of the protected ones
    refuse(path, 50)
    assert check_file(path).verdict is Verdict.CORRECTABLE  # what it looks at
    with pytest.raises(OSError, match=f"bytes {50 * PAGE} to {51 * PAGE - 1} cannot be read, and"):
        repair_file(path)
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [path, sidecar_of(path)]


def test_what_is_lost_between_the_check_and_the_copy_is_told_as_that(file, refuse, monkeypatch):
    path, good = file
    content = bytearray(good)
    content[-1] ^= 1
    path.write_bytes(content)

    def copying(*arguments):
        refuse(path, 50)
        copy_data(*arguments)

    monkeypatch.setattr("parimend.files.writing.copy_data", copying)
    with pytest.raises(
        OSError, match=rf"bytes {50 * PAGE} to {51 * PAGE - 1} could be read before, and not"
    ) as raised:
        repair_file(path)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == content
    monkeypatch.undo()
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


@pytest.mark.parametrize("surplus", [100, 5_000])
@pytest.mark.parametrize("errors", [10, ENOUGH])
def test_what_is_cut_off_need_not_be_known(tmp_path, refuse, surplus, errors):
    path, other = tmp_path / "weights.bin", tmp_path / "other"
    good = np.arange(1, 20_000, dtype=np.uint32).tobytes()
    path.write_bytes(good)
    protect_file(path, errors)
    other.write_bytes(good)
    path.write_bytes(good + bytes(surplus))
    refuse(path, len(good) // PAGE)
    report = check_file(path)
    enough = errors == ENOUGH
    assert report.verdict is (Verdict.CORRECTABLE if enough else Verdict.UNCORRECTABLE)
    assert "nothing says" not in report.files[0].said
    assert repair_file(path, sources=() if enough else other).verdict is Verdict.CORRECTED
    assert path.read_bytes() == good


@pytest.mark.parametrize("is_all", [True, False])
def test_words_of_some_bits_tell_together_what_an_element_was(tmp_path, refuse, is_all):
    path = tmp_path / "weights.safetensors"
    tensors = {"w": torch.randn(100, 100, generator=torch.Generator().manual_seed(0))}
    safetensors.torch.save_file(tensors, path)
    good = path.read_bytes()
    [part] = ModelTensors(tensors).whole()
    masks = {0xFF800000: ENOUGH, 0x007FFFFF: ENOUGH if is_all else 10}
    balance = Balance.of([part], [(errors, {"w": mask}) for mask, errors in masks.items()])
    planned = SimpleNamespace(request=Request(balance.errors, Sidecar(), balance=balance))
    protect_(tensors, planned).save(sidecar_of(path))
    refuse(path, 5)
    if is_all:
        assert check_file(path).verdict is Verdict.CORRECTABLE
        assert repair_file(path).verdict is Verdict.CORRECTED
    else:
        verdicts = [word.verdict for word in check_file(path).words]
        assert verdicts == [Verdict.CORRECTABLE, Verdict.UNCORRECTABLE]
        with pytest.raises(OSError, match="nothing says what they were"):
            repair_file(path, partial=True)
    assert path.read_bytes() == good


def test_what_the_seal_of_a_model_does_not_know_is_not_filled_with_zeros(tmp_path, refuse):
    path = tmp_path / "weights.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_scores([0.5 + number for number in range(4000)])  # four pages of the header
    weights = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    writer.add_tensor("w", weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    protect_({"w": weights}, ENOUGH).save(sidecar_of(path))
    good = path.read_bytes()
    refuse(path, 1)
    for look in (check_file, repair_file):
        with pytest.raises(OSError, match=r"Input/output error.* does not say what is around"):
            look(path)
    assert path.read_bytes() == good
    path.rename(moved := tmp_path / "moved.gguf")
    path.write_bytes(good)
    refuse(path, 6)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == moved.read_bytes()


def test_a_part_cannot_be_put_back_where_the_rest_is_not_read(tmp_path, refuse):
    path, good = saved(tmp_path / "weights.safetensors", errors=10, per="tensor")
    content = spoilt_at_its_end(path, good)
    refuse(path, 50)
    report = check_file(path)
    assert {word.verdict for word in report.words} == {Verdict.CORRECTABLE, Verdict.UNCORRECTABLE}
    with pytest.raises(OSError, match="nothing says what they were"):
        repair_file(path, partial=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_other_carriers(tmp_path, refuse, carrier):
    path = tmp_path / "weights.safetensors"
    tensors = {"w": torch.randn(64, 200, generator=torch.Generator().manual_seed(0))}
    save_file(tensors, path, 40, carrier)
    good = path.read_bytes()
    refuse(path, 5)
    assert check_file(path).verdict in (Verdict.UNCORRECTABLE, Verdict.UNKNOWN)
    assert not repair_file(path).ok
    assert path.read_bytes() == good


def test_a_seal_in_the_file_that_is_not_read(tmp_path, refuse):
    path = tmp_path / "weights.safetensors"
    tensors = {"w": torch.randn(64, 200, generator=torch.Generator().manual_seed(0))}
    save_file(tensors, path, 10, "real")
    refuse(path, 0)
    with pytest.raises(
        OSError, match="Input/output error, so that its seal is not found"
    ) as raised:
        check_file(path)
    assert raised.value.filename == str(path)


def test_what_is_read_ahead_with_a_lost_page_is_not_lost(tmp_path, monkeypatch):
    """Linux reads several pages ahead, and gives none of them where one is lost."""
    path, good = saved(tmp_path / "weights.safetensors")
    together, read = [16 * PAGE], os.preadv

    def refusing(descriptor, buffers, at):
        end = at + sum(map(len, buffers))
        first, last = at // together[0], -(-end // together[0])
        if first * together[0] < 51 * PAGE and last * together[0] > 50 * PAGE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, buffers, at)

    def advise(descriptor, offset, length, advice):
        if advice == os.POSIX_FADV_RANDOM:
            together[0] = PAGE

    monkeypatch.setattr("os.preadv", refusing)
    monkeypatch.setattr("os.posix_fadvise", advise, raising=False)
    assert check_file(path).files[0].unreadable == ((50 * PAGE, 51 * PAGE),)
    monkeypatch.undo()
    assert path.read_bytes() == good


def test_a_disk_that_fails_is_not_read_to_the_end(tmp_path, refuse):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 16 * 600)
    protect_file(path, errors=10)
    refuse(path, *range(100, 500))
    for look in (check_file, repair_file):
        with pytest.raises(OSError, match=r"Input/output error in bytes .* as ddrescue does"):
            look(path)


def test_one_of_several(file, refuse, tmp_path):
    path, _ = file
    save_file({"a": torch.zeros(1000)}, tmp_path / "other.safetensors", errors=3)
    refuse(path, 50)
    report = check_file(tmp_path)
    assert [outcome.verdict for outcome in report.files] == [Verdict.CLEAN, Verdict.CORRECTABLE]
