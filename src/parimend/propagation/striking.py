"""One fault in one layer, for one run: a wrong output, or wrong weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from parimend.experiment import Faults, bit_patterns
from parimend.faults import FaultError, FaultList
from parimend.removable import Hook
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

    Raises:
        FaultError: if there cannot be such damage.
    """
    bits = np.full(samples, UNKNOWN)
    if isinstance(upset, Faults):
        damaged, faults = _damaged(model.get_submodule(layer), layer, upset, seed)
        if len(faults) == 1:
            bits[:] = _bit(int(faults.before[0] ^ faults.after[0]))
        return Run(lambda: functional_call(model, damaged, *inputs), 0, bits)
    rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    call = int(rng.integers(calls))

    def run() -> Any:
        module, axis, count = model.get_submodule(layer), axis_of(model.get_submodule(layer)), 0

        def struck(module: nn.Module, args: Any, y: Tensor) -> Tensor | None:
            nonlocal count
            count += 1
            if count - 1 != call:
                return None
            wrong = upset.strike(y, axis, rng)
            bits[:] = _single_bits(y, wrong)
            return wrong

        # Before the hook that watches what comes out.
        handle = module.register_forward_hook(Hook(struck), prepend=True)
        try:
            return model(*inputs[0], **inputs[1])
        finally:
            handle.remove()

    return Run(run, call, bits)


def _damaged(
    module: nn.Module, layer: str, faults: Faults, seed: int
) -> tuple[dict[str, Tensor], FaultList]:
    """Damaged copies of a module's own parameters, under the names that the model gives them."""
    copies = {
        name: parameter.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in module.named_parameters(layer, recurse=False)
    }
    words = bit_patterns(copies)
    if not words:
        raise FaultError(f"module {layer!r} has no weights of its own: name others with only=")
    # Seeds are 64 bits wide: layers of one shape are not to be struck at the same places.
    drawn = faults.draw(words, (seed << 32 | zlib.crc32(layer.encode())) % 2**64)
    drawn.apply_(words)
    devices = {name: p.device for name, p in module.named_parameters(layer, recurse=False)}
    return {name: copy.to(devices[name]) for name, copy in copies.items()}, drawn


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
