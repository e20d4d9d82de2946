"""Faults in what is computed: the weights are right, and outputs of layers are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from parimend.arguments import real_number, whole_number
from parimend.campaign.tables import require_keys
from parimend.errors import FaultError, SpecError

if TYPE_CHECKING:
    import torch

    from parimend.upsets import Upset, Upsets

KIND = "upset"
_WHERE = ("only", "operations", "every")


@dataclass(frozen=True)
class Computing:
    """Upsets that strike a network in every run; see `parimend.upsets.upset_`.

    Attributes:
        upset: what happens to an output.
        only: shell patterns of modules; None: all linear layers and convolutions.
        operations: names of PyTorch's own that are struck.
        every: one call in so many is struck.
    """

    upset: Upset
    only: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    every: int = 1

    def strike_(self, model: torch.nn.Module, seed: int) -> Upsets:
        """Let a network compute wrongly, until the handle is removed.

        Raises:
            FaultError: if there is nothing to be struck.
        """
        from parimend.upsets import upset_

        return upset_(
            model,
            self.upset,
            seed=seed,
            only=self.only,
            operations=self.operations,
            every=self.every,
        )


def computing_of(given: Mapping[str, Any], where: str) -> Computing:
    """The upsets that an entry of a spec asks for.

    Args:
        given: its options: ``pattern``, a kind of `Upset`, and those of `Upset` and `Computing`.
        where: for messages.

    Raises:
        SpecError: names the key.

    >>> computing_of({"pattern": "offset", "size": 3.0}, "[faults.u]").upset
    Upset(kind='offset', count=1, bits=1, size=3.0)
    """
    from parimend.upsets import Upset

    of_upset = [each.name for each in fields(Upset) if each.name != "kind"]
    require_keys(given, ("kind", "pattern", *of_upset, *_WHERE), where)
    if "pattern" not in given:
        raise SpecError(f'{where}: say what happens to an output, such as pattern = "bitflip"')
    what = {name: given[name] for name in of_upset if name in given}
    at = {name: given[name] for name in _WHERE if name in given}
    for name, value in {"pattern": given["pattern"], **what, **at}.items():
        _require(name, value, where)
    try:
        upset = Upset(given["pattern"], **what)
    except FaultError as error:
        raise SpecError(f"{where}: {error}") from None
    return Computing(upset, **at)


def _require(name: str, value: Any, where: str) -> None:
    if name == "pattern":
        if not isinstance(value, str):
            raise SpecError(f"{where}: pattern must be a name, not {value!r}")
    elif name in ("only", "operations"):
        if not isinstance(value, list | tuple):
            raise SpecError(f"{where}: {name} must be a list of names, not {value!r}")
    elif name != "size":
        whole_number(value, f"{where}: {name}", least=1)
    else:
        real_number(value, f"{where}: {name}", finite=False)
