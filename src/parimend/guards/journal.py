"""What guards report: which layers they cover, and what they saw and did."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock, local
from typing import TYPE_CHECKING, Any, Literal, get_args

from parimend.arguments import one_of, require_callable
from parimend.errors import GuardError
from parimend.events import Event
from parimend.record import Record
from parimend.showing import brief
from parimend.warning import warn

if TYPE_CHECKING:
    from parimend.guards.latch import Latch

Answer = Literal["correct", "recompute", "raise", "record"]
"""What to do on an alarm. ``correct``: locate the wrong outputs and compute these again, or the
sample if they cannot be located. ``recompute``: the sample at once. ``raise`` a `ComputationError`.
``record`` the event and pass the output on."""

Cover = Literal["imposed", "kept", "repeated", "uncovered"]
"""How a layer is guarded. ``imposed``: P W = 0, so outputs check themselves. ``kept``: P W is kept
beside the layer and multiplied with every input. ``repeated``: the operation is done twice.
``uncovered``: not at all."""

Parameters = Callable[[], tuple[Any, Any]]
"""Gives weight and bias (or None) of a layer."""

KEPT_EVENTS, KEPT_PLACES = 10_000, 200_000
"""Events that are kept, and positions and outputs in all of them; older ones are dropped, so that
neither a broken machine nor inputs without values fill memory."""


@dataclass(frozen=True, repr=False)
class GuardEvent(Event):
    """One sample whose outputs did not pass.

    Attributes:
        layer: name of the module; `Event.where` is its call, counted from 0, or -1 if an alarm that
            waited for the end of the forward was not seen again, no more is known of it then; or if
            weights were replaced before a graph was compiled.
        sample: index on the leading axes of the output.
        positions: wrong positions, as indices on its spatial axes; () for layers without any.
        channels: wrong outputs, if they were located.
        function: name of what PyTorch computed wrongly, if it was no layer.
        magnitude: of the largest error, in units of the rms output to be expected for such an
            input; infinite if the output is not finite, NaN if it is not known.
    """

    layer: str = ""
    sample: tuple[int, ...] = ()
    positions: tuple[tuple[int, ...], ...] = ()
    channels: tuple[int, ...] = ()
    magnitude: float = 0.0
    function: str = ""

    def __str__(self) -> str:
        where = f"sample {self.sample}"
        if self.positions and self.positions[0]:
            where += f", {len(self.positions)} positions from {self.positions[0]}"
        if self.channels:
            where += f", outputs {', '.join(map(str, self.channels))}"
        what = " in ".join(filter(None, (self.function, self.layer or "the model")))
        return f"{what}, call {self.where}: {where}: {self.magnitude:.2g} rms, {self.kind}"

    def __repr__(self) -> str:
        return f"<GuardEvent: {brief(str(self), most=200)}>"


@dataclass(frozen=True)
class Policy:
    """What guards do on an alarm.

    Args:
        answer: see `Answer`.
        on_weights: called with the event if a layer is wrong when computed again: repair its
            weights there, for example by ``lambda event: parimend.repair_(model, seal)``. Then it
            is tried once more. It may run the model; outputs that are wrong then call it no more.

    Raises:
        GuardError: for another answer, or if there is nothing to be tried once more.
        SpecError: if ``on_weights`` cannot be called.

    Example:
        >>> Policy("recompute", on_weights=lambda event: print(event.layer)).answer
        'recompute'
    """

    answer: Answer = "correct"
    on_weights: Callable[[GuardEvent], object] | None = None

    def __post_init__(self) -> None:
        one_of(self.answer, "policy", get_args(Answer), error=GuardError)
        if self.on_weights is not None:
            require_callable(self.on_weights, "on_weights", "a function of a GuardEvent")
        if self.on_weights is not None and self.answer in ("raise", "record"):
            raise GuardError(
                f"with the policy {self.answer!r} nothing is computed again, so on_weights is "
                "never called: take 'correct' or 'recompute'"
            )


@dataclass(frozen=True, repr=False)
class Coverage(Record):
    """How one module is guarded.

    Attributes:
        layer: name of the module.
        kind: its type.
        cover: see `Cover`.
        reason: why it is not covered, or not by the cheaper way.
    """

    layer: str
    kind: str
    cover: Cover
    reason: str = ""


class _Here(local):
    """What a thread is doing: whether it is within a call of ``on_weights``."""

    repairs = False


@dataclass
class Journal:
    """What all guards of a model share.

    Attributes:
        policy: see `Policy`.
        every: only one call in so many is checked.
        events: the last ones, oldest first.
        screened: outputs that the screen stopped and a look at the input let pass.
        passed: for every layer, the calls that could not be checked.
        latch: keeps alarms until the model's forward ends; None if each is dealt with at once.
        warned: layers whose outputs could not be put right, of which a warning was given.
    """

    policy: Policy
    every: int
    events: deque[GuardEvent] = field(default_factory=deque)
    screened: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    latch: Latch | None = None
    warned: set[str] = field(default_factory=set)
    _places: int = 0
    _lock: Any = field(default_factory=Lock, repr=False)
    _here: _Here = field(default_factory=_Here, repr=False)

    def note(self, events: Iterable[GuardEvent]) -> None:
        """Keep events, and as many of those before as there is room for."""
        with self._lock:
            for event in events:
                self.events.append(event)
                self._places += _places_in(event)
            while len(self.events) > KEPT_EVENTS or (
                self._places > KEPT_PLACES and len(self.events) > 1
            ):
                self._places -= _places_in(self.events.popleft())

    def repair(self, event: GuardEvent) -> bool:
        """Calls the policy's ``on_weights``; whether it was called. It may run the model, and what
        is wrong there does not call it again, without end.
        """
        on_weights = self.policy.on_weights
        if on_weights is None or self._here.repairs:
            return False
        self._here.repairs = True
        try:
            on_weights(event)
        finally:
            self._here.repairs = False
        return True

    def warn_of(self, events: Iterable[GuardEvent]) -> None:
        """Warn, once for a layer, of wrong outputs that go on, as nothing has put them right."""
        for layer in {event.layer for event in events if event.kind == "suspect"} - self.warned:
            self.warned.add(layer)
            warn(
                f"{layer or 'an operation'}: outputs are wrong, also when computed again, and go "
                "on: its weights may be damaged; repair them in Policy(on_weights=...), or stop at "
                "such outputs with the policy 'raise'",
            )


def _places_in(event: GuardEvent) -> int:
    return len(event.positions) + len(event.channels)
