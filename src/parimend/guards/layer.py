"""The guard of one layer: it compares P y with what it must be, after every call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parimend.codes.output import Output
from parimend.guards import graph
from parimend.guards.action import settle
from parimend.guards.checks import Checks
from parimend.guards.journal import GuardEvent, Journal, Parameters
from parimend.guards.known import Known, Standing, Stored, is_lent, unusable
from parimend.guards.observing import is_exporting, observable
from parimend.guards.threshold import Threshold
from parimend.layers.product import Product
from parimend.removable import Hook, foreign_forward, wrap_forward_


class LayerGuard(Hook):
    """Checks every output of one layer.

    Args:
        name: of the layer.
        product: how it multiplies.
        code: P.
        journal: shared by the guards of a model.
        parameters: gives weight and bias, as they are now.
        stored: gives the tensors that hold them.
    """

    def __init__(
        self,
        name: str,
        product: Product,
        code: Output,
        journal: Journal,
        parameters: Parameters,
        stored: Stored,
    ) -> None:
        super().__init__(self.inspect)
        self.name = name
        self.product = product
        self.code = code
        self.journal = journal
        self.parameters = parameters
        self._stored = stored
        self._calls = itertools.count()
        self._key = graph.admit(self)
        self.renew()

    def renew(self) -> None:
        """Takes over the weights as they are now."""
        self.checks = Checks(self.product, self.code, *self.parameters())
        self._known = Known(self._stored())
        self._told = False

    def standing(self) -> Standing:
        """What became of the weights that the guard knows."""
        standing = self._known.standing(self._stored())
        if standing in ("replaced", "computed"):
            weights = self.parameters()
            if not unusable(*weights) and self.checks.hold_for(*weights):
                return "known"
        return standing

    def threshold(self, y: Any) -> Threshold:
        """The threshold for outputs like ``y``, as PyTorch is set now."""
        return self.checks.threshold(y)

    def floor(self) -> float:
        """Size of the smallest single error that is sure to be seen, in units of the rms output."""
        return self.checks.floor(self.parameters()[0])

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
        call = next(self._calls)
        if call % self.journal.every:
            return
        if not observable(y) or x.layout is not torch.strided:
            self.journal.passed[self.name] += 1
        elif y.numel() and self.checks.suspicious(y, x):
            with torch.no_grad():
                if self._is_up_to_date(call):
                    settle(self, call, y, x, parameters)

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
        self.journal.passed[self.name] += 1
        if not (self._told or standing == "computed" or is_lent()):
            self._told = True
            self.journal.events.append(GuardEvent("replaced", call, layer=self.name))
        return False

    def watch(self, y: Tensor, x: Tensor, parameters: Parameters) -> None:
        """`inspect`, also inside a graph that is being compiled."""
        if not torch.compiler.is_compiling():
            self.inspect(y, x, parameters)
        elif not is_exporting():  # what is exported runs without guards
            graph.inspect_(y, x, *parameters(), self._key)

    def attach_(self, module: nn.Module) -> Callable[[], None]:
        """Guards a module that is called.

        A hook does it in eager mode. Compiled graphs do not look for new hooks, and are shared by
        modules that differ in hooks alone, but they do look for a forward of the module's own.

        Returns:
            What undoes it.
        """
        self._module = module
        hooks: Any = module._forward_hooks
        handle = module.register_forward_hook(self, with_kwargs=True, prepend=True)
        # Other people's hooks may change the outputs as they like; ours have struck the layer.
        for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)][:0:-1]:
            hooks.move_to_end(key, last=False)
        unwrap = wrap_forward_(module, self._forward)

        def remove() -> None:
            handle.remove()
            unwrap()

        return remove

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any = None
    ) -> None:
        """The hook."""
        # A module that took the place of this one may have taken over its hooks, in its own way.
        if torch.compiler.is_compiling() or module is not self._module:
            return
        if foreign_forward(module) is None:
            self.inspect(output, _input(args, kwargs), self.parameters)

    def _forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = forward(*args, **kwargs)
        # What wraps it again may change what comes out, so it is looked at before.
        if torch.compiler.is_compiling() or foreign_forward(self._module) is not None:
            self.watch(y, _input(args, kwargs), self.parameters)
        return y


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    return x
