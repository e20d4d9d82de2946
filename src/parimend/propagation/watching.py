"""What goes into the modules of a model and comes out of them: clean once, then damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parimend.errors import FaultError
from parimend.layers.nesting import unpack_
from parimend.removable import Hook, Removable
from parimend.upsets import first_tensor


class Site(NamedTuple):
    """One call of one module in a run of the model."""

    layer: str
    call: int


@dataclass
class Clean:
    """What a site saw in the clean run: ``kind`` is the type of the module."""

    kind: str
    input: Tensor | None
    output: Tensor


@dataclass
class Passed:
    """Relative errors of one run at a site, (samples,) float64; of the input, if it is known."""

    input: Tensor | None
    output: Tensor


class Watch(Removable):
    """Hooks on all modules of a model, which keep one clean run and compare others with it.

    A container that hands on what its last child gave is not a site of its own; the model always
    is. Neither is a module whose output is no floating-point tensor with samples along its first
    axis: `left_out` names it.

    Args:
        model: to watch; only hooks are added, and `remove` takes them off.
        samples: in every run.

    Attributes:
        sites: of the clean run, in the order in which the calls ended.
        left_out: names of modules that were called and are no sites.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        self.sites: dict[Site, Clean] = {}
        self.left_out: list[str] = []
        self._samples = samples
        self._passed: dict[Site, Passed] | None = None
        self._begin()
        modules = dict(model.named_modules())
        for name, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise FaultError(
                    f"{f'module {name!r}' if name else 'the model'} is TorchScript, which cannot "
                    "be watched: give the module that it was made of"
                )
        self._hooks: list[tuple[nn.Module, Hook]] = []
        self._packs = unpack_(model)
        try:
            for name, module in modules.items():
                before, after = Hook(self._before), Hook(partial(self._after, name))
                self._hooks += [(module, before), (module, after)]
                module.register_forward_pre_hook(before, with_kwargs=True)
                module.register_forward_hook(after)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks off."""
        for module, hook in self._hooks:
            hook.remove_from(module)
        self._packs()

    def clean(self, forward: Callable[[], Any]) -> Any:
        """Run, keep copies of what all modules see, and give what the model gives."""
        self._passed = None
        self._begin()
        return forward()

    def damaged(self, forward: Callable[[], Any]) -> tuple[Any, dict[Site, Passed]]:
        """Run, and compare with the clean run: what the model gives, and errors at the sites."""
        self._passed = {}
        self._begin()
        return forward(), self._passed

    def _begin(self) -> None:
        self._calls: Counter[str] = Counter()
        # Modules whose calls have not ended, and their inputs: they may change these in place.
        self._inputs: list[tuple[nn.Module, Tensor | None]] = []
        self._last: tuple[Any, int] = (None, 0)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = first_tensor((args, kwargs))
        kept = x.detach().clone() if x is not None and self._fits(x) else None
        self._inputs.append((module, kept))

    def _after(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        of, x = self._inputs.pop()
        while of is not module:  # a call that an error has ended, which the model caught
            of, x = self._inputs.pop()
        y = first_tensor(output)
        site = Site(name, self._calls[name])
        self._calls[name] += 1
        if self._passed is None:
            self._keep(site, module, x, y)
        elif site in self.sites and y is not None:
            clean = self.sites[site]
            entered = None if x is None or clean.input is None else _error(x, clean.input)
            self._passed[site] = Passed(entered, _error(y.detach(), clean.output))

    def _keep(self, site: Site, module: nn.Module, x: Tensor | None, y: Tensor | None) -> None:
        if y is None or not self._fits(y):
            if site.layer not in self.left_out:
                self.left_out.append(site.layer)
            return
        # The same tensor, unless it was changed in place since.
        mark = (y, 0 if y.is_inference() else y._version)
        handed_on = mark[0] is self._last[0] and mark[1] == self._last[1]
        self._last = mark
        if site.layer and handed_on and next(module.children(), None) is not None:
            return
        self.sites[site] = Clean(type(module).__name__, x, y.detach().clone())

    def _fits(self, y: Tensor) -> bool:
        return y.is_floating_point() and y.dim() > 0 and len(y) == self._samples


def classes(output: Any) -> Tensor:
    """The answer of a classifier: the largest element along the last axis of its first tensor.

    Args:
        output: what the model gives.

    Returns:
        (samples, ...) int64; -1 where an element is NaN or infinite.

    Raises:
        FaultError: if there is no tensor in it.

    Example:
        >>> classes(torch.tensor([[0.1, 0.9], [float("nan"), 0.0]])).tolist()
        [1, -1]
    """
    found = first_tensor(output)
    if found is None:
        raise FaultError(
            f"the model gives a {type(output).__name__} without a tensor: give answer="
        )
    return found.argmax(-1).masked_fill(~found.isfinite().all(-1), -1)


def _error(found: Tensor, clean: Tensor) -> Tensor:
    """||found - clean|| / ||clean|| of every sample: 0 only if equal, infinite for NaN. What is
    infinite or NaN in the clean run, too, is no error, and has no size.
    """
    if found.shape != clean.shape:
        return torch.full((len(clean),), torch.inf, dtype=torch.float64, device=clean.device)
    a, b = (each.reshape(len(clean), -1).to(torch.float64) for each in (found, clean))
    same = (a == b) | (a.isnan() & b.isnan())
    distance = torch.linalg.vector_norm(torch.where(same, 0.0, a - b), dim=1)
    size = torch.linalg.vector_norm(torch.where(b.isfinite(), b, 0.0), dim=1)
    # Squares of the least numbers are none.
    relative = (distance / size).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(same.all(1), 0.0, relative).nan_to_num(nan=torch.inf, posinf=torch.inf)
