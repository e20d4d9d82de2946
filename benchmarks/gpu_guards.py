"""The guards of `benchmarks/gpu.py`: what they cost a layer and a network, and whether they see."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from guard_models import MiniLM
from guard_peers import TwiceUnread, WideChecksum
from training import wrn

import parimend as pm
from parimend.experiment import Rate
from parimend.kernels import screen_triton

WAYS: dict[str, dict[str, Any]] = {
    "kept": {},
    "kept, deferred": {"deferred": True},
    "kept, deferred, 16 blocks": {"deferred": True, "blocks": 16},
    "imposed, deferred": {"deferred": True, "impose": True},
}
"""Options of `parimend.guard_`."""
HOW = ("eager", "graph", "compiled", "compiled graph")
"""How a forward is run."""


class Bench(Protocol):
    """What runs the steps: see `gpu.Bench`."""

    device: torch.device
    is_gpu: bool
    found: dict[str, Any]

    def wait(self) -> None: ...

    def seconds(self, work: Callable[[], Any], rounds: int = ...) -> float: ...


class Guards:
    """Steps of a benchmark."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.device, self.is_gpu = bench, bench.device, bench.is_gpu

    def layer(
        self, dtype: torch.dtype, tf32: bool = False, hows: tuple[str, ...] = HOW
    ) -> dict[str, Any]:
        """What guards cost a linear layer in one arithmetic, beside ABFT and running twice."""
        width, batches = (4096, (256, 4096)) if self.is_gpu else (64, (32,))
        torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
        try:
            layer = torch.nn.Linear(width, width).to(self.device, dtype).eval()
            found = self.bench.found
            found["triton"] = screen_triton.works(self.device)
            for way, options in WAYS.items():
                with pm.guard_(torch.nn.Sequential(copy.deepcopy(layer)), **options) as guards:
                    found[f"floor, {way}"] = float(f"{guards.floor['0']:.2g}")
            for batch in batches:
                x = torch.randn(batch, width, device=self.device, dtype=dtype)
                model = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
                peers = {
                    way: torch.nn.Sequential(peer, torch.nn.ReLU())
                    for way, peer in (("abft", WideChecksum(layer)), ("twice", TwiceUnread(layer)))
                }
                last = batch == batches[-1]
                for how in hows if last else hows[:2]:
                    found[f"{batch}, {how}"] = self.guarded(how, model, lambda x=x: x, WAYS, peers)
            return found
        finally:
            torch.backends.cuda.matmul.fp32_precision = "ieee"

    def screens(self) -> dict[str, Any]:
        """The kernels alone, one after the other in a CUDA graph: microseconds of each, with what
        they read in the GPU's cache as far as it fits, and of `torch.sum` of the outputs.
        """
        shapes = (4096, 4096), (1 << 17, 128), (1 << 15, 256), (1 << 13, 512)
        for dtype in (torch.bfloat16, torch.float32):
            for rows, n in shapes if self.is_gpu else ((6, 40),):
                y, x = torch.randn(2, rows, n, device=self.device, dtype=dtype)
                P, PW = torch.ones(2, 1, n, device=self.device)
                none, Pb = torch.empty(0, 1, device=self.device), torch.ones(1, device=self.device)
                image = y.T.contiguous()[None]
                place, huge = torch.zeros((), dtype=torch.int32, device=self.device), (1e30, 0.0)
                row = partial(screen_triton.any_suspicious_row, y, P, none, *huge, place)
                both = partial(screen_triton.any_suspicious_product, y, P, x, PW, Pb, *huge, place)
                plane = screen_triton.any_suspicious_plane
                planes = partial(plane, image, P, none[..., None], *huge, place)
                works = {"imposed": row, "kept": both, "planes": planes, "torch.sum": y.sum}
                self.bench.found[f"{str(dtype)[6:]} {rows} x {n}, us"] = {
                    name: round(1e6 * self.alone(work), 2) for name, work in works.items()
                }
        return self.bench.found

    def alone(self, work: Callable[[], Any], times: int = 20) -> float:
        """Seconds of something on the device, without what launching it takes."""
        if not self.is_gpu:
            return self.bench.seconds(work)
        work()
        self.bench.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                work()
        return self.bench.seconds(graph.replay) / times

    def network(self, name: str) -> dict[str, Any]:
        """What guards cost a whole network in bfloat16: of random weights, as wide as trained."""
        if name == "MiniLM":
            model, batch = MiniLM(), (128, 128) if self.is_gpu else (1, 8)
            inputs = partial(torch.randint, 30000, batch, device=self.device)
        else:
            width, batch = (8, 128) if self.is_gpu else (1, 1)
            model = wrn(width)[0]
            inputs = partial(torch.randn, batch, 3, 32, 32, device=self.device)
        model = model.to(self.device, torch.bfloat16).eval()

        def draw() -> torch.Tensor:
            x = inputs()
            return x.bfloat16().to(memory_format=torch.channels_last) if x.ndim == 4 else x

        # In the interpreter a whole network takes minutes.
        ways = {way: WAYS[way] for way in WAYS if "16" not in way}
        if not self.is_gpu:
            ways = {"kept": {}}
        for how in HOW if self.is_gpu else HOW[:1]:
            self.bench.found[how] = self.guarded(how, model, draw, ways, {})
        return self.bench.found

    def guarded(
        self,
        how: str,
        model: torch.nn.Module,
        draw: Callable[[], torch.Tensor],
        ways: dict[str, dict[str, Any]],
        peers: dict[str, torch.nn.Module],
    ) -> dict[str, Any]:
        """Overheads in % of a forward that is waited for, and alarms of healthy runs.

        Args:
            how: eager, compiled, and either as a CUDA graph.
            model: to be guarded; a copy of it is.
            draw: gives inputs.
            ways: options of `parimend.guard_`, by name.
            peers: what does the same otherwise.
        """
        if "graph" in how and not self.is_gpu:
            return {}
        torch._dynamo.reset()
        rounds, alarms, n, seen, struck = 40 if self.is_gpu else 2, 0, 0, 0, 0
        found: dict[str, Any] = {"us": 0.0}
        with torch.inference_mode(False), torch.no_grad():
            plain, _ = ready(how, model, draw())
            for way, options in ways.items():
                if "graph" in how and not options.get("deferred"):
                    continue
                if "compiled" in how and "blocks" in options:
                    continue  # compiling takes seconds
                guarded = copy.deepcopy(model)
                with pm.guard_(guarded, **options) as guards:
                    run, x = ready(how, guarded, draw())
                    settle = guards.settle if "graph" in how else lambda: True

                    def work(run: Callable[[], Any] = run, settle: Any = settle) -> bool:
                        run()
                        return bool(settle())

                    found["us"], found[f"{way} %"] = self.added(plain, work, rounds)
                    for _ in range(rounds):
                        x.copy_(draw())
                        work()
                    alarms += len(guards.events) + sum(guards.passed.values())
                    n += 2 * rounds * len(x)
                    before = len(guards.events)
                    strike(guarded)
                    seen += not work() or len(guards.events) > before
                    struck += 1
            for way, peer in peers.items():
                run, _ = ready(how, peer, draw())
                found["us"], found[f"{way} %"] = self.added(plain, run, rounds)
        found["alarms"] = f"{alarms} of {n}, at most {Rate(alarms, n).upper():.1e}"
        return found | {"a wrong weight seen": f"{seen} of {struck}"}

    def added(
        self, plain: Callable[[], Any], other: Callable[[], Any], rounds: int
    ) -> tuple[float, float]:
        """Microseconds of one, and what the other takes more, in %: medians, taking turns."""
        times: dict[Callable[[], Any], list[float]] = {plain: [], other: []}
        plain(), other()
        for _ in range(rounds):
            for work, taken in times.items():
                self.bench.wait()
                began = time.perf_counter()
                work()
                self.bench.wait()
                taken.append(time.perf_counter() - began)
        first, second = (statistics.median(taken) for taken in times.values())
        return round(1e6 * first, 1), round(100 * (second / first - 1), 1)


def ready(
    how: str, model: torch.nn.Module, x: torch.Tensor
) -> tuple[Callable[[], Any], torch.Tensor]:
    """A forward on an input of its own, which may be written to."""
    x = x.clone(memory_format=torch.preserve_format)
    if "compiled" in how:
        backend = "inductor" if x.is_cuda else "aot_eager"
        model = torch.compile(model, backend=backend, fullgraph=True)
    if "graph" in how:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(x)
        return lambda: (graph.replay(), x), x  # which must outlive the graph that reads it
    return partial(model, x), x


def strike(model: torch.nn.Module) -> None:
    """Lets every output of one channel of the first layer be wrong: of a guarded one, always."""
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    weight = next(m.weight for m in model.modules() if isinstance(m, layers))
    weight.data[(0,) * weight.ndim] += 100.0
