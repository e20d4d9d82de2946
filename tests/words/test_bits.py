"""Bytes of tensors and buffers as 32-bit words."""

import mmap
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parimend.dtypes import named, of_torch
from parimend.errors import WordError
from parimend.words.bits import byte_view, words_of

NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.complex128: "C128",
}


@given(data=st.binary(max_size=70))
def test_words_are_little_endian_and_padded_with_zeros(data):
    words = words_of(data)
    assert words.dtype == np.uint32
    assert words.tobytes() == data + bytes(-len(data) % 4)
    expected = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    assert words.tolist() == expected


@pytest.mark.parametrize("dtype", ["f4", "i1", "f2", "c16", "?", "u8"])
@pytest.mark.parametrize("shape", [(), (0,), (8,), (3, 4, 2)])
def test_arrays_of_any_shape_and_dtype(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    padding = bytes(-array.nbytes % 4)
    assert words_of(array).tobytes() == array.tobytes() + padding
    assert words_of(array.T).tobytes() == array.T.tobytes() + padding


def test_whole_aligned_words_share_their_memory(tmp_path):
    array = np.zeros((4, 6), np.int16)
    assert np.shares_memory(words_of(array), array)
    assert np.shares_memory(words_of(memoryview(array)), array)
    assert not np.shares_memory(words_of(array[:, :3]), array)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(64)))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = words_of(mapped)
    assert words.tobytes() == bytes(range(64))
    with pytest.raises(BufferError):  # the words still look into the file
        mapped.close()
    del words
    mapped.close()


def test_unaligned_words_are_copied():
    data = np.arange(33, dtype=np.uint8)
    words = words_of(data[1:])
    assert words.flags.aligned
    assert words.tobytes() == data[1:].tobytes()


def test_arrays_of_objects_are_refused():
    with pytest.raises(WordError, match="object"):
        words_of(np.array([None, 1]))


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3)])
def test_byte_views_of_tensors(dtype, shape):
    count = int(np.prod(shape))
    data = torch.arange(count * 16, dtype=torch.uint8) % 2
    tensor = data.view(dtype)[:count].reshape(shape)
    view = byte_view(tensor, "w")
    assert view.dtype == np.uint8
    assert view.tobytes() == data.numpy().tobytes()[: view.size]
    assert view.size == count * of_torch(dtype).itemsize
    if count:
        view[0] ^= 1
        assert data[0] == view[0]  # the memory is shared


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_byte_views_have_every_bit_whatever_the_strides(dtype, rng):
    size = of_torch(dtype).itemsize
    data = rng.integers(0, 256, (6, 9, size), np.uint8)
    tensor = torch.from_numpy(data.reshape(6, -1)).view(dtype)
    assert byte_view(tensor.T).tobytes() == data.transpose(1, 0, 2).tobytes()
    assert byte_view(tensor[::2, 1::3]).tobytes() == data[::2, 1::3].tobytes()


def test_byte_views_of_parameters_and_other_strides():
    weight = torch.nn.Linear(3, 4).weight
    assert byte_view(weight).tobytes() == weight.detach().numpy().tobytes()
    transposed = weight.detach().T
    assert byte_view(transposed).tobytes() == transposed.numpy().tobytes()
    one = transposed[:1, 0].as_strided((1,), (4,))  # contiguous for torch, whatever its stride is
    assert byte_view(one).tobytes() == one.numpy().tobytes()
    number = torch.tensor([1 + 2j]).conj()
    assert byte_view(number).tobytes() == np.array([1 - 2j], np.complex64).tobytes()


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_names_and_sizes_of_dtypes(dtype):
    assert of_torch(dtype).name == NAMES[dtype]
    assert named(NAMES[dtype]).torch_dtype() == dtype
    assert named(NAMES[dtype]).itemsize == dtype.itemsize


def test_names_are_those_of_safetensors():
    from safetensors.torch import load, save

    for dtype, name in NAMES.items():
        if name != "C128":  # not in that format
            data = save({"w": torch.zeros(4, dtype=dtype)})
            assert f'"dtype":"{name}"'.encode() in data
            assert load(data)["w"].dtype == dtype


def test_what_has_no_plain_bytes_is_refused():
    for dtype in (torch.qint8, torch.complex32):
        with pytest.raises(WordError, match=rf"head\.weight is {dtype}"):
            of_torch(dtype, "head.weight")
    with pytest.raises(WordError, match="F4"):
        named("F4").itemsize  # noqa: B018
    for dtype in ("F4", "F6_E2M3"):
        with pytest.raises(WordError, match=f"w is {dtype}"):
            named(dtype).torch_dtype("w")
    with pytest.raises(WordError, match="w is on the meta device and has no values there: load"):
        byte_view(torch.empty(3, device="meta"), "w")
    with pytest.raises(WordError, match=r"w is torch\.sparse_coo"):
        byte_view(torch.eye(3).to_sparse(), "w")


def test_big_endian_machines_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(WordError, match="little-endian"):
        words_of(b"1234")
    with pytest.raises(WordError, match="little-endian"):
        byte_view(torch.zeros(3))
