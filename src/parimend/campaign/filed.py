"""Files as networks: their tensors, and the file that has other values in them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.dtypes import DTYPES
from parimend.errors import MismatchError
from parimend.files.targets import is_index, targets
from parimend.formats import layout_of
from parimend.regular import open_regular
from parimend.stores.file import FileTensors, LoadedTensors
from parimend.words.bits import byte_view
from parimend.words.layout import Part

if TYPE_CHECKING:
    import torch


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of any format, and of those that hold the rest of them.

    What has a dtype that torch does not have, such as blocks of weights with their scales, is
    there as bytes.

    Args:
        path: of a file, or of the index of a sharded checkpoint.

    Raises:
        FormatError: if a file is damaged, or not what its name says.
        MismatchError: if two files have a tensor of the same name.
        OSError: if one cannot be read.
    """
    found: dict[str, torch.Tensor] = {}
    for each in targets(path):
        if is_index(each):
            continue
        with open_regular(each) as file:
            held = LoadedTensors(FileTensors(file, layout_of(file, each)))
        for part in held.whole():
            if part.name in found:
                raise MismatchError(
                    f"{path} stands for two files with a tensor {part.name}: name one of them"
                )
            found[part.name] = _tensor(part, held.data[part.name])
    return found


def filled(path: PathLike, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A file with other values in its tensors, as it would lie on a disk.

    It is for metrics of networks that are a file alone: these get its tensors by name, damaged, and
    the format's own library runs what this makes of them.

    Args:
        path: of the file, which is not changed.
        tensors: on the CPU; by the names that the file's tensors have, as large as these.

    Raises:
        FormatError: if the file is damaged, or not what its name says.
        MismatchError: if a tensor is missing, or has another size; names it.
        OSError: if the file cannot be read.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "w.npy")
        ...     np.save(file, np.ones(3))
        ...     np.load(io.BytesIO(filled(file, {"array": torch.zeros(3, dtype=torch.float64)})))
        array([0., 0., 0.])
    """
    path, data = path_of(path), {}
    with open_regular(path) as file:
        layout = layout_of(file, path)
    for entry in layout.entries:
        tensor = tensors.get(entry.name)
        if tensor is None or tensor.nbytes != entry.end - entry.begin:
            raise MismatchError(
                f"{path} has a tensor {entry.name} of {entry.end - entry.begin:,} bytes, and what "
                "it is to be filled with has no such"
            )
        data[entry.name] = byte_view(tensor, entry.name)
    out = io.BytesIO()
    layout.write(out, data)
    return out.getvalue()


def _tensor(part: Part, data: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor of a file; its bytes, if torch does not have its dtype."""
    import torch

    name, flat = DTYPES[part.dtype].torch_name, torch.from_numpy(data.reshape(-1))
    dtype = getattr(torch, name, None) if name else None
    return flat if dtype is None or not data.size else flat.view(dtype).reshape(part.shape)
