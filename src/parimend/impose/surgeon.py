"""Bringing trained weights into a code at the least cost to the network.

The plain projection `RealCode.project` takes the shortest way into the null space of H, but weights
are not equally important: on one input feature a change hardly shows, on another it ruins the
output. The surgeon minimizes (x' - x)^T M (x' - x) subject to H x' = c instead, where M is the
Hessian of what the layers put out (`parimend.impose.moments`). The minimum is

    x' = x - M^-1 H^T (H M^-1 H^T)^-1 (H x - c).

With H a single unit vector this removes one weight and adapts the others: Y. LeCun, J. S. Denker,
S. A. Solla, "Optimal Brain Damage", NIPS 1990, with M diagonal; B. Hassibi, D. G. Stork, "Second
order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1993.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from parimend.arguments import real_number
from parimend.codes import Sparse
from parimend.codes.base import RealCode
from parimend.errors import MismatchError, SpecError
from parimend.impose.moments import LayerMoments, Moments, second_moments
from parimend.words.layout import Part, Word

DAMPING = 1e-2
"""Added to the diagonal of a layer's moments, as a fraction of its mean. Accuracy hardly depends on
it from 1e-4 to 1e-1; with less the largest weights grow (threefold at 1e-4), with more the data
count less."""

# Residual at which the conjugate gradients stop, relative to the first. The cost is flat at its
# minimum: even 1e-4 leaves it one part in ten million too high.
_RTOL = 1e-8
_MOST_STEPS = 10_000


class Metric(Protocol):
    """What a change d of a word costs: d^T M d, with M symmetric and positive definite."""

    def solve(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """M^-1 v, (n,) -> (n,) float64."""


class BlockMetric:
    """The metric of a word: one block for each output row of a layer, as far as it is in the word.

    Elements of a row that are not in the word stay where they are, so its block is what the
    remaining rows and columns of the second moments are. Parameters without moments (norm layers,
    embeddings, layers that were never called) have a diagonal metric, the mean diagonal of all
    layers: directions in which the data do not vary are much cheaper than that, so these parameters
    move little.

    Args:
        moments: of the layers of the model.
        parts: of the word, in its order. Words are counted in grid steps of 2 to
            the power of `Part.exponent`.
        damping: fraction of the mean diagonal of a layer's moments that is added to the diagonal:
            for features that the calibration data did not show, but other data will.

    Raises:
        MismatchError: for a part whose shape is not that of the measured parameter of this name.
        SpecError: unless damping is positive.
    """

    def __init__(self, moments: Moments, parts: Sequence[Part], damping: float = DAMPING) -> None:
        damping = real_number(damping, "damping", above=0)
        steps = [math.ldexp(1.0, -part.exponent) for part in parts]
        self._per_step = np.repeat(steps, [part.count for part in parts])
        self._inverse_diagonal = np.full(len(self._per_step), 1.0 / moments.scale)
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        places: dict[LayerMoments, list[NDArray[np.int64]]] = {}
        offset = 0
        for part in parts:
            if part.count and (layer := moments.layers.get(part.name)) is not None:
                places.setdefault(layer, []).append(_place(layer, part, offset))
            offset += part.count
        for layer, pieces in places.items():
            row, column, position = np.concatenate(pieces, axis=1)
            if layer.moment.ndim == 3:
                self._blocks += _blocks(layer, row, column, position, damping)
            else:
                damped = layer.moment + damping * layer.moment.mean()
                self._inverse_diagonal[position] = 1.0 / damped[layer.group(row), column]

    def solve(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """M^-1 v, (n,) -> (n,) float64.

        Raises:
            MismatchError: for a word of another length.
        """
        if v.shape != self._per_step.shape:
            raise MismatchError(
                f"this metric is of words of shape {self._per_step.shape}, not {v.shape}: build it "
                "from the parts of this word"
            )
        v = v * self._per_step
        out = v * self._inverse_diagonal
        for index, inverse in self._blocks:
            out[index] = v[index] @ inverse
        return out * self._per_step


def _place(layer: LayerMoments, part: Part, offset: int) -> NDArray[np.int64]:
    """(3, count): of every element, its row, its column, and its position in the word."""
    is_weight = part.name == layer.weight
    shape = layer.shape if is_weight else (layer.rows,)
    if part.shape != shape:
        raise MismatchError(
            f"{part.name}: shape {part.shape} in the word, but {shape} in the measured model: "
            "measure the model that the word is of"
        )
    if is_weight:
        row, column = layer.places(part.start, part.count)
    else:
        row = np.arange(part.start, part.start + part.count)
        column = np.full(part.count, layer.width)
    return np.stack([row, column, np.arange(offset, offset + part.count)])


def _blocks(
    layer: LayerMoments,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    position: NDArray[np.int64],
    damping: float,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Positions (b, rows, c) and inverses (b, c, c), so that one batched product serves many rows.

    Rows with the same columns and inputs share an inverse; groups of rows of the same shape, of
    which depthwise convolutions have hundreds, share a batch.
    """
    order = np.lexsort((column, row))
    row, column, position = row[order], column[order], position[order]
    cuts = np.flatnonzero(np.diff(row)) + 1
    groups = layer.group(row[np.concatenate([[0], cuts])]).tolist()
    alike: dict[tuple[int, bytes], list[NDArray[np.int64]]] = defaultdict(list)
    for group, columns, positions in zip(
        groups, np.split(column, cuts), np.split(position, cuts), strict=True
    ):
        alike[group, columns.tobytes()].append(positions)
    batches: dict[tuple[int, ...], list[tuple[NDArray[np.int64], NDArray[np.float64]]]]
    batches = defaultdict(list)
    for (group, key), rows in alike.items():
        index = np.stack(rows)
        inverse = layer.inverse(group, np.frombuffer(key, np.int64), damping)
        batches[index.shape].append((index, inverse))
    for batch in batches.values():
        indices, inverses = zip(*batch, strict=True)
        # A view of the only one: it may be large, and is shared between words.
        yield np.stack(indices), np.stack(inverses) if len(batch) > 1 else inverses[0][None]


def project(
    code: RealCode,
    x: NDArray[np.float64],
    metric: Metric,
    target: NDArray[np.float64] | None = None,
    rows: int | None = None,
) -> NDArray[np.float64]:
    """The word with H x' = target that is nearest to x in the metric.

    By conjugate gradients on H M^-1 H^T, which take a few dozen steps at a small redundancy, and
    hundreds where nearly half of a whole network is given away: less work than making that matrix.
    A plain projection takes the last step, so that the checks are met to rounding.

    Args:
        code: with n words.
        x: (n,) float64, in grid steps.
        metric: of words of this code; `BlockMetric` unless there is a better one.
        target: (m,) float64 in the scale of `RealCode.matvec`; zero if absent.
        rows: of H, from the first on; all by default. See `RealCode.project`.

    Returns:
        (n,) float64. Weights may have grown: the grid must have room for that, or be chosen anew.

    Raises:
        SpecError: for a word of another shape or with infinities or NaN, or if H has rows that are
            close to dependent.
        MismatchError: for a metric of other words.

    Example:
        >>> import torch
        >>> from parimend.codes import Sparse
        >>> from parimend.impose.moments import second_moments
        >>> from parimend.words.layout import whole
        >>> moments = second_moments(torch.nn.Linear(40, 10), [torch.randn(500, 40)])
        >>> metric = BlockMetric(moments, [whole("weight", "F32", (10, 40))])
        >>> code = Sparse(n=400, m=32)
        >>> x = project(code, np.random.default_rng(0).normal(size=400), metric)
        >>> bool(np.abs(code.matvec(x)).max() < 1e-12)
        True
    """
    x = np.asarray(x, dtype=np.float64)
    if x.shape != (code.n,) or not np.isfinite(x).all():
        raise SpecError(
            f"a word of this {code.family} code has shape ({code.n},), not {x.shape}, and is finite"
        )
    import scipy.sparse.linalg as spl  # see RealCode.solve_gram

    residual = (code.matvec(x) - (0.0 if target is None else target))[:rows]

    def moves(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return metric.solve(code.rmatvec(code.filled(y)))

    gram = spl.LinearOperator(
        (len(residual), len(residual)),
        matvec=lambda y: code.matvec(moves(y))[:rows],
        dtype=np.float64,
    )
    with np.errstate(all="ignore"):  # where it breaks down it says so
        y, failed = spl.cg(gram, residual, rtol=_RTOL, atol=0.0, maxiter=_MOST_STEPS)
    if failed:
        raise SpecError(
            f"in this metric the {code.m} rows of this {code.family} code (n={code.n}, "
            f"seed={code.seed}) are close to dependent: take fewer rows or more damping"
        )
    return code.project(x - moves(y), target, rows)


def gentlest(
    model: Any, batches: Iterable[Any], names: Collection[str]
) -> Callable[[Sparse, NDArray[np.float64], Word], NDArray[np.float64]]:
    """How to move words of a model's weights into their codes where its outputs change least.

    Args:
        model: a module.
        batches: of inputs; see `parimend.impose.moments.second_moments`.
        names: of the tensors that the words are of; no other layers are measured.

    Raises:
        SpecError: if the model is no module, which could be run.
        CalibrationError: see `second_moments`.
    """
    if not isinstance(model, torch.nn.Module):
        raise SpecError("calibration is for a module, which can be run, not for a state dict")
    moments = second_moments(model, batches, names=names)
    return lambda code, x, word: project(
        code, x, BlockMetric(moments, word.parts), rows=code.imposed
    )
