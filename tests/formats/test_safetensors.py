"""Safetensors files, against the safetensors library."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from parimend.errors import FormatError
from parimend.formats import Entry
from parimend.formats.safetensors import Safetensors

SAFETENSORS = Safetensors()
parse_header, described = SAFETENSORS.unfold, SAFETENSORS.described


def packed(text):
    text = text if isinstance(text, bytes) else text.encode()
    return len(text).to_bytes(8, "little") + text


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


VALID = described([Entry("a", "F32", (2, 3), 0, 24), Entry("b", "BF16", (2,), 24, 28)], {"k": "v"})
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shapes = st.lists(st.integers(0, 5), max_size=3)


@given(
    st.dictionaries(names.filter(lambda name: name != "__metadata__"), shapes, max_size=8),
    st.dictionaries(names, names, max_size=3),
)
def test_it_reads_what_the_library_writes(tensors, metadata):
    arrays = {name: np.zeros(shape, np.int16) for name, shape in tensors.items()}
    data = safetensors.numpy.save(arrays, metadata or None)  # it writes no JSON for {}
    length = 8 + int.from_bytes(data[:8], "little")
    header = parse_header(data[:length], "file")
    assert {e.name: e.shape for e in header.entries} == {k: tuple(v) for k, v in tensors.items()}
    assert header.metadata == metadata
    assert length + header.data_bytes == len(data)


@given(
    st.dictionaries(names.filter(lambda name: name != "__metadata__"), shapes, max_size=8),
    st.dictionaries(names, names, max_size=3),
)
def test_the_library_reads_what_it_writes(tensors, metadata):
    entries, at = [], 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        entries.append(Entry(name, "I16", tuple(shape), at, at + size))
        at += size
    header = described(entries, metadata)
    loaded = safetensors.numpy.load(header.frame + bytes(at))
    assert {name: list(array.shape) for name, array in loaded.items()} == tensors
    again = parse_header(header.frame, "file")
    assert (again.entries, again.metadata) == (header.entries, metadata)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "{ is missing"),
        ("{ ", "a name and a colon are missing"),
        ('{"a"}', "a name and a colon are missing"),
        ('{"a":1}', "a is not described"),
        ('{"a":{}}', "should have one dtype"),
        ('{"a":["F32",[2]]}', "shorter"),
        ('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "should have one"),
        ('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', "lists of numbers"),
        ('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', "lists of numbers"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e999}}', "too large a number"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":NaN}}', "NaN is no JSON"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":"\\ud800"}}', "surrogates not"),
        ('{"a\x01":1}', "a name and a colon"),
        ('{"__metadata__":[]}', "{ is missing"),
        ('{"__metadata__":null,"__metadata__":null}', "is there twice"),
        ('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},}', "a name and a colon"),
        ('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}x', "something follows"),
        ('{"__metadata__":{"a":1}}', "a text is missing"),
        ('{"__metadata__":{},"__metadata__":{}}', "is there twice"),
        ('{"\\ud800":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', "a name and a colon"),
        (json.dumps({"a": tensor(dtype=1)}), "dtype is no text"),
        (json.dumps({"a": tensor(shape=[True, 2])}), "lists of numbers"),
        (json.dumps({"a": tensor(shape=[-2])}), "lists of numbers"),
        (json.dumps({"a": tensor(shape=[2, 18])}), "does not take 8 bytes"),
        (json.dumps({"a": tensor(shape=[1 << 70])}), "lists of numbers"),
        (json.dumps({"a": tensor(shape=[1 << 64])}), "lists of numbers|cannot be a shape"),
        (json.dumps({"a": tensor(offsets=[0, 8, 9])}), "a beginning and an end"),
        (json.dumps({"a": tensor(offsets=[8, 0])}), "a beginning and an end"),
        (json.dumps({"a": tensor(offsets=[0, 9])}), "does not take 9 bytes"),
        (json.dumps({"a": tensor(shape=[1 << 62] * 9)}), "cannot be a shape"),
        (json.dumps({"a": tensor(offsets=[4, 12])}), "begins at byte 4 instead of 0"),
        (json.dumps({"a": tensor(), "b": tensor()}), "begins at byte 0 instead of 8"),
        (b'{"\xff":1}', "codec can't decode"),
        ("{" + "[" * 100_000, "a name and a colon"),
        ('{"a":' + "[" * 100_000 + "}", "a is not described"),
    ],
)
def test_it_says_what_is_wrong(text, says):
    with pytest.raises(FormatError, match=says) as error:
        parse_header(packed(text), "file.safetensors")
    assert str(error.value).startswith("file.safetensors: the header is damaged: ")


@given(st.binary(max_size=400))
def test_no_bytes_upset_it(data):
    try:
        parse_header(packed(data), "file")
    except FormatError:
        return
    raise AssertionError("no header of random bytes is right")


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    "text",
    [
        '{"__metadata__":null,"a":%s}',
        ' {"a":%s}\n\t',
        '{"__metadata__":{"k":"1","k":"2"},"a":%s}',
        '{"a":{"dtype":"F32","shape":[9],"data_offsets":[8,44]},"a":%s}',
        '{"a":["F32",[2],[0,8]]}',
        '{"\\u0061":{"dtype":"F32","shape":[0],"data_offsets":[9,8]},"a":%s}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"made by":[{"x":"}{"},null,1e9]}}',
        '{"a":{"\\u0064type":"F3\\u0032","shape":[2],"data_offsets":[0,8]}}',
        '{"\\ud83d\\ude00":%s,"z":{"dtype":"F32","shape":[18446744073709551615,0],'
        '"data_offsets":[8,8]}}',
    ],
)
def test_it_reads_what_other_writers_write(text):
    raw = packed(text.replace("%s", ENTRY))
    header = parse_header(raw, "file")
    loaded = dict(safetensors.deserialize(raw + bytes(8)))
    assert {e.name: list(e.shape) for e in header.entries} == {
        name: entry["shape"] for name, entry in loaded.items()
    }
    assert header.frame == raw
    assert header.metadata == ({"k": "2"} if '"k"' in text else {})


def mutated(data, raw):
    """Small changes of a good header, the most likely ones to slip through."""
    raw = bytearray(raw)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(8, len(raw)))
        kind = data.draw(st.sampled_from(["change", "insert", "delete"]))
        sign = data.draw(st.sampled_from(b'{}[]",:0123456789abF _\\\n\x00'))
        raw[at : at + (kind != "insert")] = b"" if kind == "delete" else bytes([sign])
    raw[:8] = (len(raw) - 8).to_bytes(8, "little")
    return bytes(raw)


MEMBERS = st.lists(
    st.sampled_from(
        [
            '"dtype":"F32"',
            '"shape":[2]',
            '"data_offsets":[0,8]',
            '"data_offsets":[8, 8]',
            '"shape" : [ 0, 3 ]',
            '"dtype":"BF16"',
            '"x":{"y":[-0,1e5,{}]}',
            '"x":"\\ud83d\\ude00"',
            '"x":1E400',
        ]
    ),
    max_size=5,
).map(lambda members: "{" + ",".join(members) + "}")
VALUES = MEMBERS | st.sampled_from([ENTRY, ENTRY, ENTRY, "null", '["F32",[2],[0,8]]'])
TEXTS = st.sampled_from(["null", "{}", '{"k":"v"}', '{"k":"v","k":"w"}', '{"k":null}', "[]"])
OBJECTS = st.lists(
    st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\ud800"']), VALUES)
    | st.tuples(st.sampled_from(['"__metadata__"', '"\\u005f_metadata__"']), TEXTS),
    max_size=3,
).map(lambda members: packed("{" + ",".join(f"{name}:{value}" for name, value in members) + "}"))


def library(content):
    """What the library reads, and why it does not."""
    try:
        return dict(safetensors.deserialize(content)), ""
    except SafetensorError as error:
        return {}, str(error)


@settings(max_examples=4 * settings().max_examples)
@given(st.data())
def test_it_accepts_what_the_library_accepts(data):
    raw = mutated(data, data.draw(OBJECTS | st.just(VALID.frame)))
    try:
        header = parse_header(raw, "file")
        size = header.data_bytes
    except FormatError:
        header, size = None, None
    for there in {size} - {None} or {0, 8, 28}:
        loaded, refusal = library(raw + bytes(there))
        # It does not know every name of a dtype that we leave alone.
        assert (header is None) == bool(refusal) or "unknown variant" in refusal
        assert refusal or {e.name: list(e.shape) for e in header.entries} == {
            name: entry["shape"] for name, entry in loaded.items()
        }


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"dtype":"F32","shape":[' + "1," * 2_000_000 + '1],"data_offsets":[0,4]}}',
        '{"a":' + "[[]," * 1_000_000 + "}",
        '{"__metadata__":{"a":"' + "x" * 4_000_000,
        "{" + " " * 4_000_000,
    ],
)
def test_hostile_headers_take_little_memory(text):
    raw = packed(text)
    tracemalloc.start()
    with pytest.raises(FormatError):
        parse_header(raw, "file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(raw)


@pytest.mark.parametrize(
    ("dtype", "size"), [("F4", 3), ("F6_E2M3", 9), ("F8_E4M3", 6), ("BF16", 12), ("F1024", 5)]
)
def test_every_dtype_has_a_part(dtype, size):
    shape = (12,) if dtype == "F6_E2M3" else (2, 3)
    text = json.dumps({"a": tensor(dtype, shape, (0, size))})
    [part] = parse_header(packed(text), "file").parts
    plain = dtype in ("F8_E4M3", "BF16")
    assert (part.dtype, part.shape) == ((dtype, shape) if plain else ("U8", (size,)))
