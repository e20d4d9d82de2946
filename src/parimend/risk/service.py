"""What a protection is to serve: where, checked how often, for how long, and how well."""

from __future__ import annotations

from dataclasses import dataclass

from parimend.arguments import real_number
from parimend.record import Record
from parimend.risk.chance import SHORTEST
from parimend.risk.environment import Environment, environment

_LONGEST = 10**9  # years, far from where numbers end


@dataclass(frozen=True, repr=False)
class Service(Record):
    """What is asked of a protection.

    Attributes:
        where: the environment; its name is enough.
        interval: days between two checks; None for a day, or the longest that meets the target.
        years: of service, for the probabilities.
        target: probability, in the worst year of service, of damage that is not repaired; None if
            there is none. See `parimend.risk.chance.Risk.yearly`.

    Raises:
        SpecError: if there is no such environment, or a number cannot be what it is.

    Example:
        >>> Service("leo", target=1e-6).environment.rate
        4.04e-07
    """

    where: Environment | str
    interval: float | None = None
    years: float = 1.0
    target: float | None = None

    def __post_init__(self) -> None:
        _ = self.environment  # raises
        real_number(self.years, "years", least=SHORTEST, most=_LONGEST)
        if self.interval is not None:
            real_number(self.interval, "interval", "a number of days", least=SHORTEST)
        if self.target is not None:
            real_number(self.target, "target", "a probability per year", above=0, below=1)

    @property
    def environment(self) -> Environment:
        """The environment, if it was given by its name, too."""
        return environment(self.where)

    @classmethod
    def of(cls, given: Service | Environment | str) -> Service:
        """A service; an environment alone is one without a target."""
        return given if isinstance(given, Service) else cls(environment(given))
