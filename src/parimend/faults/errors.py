"""Exceptions of fault injection: one small tree under :class:`FaultError`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FaultError", "FaultFileError", "ImpossibleFaultError", "StaleFaultError", "listed"]


class FaultError(ValueError):
    """A request for damage that cannot be carried out as asked."""


class ImpossibleFaultError(FaultError):
    """Fewer words can be changed than were asked for.

    Attributes:
        kind: the kind of damage asked for.
        tensors: names of the tensors it could have struck.
        count: number of words asked for.
        possible: number of words that can be changed.
    """

    def __init__(
        self, kind: str, placement: str, tensors: Sequence[str], count: int, possible: int
    ) -> None:
        self.kind = kind
        self.placement = placement
        self.tensors = tuple(tensors)
        self.count = count
        self.possible = possible
        super().__init__(
            f"{kind} (placement {placement}) can change only {possible} of the {count} words "
            f"asked for in {listed(self.tensors)}; ask for fewer, select other tensors, or take "
            f"another kind, placement or option"
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from their arguments when they come back from another process.
        return type(self), (self.kind, self.placement, self.tensors, self.count, self.possible)


class StaleFaultError(FaultError):
    """The words at hand do not hold the bit patterns that a fault list expects to find."""


class FaultFileError(FaultError):
    """A stored fault list is damaged, truncated or of another format."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a message, cut short where there are many.

    >>> listed(["a", "b"])
    "'a', 'b'"
    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
