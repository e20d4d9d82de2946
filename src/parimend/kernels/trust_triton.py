"""Which devices Triton is trusted on, those that have shown what they compute, and with what."""

from __future__ import annotations

from collections.abc import Callable

import torch

from parimend.warning import warn


def limited(registers: int) -> dict[str, int]:
    """Options of a launch whose threads get at most so many registers; for AMD's GPUs there is no
    such option.

    Example:
        >>> limited(128)
        {'maxnreg': 128}
    """
    return {} if torch.version.hip else {"maxnreg": registers}


class Trust:
    """Says whether a device is trusted; each is tried once, and a warning says why one is not.

    Args:
        trial: raises what is wrong with a device. That there is too little memory says nothing of
            it, and goes to whoever asked.
        instead: what operations of torch do where it is not trusted, for the warning.

    Example:
        >>> import warnings
        >>> works = Trust(lambda device: None, "do nothing there")
        >>> works(torch.device("cpu"))
        True
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     works.end(torch.device("cpu"), ArithmeticError("2 + 2 is 5"))
        >>> print(said[0].message)
        Triton does not work on cpu, operations of torch do nothing there: ...
        >>> works(torch.device("cpu"))
        False
    """

    def __init__(self, trial: Callable[[torch.device], None], instead: str) -> None:
        self._trial, self._instead = trial, instead
        self._known: dict[torch.device, bool] = {}

    def __call__(self, device: torch.device) -> bool:
        if device not in self._known:
            try:
                self._trial(device)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self.end(device, error)
            else:
                self._known[device] = True
        return self._known[device]

    def end(self, device: torch.device, error: Exception) -> None:
        """Trust a device no longer."""
        self._known[device] = False
        warn(
            f"Triton does not work on {device}, operations of torch {self._instead}: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
        )

    def forget(self) -> None:
        """Try every device again."""
        self._known.clear()
