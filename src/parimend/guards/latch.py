"""Guards that wait: alarms are kept until the end of a forward, and read once.

Where a model runs on a GPU, reading every alarm would make the processor wait for every layer. A
latch around the whole model lets alarms lie where they were raised until the forward ends. If there
is one, the forward runs again, and every layer is judged at once, as it is without a latch: that
run corrects, raises or records. So a forward must be one that can be repeated: it gets tensors and
plain values, and changes nothing but what it gives back. Where that is not known, nothing waits.

Every alarm ends in an event, of the second run or of its own. Only what nobody has judged in the
first run, where that would have made the processor wait, may have been a stop of the screen alone.
It is known to have been one if the second run is stopped at the same layer, finds nothing there,
and gives the same outputs to the last bit.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from parimend.errors import ComputationError, GuardError
from parimend.events import GuardKind
from parimend.guards import graph
from parimend.guards.journal import GuardEvent, Journal
from parimend.guards.observing import capturing, is_exporting
from parimend.kernels.reading_torch import read
from parimend.removable import wrap_forward_

_PLAIN = (type(None), bool, int, float, str)
"""Types of values, besides tensors, with which a forward can be repeated."""

_KINDS: dict[str, GuardKind] = {"raise": "raised", "record": "recorded"}
"""What is said of an alarm that the second run did not explain, if it is not ``recomputed``."""


@dataclass
class _Here(threading.local):
    """What a thread is doing, which has attributes of its own.

    Attributes:
        phase: ``waiting`` while alarms are kept, ``judging`` in the second run.
        places: for every device those of the alarms of all layers, (layers,) int32, never cleared
            but by who reads them; and each of them, () int32, as indexing takes longer than all
            else that is done for a layer.
        is_captured: whether these are the places of a CUDA graph, and of whatever else is captured
            before the next forward that is not.
        told: layers of which the second run has said something, or can say nothing.
        harmless: layers that were stopped in the second run, for nothing.
    """

    phase: str = ""
    places: dict[torch.device, tuple[Tensor, Sequence[Tensor]]] = field(default_factory=dict)
    is_captured: bool = False
    told: set[str] = field(default_factory=set)
    harmless: set[str] = field(default_factory=set)


@dataclass
class _Captured:
    """A forward in a CUDA graph: what it reads, writes, and where its alarms lie.

    Attributes:
        inputs: tensors among the outputs that it has not made.
    """

    args: Any
    kwargs: Any
    outputs: Any
    alarms: dict[torch.device, Tensor]
    inputs: Sequence[Tensor] = ()


class Latch:
    """Keeps the alarms of a model's guards until its forward ends.

    Args:
        model: whose forward it is.
        journal: shared by the guards of the model.
        layers: names of the guarded layers, by their numbers.
    """

    def __init__(self, model: nn.Module, journal: Journal, layers: Sequence[str]) -> None:
        self._model = model
        self._journal = journal
        self._layers = list(layers)
        self._here = _Here()
        self._captured: list[_Captured] = []
        self._numbers: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._key = graph.admit(self)
        self.traced: list[tuple[int, Tensor]] | None = None
        """Numbers of layers and stops of their screens in the graph that is being compiled, bool of
        any shape; None outside of the model's forward."""

    def attach_(self) -> Callable[[], None]:
        """Puts the latch around the model's forward.

        Returns:
            What undoes it.
        """
        removers = ExitStack()
        removers.callback(graph.dismiss, self._key)
        removers.callback(wrap_forward_(self._model, self._forward))
        return removers.close

    @property
    def judges(self) -> bool:
        """Whether this is the second run, in which every call is checked."""
        return self._here.phase == "judging"

    def place(self, layer: int, device: torch.device) -> Tensor | None:
        """Where the alarm of a layer lies, () int32: 0, or 1 for an alarm that was not read yet.
        None if alarms of this thread are not to be kept.

        Raises:
            GuardError: if there is no such place, and none can be made.
        """
        return self._places(device)[1][layer] if self._here.phase == "waiting" else None

    def _places(self, device: torch.device) -> tuple[Tensor, Sequence[Tensor]]:
        """Those of all layers, together and each."""
        places = self._here.places
        if device not in places:
            self._refuse_capture(f"there is no place for alarms on {device}")
            with torch.inference_mode(False):  # they are written to outside of that, too
                alarms = torch.zeros(len(self._layers), dtype=torch.int32, device=device)
                places[device] = alarms, alarms.unbind()
        return places[device]

    @staticmethod
    def _refuse_capture(reason: str) -> None:
        """Refuse to make what has to be there before a capture."""
        if capturing():
            raise GuardError(
                f"{reason}, and none can be made while a CUDA graph is captured: run the model "
                "once before, as it is to be captured"
            )

    def _leave_graphs(self) -> None:
        """Gives a forward that is not captured places of its own."""
        here = self._here
        if here.is_captured and not capturing():
            here.places, here.is_captured = {}, False

    def judged(self, layer: str, told: bool) -> None:
        """Notes that a layer was stopped and looked at; and whether anything was said of it."""
        (self._here.told if told else self._here.harmless).add(layer)

    def settle(self) -> bool:
        """See `parimend.guards.handle.Guards.settle`."""
        good = True
        # Graphs may share places, which are read once.
        places = {id(p): p for each in self._captured for p in each.alarms.values()}
        raised = {number: self._read([place]) for number, place in places.items()}
        for each in self._captured:
            found = (raised[id(place)] for place in each.alarms.values())
            if alarmed := list(dict.fromkeys(itertools.chain(*found))):
                good = False
                again = partial(self._model.forward, *each.args, **each.kwargs)
                better = self._conclude(again, each.outputs, alarmed, each.inputs)
                if better is not each.outputs:
                    old, new = (graph.made(value, each.inputs) for value in (each.outputs, better))
                    _write(old, new)
        return good

    def _forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or not _repeatable((args, kwargs)):
            return forward(*args, **kwargs)
        if torch.compiler.is_compiling():
            return self._compiled(forward, args, kwargs)
        here = self._here
        if here.phase:  # the second run, or a model that calls itself
            return forward(*args, **kwargs)
        self._leave_graphs()
        here.phase = "waiting"
        try:
            outputs = forward(*args, **kwargs)
        finally:
            here.phase = ""
        alarms = {device: together for device, (together, _) in here.places.items()}
        if capturing():
            self._captured.append(_Captured(args, kwargs, outputs, alarms))
            here.is_captured = True
            return outputs
        if alarmed := self._read(alarms.values()):
            return self._conclude(partial(forward, *args, **kwargs), outputs, alarmed)
        return outputs

    def _read(self, alarms: Iterable[Tensor]) -> list[str]:
        """The layers with an alarm, which is over with that."""
        raised: set[int] = set()
        for each in alarms:
            found = [i for i, alarm in enumerate(read(each)) if alarm]
            if found:
                each.zero_()
            raised.update(found)
        return [self._layers[i] for i in sorted(raised)]

    def _conclude(
        self,
        again: partial[Any],
        outputs: Any,
        alarmed: Sequence[str],
        inputs: Sequence[Tensor] = (),
    ) -> Any:
        """What the forward gives after all, from the first run and a second one.

        Args:
            again: runs it a second time.
            outputs: of the first run.
            alarmed: layers with an alarm there.
            inputs: tensors that the forward has not made, and may give back.
        """
        here = self._here
        here.phase, here.told, here.harmless = "judging", set(), set()
        before = self._reads(again)
        try:
            with torch.no_grad():
                better = again()
        except BaseException:
            if not here.told:  # otherwise nobody would know that there was an alarm
                self._tell(alarmed)
            raise
        finally:
            here.phase = ""
        left = [layer for layer in alarmed if layer not in here.told]
        if here.harmless.issuperset(left) and _same(outputs, better, inputs):
            left = []
        answer = self._journal.policy.answer
        after = self._reads(again)
        changed = [name for name in before if after.get(name) != before[name]]
        if changed and answer != "record" and (left or here.told):
            self._tell(left, "raised")
            raise ComputationError(
                f"wrong outputs that cannot be put right, as the model's forward changes "
                f"{changed[0]}, so another run gives others: guard without deferred=True"
            )
        events = self._tell(left)
        if answer == "raise" and events:
            raise ComputationError(f"wrong outputs: {events[0]}; run it again")
        return outputs if answer == "record" else better

    def _reads(self, again: partial[Any]) -> dict[str, int]:
        """Versions of what a forward reads and may change: PyTorch counts changes of a tensor, but
        of those that were made in inference mode.
        """
        policy, tensors = self._journal.policy, dict[str, Tensor]()
        if policy.on_weights is None:  # that may repair them
            tensors |= {f"the buffer {name}": t for name, t in self._model.named_buffers()}
        given = graph.tensors_in((again.args, again.keywords))
        tensors |= {f"its input of shape {(*t.shape,)} ({i})": t for i, t in enumerate(given)}
        return {name: t._version for name, t in tensors.items() if not t.is_inference()}

    def _tell(self, layers: Sequence[str], kind: GuardKind | None = None) -> list[GuardEvent]:
        """Adds an event for every layer whose alarm the second run has not explained."""
        kind = kind or _KINDS.get(self._journal.policy.answer, "recomputed")
        why = "seen in one run of the whole model, and not in the next"
        events = [
            GuardEvent(kind, -1, why, layer=layer, magnitude=float("nan")) for layer in layers
        ]
        self._journal.note(events)
        return events

    def _compiled(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The same in a graph that is being compiled, with an operator at its end."""
        flat = all(isinstance(each, (Tensor, *_PLAIN)) for each in (*args, *kwargs.values()))
        if is_exporting() or not flat:
            return forward(*args, **kwargs)
        found: list[tuple[int, Tensor]] = []
        self.traced = found
        try:
            outputs = forward(*args, **kwargs)
        finally:
            self.traced = None
        if found:
            if not _repeatable(outputs):
                raise GuardError(
                    "a compiled model whose alarms wait has to give tensors, in lists, tuples or "
                    f"dicts, not in {type(outputs).__name__}: guard without deferred=True"
                )
            layers = [layer for layer, _ in found]
            stops = [each.reshape(-1) for each in _on_one_device([each for _, each in found])]
            # Not layer by layer: that would be two more kernels for each.
            alarm = torch.cat(stops).any()
            graph.conclude_(outputs, args, kwargs, alarm, stops, layers, self._key)
        return outputs

    def conclude(
        self,
        outputs: list[Tensor],
        inputs: list[Tensor],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        alarm: Tensor,
        stops: Sequence[Tensor],
        layers: Sequence[int],
    ) -> None:
        """What the operator at the end of a graph does; writes what is better into ``outputs``.

        Args:
            alarm: () bool, whether anything was stopped.
            stops: (k,) bool of every call of a layer, k of any size.
            layers: their numbers.

        Alarms of a graph that is captured as a CUDA graph are added to the places that a run
        before it has made.
        """
        self._leave_graphs()
        device = alarm.device
        (alarms, _), key = self._places(device), (tuple(layers), device)
        if key not in self._numbers:
            self._refuse_capture("there are no places for the alarms of these layers")
            self._numbers[key] = torch.tensor(layers, device=device)
        if capturing():
            graph.require_own_capture()
            alarms.index_add_(0, self._numbers[key], _alarms(stops).to(alarms.dtype))
            self._captured.append(_Captured(args, kwargs, outputs, {device: alarms}, inputs))
            self._here.is_captured = True
            return
        if any(read(alarm.reshape(1))):
            raised = read(_alarms(stops))
            numbers = sorted({layers[i] for i, each in enumerate(raised) if each})
            again = partial(self._model.forward, *args, **kwargs)
            better = self._conclude(again, outputs, [self._layers[i] for i in numbers], inputs)
            if better is not outputs:
                _write(outputs, graph.made(better, inputs))


def _on_one_device(stops: Sequence[Tensor]) -> list[Tensor]:
    """Stops on the device of the first; of others as little as possible is moved there."""
    device = stops[0].device
    return [each if each.device == device else each.any().to(device) for each in stops]


def _alarms(stops: Sequence[Tensor]) -> Tensor:
    """Whether anything was stopped in every call of a layer, (calls,) bool."""
    return torch.stack([each.any() for each in stops])


def _same(outputs: Any, others: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether two runs are known to have given the same, to the last bit."""
    pairs = [graph.made(value, inputs) for value in (outputs, others)]
    # Of what is no tensor nothing is known.
    return bool(pairs[0]) and len(pairs[0]) == len(pairs[1]) and all(map(torch.equal, *pairs))


def _write(outputs: list[Tensor], better: list[Tensor]) -> None:
    """Puts tensors in the place of those that were given back.

    Raises:
        ComputationError: if they have other shapes.
    """
    if [t.shape for t in outputs] != [t.shape for t in better]:
        raise ComputationError(
            "wrong outputs that cannot be put right, as another run gives other shapes: run it "
            "again, or guard without deferred=True"
        )
    inference = any(t.is_inference() for t in outputs)
    with torch.inference_mode(inference), torch.no_grad():
        for old, new in zip(outputs, better, strict=True):
            for axis, step in enumerate(old.stride()):
                if step == 0 and old.shape[axis] > 1:  # expanded: one element stands for all
                    old, new = (t.narrow(axis, 0, 1) for t in (old, new))
            old.copy_(new)


def _repeatable(value: Any) -> bool:
    """Whether something is made of tensors and plain values."""
    if isinstance(value, (list, tuple)):
        return all(_repeatable(each) for each in value)
    if isinstance(value, dict):
        return all(_repeatable(each) for each in value.values())
    return isinstance(value, (Tensor, *_PLAIN))
