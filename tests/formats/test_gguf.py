"""GGUF files, against the gguf library."""

import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given
from hypothesis import strategies as st
from samples import make_gguf

from parimend import check_file, protect_file, repair_file
from parimend.dtypes import BLOCKS, DTYPES
from parimend.errors import AnotherFormatError, FormatError
from parimend.formats import of_name
from parimend.outcomes import Verdict
from tests.formats.conftest import parse

GGUF = of_name("gguf")
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def packed(*tensors, version=3, facts=(), order="<", data=b""):
    """A file by hand; tensors are (name, sizes, type, place)."""

    def text(value):
        return struct.pack(order + ("I" if version == 1 else "Q"), len(value)) + value

    size = "I" if version == 1 else "Q"
    made = b"GGUF" + struct.pack(f"{order}I{size}{size}", version, len(tensors), len(facts))
    made += b"".join(text(key) + value for key, value in facts)
    for name, sizes, kind, place in tensors:
        made += text(name) + struct.pack(f"{order}I{len(sizes)}{size}", len(sizes), *sizes)
        made += struct.pack(f"{order}IQ", kind, place)
    return made + bytes(-len(made) % 32) + data


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "model.gguf"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def test_types_are_those_of_the_library():
    for kind, (weights, size) in GGML_QUANT_SIZES.items():
        known = DTYPES[kind.name]
        assert (known.itemsize, BLOCKS.get(kind.name, (1, size))) == (size, (weights, size))
    assert set(BLOCKS) <= {kind.name for kind in Kind}


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_it_numbers_types_as_the_library(write, kind):
    weights, size = GGML_QUANT_SIZES[kind]
    path = write(packed((b"w", (2 * weights, 3), kind, 0), data=bytes(6 * size)))
    [entry] = parse(path).entries
    assert (entry.dtype, entry.shape, entry.end - entry.begin) == (kind.name, (3, 2), 6 * size)


@given(st.dictionaries(names, shapes, min_size=1, max_size=5), st.sampled_from([8, 32, 64, 1024]))
def test_it_reads_what_the_library_writes(tmp_path_factory, tensors, alignment):
    path = tmp_path_factory.mktemp("made") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in tensors.items()}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    found = {e.name: (e.dtype, e.shape, content[e.begin : e.end]) for e in parse(path).entries}
    assert found == {name: ("F32", a.shape, a.tobytes()) for name, a in arrays.items()}


def test_a_wrong_block_is_named_and_repaired(tmp_path, rng):
    path = make_gguf(tmp_path, rng)
    original = path.read_bytes()
    protect_file(path, 4)
    entry = next(entry for entry in parse(path).entries if entry.name == "Q4_1")
    damaged = bytearray(original)
    damaged[entry.begin + 20 * 17 + 3] ^= 64
    path.write_bytes(damaged)
    [change] = check_file(path).changes
    assert (change.tensor, change.index, change.dtype) == ("Q4_1", (1, 1), "Q4_1")
    at = entry.begin + 20 * 17
    assert change.original == original[at : at + 20] == bytes.fromhex(change.as_dict()["original"])
    assert change.value(change.original) == "0x" + change.original[::-1].hex()
    assert change.row[3] == change.value(change.received)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original
    assert gguf.GGUFReader(path).tensors[-3].name == "Q4_1"


def test_words_that_two_blocks_share(tmp_path, rng):
    """Blocks of 18 bytes are no whole words."""
    path = make_gguf(tmp_path, rng)
    original = path.read_bytes()
    protect_file(path, 4)
    entry = next(entry for entry in parse(path).entries if entry.name == "Q4_0")
    damaged = bytearray(original)
    for at in (17, 18, 35, 36):
        damaged[entry.begin + at] ^= 1
    path.write_bytes(damaged)
    report = check_file(path)
    assert [change.index for change in report.changes] == [(0, 0), (0, 1), (0, 2)]
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


def test_blocks_of_a_tensor_that_is_read_in_pieces(write, rng):
    data = rng.bytes(18 * 300_000)
    path = write(packed((b"w", (32 * 300_000,), Kind.Q4_0, 0), data=data))
    original = path.read_bytes()
    protect_file(path, 20)
    damaged = bytearray(original)
    for at in rng.choice(len(data), 20, replace=False):
        damaged[len(original) - len(data) + at] ^= 32
    path.write_bytes(damaged)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_versions_and_orders(write, version, order):
    facts = [(b"key", struct.pack(order + "IH", 2, 7))]
    tensor = (b"w", (5, 2), Kind.F16, 0)
    made = packed(tensor, version=version, order=order, facts=facts, data=bytes(20))
    [entry] = parse(write(made)).entries
    assert entry[:3] == ("w", "F16" if order == "<" else "F16_BE", (2, 5))
    assert entry.part().nbytes == 20


def test_a_type_that_is_not_known_ends_where_the_next_tensor_begins(write):
    path = write(packed((b"a", (9,), 99, 0), (b"b", (2,), Kind.F32, 64), data=bytes(72)))
    assert [entry[:3] for entry in parse(path).entries] == [
        ("a", "GGML_99", (9,)),
        ("b", "F32", (2,)),
    ]
    assert [part.nbytes for part in parse(path).parts] == [64, 8]


def test_a_file_of_facts_alone_is_protected_as_bytes(write):
    path = write(packed(facts=[(b"key", struct.pack("<IH", 2, 7))]))
    [entry] = parse(path).entries
    assert entry[:2] == ("bytes", "U8")
    protect_file(path, 2)
    assert check_file(path).verdict is Verdict.CLEAN


def test_many_tensors_of_one_name_and_no_elements(write):
    tensors = [(b"w", (0,), Kind.F32, 0)] * 5000
    path = write(packed(*tensors, (b"w", (2,), Kind.F32, 0), data=bytes(8)))
    names = [entry.name for entry in parse(path).entries]
    assert len(set(names)) == 5001
    assert max(map(len, names)) < 30


def array(kind, count, data=b""):
    return struct.pack("<IIQ", 9, kind, count) + data


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (packed(version=4), "GGUF file of version 4, or damaged; this parimend knows 1, 2, 3"),
        (packed(version=4, order=">"), "GGUF file of version 4"),
        (b"GGUF" + bytes(2), "4 bytes should follow at byte 4, where 2 are left"),
        (packed((b"w", (5,), Kind.F32, 0), data=bytes(16)), "truncated: it has 80 bytes, and w"),
        (packed((b"w", (5,), Kind.F32, 0), data=bytes(33)), "has 13 bytes more than its tensors"),
        (packed((b"w", (5,), Kind.F32, 1 << 60), data=bytes(20)), "truncated"),
        (packed((b"w", (5,), Kind.Q4_0, 0), data=bytes(20)), "w has rows of 5 weights"),
        (packed((b"w", (1,) * 9, Kind.F32, 0)), "w has 9 dimensions"),
        (packed(facts=[(b"key", struct.pack("<I", 77))]), "a fact of it has type 77"),
        (packed(facts=[(b"key", array(8, 1 << 60))]), "bytes should follow"),
        (packed(facts=[(b"key", array(5, 1 << 62))]), "bytes should follow"),
        (packed(facts=[(b"key", array(9, 1, array(9, 1)[4:] * 9))]), "a fact of it has type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), f"it lists {1 << 40} tensors"),
        (
            packed(facts=[(b"general.alignment", struct.pack("<II", 4, 0))]),
            "its alignment is 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(write, content, says):
    path = write(content)
    with pytest.raises(FormatError, match=says):
        protect_file(path, 2)
    assert [found.name for found in path.parent.iterdir()] == ["model.gguf"]


def test_what_is_called_gguf_must_be_one(write):
    path = write(b"other" * 9)
    with pytest.raises(AnotherFormatError, match="it does not begin with b'GGUF'"):
        protect_file(path, 2)
    # And what begins as one, whatever its name is.
    path = write(packed(version=4)).rename(path.with_suffix(".bin"))
    with pytest.raises(FormatError, match="of version 4"):
        protect_file(path, 2)
