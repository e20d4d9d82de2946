"""The guard of one layer: it compares P y with what it must be, after every call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from parimend.codes.output import Output
from parimend.guards import graph
from parimend.guards.action import is_wrong, settle
from parimend.guards.arithmetic import as_used
from parimend.guards.checks import Checks, stops_in
from parimend.guards.journal import GuardEvent, Journal, Parameters
from parimend.guards.known import Known, Standing, unusable
from parimend.guards.observing import CHECKED, is_exporting, is_raised, observable, unseen
from parimend.removable import Hook, foreign_forward, wrap_forward_
from parimend.stores.lent import is_lent

if TYPE_CHECKING:
    from parimend.guards.sites import ProductSite

_ON_ALL = torch.nn.modules.module._global_forward_hooks
"""Hooks that are called after all modules, and before a module's own."""


class LayerGuard(Hook):
    """Checks every output of one layer.

    Args:
        site: the layer.
        code: P, for every block of outputs.
        journal: shared by the guards of a model.
        number: of the layer among the guarded ones.
    """

    def __init__(self, site: ProductSite, code: Output, journal: Journal, number: int) -> None:
        super().__init__(self.inspect)
        self.site = site
        self.name, self.product, self.parameters = site.name, site.product, site.parameters
        self.code = code
        self.journal = journal
        self.number = number
        self._constants: dict[tuple[torch.dtype, torch.device], graph.Constants] = {}
        self._calls = itertools.count()
        self._key = graph.admit(self)
        self.renew()

    def renew(self) -> None:
        """Takes over the weights as they are now."""
        self.checks = Checks(self.product, self.code, *self.parameters())
        self._cast: dict[torch.dtype, Checks] = {}
        stored = self.site.stored()
        self._known = Known(stored)
        self._shape = None if stored[0] is None else stored[0].shape
        self._told = False
        for (dtype, device), kept in self._constants.items():
            for old, new in zip(kept, self._fresh(dtype, device), strict=True):
                old.copy_(new)

    def constants(self, dtype: torch.dtype, device: torch.device) -> graph.Constants:
        """What graphs need for outputs of a dtype on a device; kept up to date."""
        key = dtype, device
        if key not in self._constants:
            self._constants[key] = self._fresh(dtype, device)
        return self._constants[key]

    def _fresh(self, dtype: torch.dtype, device: torch.device) -> graph.Constants:
        checks, like = self.checks_in(dtype), torch.empty(0, dtype=dtype, device=device)
        wide, limit = torch.promote_types(dtype, torch.float32), checks.threshold(like)
        squares = torch.tensor((limit.tau**2, limit.least**2), dtype=wide, device=device)
        tensors = (*(checks.tensor(name, like, wide) for name in ("P", "PW", "Pb")), squares)
        with torch.inference_mode(False):  # they are written to outside of that, too
            # Parameters: compilers never take the sizes of these for ones that may change.
            P, PW, Pb, squares = (
                nn.Parameter(torch.empty_like(t).copy_(t), requires_grad=False) for t in tensors
            )
        return P, PW, Pb, squares

    def standing(self) -> Standing:
        """What became of the weights that the guard knows."""
        standing = self._known.standing(self.site.stored())
        if standing in ("replaced", "computed"):
            weights = self.parameters()
            if not unusable(*weights) and self.checks.hold_for(*weights):
                return "known"
        return standing

    def misfit(self) -> str:
        """Why the weights that the layer has now cannot be taken over; empty if they can."""
        weights = self.parameters()
        if reason := unusable(*weights):
            return reason
        was, now = tuple(self.checks.shape), tuple(weights[0].shape)
        return "" if now == was else f"its weight has the shape {now}, and had {was}"

    def checks_in(self, dtype: torch.dtype) -> Checks:
        """The checks of outputs of a dtype: if weights are finer, the layer has cast them first."""
        if dtype.itemsize >= self.checks.weight_dtype.itemsize:
            return self.checks
        if dtype not in self._cast:
            weights = self.parameters()
            # Replaced, or damaged before the first run.
            if unusable(*weights) or not self.checks.hold_for(*weights):
                return self.checks
            weights = _cast(weights, dtype)
            usable = not unusable(*weights)  # some may be too large for the dtype
            self._cast[dtype] = Checks(self.product, self.code, *weights) if usable else self.checks
        return self._cast[dtype]

    def floor(self) -> float:
        """Size of the smallest single error that is sure to be seen now, in units of the rms output
        of a block.
        """
        weight: Tensor = self.parameters()[0]
        kind, dtype = weight.device.type, weight.dtype
        if dtype == torch.float32 and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        like = torch.empty(0, dtype=dtype, device=weight.device)
        return self.checks_in(dtype).floor(like)

    def retire(self) -> None:
        """From now on graphs that were compiled with this guard pass it by."""
        graph.dismiss(self._key)

    def inspect(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """Checks outputs, and corrects them in place if the policy says so.

        Args:
            y: outputs.
            x: inputs.
            parameters: gives weight and bias, if they are needed.
        """
        call, latch = next(self._calls), self.journal.latch
        if call % self.journal.every and not (latch and latch.judges):
            return
        with unseen():
            self._look(call, y, x, parameters)

    def _look(self, call: int, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        latch = self.journal.latch
        if not observable(y) or x.layout is not torch.strided:
            self.journal.passed[self.name] += 1
        elif self._is_reshaped():
            self.pass_by(call)
        elif y.numel():
            checks, used = self.checks_in(y.dtype), as_used(x, y)
            place = latch.place(self.number, y.device) if latch else None
            if place is not None and waits_for(y):
                checks.suspicious(y, used, place)
            elif is_raised(checks.suspicious(y, used)):
                if place is None:
                    self._settle(call, y, x, parameters)
                elif self._is_wrong(call, y, x, parameters):  # nobody has waited to know it
                    place.fill_(1)

    def answer(self, alarm: Tensor, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """`inspect` after a graph has checked the outputs."""
        call = next(self._calls)
        if is_raised(alarm) and not call % self.journal.every:
            self._settle(call, y, x, parameters)

    def judge(self, alarm: Tensor, y: Tensor, x: Tensor, parameters: Parameters) -> bool:
        """Whether outputs are wrong, after a graph whose alarms wait has checked them."""
        call = next(self._calls)
        return is_raised(alarm) and self._is_wrong(call, y, x, parameters)

    def _is_wrong(self, call: int, y: Tensor, x: Tensor, parameters: Parameters) -> bool:
        """Whether outputs that were stopped are wrong; they stay as they are."""
        used = partial(_used, parameters, y.dtype)
        with torch.no_grad():
            return self._is_up_to_date(call) and is_wrong(
                self, self.checks_in(y.dtype), y, as_used(x, y), used
            )

    def _settle(self, call: int, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        latch, used, told = self.journal.latch, partial(_used, parameters, y.dtype), True
        try:
            with torch.no_grad():
                if self._is_up_to_date(call):
                    checks = self.checks_in(y.dtype)
                    told = settle(self, checks, call, y, as_used(x, y), used)
        finally:  # what raises something has told it before
            if latch:
                latch.judged(self.name, told)

    def _is_up_to_date(self, call: int) -> bool:
        """Whether the layer has the weights that the guard knows, or made it know by itself.

        Asked only when something looks wrong: as long as other weights pass the same checks, all
        is well.
        """
        standing = self.standing()
        if standing == "known":
            return True
        if standing == "converted" and not unusable(*self.parameters()):
            self.renew()
            return True
        self.pass_by(call, standing)
        return False

    def _is_reshaped(self) -> bool:
        """Whether weights of another shape have taken the place of those that the guard knows: then
        outputs are not what its checks are for.
        """
        weight = self.site.stored()[0]
        return weight is not None and weight.shape != self._shape

    def pass_by(self, call: int = -1, standing: Standing = "replaced") -> None:
        """Notes a call that cannot be checked, and tells once that the layer has other weights."""
        self.journal.passed[self.name] += 1
        if not (self._told or standing in ("known", "computed") or is_lent()):
            self._told = True
            self.journal.note([GuardEvent("replaced", call, layer=self.name)])

    def watch(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """`inspect`, also inside a graph that is being compiled."""
        if not torch.compiler.is_compiling():
            self.inspect(y, x, parameters)
        elif not is_exporting() and y.dtype in CHECKED:  # what is exported runs without guards
            replaced = parameters()[0].shape != self.checks.shape
            if replaced or type(y) is not Tensor:  # nested, or a subclass that does as it likes
                graph.pass_by(self._key, "replaced" if replaced else "known")
                return
            used = as_used(x.detach(), y)
            constants = graph.constants(self._key, y.dtype, y.device)
            imposed = self.checks_in(y.dtype).imposed  # made with the constants: only looked up
            stops = stops_in(self.product, y.detach(), used, imposed, *constants)
            latch = self.journal.latch
            if latch is None or latch.traced is None:
                graph.answer_(stops.any(), y, x, *parameters(), self._key)
            else:
                if not waits_for(y):
                    stops = graph.judge(stops.any(), y, x, *parameters(), self._key)
                latch.traced.append((self.number, stops))

    def attach_(self, module: nn.Module) -> Callable[[], None]:
        """Guards a module that is called.

        A hook does it in eager mode. Compiled graphs do not look for new hooks, and are shared by
        modules that differ in hooks alone, but they do look for a forward of the module's own.

        Returns:
            What undoes it.
        """
        self._module = module
        hooks: Any = module._forward_hooks
        removers = ExitStack()
        removers.callback(module.register_forward_hook(self, with_kwargs=True, prepend=True).remove)
        # Other people's hooks may change the outputs as they like; ours have struck the layer.
        for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)][:0:-1]:
            hooks.move_to_end(key, last=False)
        removers.callback(wrap_forward_(module, self._forward))
        return removers.close

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any = None
    ) -> None:
        """The hook."""
        # A module that took the place of this one may have taken over its hooks, in its own way.
        if torch.compiler.is_compiling() or module is not self._module:
            return
        if self._comes_first():
            self.inspect(output, _input(args, kwargs), self.parameters)

    def _comes_first(self) -> bool:
        """Whether the hook sees outputs before others may change them, who may wrap the forward, or
        have hooks on all modules or before this one. Else they are looked at in `_forward`.
        """
        if _ON_ALL or foreign_forward(self._module) is not None:
            return False
        for hook in tuple(self._module._forward_hooks.values()):  # other threads may add some
            if hook is self:
                break
            if not isinstance(hook, Hook):
                return False
        return True

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What computes the layer."""
        return function(*args, **kwargs)

    def _forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = self.run(forward, *args, **kwargs)
        if torch.compiler.is_compiling() or not self._comes_first():
            self.watch(y, _input(args, kwargs), self.parameters)
        return y


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    return x


def waits_for(y: Tensor) -> bool:
    """Whether the processor waits where it reads what a device has computed."""
    return not y.is_cpu


def _used(parameters: Parameters, dtype: torch.dtype) -> tuple[Any, Any]:
    """Weight and bias as the layer multiplied them."""
    return _cast(parameters(), dtype)


def _cast(parameters: tuple[Any, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    """Weight and bias in a dtype, if they are finer."""
    weight, bias = parameters
    if dtype.itemsize >= weight.itemsize:
        return weight, bias
    return weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
