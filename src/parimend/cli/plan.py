"""``parimend plan``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parimend.cli.contract import require_written, unwritten
from parimend.cli.options import (
    CarrierOption,
    Guaranteed,
    Json,
    Only,
    PerOption,
    Seed,
    Source,
    known,
    require_idle,
    written,
)
from parimend.cli.output import counting, print_json, say
from parimend.cli.planned import print_plan, print_simulation
from parimend.cli.sheets import Csv, Files, Html, Picture
from parimend.errors import SpecError

if TYPE_CHECKING:
    from parimend.carriers import Options
    from parimend.risk import Environment, Service

_UNITS = {"min": 1 / 1440, "ms": 1 / 86.4e6, "s": 1 / 86_400, "h": 1 / 24, "d": 1.0, "y": 365.25}


def _environments() -> list[str]:
    from parimend.risk.environment import ENVIRONMENTS

    return list(ENVIRONMENTS)


Errors = Annotated[
    int | None,
    typer.Option(
        "--errors",
        "-e",
        min=1,
        help="Wrong 32-bit words that can be repaired in each protected word: 210, or the fewest "
        "that meet a target.",
    ),
]


def _where(what: str, *names: str, **more: Any) -> Any:
    """An option of the environment; they are together in the help."""
    return typer.Option(*names, help=what, rich_help_panel="Environment", **more)


Where = Annotated[
    str | None,
    _where(
        "Where it runs: sea-level-dram, sea-level-sram, leo, hbm or disk.",
        "--environment",
        autocompletion=_environments,
    ),
]
Rate = Annotated[float | None, _where("Events per bit and day, in place of the environment's.")]
Sizes = Annotated[
    str | None,
    _where("Words that one event strikes, with shares, such as 1:0.85,2:0.10,8:0.05.", "--events"),
]
HardRate = Annotated[float | None, _where("Cells per bit and day that fail for good.")]
Interval = Annotated[
    str | None,
    _where(
        "Time between two checks: 30min, 12h, 7d (days without a unit). By default a day, or the "
        "longest that meets a target."
    ),
]
Years = Annotated[float, _where("Years of service.")]
Target = Annotated[float | None, _where("Probability, in a year, of damage that is not repaired.")]
Fit = Annotated[
    float | None, _where("The target as failures in 10^9 hours; 10 is the limit of ASIL D.")
]
Verify = Annotated[
    int | None,
    _where(
        "Simulate this many years at a raised rate, with the real decoders, and compare.", min=1
    ),
]
Map = Annotated[
    Path | None,
    written("Write what carriers and budgets give and take to this JSON file.", "--map"),
]


def command(
    context: typer.Context,
    src: Source,
    carrier: CarrierOption = "sidecar",
    errors: Errors = None,
    guaranteed: Guaranteed = None,
    only: Only = None,
    per: PerOption = "model",
    seed: Seed = 0,
    environment: Where = None,
    rate: Rate = None,
    events: Sizes = None,
    hard_rate: HardRate = None,
    interval: Interval = None,
    years: Years = 1.0,
    target: Target = None,
    fit: Fit = None,
    verify: Verify = None,
    map_: Map = None,
    html: Html = None,
    picture: Picture = None,
    csv: Csv = None,
    json: Json = False,
) -> None:
    """Say what protecting a file takes and gives. The file is only read.

    guaranteed: any that many wrong words are repaired, always. bound: proven over the draw of the
    seed. measured: seen in simulations. With an environment, the plan says what it leaves, and with
    a target it finds the smallest budget and the longest interval that meet it. A map, or a page,
    picture or table of it, compares carriers and budgets.

    Example: parimend plan model.safetensors --environment leo --target 1e-6

    Exit status: 1 if a target is not met.
    """
    from parimend.cli.places import MAP, require_distinct, require_free
    from parimend.planner import plan, simulate
    from parimend.planner.commands import command_of
    from parimend.risk import Service
    from parimend.risk.environment import ENVIRONMENTS

    read = [src, *known([src])]
    files = Files(html, picture, csv, read=read, beside=map_)
    if map_ is not None:
        require_free(map_, MAP)
        require_distinct([map_], read)
    where = _environment(environment, rate, events, hard_rate)
    days, goal = _days(interval), _target(target, fit)
    service = None
    if where is not None:
        service = Service(where, days, years, goal)
    else:
        names = ", ".join(ENVIRONMENTS)
        because = f"for an environment: say where, such as {names} (--environment), or give --rate"
        require_idle(context, because, "interval", "years", "target", "fit", "verify")
    options: Options = {"only": only, "per": per, "seed": seed, "guaranteed": guaranteed}
    made = plan(src, errors, carrier, service=service, **options)
    trouble = ""
    if map_ is not None or files:
        if service is not None and made.risk:
            service = replace(service, interval=made.risk.interval)
        trouble = _map(src, map_, files, service, options)
    simulated = None
    if verify is not None:
        with counting(verify, "simulating") as progress:
            simulated = simulate(made, verify, seed, progress=progress)
    if json:
        more = {"simulation": simulated and simulated.as_dict()}
        print_json("plan", {**made.as_dict(), **more}, trouble)
    else:
        print_plan(made)
        if made.met:
            say(f"command     {command_of(made, src, options)}")
        if simulated:
            print_simulation(simulated, len(made.words))
    require_written(trouble)
    raise typer.Exit(0 if made.met else 1)


def _map(
    src: Path,
    out: Path | None,
    files: Files,
    service: Service | None,
    options: Options,
) -> str:
    """Plan all carriers and budgets, and write and draw what they give; see `unwritten`."""
    from parimend.planner.maps import BUDGETS, CARRIERS, map_of

    with counting(len(BUDGETS) * len(CARRIERS), "planning") as progress:
        found = map_of(src, service=service, progress=progress, **options)
    trouble = unwritten(lambda: found.save(out)) if out is not None else ""
    if files:
        from parimend.report import map_sheets

        title = f"{found.source}, {found.where}".removesuffix(", ")
        more = files.write(map_sheets(found), title)
        trouble = "; ".join(filter(None, (trouble, more)))
    return trouble


def _environment(
    name: str | None, rate: float | None, events: str | None, hard_rate: float | None
) -> Environment | None:
    """The environment of that name, with what is given in place of its figures."""
    from parimend.risk import Environment, Events, environment

    given: dict[str, Any] = {
        key: value for key, value in (("rate", rate), ("hard_rate", hard_rate)) if value is not None
    }
    if events is not None:
        given["events"] = Events.of(events)
    if name is None:
        if given.keys() == {"events"}:
            raise SpecError(
                "--events says how many words an event strikes, not how often one comes: give "
                "--rate, or an --environment"
            )
        return Environment("given", source=", ".join(given), **given) if given else None
    found = environment(name)
    if not given:
        return found
    return replace(found, source=f"{', '.join(given)} as given; else {found.source}", **given)


def _target(target: float | None, fit: float | None) -> float | None:
    if target is not None and fit is not None:
        raise typer.BadParameter("--target and --fit say the same: give one of them")
    if fit is None:
        return target
    if not 0.0 < fit < math.inf:
        raise typer.BadParameter(f"--fit is a number of failures above 0, not {fit}")
    from parimend.risk.chance import yearly_of

    found = yearly_of(fit)
    if found >= 1.0:
        raise typer.BadParameter(f"--fit {fit:g} is failures all the time: give fewer")
    return found


def _days(text: str | None) -> float | None:
    """A time in days."""
    if text is None:
        return None
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        raise typer.BadParameter(
            f"--interval is a number and one of {', '.join(_UNITS)}, such as 12h, not {text!r}"
        ) from None
