"""Protection of a live model: `protect_`, `check`, `repair_`, `refresh`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Unpack

import torch

from parimend import carriers
from parimend.arguments import flag, require
from parimend.carriers import Carrier, CarrierName, Options, Planned, Real, Request
from parimend.carriers.base import SEAL_DAMAGED
from parimend.errors import DamageError, SpecError
from parimend.moving import moving
from parimend.names import takes_in
from parimend.outcomes import FileOutcome, Proof, Report, Verdict
from parimend.seal import Seal
from parimend.stores.extent import extent_of
from parimend.stores.model import ModelTensors, of_names, require_writable, unwrapped
from parimend.stores.naming import (
    leaves,
    named_tensors,
    require_movable,
    require_plain,
)
from parimend.stores.padding import blank, warn_of_filling
from parimend.stores.renorm import warn_of_shortening
from parimend.stores.shards import ShardedTensors, store_of
from parimend.stores.spread import local
from parimend.warning import warn

Model = torch.nn.Module | Mapping[str, Any]

_BEYOND = (
    "only a copy of the weights can mend that, unless they were changed on purpose, by training or "
    "loading: then protect them again, or refresh the seal"
)


def protect_(
    model: Model,
    errors: int | Planned,
    carrier: Carrier | CarrierName = "sidecar",
    *,
    buffers: bool = False,
    **options: Unpack[Options],
) -> Seal:
    """Protect the weights of a model, so that any ``errors`` wrong ones can be repaired.

    ``sidecar`` changes nothing: sums of the bit patterns go into the seal. ``real`` moves the
    weights to the nearest ones that satisfy linear constraints, so that the weights themselves
    carry the redundancy; ``lowbits`` does so with the lowest mantissa bits of float32 weights,
    which changes them by about 1e-6. Both need only a few numbers in the seal.

    Args:
        model: a module, a state dict, or a training checkpoint: all tensors in nested dicts, lists
            and tuples, under dotted names.
        errors: number of wrong 32-bit words that can be repaired wherever they fall, in each
            protected word. Such a word is one float32, half a float64, two weights of 16 bits, or
            four of 8. Or a plan, which says everything: no other argument goes with it.
        carrier: where the redundancy lives: its name, or `Sidecar`, `Real` or `LowBits` with their
            options, such as ``Real(calibration=batches)``.
        buffers: protect the buffers of modules too. Without ``only`` a warning says if more than
            half of the bytes are left out.
        **options: ``only``, ``per``, ``seed``, and ``guaranteed`` for a proof that any that many
            are repaired; see `Options`.

    Returns:
        The seal. Keep it beside the weights: `check` and `repair_` need it.

    Raises:
        SpecError: if a word has too few weights for so many errors, or what is to be guaranteed
            cannot be proven.
        WordError: if there is nothing to protect, or a tensor cannot be protected in this way;
            names it. Nothing was changed then.
        MismatchError: if a plan was made for another model; names the tensor.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> with torch.no_grad():
        ...     _ = model.weight[3].fill_(float("nan"))
        >>> check(model, seal).verdict.value
        'uncorrectable'
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5, carrier="real")
        >>> with torch.no_grad():
        ...     _ = model.weight[3, :5].fill_(0.125)
        >>> repair_(model, seal).verdict.value
        'corrected'
    """
    model, request = unwrapped(model), Request.of(errors, carrier, **options)
    buffers = flag(buffers, "buffers")
    if request.balance is None:
        moves = request.carrier.moves
        tensors = tensors_to_protect(model, request.only, buffers or request.buffers, moves)
    elif buffers:
        raise SpecError("a plan says which tensors are protected: give no buffers beside it")
    else:
        tensors = _named(model, request.balance.names)
    if request.carrier.moves:
        require_movable(model, tensors.held)
        require_writable({name: local(tensor) for name, tensor in tensors.held.items()})
    if not request.carrier.moves:
        return carriers.protect_(tensors, request.fitted(model, tensors))
    padding = blank(model) if isinstance(request.carrier, Real) else {}
    with moving(tensors.held.values()):
        seal = carriers.protect_(tensors, request.fitted(model, tensors))
    warn_of_shortening(model, tensors.held, moved=True)
    warn_of_filling(padding)
    return seal


def tensors_to_protect(
    model: Model, only: Sequence[str] | None, buffers: bool, moves: bool = False
) -> ModelTensors | ShardedTensors:
    """The tensors to protect; warns where most of a model is in buffers that nobody asked for, or
    in other attributes of its modules, and of weights that the model itself will change, unless
    protecting them ``moves`` them first.

    Raises:
        WordError: if there is nothing to protect, or a tensor cannot be; names it.
    """
    model = unwrapped(model)
    tensors = named_tensors(model, only=only, buffers=buffers)
    if not takes_in(only) and (extent := extent_of(model, tensors)).is_small:
        warn(
            f"{extent.taken} of {extent.taken + extent.left} bytes are protected: the others are "
            f"{extent.others}",
        )
    if not moves:
        warn_of_shortening(model, tensors)
    return store_of(tensors)


def check(model: Model, seal: Seal, *, proof: Proof | None = None) -> Report:
    """Compare a model with its seal; nothing is changed.

    Args:
        model: as it was given to `protect_`.
        seal: what `protect_` returned.
        proof: what proves a repair. By default SHA-256; but sums, which are computed where the
            weights are, if these are all on other devices than the CPU, as they would have to go to
            the host. Each `WordOutcome.proof` says which.

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
        SpecError: if a word cannot be proven in the way that is asked for.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> check(model, seal).ok
        True
        >>> with torch.no_grad():
        ...     model.bias[7] = 1e9
        >>> [(change.tensor, change.index) for change in check(model, seal).changes]
        [('bias', (7,))]
    """
    return _reported(carriers.diagnose, model, seal, proof)


def repair_(model: Model, seal: Seal, *, proof: Proof | None = None) -> Report:
    """Put back every wrong weight of a model, bit for bit.

    A word is ``corrected`` only if its SHA-256 is the sealed one again; or its sums are, where they
    are the proof, see `check`. Words with more damage than their code can repair are left as found
    and named.

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
        SpecError: see `check`.
        WordError: if a tensor with damage lies in memory that can only be read; names it.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> with torch.no_grad():
        ...     _ = model.weight[3, :5].zero_()
        >>> repair_(model, seal).verdict.value, check(model, seal).verdict.value
        ('corrected', 'clean')
    """
    return _reported(_repair_, model, seal, proof)


def _repair_(
    seal: Seal, tensors: ModelTensors | ShardedTensors, *, proof: Proof | None
) -> FileOutcome:
    """`carriers.repair_`, of which those who watch these tensors are told."""
    with ExitStack() as told:
        with suppress(DamageError):  # what a run that heals cannot put back, the seal may
            told.enter_context(moving(tensors.held.values(), as_sealed=True))
        return carriers.repair_(seal, tensors, proof=proof)


def _reported(
    act: Callable[..., FileOutcome], model: Model, seal: Seal, proof: Proof | None
) -> Report:
    began = time.perf_counter()
    outcome = act(seal, sealed_tensors(model, seal), proof=proof)
    lost = (word for word in outcome.words if word.verdict is Verdict.UNCORRECTABLE)
    if any(word.reason != SEAL_DAMAGED for word in lost):
        outcome = replace(outcome, note=_BEYOND)
    return Report((outcome,), time.perf_counter() - began)


def refresh(model: Model, seal: Seal) -> Seal:
    """A new seal after weights were changed on purpose, with the layout and codes of the old one.

    What is there now is taken for right, so check before the change. (While a `Scrubber` runs, its
    `Scrubber.update` does all of this.)

    Raises:
        MismatchError: if the seal does not fit the model; names the tensor and both shapes.
        SpecError: for carriers that live in the weights, which an update takes out of their code.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> seal = protect_(model, errors=5)
        >>> with torch.no_grad():
        ...     _ = model.weight.mul_(0.5)
        >>> seal = refresh(model, seal)
        >>> check(model, seal).verdict.value
        'clean'
    """
    return carriers.refresh(seal, sealed_tensors(model, seal))


def sealed_tensors(model: Model, seal: Seal) -> ModelTensors | ShardedTensors:
    """Those tensors of a model that a seal names.

    Raises:
        SpecError: if it is no seal.
        WordError: if one has no plain memory; names it.
    """
    require(seal, "seal", "a Seal (Seal.load reads one from a file)", Seal)
    names = {part.name for word in seal.words for part in word.parts}
    return _named(unwrapped(model), sorted(names))


def _named(model: Any, names: Iterable[str]) -> ModelTensors | ShardedTensors:
    """Those tensors of a model that have one of these names, or had it before a part of the model
    was wrapped.
    """
    tensors = {name: leaf.value for name, leaf in of_names(leaves(model), names).items()}
    for name, tensor in tensors.items():
        require_plain(name, tensor)
    return store_of(tensors)
