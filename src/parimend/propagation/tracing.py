"""The loop: one clean run, then one run for every fault."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parimend import names
from parimend.arguments import flag, require, require_iterable, whole_number
from parimend.errors import FaultError, ParimendError
from parimend.experiment import Faults
from parimend.layers.registry import declared_product
from parimend.names import listed
from parimend.propagation.reach import has_buffers, note_of
from parimend.propagation.records import Trace
from parimend.propagation.striking import Arguments, Fault, strike
from parimend.propagation.summing import Rows, Runs, passing, summed
from parimend.propagation.watching import Passed, Site, Watch, classes
from parimend.stores.buffers import Buffers
from parimend.stores.model import unwrapped
from parimend.upsets import Upset, first_tensor
from parimend.warning import warn

_SEEDS = 1 << 32
_UPSETS = "Upset or Faults, or a list of them"


@dataclass(frozen=True)
class _Subject:
    """What is the same in all runs; ``right`` is the answer of the clean one."""

    model: nn.Module
    watch: Watch
    own: Buffers
    arguments: Arguments
    samples: int
    answer: Callable[[Any], Tensor]
    right: Tensor
    buffers: bool


def trace(
    model: nn.Module,
    inputs: Any,
    upsets: Fault | Sequence[Fault],
    *,
    seeds: Iterable[int] = range(20),
    only: str | Sequence[str] | None = None,
    answer: Callable[[Any], Tensor] = classes,
    buffers: bool = False,
) -> Trace:
    """Strike layer after layer, and follow the errors to the answer.

    One clean run, one to see that it repeats, and one for every layer, kind of fault and seed. A
    fault in computation strikes each input on its own; one in weights is the same for all of them,
    as a stuck output or a tile is, and intervals know it. Copies of what goes into every module and
    comes out of it are kept for one run, on the device of the model: give few inputs to a large
    model.

    Nothing of the model is changed: wrong weights are copies that a run is given, what a run writes
    into buffers is undone, and all hooks are removed, also after an error.

    Args:
        model: in evaluation mode; samples along the first axis of what its modules give. Whatever
            its modules add up or multiply by themselves shows in the modules around them.
        inputs: a tensor, a tuple of arguments, or a mapping of keywords; samples along the first
            axis of the first tensor in it.
        upsets: kinds of faults: `parimend.upsets.Upset` in computed outputs,
            `parimend.experiment.Faults` in weights and biases: the parameters of a module itself.
        seeds: of the faults, below 2^32, each of them once; from six on there are intervals of
            medians.
        only: shell patterns of modules to strike; by default all linear layers and convolutions
            that are called, and with ``buffers`` the modules that have some of their own.
        answer: of what the model gives: (samples, ...); an answer changes where any element does,
            and NaN is the same as NaN.
        buffers: let faults in weights strike the buffers of modules, too; those of truth values
            byte by byte. Else a warning, which `Trace.note` keeps, says if most weights are there;
            statistics of batch normalization are no weights.

    Raises:
        FaultError: if the model is in training mode, has no weights yet, does not run on the inputs
            or computes other things each time, or after a fault, if there is no answer of a run, or
            not the same one each time, if there is nothing to strike or no such damage, or a
            pattern matches no module.
        SpecError: for arguments of another type.
        WordError: if a tensor to strike has no plain memory of its own; names it.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
        >>> found = trace(model, torch.ones(3, 8), [Upset("bitflip"), Faults("bitflip", 1)])
        >>> [(each.layer, each.upset, each.faults) for each in found.struck]
        [('0', 'bitflip', 60), ('0', 'weights: bitflip x 1', 60),
         ('2', 'bitflip', 60), ('2', 'weights: bitflip x 1', 60)]
        >>> [(each.layer, each.kind) for each in found.struck[0].passages]
        [('0', 'Linear'), ('1', 'ReLU'), ('2', 'Linear'), ('', 'Sequential')]
    """
    model = unwrapped(model)
    require(model, "model", "a torch.nn.Module", nn.Module)
    buffers = flag(buffers, "buffers")
    kinds = [upsets] if isinstance(upsets, Upset | Faults) else upsets
    require(kinds, "upsets", _UPSETS, list, tuple)
    for kind in kinds:
        require(kind, "upsets", _UPSETS, Upset, Faults)
    require_iterable(seeds, "seeds", "whole numbers, such as range(20)")
    chosen = [whole_number(seed, "a seed", least=0) for seed in seeds]
    arguments, samples = _arguments(inputs)
    if not kinds or not chosen:
        raise FaultError("there is nothing to do: give at least one kind of fault and one seed")
    if max(chosen) >= _SEEDS:
        raise FaultError(f"seeds are below 2^32, as layers differ in the rest, not {max(chosen)}")
    if len(set(chosen)) < len(chosen):
        raise FaultError("a seed that is given twice would count one fault as two")
    if nothing := [kind for kind in kinds if isinstance(kind, Faults) and kind.count == 0]:
        raise FaultError(f"{nothing[0]} strike nothing: give a count of 1 or more")
    stored = any(isinstance(kind, Faults) for kind in kinds)
    if buffers and not stored:
        raise FaultError("buffers=True is for faults in weights: give Faults among the upsets")
    if any(module.training for module in model.modules()):
        raise FaultError("the model is in training mode: call model.eval() first")
    _require_values(model)
    with torch.no_grad(), _eager(), Watch(model, samples) as watch:
        own = Buffers(model)
        with _told("the model does not run on these inputs"), own.kept():
            given = watch.clean(lambda: model(*arguments[0], **arguments[1]))
        if Site("", 0) not in watch.sites:
            raise FaultError(
                "the model must give a floating-point tensor with samples along its first axis"
            )
        with _told("there is no answer"):
            right = _answered(answer, given, samples)
        subject = _Subject(model, watch, own, arguments, samples, answer, right, buffers)
        _require_repeatable(subject)
        found = _layers(model, watch, only, buffers)
        whole = not names.takes_in(only)
        if note := note_of(model, found, buffers, whole=whole) if stored else "":
            warn(note)
        runs = [_run(subject, layer, kind, chosen) for layer in found for kind in kinds]
        _require_repeatable(subject, "after runs with faults, as if one of them were left behind")
    struck = tuple(summed(watch.sites, each, buffers) for each in runs)
    layers = tuple(passing(watch.sites, runs))
    return Trace(samples, len(chosen), struck, layers, tuple(watch.left_out), buffers, note)


def _require_values(model: nn.Module) -> None:
    """Refuse weights that are not there yet: a run would make lazy ones, and change the model."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    if absent := [name for name, value in tensors if is_lazy(value) or value.is_meta]:
        raise FaultError(
            f"there is nothing yet in {listed(absent, most=3)}, lazy or on the meta device: load "
            "the weights, or run the model once, first"
        )


def _eager() -> AbstractContextManager[Any]:
    """Compiled parts run as they are written: hooks cannot be a part of a graph. Where nobody
    compiles, dynamo is not loaded, which takes seconds.
    """
    there = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if there else nullcontext()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what a model that is not ours may raise."""
    try:
        yield
    except (ParimendError, MemoryError):
        raise
    except Exception as error:
        raise FaultError(f"{what}: {type(error).__name__}: {error}") from error


def _answered(answer: Callable[[Any], Tensor], given: Any, samples: int) -> Tensor:
    """The answer of the clean run, as it is now, whatever later runs write.

    Raises:
        FaultError: if it is no tensor with samples along its first axis.
    """
    right = answer(given)
    if not isinstance(right, Tensor) or not right.dim() or len(right) != samples:
        kind = f"{[*right.shape]}" if isinstance(right, Tensor) else type(right).__name__
        raise FaultError(
            f"the answer must be a tensor with {samples} samples along its first axis, not {kind}: "
            "give another answer="
        )
    return right.clone()


def _arguments(inputs: Any) -> tuple[Arguments, int]:
    first = first_tensor(inputs)
    if first is None or not first.dim() or not len(first):
        raise FaultError(
            "inputs must be a tensor, a tuple of arguments or a mapping of keywords, with at least "
            "one sample along the first axis of the first tensor"
        )
    if isinstance(inputs, Mapping):
        return ((), dict(inputs)), len(first)
    return (inputs if isinstance(inputs, tuple) else (inputs,), {}), len(first)


def _require_repeatable(subject: _Subject, when: str = "twice") -> None:
    """Errors are told from nothing only where nothing else differs."""
    model, watch, (args, kwargs) = subject.model, subject.watch, subject.arguments
    with subject.own.kept():
        output, passed = watch.damaged(lambda: model(*args, **kwargs))
    for site in watch.sites:
        if site not in passed or passed[site].output.any():
            raise FaultError(
                f"module {site.layer!r} does not compute the same {when}: switch off what is "
                "random in it or is kept from one run to the next, and see "
                "torch.use_deterministic_algorithms"
            )
    with _told("there is no answer"):
        if _changed(subject, output).any():
            raise FaultError(
                f"the answer is not the same {when}, and the outputs are: let answer= depend on "
                "these alone, and on nothing random"
            )


def _changed(subject: _Subject, output: Any) -> Tensor:
    """(samples,): whether the answer is another one than that of the clean run.

    Raises:
        FaultError: if it cannot be compared with that.
    """
    right, samples = subject.right, subject.samples
    found = _answered(subject.answer, output, samples)
    if found.shape != right.shape:
        raise FaultError(
            f"the answer is {[*found.shape]}, and {[*right.shape]} in the run before: let answer= "
            "give one shape"
        )
    differs = (found != right) & ~(found.isnan() & right.isnan())
    return differs.reshape(samples, -1).any(1)


def _layers(
    model: nn.Module, watch: Watch, only: str | Sequence[str] | None, buffers: bool
) -> list[str]:
    """Names of the modules to strike, in the order of the model."""
    modules = dict(model.named_modules())
    called = {site.layer for site in watch.sites}
    found = list(modules)
    if not names.takes_in(only):
        found = [
            name
            for name, module in modules.items()
            if name in called
            and (declared_product(module) is not None or (buffers and has_buffers(module)))
        ]
        if not found:
            raise FaultError("no linear layer or convolution is called: name modules with only=")
    found = names.select(found, only, what="module", error=FaultError)
    for name in found:
        if name not in called:
            raise FaultError(f"module {name!r} is not called, or not watched: take another only=")
    return found


def _run(subject: _Subject, layer: str, kind: Fault, seeds: Sequence[int]) -> Runs:
    """All faults of one kind in one layer."""
    model, watch, samples = subject.model, subject.watch, subject.samples
    calls = sum(site.layer == layer for site in watch.sites)
    passed, places, bits, changed = list[Mapping[Site, Passed]](), list[Site](), [], []
    for seed in seeds:
        inputs, buffers = subject.arguments, subject.buffers
        run = strike(model, layer, kind, seed, inputs, samples, calls, buffers)
        try:
            with _told(f"struck with seed {seed}, the model does not run"), subject.own.kept():
                output, errors = watch.damaged(run.forward)
            with _told(f"struck with seed {seed}, there is no answer"):
                changed.append(_changed(subject, output).cpu().numpy())
        except FaultError as error:
            raise FaultError(f"{layer or 'the model'}: {error}") from error.__cause__
        passed.append(errors)
        places.append(Site(layer, run.call))
        bits.append(run.bits)
    order = {site: i for i, site in enumerate(watch.sites)}
    nothing = torch.full((samples,), torch.nan, dtype=torch.float64, device="cpu")

    def rows(which: str, site: Site) -> Rows:
        # What ended before the fault struck has not seen it.
        seen = [
            getattr(run[site], which) if site in run and order[site] >= order[place] else None
            for run, place in zip(passed, places, strict=True)
        ]
        return torch.stack([nothing if each is None else each.cpu() for each in seen]).numpy()

    behind = [site for site in watch.sites if order[site] >= order[Site(layer, 0)]]
    outputs = {site: rows("output", site) for site in behind}
    entered = np.stack([outputs[place][i] for i, place in enumerate(places)])
    # An upset may leave some samples alone, or write what was there; a wrong weight is wrong.
    hit = np.ones(entered.shape, bool) if isinstance(kind, Faults) else entered > 0
    return Runs(
        layer,
        kind,
        hit,
        entered,
        np.stack(bits),
        np.stack(changed),
        {site: rows("input", site) for site in behind},
        outputs,
        alike=isinstance(kind, Faults) or kind.alike or calls > 1,
    )
