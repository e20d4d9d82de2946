"""The exceptions of Parimend: one small tree, raised for misuse only.

Outcomes (clean, corrected, uncorrectable) are records, see `parimend.records`. An exception means
that the call itself cannot be served; its message names the tensor or file, says what is wrong
and what to do about it.
"""


class ParimendError(Exception):
    """Base of everything that Parimend raises on purpose."""


class SpecError(ParimendError, ValueError):
    """A code, decoder or budget was asked for that cannot exist."""


class WordError(ParimendError, ValueError):
    """A tensor cannot be held by the words of the chosen carrier."""


class SealError(ParimendError, ValueError):
    """A seal cannot be read: damaged beyond repair, foreign, or newer than this version."""


class MismatchError(ParimendError, ValueError):
    """A seal and the model or file it is used on do not belong together."""


class FormatError(ParimendError, ValueError):
    """A model file is not what its format promises (truncated, damaged header, wrong type)."""


class BusyError(ParimendError, RuntimeError):
    """Another process is writing the same file."""


class DamageError(ParimendError, RuntimeError):
    """A file was to be loaded, and it is damaged; see the policies of `parimend.load_file`."""


class GuardError(ParimendError, ValueError):
    """Guards were asked for that cannot be: no such layer, too many checks, guarded already."""


class ComputationError(ParimendError, RuntimeError):
    """A guard saw a wrong computation, and its policy is to raise."""
