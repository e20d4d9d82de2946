"""What a step of training, and the guard of a layer, ask of a device that is not the CPU:
operations, launches and waits, and of the host.

    python benchmarks/operations.py

Counted on the CPU, where the operations for other devices run as well: those of torch, views left
out; launches of Triton's kernels, which are not run; and what is read by the host, which waits
each time for all that the device has to do. The host's time for a layer is that without launches
of Triton's kernels, but with operations of torch on a few numbers.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is loaded

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import parimend as pm
from parimend.demo import Network
from parimend.guards.arithmetic import as_used
from parimend.guards.layer import LayerGuard
from parimend.kernels import (
    on,
    power_triton,
    product_triton,
    screen_triton,
    sparse_torch,
    stream_triton,
)
from parimend.stores.model import ModelTensors

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from cifar10_wrn import WideResNet

REPEATED = 300


def wrn() -> torch.nn.Module:
    return WideResNet(22, 1)


def last() -> torch.nn.Module:
    return wrn().to(memory_format=torch.channels_last)


def mlp() -> torch.nn.Module:
    return Network(784)


class Counted(TorchDispatchMode):
    """Counts what happens within it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.launches = self.reads = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += not function.is_view
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """In place of a kernel: the launch of one."""

        def launch(*args: Any, **kwargs: Any) -> None:
            self.launches += 1

        return launch

    def of(self, work: Callable[[], Any]) -> Counted:
        with (
            mock.patch.object(torch.Tensor, "cpu", self._reading(torch.Tensor.cpu)),
            mock.patch.object(torch.Tensor, "tolist", self._reading(torch.Tensor.tolist)),
            mock.patch.object(product_triton, "_multiply", self),
            mock.patch.object(stream_triton, "_add_up", self),
            self,
        ):
            work()
        return self

    def _reading(self, way: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def read(tensor: torch.Tensor) -> Any:
            self.reads += 1
            return way(tensor)

        return read


def _elsewhere(kernels: ModuleType) -> AbstractContextManager[Any]:
    """What asks for the kernels of a device gets these."""

    def chosen(operation: str, device: str | None = None) -> ModuleType:
        return on(operation) if device is None else kernels

    return mock.patch("parimend.kernels.on", chosen)


def projection(model: torch.nn.Module, only: list[str] | None) -> Counted:
    """Of one projection of a word, as after most steps. (By hand, and after 1, 2, 4, 8, ... steps,
    it looks at how large the weights have grown, too: one more read a word.)
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with _elsewhere(sparse_torch):
        constraint = pm.constrain_(model, optimizer, 100, only=only, every=1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1e-3 * torch.randn_like(parameter))
        return Counted().of(constraint._return_)


def healing(model: torch.nn.Module, errors: int | None) -> Counted:
    """What `heal_` adds to one step: the check before it, and the sums or copies after it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.ones(2, 784) if isinstance(model, Network) else torch.ones(2, 3, 32, 32)

    def step() -> None:
        model(x)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    step()  # makes the optimizer's state
    with (
        mock.patch.object(ModelTensors, "is_elsewhere", _is_large),
        _elsewhere(power_triton),
        mock.patch.object(power_triton, "works", return_value=True),
        mock.patch.object(product_triton, "_multiply", Counted()),
        mock.patch.object(stream_triton, "_add_up", Counted()),
        pm.heal_(model, optimizer, errors) as watch,
    ):
        step()
        found = Counted().of(step)
        assert not watch.events
    without = Counted().of(step)
    found.operations -= without.operations
    found.reads -= without.reads  # the optimizer reads its counters of steps
    return found


def guarding(layer: torch.nn.Module, x: torch.Tensor, impose: bool) -> tuple[int, int, float]:
    """What the guard of a layer adds to a call in eager mode: operations, launches, microseconds of
    the host.
    """
    model = torch.nn.Sequential(layer).bfloat16()
    x = x.bfloat16()
    with torch.no_grad(), _elsewhere(screen_triton), ExitStack() as patched:
        replace = partial(mock.patch.object, screen_triton)
        patched.enter_context(replace("works", return_value=True))
        counted = Counted()
        for kernel in ("_check_rows", "_check_products", "_check_planes"):
            patched.enter_context(replace(kernel, counted))
        y, alarms = model(x), torch.zeros(2, dtype=torch.int32)
        patched.enter_context(pm.guard_(model, impose=impose))
        guard = next(h for h in layer._forward_hooks.values() if isinstance(h, LayerGuard))

        def check() -> None:
            guard.checks_in(y.dtype).suspicious(y, as_used(x, y), alarms[1])

        check()
        counted.launches = 0
        asked = counted.of(check).operations, counted.launches
        times = []
        for _ in range(REPEATED):
            begin = time.perf_counter()
            for _ in range(REPEATED):
                check()
            times.append((time.perf_counter() - begin) / REPEATED)
    return *asked, 1e6 * min(times)


def _is_large(store: ModelTensors, part: Any) -> bool:
    """Everything but the optimizer's counters of steps, which it keeps on the CPU."""
    return store.held[part.name].numel() > 1


def main() -> None:
    print("| | operations | launches of compiled kernels | waits for reads |\n|---|---|---|---|")
    for what, count, model, how in (
        ("projection, 784-512-10, output layer", projection, mlp, ["head.*"]),
        ("projection, 784-512-10, all layers", projection, mlp, None),
        ("projection, WRN-22, all layers", projection, wrn, None),
        ("the same, channels last", projection, last, None),
        ("`heal_`, 784-512-10 with Adam", healing, mlp, 100),
        ("`heal_`, WRN-22 with Adam", healing, wrn, 100),
        ("the same, channels last", healing, last, 100),
        ("the same, with copies", healing, last, None),
    ):
        found = count(model(), how)
        print(f"| {what} | {found.operations} | {found.launches} | {found.reads} |", flush=True)
    print(
        "\n| guard of | operations | launches of compiled kernels | host, us |\n|---|---|---|---|"
    )
    image = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    for what, layer, x in (
        ("nn.Linear", torch.nn.Linear(16, 16), torch.randn(8, 16)),
        ("nn.Conv2d, channels last", torch.nn.Conv2d(16, 16, 3, padding=1), image),
    ):
        for how, impose in (("imposed", True), ("kept", False)):
            operations, launches, host = guarding(copy.deepcopy(layer), x, impose)
            print(f"| {what}, {how} | {operations} | {launches} | {host:.1f} |")


if __name__ == "__main__":
    main()
