"""Choosing codes for words of tensors, and sealing them: the same for models and files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from parimend.carriers import lowbits, real, sidecar
from parimend.carriers.base import Tensors, require_match
from parimend.codes import LowBits, Modular, Sparse
from parimend.errors import SpecError
from parimend.seal import Seal
from parimend.words.bits import WORD, item_size
from parimend.words.layout import Part, Per, padded_words, split

Carrier = Literal["sidecar", "real", "lowbits"]

LARGE_MOVE = 0.3
"""Relative L2 change of a word from which accuracy is at risk and a warning is given."""


class Request(NamedTuple):
    """What is asked of a protection; see `parimend.protect_`."""

    errors: int
    carrier: Carrier = "sidecar"
    per: Per = "model"
    bits: int | None = None
    rows: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class PlannedWord:
    """What protecting one word takes.

    Attributes:
        name: the tensor, or the first and last of several.
        elements: number of protected elements.
        checks: number of checks.
        redundancy: part of the degrees of freedom that the constraint takes; ``real`` only.
        seal_bytes: bytes of the word's checks in the seal.
        moved: relative L2 change of the weights to expect from a plain projection.
    """

    name: str
    elements: int
    checks: int
    redundancy: float
    seal_bytes: int
    moved: float


def plan(tensors: Tensors, request: Request) -> tuple[PlannedWord, ...]:
    """What `protect_` would take; nothing is changed."""
    planned = []
    for code, parts in choose_codes(tensors, request):
        first, last = parts[0].name, parts[-1].name
        redundancy = moved = 0.0
        if isinstance(code, Modular):
            seal_bytes = code.packed_bytes
        else:
            seal_bytes = 8 * code.free
            if request.carrier == "real":
                redundancy, moved = code.redundancy, math.sqrt(code.imposed / code.n)
        planned.append(
            PlannedWord(
                name=first if first == last else f"{first} .. {last}",
                elements=sum(part.count for part in parts),
                checks=code.m,
                redundancy=redundancy,
                seal_bytes=seal_bytes,
                moved=moved,
            )
        )
    return tuple(planned)


def protect_(
    tensors: Tensors,
    request: Request,
    *,
    project: real.Project = real.nearest,
    progress: Callable[[int], None] = lambda elements: None,
) -> Seal:
    """Seal the tensors; the real and lowbits carriers also write them, once everything is computed.

    Args:
        tensors: what to protect, all of it.
        request: how.
        project: how the real carrier moves a word into its code.
        progress: called with the number of elements of every word that is done.
    """
    words = choose_codes(tensors, request)
    return seal_(tensors, words, request, project=project, progress=progress)


def seal_(
    tensors: Tensors,
    chosen: Sequence[tuple[Modular | Sparse, tuple[Part, ...]]],
    request: Request,
    *,
    project: real.Project = real.nearest,
    progress: Callable[[int], None] = lambda elements: None,
) -> Seal:
    """`protect_` with the codes and words already chosen."""
    words, writes, moves = [], [], []
    for code, parts in chosen:
        if isinstance(code, Modular):
            words.append(sidecar.seal_word(code, parts, tensors))
        else:
            if isinstance(code, LowBits):
                word, new, moved = lowbits.seal_word(code, parts, tensors)
            else:
                word, new, moved = real.seal_word(code, parts, tensors, project)
            words.append(word)
            writes.append((parts, new))
            moves.append(moved)
            if project is real.nearest:
                warn_if_far(word.name, moved)
        progress(sum(part.count for part in parts))
    for parts, new in writes:
        for part, data in zip(parts, new, strict=True):
            tensors.write(part, None, data)
    return Seal(request.carrier, request.errors, tuple(words), notes_of(moves))


def warn_if_far(name: str, moved: float) -> None:
    """Warn where a plain projection moved the weights so far that accuracy is at risk."""
    if moved > LARGE_MOVE:
        warnings.warn(
            f"{name}: the constraint moved the weights by {moved:.0%} (relative L2), which may "
            "cost accuracy: ask for fewer errors, protect more weights in one word, give "
            "calibration data, or train with the constraint",
            stacklevel=4,
        )


def notes_of(moves: Sequence[float]) -> dict[str, list[float]]:
    """What a seal tells about words that were moved into their codes."""
    return {"moved": [float(f"{moved:.3g}") for moved in moves]} if moves else {}


def choose_codes(
    tensors: Tensors, request: Request, grid_of: real.GridOf = real.grid_of
) -> list[tuple[Modular | Sparse, tuple[Part, ...]]]:
    """The code of every word and what the word is made of.

    Args:
        tensors: what is to be protected.
        request: how.
        grid_of: the grid of a tensor, where that takes more than reading it; ``real`` only.
    """
    errors, carrier, per, bits, rows, seed = request
    words = split(tensors.whole(), per)
    if carrier != "real" and bits is not None:
        raise SpecError("bits are for carrier='real', which rounds weights to a grid")
    if carrier == "sidecar":
        if rows is not None:
            raise SpecError("rows are for carriers that impose checks; a sidecar takes errors")
        words = [part for word in words for part in sidecar.cut(word)]
        return [(Modular.for_errors(padded_words(*w), errors, seed), w) for w in words]
    if carrier not in ("real", "lowbits"):
        raise SpecError(f"unknown carrier {carrier!r}: there are 'sidecar', 'real' and 'lowbits'")
    chosen: list[tuple[Modular | Sparse, tuple[Part, ...]]] = []
    if carrier == "lowbits":
        for parts in words:
            lowbits.require_float32(parts)
            chosen.append((_fitting(LowBits, parts, 32, request), parts))
    else:
        for parts, width in real.on_grids(words, tensors, bits, grid_of):
            chosen.append((_fitting(Sparse, parts, width, request), parts))
    return chosen


def _fitting(
    family: type[Sparse], parts: tuple[Part, ...], word_bits: int, request: Request
) -> Sparse:
    n = sum(part.count for part in parts)
    weights = weights_in(request.errors, parts)
    try:
        return family.for_errors(n, weights, m=request.rows, word_bits=word_bits, seed=request.seed)
    except SpecError as error:
        words = (
            f"{request.errors} errors are {weights} weights: " if weights != request.errors else ""
        )
        raise SpecError(f"{parts[0].name}: {words}{error}") from None


def weights_in(errors: int, parts: Sequence[Part]) -> int:
    """How many weights are wrong at most where ``errors`` words of 32 bits are.

    >>> from parimend.words.layout import whole
    >>> weights_in(10, [whole("w", "F32", (99,))]), weights_in(10, [whole("w", "I8", (99,))])
    (10, 40)
    """
    return errors * max(1, *(WORD // item_size(part.dtype) for part in parts))


def refresh(seal: Seal, tensors: Tensors) -> Seal:
    """Seal updated weights anew with the codes and layout of an old seal.

    Raises:
        SpecError: for carriers that live in the weights: an update takes them out of their code.
    """
    if seal.carrier != "sidecar":
        raise SpecError(
            f"the {seal.carrier} carrier lives in the weights: after an update protect them again, "
            "or train with constrain_"
        )
    require_match(seal, tensors)
    words = [
        sidecar.seal_word(word.code, word.parts, tensors)
        for word in seal.words
        if isinstance(word.code, Modular)
    ]
    return replace(seal, words=tuple(words))
