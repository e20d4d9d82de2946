"""What the screen stopped: judged, located, computed again.

All of this is for the rare suspicious output. It may look at the inputs, and computes in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from parimend.guards.journal import GuardEvent, Parameters

if TYPE_CHECKING:
    from parimend.guards.checks import Checks
    from parimend.guards.threshold import Threshold

_T = TypeVar("_T")

_LOCATING = 3
"""Checks from which on the syndrome of a wrong output points at it."""

_CANDIDATES = 4
"""Outputs computed again in one step for every wrong position."""

_MANY = 4
"""Wrong samples from which on all of their outputs are computed again, as locating the wrong ones
sample by sample takes longer."""

_AT_ONCE = 1 << 27
"""Bytes in float64 of what is multiplied, at every position, for samples that are looked at
together, one at least: a convolution may copy its inputs as often as its kernel has places."""

_PAIRED = 16
"""Wrong positions up to which pairs of outputs are searched; more of them have a common cause."""


@dataclass
class Suspect:
    """Samples that the screen stopped: as many as memory for them allows.

    Attributes:
        checks: of their layer.
        index: (samples,) int64, which these are.
        x: their inputs.
        y: (samples, C, positions) float64, their outputs; corrected in place.
        target: (samples * blocks, k, positions) float64; None for zero.
        scale2: (samples * blocks, positions) float64, squares of the output norms to be expected.
        size: spatial shape of the outputs.
        dtype: of the outputs.
        limit: of the syndrome.
    """

    checks: Checks
    index: Tensor
    x: Tensor
    y: Tensor
    target: Tensor | None
    scale2: Tensor
    size: torch.Size
    dtype: torch.dtype
    limit: Threshold

    @classmethod
    def of(cls, checks: Checks, y: Tensor, x: Tensor) -> Iterator[Suspect]:
        """The suspicious samples of a call, in pieces."""
        product = checks.product
        limit = checks.threshold(y, x)
        size = y.shape[y.ndim - product.dims :]
        outputs, inputs = product.split(y), product.samples(x)
        wide = checks.by_block(outputs).to(torch.promote_types(y.dtype, torch.float32))
        stopped = checks.screen(wide, checks.target(x, size, wide.dtype), limit).any(1)
        index = stopped.reshape(-1, checks.blocks).any(1).nonzero().flatten()
        channels = outputs.shape[1]
        terms = max(channels, checks.shape.numel() * product.groups // channels)
        each = torch.float64.itemsize * terms * size.numel()
        w2 = checks.tensor("w2", y, torch.float64)
        count = max(1, _AT_ONCE // each)
        for begin in range(0, len(index), count):
            some = index[begin : begin + count]
            theirs = inputs[some]
            double = theirs.to(torch.float64)
            yield cls(
                checks,
                some,
                theirs,
                outputs[some].to(torch.float64),
                checks.target(double, size, torch.float64),
                product.multiply(double.square(), w2, None, size).reshape(-1, size.numel()),
                size,
                y.dtype,
                limit,
            )

    def syndrome(self) -> Tensor:
        """(samples * blocks, k, positions)."""
        return self.checks.syndrome(self.checks.by_block(self.y), self.target)

    def failed(self) -> Tensor:
        """(samples * blocks, positions) bool: the checks that no rounding explains."""
        limit, y = self.limit, self.checks.by_block(self.y)
        total = torch.maximum(y.square().sum(1), self.scale2)
        energy = self.syndrome().square().sum(1)

        def exceeds(limit2: Tensor) -> Tensor:
            return ~((energy <= limit2 + limit.least**2) & total.isfinite())

        failed = exceeds(limit.tau**2 * total)
        # What outputs err by as they are: one may be so much larger than the others that its error
        # rules, and all may be powers of two. No eigenvalue exceeds the trace: few are looked at.
        most = limit.rest**2 + self.checks.code.m * (limit.deviation**2 + limit.rounding**2)
        unsure = failed & ~exceeds(most * total)
        if unsure.any():
            P, rows = self.checks.tensor("P", y, torch.float64), unsure.any(1)
            own = torch.zeros_like(total)
            own[rows] = _largest(P, self._own(y[rows]))
            failed &= ~unsure | exceeds(limit.rest**2 * total + own)
        return failed

    def _own(self, y: Tensor) -> Tensor:
        """Variances of what outputs err by as they are, of the shape of ``y``."""
        variances = self.limit.deviation**2 * y.square()
        if self.limit.rounding:
            power = torch.ldexp(torch.ones_like(y), torch.frexp(y).exponent - 1)
            variances += self.limit.rounding**2 * torch.where(y == 0.0, 0.0, power.square())
        return variances

    def wrong(self) -> Tensor:
        """(samples, positions) bool: where any of them failed."""
        failed = self.failed()
        return failed.reshape(-1, self.checks.blocks, failed.shape[1]).any(1)

    def magnitude(self) -> Tensor:
        """(samples, positions): size of a single error that explains the syndrome, in units of the
        rms output to be expected.
        """
        k, channels = self.checks.code.m, self.checks.code.n
        energy = self.syndrome().square().sum(1) / k
        sizes = (energy * channels / self.scale2).sqrt().nan_to_num(torch.inf, torch.inf)
        return sizes.reshape(-1, self.checks.blocks, sizes.shape[1]).amax(1)

    def recompute(self, which: Tensor, parameters: Parameters) -> None:
        """Runs the layer again on some of the samples."""
        self.y[which] = self.run(self.x[which], parameters).to(torch.float64)

    def run(self, x: Tensor, parameters: Parameters) -> Tensor:
        """The layer's outputs for other inputs, (samples, C, positions), in their dtype."""
        weight, bias = parameters()
        y = self.checks.product.run(x, weight, bias, self.size)
        return y.reshape(len(x), *self.y.shape[1:]).to(self.dtype)

    def at(self, which: slice | Tensor) -> Suspect:
        """Some of the samples; as a view of them if they are a slice."""
        blocks = self.checks.blocks

        def of_blocks(t: Tensor) -> Tensor:
            return t.reshape(-1, blocks, *t.shape[1:])[which].flatten(0, 1)

        return replace(
            self,
            index=self.index[which],
            x=self.x[which],
            y=self.y[which],
            target=None if self.target is None else of_blocks(self.target),
            scale2=of_blocks(self.scale2),
        )

    def correct(
        self, samples: list[int], wrong: Tensor, parameters: Parameters
    ) -> dict[int, tuple[int, ...]]:
        """Computes those outputs of some samples again that are wrong, if they are half of a
        sample's at most.

        Args:
            samples: which ones.
            wrong: of all samples, as `wrong` gives it.
            parameters: gives weight and bias.

        Returns:
            The outputs that were wrong at any position, of samples that pass the checks now.
        """
        if self.checks.code.m < _LOCATING and self.checks.blocks == 1:
            return {}  # it may be any of them
        if len(samples) >= _MANY or self.checks.code.m < _LOCATING:
            return self._compare(samples, parameters)
        found = {
            each: self.at(slice(each, each + 1))._locate(wrong[each], parameters)
            for each in samples
        }
        return {sample: channels for sample, channels in found.items() if channels}

    def _compare(self, samples: list[int], parameters: Parameters) -> dict[int, tuple[int, ...]]:
        """`correct`, by computing all outputs of all samples at once: those are put right, too, of
        which the checks have seen nothing.
        """
        which = torch.tensor(samples, dtype=torch.int64, device=self.y.device)
        some, blocks = self.at(which), self.checks.by_block
        exact = some._exact(*parameters()).to(self.dtype).to(torch.float64)
        # One may be much larger than inputs of this size make them.
        total = torch.maximum(some.scale2, blocks(exact).square().sum(1))
        # Negated, so that NaN counts.
        differs = ~((blocks(exact) - blocks(some.y)).abs() <= some._error_limit(total)[:, None])
        differs = differs.reshape(some.y.shape)
        some.y = torch.where(differs, exact, some.y)
        channels = differs.any(2)
        good = ~some.wrong().any(1) & (2 * channels.sum(1) <= channels.shape[1])
        self.y[which[good]] = some.y[good]
        found = zip(samples, _by_row(channels.nonzero()[:, 1].tolist(), channels), strict=True)
        return {sample: each for (sample, each), ok in zip(found, good.tolist(), strict=True) if ok}

    def _error_limit(self, total: Tensor) -> Tensor:
        """Up to which an output may be off by rounding, for squares of the norm of its block."""
        return self.limit.tau * (total / self.checks.code.m).sqrt()

    def _locate(self, wrong: Tensor, parameters: Parameters) -> tuple[int, ...]:
        """`correct` for a single sample, by computing what the syndrome points at.

        Candidates are not trusted: the dot products decide, so a wrong candidate costs time only.
        """
        (y,) = self.y
        found: set[int] = set()
        # After one of a pair is right, the other is a single one.
        for search in (_singles, _pairs, _singles):
            channels = (~y.isfinite().all(1)).nonzero().flatten()
            if not len(channels):
                channels = self._pointed_at(search)
            if 2 * len(channels) > len(y):
                break
            if len(channels):
                fresh = self._dot_products(channels, parameters)
                limit = self._error_limit(self.scale2)[channels // self.checks.code.n]
                # Negated, so that NaN counts.
                differs = ~((fresh - y[channels]).abs() <= limit) & wrong
                found.update(channels[differs.any(1)].tolist())
                y[channels] = torch.where(wrong, fresh, y[channels])
                wrong = self.wrong()[0]
                if not wrong.any():
                    return tuple(sorted(found))
        return ()

    def _pointed_at(self, search: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Outputs of a single sample that the syndromes of the blocks point at."""
        n, failed, syndrome = self.checks.code.n, self.failed(), self.syndrome()
        P = self.checks.tensor("P", self.y, torch.float64)
        found = [torch.empty(0, dtype=torch.int64, device=P.device)]
        for block in failed.any(1).nonzero().flatten().tolist():
            found.append(block * n + search(P, syndrome[block][:, failed[block]]))
        return torch.unique(torch.cat(found))

    def overflow(self, samples: list[int], parameters: Parameters) -> list[int]:
        """Those of some samples of which results are too large for the dtype."""
        which = torch.tensor(samples, dtype=torch.int64, device=self.y.device)
        which = which[~self.y[which].isfinite().flatten(1).all(1)]
        if not len(which):
            return []
        exact = self.at(which)._exact(*parameters()).to(self.dtype)
        found: list[int] = which[exact.isinf().flatten(1).any(1)].tolist()
        return found

    def excused(self, again: Tensor, parameters: Parameters) -> Tensor:
        """Which samples are right although their checks failed, (samples,) bool.

        No quantile bounds the sum of errors that are not independent: outputs with equal weights
        all round in the same direction. So outputs that are as near to the exact ones as rounding
        them allows are right; and what the layer gives every time counts as rounding up to the
        largest error that rounding may make. Both as long as the weights are those that are
        checked.

        Args:
            again: what `run` gives for the whole call: how sums are ordered depends on the number
                of samples.
            parameters: gives weight and bias.
        """
        weight, bias = parameters()
        again = again[self.index].to(torch.float64)
        repeated = replace(self, y=again).wrong().any(1)
        if not (repeated.any() or self.limit.unit) or not self.checks.hold_for(weight, bias):
            return torch.zeros_like(repeated)
        exact = self._exact(weight, bias)
        absolute = replace(self, x=self.x.abs())
        size = absolute._exact(weight.abs(), None if bias is None else bias.abs())
        limit = self.limit.worst * size + self.limit.least
        for y in (self.y, again):
            repeated &= ((exact - y).abs() <= limit).flatten(1).all(1)
        if not self.limit.unit:
            return repeated
        # It may have been rounded before the bias was added.
        before = exact.abs()
        if bias is not None:
            before = torch.maximum(before, (exact - bias.to(torch.float64)[:, None]).abs())
        limit = exact.abs() + (self.limit.roundings - 1) * before
        limit = self.limit.unit * limit + self.limit.deviation * size + self.limit.least
        return repeated | ((exact - self.y).abs() <= limit).flatten(1).all(1)

    def _exact(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """All outputs, computed in float64."""
        b = None if bias is None else bias.to(torch.float64)
        x, W = self.x.to(torch.float64), weight.to(torch.float64)
        return self.checks.product.run(x, W, b, self.size).reshape(self.y.shape)

    def _dot_products(self, channels: Tensor, parameters: Parameters) -> Tensor:
        """Some outputs of a single sample, (channels, positions) float64, rounded to the dtype."""
        product = self.checks.product
        weight, bias = parameters()
        W = product.matrix(weight)
        rows = W.new_zeros(len(W), len(channels), W.shape[2], dtype=torch.float64)
        group, row = channels // W.shape[1], channels % W.shape[1]
        rows[group, torch.arange(len(channels), device=W.device)] = W[group, row].to(torch.float64)
        b = None if bias is None else bias[channels].to(torch.float64)
        fresh = product.multiply(self.x.to(torch.float64), rows, b, self.size)
        return fresh.reshape(len(channels), -1).to(self.dtype).to(torch.float64)

    def events(self, wrong: Tensor, layer: str, call: int, leading: torch.Size) -> list[GuardEvent]:
        """The events of all samples, before anything is changed; ``wrong`` as `wrong` gives it."""
        finite = self.x.isfinite().flatten(1).all(1).tolist()
        positions = _by_row(_unravel(wrong.nonzero()[:, 1], self.size), wrong)
        magnitudes = torch.where(wrong, self.magnitude(), 0.0).amax(1).tolist()
        samples = _unravel(self.index, leading)
        return [
            GuardEvent(
                "recorded" if good else "input",
                call,
                layer=layer,
                sample=sample,
                positions=places,
                magnitude=magnitude,
            )
            for good, sample, places, magnitude in zip(
                finite, samples, positions, magnitudes, strict=True
            )
        ]


def _singles(P: Tensor, s: Tensor) -> Tensor:
    """For every position the outputs that explain its syndrome best alone."""
    return (P.T @ s).abs().topk(min(_CANDIDATES, P.shape[1]), dim=0).indices.flatten()


def _pairs(P: Tensor, s: Tensor) -> Tensor:
    """For every position the pair of outputs that explains its syndrome best."""
    k, channels = P.shape
    if s.shape[1] > _PAIRED or channels > 1 << 12:
        return torch.empty(0, dtype=torch.int64, device=P.device)
    # Least squares on columns i and j, of squared length k and inner product g.
    g = P.T @ P
    found = []
    for c in (P.T @ s).T:
        explained = k * (c[:, None] ** 2 + c**2) - 2.0 * g * c[:, None] * c
        explained /= (k * k - g * g).clamp_(min=1e-9 * k * k)
        explained.fill_diagonal_(0.0)
        best = int(explained.argmax())
        found += [best // channels, best % channels]
    return torch.tensor(found, device=P.device)


def _largest(P: Tensor, variances: Tensor) -> Tensor:
    """Largest eigenvalue of the covariance of the checks of independent errors, (rows, positions),
    for their variances of shape (rows, C, positions).
    """
    if len(P) == 1:
        return variances.sum(1)
    pairs = (P[:, None] * P).flatten(0, 1)
    covariances = (pairs @ variances).mT.reshape(-1, variances.shape[2], len(P), len(P))
    finite = covariances.isfinite().flatten(2).all(2)
    covariances = torch.where(finite[..., None, None], covariances, 0.0)
    return torch.linalg.eigvalsh(covariances)[..., -1]


def _by_row(values: Sequence[_T], which: Tensor) -> list[tuple[_T, ...]]:
    """Values of those elements of a (rows, columns) bool that are set, by row."""
    left = iter(values)
    return [tuple(islice(left, count)) for count in which.sum(1).tolist()]


def _unravel(flat: Tensor, shape: torch.Size) -> list[tuple[int, ...]]:
    """Flat indices as tuples; () for an empty shape."""
    if not shape:
        return [()] * len(flat)
    return list(zip(*(axis.tolist() for axis in torch.unravel_index(flat, shape)), strict=True))
