"""A plan as text."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Context
from typing import TYPE_CHECKING

from parimend.cli.output import print_table, say, size
from parimend.showing import counted

if TYPE_CHECKING:
    from parimend.planner import Plan, Simulation
    from parimend.risk.chance import Risk

_EXACT = 1e-9  # what rounding adds to 3 hours


def print_plan(made: Plan) -> None:
    """The words, what is known of their budget, and what an environment leaves."""
    print_table(
        ["file", "word", "elements", "checks", "their size", "guaranteed", "redundancy", "moved"],
        [
            [
                file.path,
                word.name,
                f"{word.elements:,}",
                f"{word.checks:,}",
                size(word.seal_bytes),
                f"{word.promise.guaranteed:,}",
                f"{word.redundancy:.2%}" if word.redundancy else "-",
                f"{word.moved:.2g}",
            ]
            for file in made.files
            for word in file.words
        ],
    )
    checks = f"{size(made.seal_bytes)} of checks; a seal has headers, too"
    say(f"{counted(made.errors, 'error')} in each protected word; {checks}")
    proven = f"any {counted(made.guaranteed, 'wrong word')} of 32 bits"
    say(f"guaranteed  {proven if made.guaranteed else 'nothing'}")
    for name, chance, how in (
        ("bound", made.bound, "fail to be repaired with a proven probability of {} at most"),
        ("measured", made.measured, "failed to be repaired in {} of simulated cases at most"),
    ):
        if chance is not None:
            words = f"{counted(chance.errors, 'wrong word')} ({chance.what})"
            say(f"{name:<11} {words} {how.format(f'{chance.probability:.2g}')}")
    if made.seconds:
        say(
            f"seconds     protect {made.seconds.protect:.3g}, check {made.seconds.check:.3g} "
            f"(from a sample of {size(made.seconds.sample)})",
        )
    if made.risk and made.where:
        _print_risk(made)


def _print_risk(made: Plan) -> None:
    risk, where = made.risk, made.where
    assert risk is not None
    assert where is not None
    proven = all(word.promise.proven for word in made.words)
    given = "at most, if events come as given" + (
        ": every repair is proven" if proven else " and repairs succeed as measured"
    )
    never = "" if where.read_rate else ", which no interval removes"
    rows = {
        "checked": f"every {_every(risk.interval)}",
        "events": f"{risk.events:.3g} a year; {risk.repairs:.3g} checks a year find damage and "
        "repair it",
        "unrepaired": f"{_left(risk)} {given}; {_shown(risk.fit, risk)} FIT",
        "of it": f"{risk.large:.3g} by single events beyond the budget{never}; "
        f"{risk.hard:.3g} by cells that fail for good",
        "unnoticed": f"{risk.wrong:.2g}; diagnostic coverage {risk.coverage:.12g}",
        "source": f"{where.name}: {where.source}",
    }
    for name, text in rows.items():
        say(f"{name:<11} {text}")
    if made.reason:
        say(f"not met     {made.reason}")


def print_simulation(it: Simulation, words: int) -> None:
    """What was simulated, beside what the formula says, of a plan of so many words."""
    which = f" in the first {it.words} of {words:,} words" if it.words < words else ""
    verdict = "inside" if it.inside else "outside"
    if it.bounded and it.formula > it.high:
        verdict = "above, as an upper bound may be"
    say(
        f"simulated   {it.lost:,} of {it.years:,} years of {it.checks} checks lost something"
        f"{which}, at {it.factor:.3g} times the rate ({it.low:.4f} to {it.high:.4f}); "
        f"the formula says {it.formula:.4f}: {verdict}; wrong answers {it.wrong}",
    )


def _left(risk: Risk) -> str:
    if risk.years == 1.0:
        return f"{_shown(risk.unrepaired, risk)} in a year"
    which = "the worst of them" if risk.years > 1.0 else "a year"
    left, yearly = _shown(risk.unrepaired, risk), _shown(risk.yearly, risk)
    return f"{left} in {risk.years:g} years, {yearly} in {which}"


def _shown(chance: float, risk: Risk) -> str:
    """What is left, or a power of ten above where that is next to impossible and not resolved."""
    if 0.0 < chance and risk.unrepaired <= risk.resolved:
        return f"less than {10.0 ** math.ceil(math.log10(chance)):.0e}"
    return f"{chance:.3g}"


def _every(days: float) -> str:
    """How often.

    >>> [_every(days) for days in (1.0, 1 / 24, 1 / 1440, 2.0)]
    ['day', 'hour', '1 min', '2 days']
    """
    time = _time(days)
    return time.removeprefix("1 ") if time in ("1 day", "1 hour") else time


def _time(days: float) -> str:
    """A time for people, rounded down: checked so often, a target is still met.

    >>> _time(0.5), _time(3.0), _time(1e-4), _time(1.1899), _time(1.0)
    ('12 hours', '3 days', '8.64 s', '1.18 days', '1 day')
    """
    for unit, length in (("days", 1.0), ("hours", 1 / 24), ("min", 1 / 1440)):
        if days >= length:
            number = f"{_down(days / length):.3g}"
            return f"{number} {unit.removesuffix('s') if number == '1' else unit}"
    return f"{_down(days * 86_400):.3g} s"


def _down(value: float) -> float:
    """Three digits of a number, not more than it but for rounding."""
    return float(Context(prec=3, rounding=ROUND_FLOOR).create_decimal(value * (1.0 + _EXACT)))
