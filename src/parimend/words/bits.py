"""Bit patterns: the bytes of tensors and files as 32-bit words, whatever their dtype.

Bytes are row-major and little-endian, as in safetensors files; a word is four of them in a row. So
one word holds several elements of a small dtype, or a part of an element of a large one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parimend.dtypes import of_torch
from parimend.errors import WordError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

WORD = 4
"""Bytes in a word."""


def byte_view(tensor: torch.Tensor, name: str = "a tensor") -> NDArray[np.uint8]:
    """The bytes of a tensor.

    Args:
        tensor: any shape, device and strides, any dtype that `parimend.dtypes.of_torch` knows.
        name: of the tensor, for messages.

    Returns:
        (bytes,) uint8, row-major. It shares the memory of the tensor if that is contiguous and on
        the CPU, and is a copy otherwise.

    Raises:
        WordError: if the dtype is not supported, or the tensor is sparse or on the meta device.

    Example:
        >>> import torch
        >>> byte_view(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)).tolist()
        [128, 63, 0, 192]
    """
    import torch

    from parimend.kernels.pieces_torch import bytes_of, exact  # loads torch

    _require_little_endian()
    of_torch(tensor.dtype, name)
    if tensor.is_meta:
        raise WordError(
            f"{name} is on the meta device and has no values there: load them first, or, where "
            "they are offloaded between forward passes, protect the state dict that keeps them"
        )
    if tensor.layout is not torch.strided:
        raise WordError(
            f"{name} is {tensor.layout}: only tensors with plain memory can be protected"
        )
    view: NDArray[np.uint8] = bytes_of(exact(tensor.detach()).cpu()).numpy()
    return view


def words_of(data: NDArray[Any] | Buffer) -> NDArray[np.uint32]:
    r"""Bytes as 32-bit words.

    Args:
        data: an array of any shape and dtype, taken in row-major order, or any other object with a
            buffer (bytes, memoryview, mmap).

    Returns:
        (ceil(bytes / 4),) uint32, the last one filled up with zero bytes. It shares the memory of
        ``data`` if that is contiguous, aligned and a multiple of 4 bytes, and is a copy otherwise.

    Raises:
        WordError: if the array holds Python objects.

    Example:
        >>> [hex(word) for word in words_of(b"\x01\x02\x03\x04\x05")]
        ['0x4030201', '0x5']
    """
    _require_little_endian()
    array = data if isinstance(data, np.ndarray) else np.frombuffer(memoryview(data), np.uint8)
    if array.dtype.hasobject:
        raise WordError(f"arrays of dtype {array.dtype} have no bytes to protect")
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if missing := -flat.size % WORD:
        flat = np.concatenate([flat, np.zeros(missing, np.uint8)])
    return np.require(flat.view(np.uint32), requirements=["A"])


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise WordError("bit patterns are read in place, which needs a little-endian machine")
