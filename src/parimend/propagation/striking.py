"""One fault in one layer, for one run: a wrong output, or wrong weights."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from parimend.errors import FaultError
from parimend.experiment import Faults, bit_patterns
from parimend.faults import FaultList
from parimend.propagation.reach import require_own
from parimend.removable import Hook
from parimend.stores.aliasing import storage_of
from parimend.stores.naming import distinct
from parimend.upsets import Upset, axis_of

Fault = Upset | Faults
"""A kind of fault: in what is computed, or in what is stored."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
UNKNOWN = -1
"""In place of a bit, where not one single bit is wrong."""


@dataclass(frozen=True)
class Run:
    """One run with a fault.

    Attributes:
        forward: gives what the model gives.
        call: of the layer from which on something is wrong.
        bits: filled by the run; (samples,) int64, the bit that is wrong, 0 the lowest, or
            `UNKNOWN`.
    """

    forward: Callable[[], Any]
    call: int
    bits: NDArray[np.int64]


def strike(
    model: nn.Module,
    layer: str,
    upset: Fault,
    seed: int,
    inputs: Arguments,
    samples: int,
    calls: int,
    buffers: bool = False,
) -> Run:
    """A run in which a layer computes wrongly, or has wrong weights; the model is left as it is.

    Args:
        model: to run.
        layer: name of the module.
        upset: `Upset` for an output of one call, drawn among them; `Faults` for its parameters.
        seed: of the fault; other layers draw others.
        inputs: of the model.
        samples: in the inputs.
        calls: of the layer in one run.
        buffers: whether `Faults` strike the buffers of the layer, too.

    Raises:
        FaultError: if there cannot be such damage.
        WordError: if a tensor to strike has no plain memory of its own; names it.
    """
    bits = np.full(samples, UNKNOWN)
    if isinstance(upset, Faults):
        damaged, faults = _damaged(model, layer, upset, seed, buffers)
        if len(faults) == 1:
            bits[:] = _bit(int(faults.before[0] ^ faults.after[0]))
        return Run(lambda: _run_with(model, layer, damaged, inputs), 0, bits)
    rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    call = int(rng.integers(calls))

    def run() -> Any:
        module, axis, count = model.get_submodule(layer), axis_of(model.get_submodule(layer)), 0

        def struck(module: nn.Module, args: Any, y: Any) -> Tensor | None:
            nonlocal count
            count += 1
            if count - 1 != call:
                return None
            if not isinstance(y, Tensor):
                raise FaultError(
                    f"outputs are a {type(y).__name__}, and only tensors are struck: take Faults, "
                    "or leave it out of only="
                )
            wrong = upset.strike(y, axis, rng)
            bits[:] = _single_bits(y, wrong)
            return wrong

        hook = Hook(struck)
        try:
            # Before the hook that watches what comes out.
            module.register_forward_hook(hook, prepend=True)
            return model(*inputs[0], **inputs[1])
        finally:
            hook.remove_from(module)

    return Run(run, call, bits)


def _damaged(
    model: nn.Module, layer: str, faults: Faults, seed: int, buffers: bool
) -> tuple[dict[str, Tensor], FaultList]:
    """Damaged copies of a module's own tensors, and of all that share memory with them, by name."""
    struck = distinct(require_own(model.get_submodule(layer), layer, buffers))
    memory = {storage_of(tensor) for tensor in struck.values()}
    # Copied together, what shares memory shares that of the copies: it is one cell that is wrong.
    copies = copy.deepcopy(
        {
            id(tensor): tensor.detach()
            for tensor in (*model.parameters(), *model.buffers())
            if storage_of(tensor) in memory
        }
    )
    damaged = {name: copies[id(tensor)] for name, tensor in _places(model) if id(tensor) in copies}
    rows = {name: copies[id(tensor)].cpu().contiguous() for name, tensor in struck.items()}
    words = bit_patterns(rows)
    # Seeds are 64 bits wide: layers of one shape are not to be struck at the same places.
    drawn = faults.draw(words, (seed << 32 | zlib.crc32(layer.encode())) % 2**64)
    drawn.apply_(words)
    for name, row in rows.items():
        copies[id(struck[name])].copy_(row)
    return damaged, drawn


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer wherever a module has it; of a module that the model has under
    several names, under the first: put back name by name, it would keep what it was lent.
    """
    for prefix, module in model.named_modules():
        for tensors in (module.named_parameters, module.named_buffers):
            yield from tensors(prefix, recurse=False, remove_duplicate=False)


def _run_with(model: nn.Module, layer: str, tensors: dict[str, Tensor], inputs: Arguments) -> Any:
    """Run a model with other tensors than its own; it is left as it is."""
    held = vars(module := model.get_submodule(layer)).copy()
    try:
        # All places are named: told to tie them, torch would name modules twice.
        return functional_call(model, tensors, *inputs, tie_weights=False)
    finally:
        # Weights that a module makes of others when it runs (pruning, weight_norm) were wrong, too.
        vars(module).update(held)


def _single_bits(right: Tensor, wrong: Tensor) -> NDArray[np.int64]:
    """The bit in which each sample differs, or `UNKNOWN`."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = integers[right.element_size()]
    masks = (each.detach().contiguous().view(kind).flatten(1) for each in (right, wrong))
    mask = torch.bitwise_xor(*masks)
    single = ((mask != 0).sum(1) == 1).tolist()
    # Of one element that is not zero the sum is that element.
    width = 8 * right.element_size()
    patterns = [value % (1 << width) for value in mask.to(torch.int64).sum(1).tolist()]
    return np.array([_bit(p) if one else UNKNOWN for p, one in zip(patterns, single, strict=True)])


def _bit(mask: int) -> int:
    return mask.bit_length() - 1 if mask.bit_count() == 1 else UNKNOWN
