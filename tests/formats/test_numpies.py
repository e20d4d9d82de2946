"""Files of numpy, against numpy, and the zip archives they are in."""

import io
import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from samples import make_npy, make_npz

from parimend import check_file, fingerprint, load_file, protect_file, repair_file
from parimend.dtypes import DTYPES
from parimend.errors import FormatError
from parimend.outcomes import Verdict
from tests.formats.conftest import parse


def saved(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@given(scalar_dtypes().flatmap(lambda t: arrays(t, array_shapes(min_side=0))), st.booleans())
def test_it_reads_what_numpy_writes(tmp_path_factory, array, is_turned):
    array = np.asfortranarray(array) if is_turned else array
    path = tmp_path_factory.mktemp("made") / "model.npy"
    content = saved(array)
    path.write_bytes(content)
    layout = parse(path)
    if not array.size:
        assert layout.entries[0].name in ("array", "bytes")
        return
    [entry] = layout.entries
    assert content[entry.begin : entry.end] == array.tobytes("A")
    turned = is_turned and not array.flags.c_contiguous
    assert entry.shape == (array.shape[::-1] if turned else array.shape)
    if entry.dtype in DTYPES:
        assert entry.part().dtype == entry.dtype
        assert DTYPES[entry.dtype].numpy == array.dtype
    else:
        assert entry.dtype == array.dtype.str
        assert (entry.part().dtype, entry.part().count) == ("U8", array.nbytes)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros(3, ml_dtypes.bfloat16), "<V2"),
        (np.zeros(3, [("a", "<f4"), ("b", "<i8")]), "RECORDS"),
        (np.array(["abc", "d"]), "<U3"),
        (np.zeros(3, ">f8"), ">f8"),
        (np.array([b"x"]), "|S1"),
        (np.zeros(3, "datetime64[ns]"), "<M8[ns]"),
    ],
)
def test_what_has_no_numbers_is_taken_as_its_bytes(tmp_path, array, dtype):
    path = tmp_path / "model.npy"
    path.write_bytes(saved(array))
    [entry] = parse(path).entries
    assert entry.dtype == dtype
    assert (entry.part().dtype, entry.part().count) == ("U8", array.nbytes)


def test_an_index_counts_as_the_elements_lie(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, turned=np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    protect_file(path, 2)
    content = path.read_bytes()
    [entry] = parse(path).entries
    damaged = bytearray(content)
    damaged[entry.begin + 8 * 4 + 7] ^= 1  # column 1, row 1
    path.write_bytes(damaged)
    [change] = check_file(path).changes
    assert (change.index, change.value(change.original)) == ((1, 1), 5.0)
    assert change.dtype == "F64"


def header(text, version=b"\1\0", length=None):
    size = len(text) if length is None else length
    return b"\x93NUMPY" + version + struct.pack("<H", size) + text


GOOD = b"{'descr':'<f4','fortran_order':False,'shape':(2,)}"


def test_numbers_as_python_2_wrote_them(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(header(GOOD.replace(b"(2,)", b"(2L, 3L)")) + bytes(24))
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        assert np.load(path).shape == (2, 3)
    [entry] = parse(path).entries
    assert entry[:3] == ("array", "F32", (2, 3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(GOOD, b"\4\0") + bytes(8), r"format version 4\.0, or damaged; .* 1\.0 to 3\.0"),
        (header(GOOD) + bytes(7), r"array is F32 \[2\], and has 7 bytes"),
        (header(GOOD) + bytes(9), r"array is F32 \[2\], and has 9 bytes"),
        (header(GOOD[:-1]) + bytes(8), "array has no readable header"),
        (header(b"[" * 9000) + bytes(8), "array has no readable header"),
        (header(b"exit()") + bytes(8), "array has no readable header"),
        (header(GOOD.replace(b"(2,)", b"(-2,)")) + bytes(8), "array has no readable header"),
        (header(GOOD.replace(b"(2,)", b"2")) + bytes(8), "array has no readable header"),
        (header(GOOD, length=60_000) + bytes(8), "the header of array has 60000 bytes"),
        (header(b"", length=100), "100 bytes should follow"),
        (b"\x92NUMPY" + header(GOOD)[6:], "is no array of numpy"),
        (b"", "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(tmp_path, content, says):
    path = tmp_path / "model.npy"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=says):
        protect_file(path, 2)


def test_compressed_members_are_protected_as_they_are(tmp_path, rng):
    path = tmp_path / "model.npz"
    np.savez_compressed(path, w=rng.standard_normal(500), b=np.zeros(3))
    original = path.read_bytes()
    protect_file(path, 3, only=["w"])
    w = next(entry for entry in parse(path).entries if entry.name == "w")
    assert (w.dtype, w.shape) == ("COMPRESSED", (w.end - w.begin,))
    damaged = bytearray(original)
    for at in (w.begin + 1, w.begin + 500, w.end - 1):
        damaged[at] ^= 4
    path.write_bytes(damaged)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


def test_a_long_member_that_is_no_array_is_a_tensor_of_bytes(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("parimend.formats.listed.LONGEST_SPAN", 1000)
    path = make_npz(tmp_path, rng)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", bytes(5000))
    names = [entry.name for entry in parse(path).entries]
    assert names[-1].startswith("bytes@")
    assert max(len(span) for _, span in parse(path).spans) <= 1000


# Archives.


@pytest.mark.parametrize("damage", ["cut", "count", "place", "mark", "header"])
def test_a_broken_directory_is_refused(tmp_path, rng, damage):
    path = make_npz(tmp_path, rng)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    if damage == "cut":
        del content[-30:]
    elif damage == "count":
        content[-12] ^= 2
    elif damage == "place":
        content[directory + 42] ^= 16
    elif damage == "mark":
        content[directory] ^= 1
    else:
        content[content.index(b"PK\3\4", 4)] ^= 1
    for name in ("model.npz", "model.bin", "model.pt"):
        other = path.with_name(name)
        other.write_bytes(content)
        with pytest.raises(FormatError, match=r"directory is broken, or it is truncated.*fetch it"):
            protect_file(other, 2)


@pytest.mark.parametrize("comment", [b"", b"PK\5\6 is how directories end" * 3])
def test_members_are_those_of_the_library(tmp_path, rng, comment):
    path = make_npz(tmp_path, rng)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        archive.writestr("größe.npy", saved(rng.standard_normal(100)))
        with archive.open("streamed.npy", "w", force_zip64=True) as member:
            member.write(saved(np.zeros(99)))
        expected = archive.namelist()
    names = [entry.name for entry in parse(path).entries]
    assert names == [name.removesuffix(".npy") for name in expected]


def test_other_archives_are_bytes(tmp_path, rng):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert parse(path).format.name == "raw"
    # As torch.distributed writes checkpoints.
    content = make_npz(tmp_path, rng).read_bytes()
    path.write_bytes(content + content)
    assert parse(path).format.name == "raw"
    protect_file(path, 2)
    assert check_file(path).verdict is Verdict.CLEAN


def test_an_archive_of_none_but_other_things_is_no_npz(tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(FormatError, match=r"no archive of arrays: no member is called \*\.npy"):
        protect_file(path, 2)


def test_names_that_are_there_twice(tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", saved(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("w.npy", saved(np.ones(3)))
    first, second = parse(path).entries
    assert (first.name, second.name) == ("w", f"w@{second.begin}")


def test_npy_values(tmp_path, rng):
    path = make_npy(tmp_path, rng)
    array = np.load(path)
    protect_file(path, 2)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 128
    path.write_bytes(damaged)
    [change] = check_file(path).changes
    assert (change.tensor, change.index) == ("array", (29, 40))
    assert change.value(change.original) == array[-1, -1] == -change.value(change.received)


def test_an_archive_without_arrays(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path)
    content = path.read_bytes()
    protect_file(path, 2)
    assert load_file(path).files == []
    path.write_bytes(b"?" + content[1:])
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == content


@pytest.mark.parametrize("dtype", ["<f4", "<U3"])
def test_arrays_one_after_the_other(tmp_path, dtype):
    """numpy writes such files, and its load gives the first array of them."""
    content = saved(np.zeros(5, dtype)) + saved(np.ones(3, dtype))
    for name in ("two.npy", "two.bin"):
        (tmp_path / name).write_bytes(content)
    if dtype == "<f4":
        with pytest.raises(FormatError, match=r"two\.npy has several arrays.*savez.*\.bin"):
            protect_file(tmp_path / "two.npy", 2)
        assert parse(tmp_path / "two.bin").format.name == "raw"
        (tmp_path / "two.npy").write_bytes(content[:-20])
        with pytest.raises(FormatError, match="several arrays"):
            protect_file(tmp_path / "two.npy", 2)
        return
    # How long these are only numpy knows: they are bytes, and nothing of them is passed over.
    protect_file(tmp_path / "two.npy", 2)
    for act in (load_file, fingerprint):
        with pytest.raises(FormatError, match=r"two\.npy has more than the array"):
            act(tmp_path / "two.npy")
