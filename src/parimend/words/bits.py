"""Raw bytes of tensors and arrays, and 32-bit words of them.

Words are little-endian on every machine, so that a seal made on one is good on another.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parimend.errors import WordError

if TYPE_CHECKING:
    import torch

_SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
    "C128": 16,
}

_TORCH = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
    "complex64": "C64",
    "complex128": "C128",
}


def item_size(dtype: str) -> int:
    """Bytes of an element of a dtype, as safetensors names it.

    Raises:
        WordError: for a dtype that is not known.

    >>> item_size("BF16")
    2
    """
    try:
        return _SIZES[dtype]
    except KeyError:
        raise WordError(f"unknown dtype {dtype!r}: there are {', '.join(_SIZES)}") from None


def dtype_name(dtype: torch.dtype, name: str) -> str:
    """The safetensors name of a torch dtype.

    Args:
        dtype: of a tensor.
        name: of the tensor, for messages.

    Raises:
        WordError: for quantized and other dtypes that safetensors cannot name.
    """
    try:
        return _TORCH[str(dtype).removeprefix("torch.")]
    except KeyError:
        raise WordError(f"{name}: {dtype} tensors cannot be protected") from None


def byte_view(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    """The bytes of a tensor, row-major: a view where it is contiguous and on the CPU, else a copy.

    Args:
        tensor: any shape and dtype, strided.
        name: of the tensor, for messages.

    Raises:
        WordError: for sparse, quantized and meta tensors.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else tensor.layout
        raise WordError(f"{name}: {kind} tensors have no bytes to protect")
    _require_little_endian()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    return flat.view(torch.uint8).numpy()


def words_of(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Bytes as 32-bit words, the last one padded with zeros; a view where no padding is needed.

    >>> words_of(np.array([1, 0, 0, 0, 255], np.uint8)).tolist()
    [1, 255]
    """
    _require_little_endian()
    if data.size % 4:
        data = np.concatenate([data, np.zeros(-data.size % 4, np.uint8)])
    return np.ascontiguousarray(data).view(np.uint32)


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise WordError("this machine is big-endian, which Parimend does not support yet")
