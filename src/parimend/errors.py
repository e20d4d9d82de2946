"""The exceptions of Parimend: one small tree, raised for misuse only.

Outcomes (clean, corrected, uncorrectable) are records, see `parimend.outcomes`. An exception means
that the call itself cannot be served; its message names the tensor or file, says what is wrong
and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class ParimendError(Exception):
    """Base of everything that Parimend raises on purpose."""


class SpecError(ParimendError, ValueError):
    """An argument cannot be, or asks for a code, a decoder or a budget that cannot exist."""


class WordError(ParimendError, ValueError):
    """A tensor cannot be held by the words of the chosen carrier."""


class SealError(ParimendError, ValueError):
    """A seal cannot be read: damaged beyond repair, foreign, or newer than this version."""


class DamagedFileError(SealError):
    """A file is damaged, and there is no seal that tells what it was: it is not to be sealed."""


class MismatchError(ParimendError, ValueError):
    """A seal and the model or file it is used on do not belong together."""


class FormatError(ParimendError, ValueError):
    """A model file is not what its format promises (truncated, damaged header, wrong type)."""


class AnotherFormatError(FormatError):
    """A file is not of the format that it was taken for; it may be a good one of another."""


class CalibrationError(ParimendError, ValueError):
    """The calibration data cannot be used with this model."""


class BusyError(ParimendError, RuntimeError):
    """Another process is writing the same file."""


class DamageError(ParimendError, RuntimeError):
    """What was to be loaded, or trained, is damaged; see the policies of `parimend.load_file`.

    Attributes:
        files: what was found in files that are not right, as `parimend.outcomes.FileOutcome`.
    """

    def __init__(self, message: str, files: Iterable[Any] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


class GuardError(ParimendError, ValueError):
    """Guards were asked for that cannot be: no such layer, too many checks, guarded already."""


class ComputationError(ParimendError, RuntimeError):
    """A guard saw a wrong computation, and its policy is to raise."""


class CampaignError(ParimendError, RuntimeError):
    """A campaign cannot go on: a network, a metric or a worker fails. What was done is kept."""


class WorkerDiedError(ParimendError, RuntimeError):
    """A worker ended before its task did; the task can be done again."""


class FaultError(ParimendError, ValueError):
    """Damage was asked for that cannot be done as asked."""


class ImpossibleFaultError(FaultError):
    """Fewer elements can be changed than were asked for.

    Attributes:
        kind: of damage that was asked for.
        tensors: names of those it could have struck.
        count: number of elements asked for.
        possible: number of elements that can be changed.
    """

    # An exception from another process is made of its message; the attributes follow.
    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        tensors: Sequence[str] = (),
        count: int = 0,
        possible: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.tensors = tuple(tensors)
        self.count = count
        self.possible = possible


class StaleFaultError(FaultError):
    """The words at hand do not hold the bit patterns that a list of faults expects."""


class FaultFileError(FaultError):
    """A stored list of faults is damaged, truncated or of another format."""


class SourceError(ParimendError, RuntimeError):
    """Another copy, which a file was to be repaired from, cannot be read or is of another file."""
