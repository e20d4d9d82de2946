"""Which weights a guard knows: they may be replaced, converted, or lent for one call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

Standing = Literal["known", "converted", "replaced", "computed"]
"""What became of a layer's weights. ``known``: nothing. ``converted``: the same parameters have
other values, as after ``model.half()`` or ``model.to(device)``. ``replaced``: there are others, as
after ``load_state_dict(..., assign=True)``, or while `torch.func.functional_call` runs.
``computed``: they are made anew for every call, from other parameters."""


Stored = Callable[[], Sequence[Tensor | None]]
"""Gives the tensors that hold weight and bias, as registered; None where there is none."""


def unusable(weight: Any, bias: Tensor | None) -> str:
    """Why nothing can be said of a layer with such weights; empty if something can."""
    if not isinstance(weight, Tensor):
        return "its weight is not a tensor (quantized?)"
    if is_lazy(weight):
        return "its weight has no shape yet: run the model once before"
    if type(weight) not in (Tensor, nn.Parameter):
        return f"its weight is a {type(weight).__name__}, and only plain tensors are understood"
    if weight.is_meta:
        return "its weight has no values yet: it is on the meta device"
    if weight.layout != torch.strided:
        return f"its weight is {weight.layout}"
    if not weight.is_floating_point() or weight.is_quantized:
        return f"its weight is {weight.dtype}"
    if weight.itemsize == 1:
        return f"{weight.dtype} is too coarse for its outputs to be checked"
    if not weight.numel():
        return "its weight has no elements: nothing is multiplied"
    if not all(map(_is_finite, (t for t in (weight, bias) if t is not None))):
        return "its weights are not all finite"
    return ""


def _is_finite(t: Tensor) -> bool:
    """Whether all elements are; in less time than looking at each, as NaN is the extreme of any."""
    return not t.numel() or bool(torch.stack(torch.aminmax(t.detach())).isfinite().all())


class Known:
    """Weights at one time, told by where they lie. Holds none of them.

    Args:
        stored: see `Stored`.
    """

    def __init__(self, stored: Sequence[Tensor | None]) -> None:
        self._seen = [None if t is None else _Seen(t) for t in stored]

    def standing(self, stored: Sequence[Tensor | None]) -> Standing:
        """What became of them, given what is registered now."""
        if self._seen[0] is None and stored[0] is None:
            return "computed"
        pairs = list(zip(self._seen, stored, strict=True))
        if any((seen is None) != (t is None) for seen, t in pairs):
            return "replaced"
        there = [(seen, t) for seen, t in pairs if seen is not None and t is not None]
        if any(seen.tensor() is not t for seen, t in there):
            return "replaced"
        return "known" if all(seen.unmoved(t) for seen, t in there) else "converted"


class _Seen:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self._dtype = tensor.dtype
        # As long as this reference lives, no other storage has its address.
        self._storage: Any = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def unmoved(self, tensor: Tensor) -> bool:
        return bool(
            type(tensor) in (Tensor, nn.Parameter)
            and tensor.layout == torch.strided
            and tensor.dtype == self._dtype
            and tensor.untyped_storage()._cdata == self._storage.cdata
        )
