"""``parimend campaign``: its commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parimend.cli.contract import held, require_written
from parimend.cli.options import Json
from parimend.cli.output import aside, print_json, print_table, reaching, say, size
from parimend.cli.sheets import Csv, Files, Html, Picture
from parimend.cluster import EngineName
from parimend.showing import counted, per_cent

if TYPE_CHECKING:
    from parimend.campaign import Comparison, Line, Status
    from parimend.campaign.engines import Engine
    from parimend.experiment import Estimate

app = typer.Typer(
    help="Strike networks under several protections with seeded faults, and count the outcomes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a campaign.")]
EngineOption = Annotated[
    EngineName,
    typer.Option("--engine", help="What does the work: local (processes) or ray (a cluster)."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many work at once; by default one for each core.")
]
Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster; by default a new one on this machine.")
]


@app.command("run")
@held("campaign run")
def run_(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="A TOML file, as docs/campaigns.md describes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the results.")],
    engine: EngineOption = "local",
    workers: Workers = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Run a campaign. Interrupted, it goes on with the same command, or with resume.

    Example: parimend campaign run spec.toml --out results --workers 2
    """
    from parimend.campaign import run

    _do("run", lambda told: run(spec, out, _engine(engine, workers, address), progress=told), json)


@app.command("resume")
@held("campaign resume")
def resume_(
    out: Folder,
    engine: EngineOption = "local",
    workers: Workers = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Go on with a campaign that was interrupted."""
    from parimend.campaign import resume

    _do("resume", lambda told: resume(out, _engine(engine, workers, address), progress=told), json)


@app.command("status")
@held("campaign status")
def status_(out: Folder, json: Json = False) -> None:
    """Show how far a campaign is."""
    from parimend.campaign import status

    _tell("status", status(out), json)


@app.command("report")
@held("campaign report")
def report_(
    outs: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Folders of campaigns, which are added up.")
    ],
    html: Html = None,
    picture: Picture = None,
    csv: Csv = None,
    json: Json = False,
) -> None:
    """Show the outcomes of the trials, with intervals.

    Example: parimend campaign report results --html results.html
    """
    from parimend.campaign import confidence_of, lines

    files = Files(html, picture, csv)
    confidence = confidence_of(*outs) if files else 0.0
    found = lines(*outs)
    trouble = ""
    if files:
        from parimend.report import campaign_sheets

        title = f"Campaign {', '.join(each.name for each in outs)}"
        trouble = files.write(campaign_sheets(*outs), title, confidence)
    if not json:
        print_lines(found)
        say(_intervals(outs))
    _end("report", {"lines": [each.as_dict() for each in found]}, outs, json, trouble)


@app.command("compare")
@held("campaign compare")
def compare_(
    a: Annotated[str, typer.Argument(metavar="A", help="DIR or DIR:PROTECTION.")],
    b: Annotated[str, typer.Argument(metavar="B", help="DIR or DIR:PROTECTION.")],
    html: Html = None,
    picture: Picture = None,
    csv: Csv = None,
    json: Json = False,
) -> None:
    """Compare two protections, trial by trial, under the same faults.

    Example: parimend campaign compare results:none results:sidecar
    """
    from parimend.campaign import compare, confidence_of
    from parimend.campaign.reporting import folder_of

    files = Files(html, picture, csv)
    found = compare(a, b)
    outs = list(dict.fromkeys(Path(folder_of(each)[0]) for each in (a, b)))
    trouble = ""
    if files:
        from parimend.report import comparison_sheets

        trouble = files.write(comparison_sheets(found), f"{a} against {b}", confidence_of(*outs))
    if not json:
        print_comparisons(found)
        say(f"only a, only b, a - b count trials that were {_event(outs[0])}; {_intervals(outs)}")
    _end("compare", {"comparisons": [each.as_dict() for each in found]}, outs, json, trouble)


def print_lines(found: list[Line]) -> None:
    """What became of the trials, as tables."""
    from parimend.experiment import Outcome

    names = [each.value for each in Outcome]
    print_table(
        ["network", "protection", "fault", "trials", *names],
        [
            [
                *(line.network, line.protection, line.fault, f"{line.trials:,}"),
                *(_share(line.outcomes[name]) for name in names),
            ]
            for line in found
        ],
    )
    scored = any(line.score is not None for line in found)  # without a metric there is no score
    scores = ["score", "intact", "change", "harmed"] if scored else []
    print_table(
        ["network", "protection", "fault", *scores, "kept", "repair"],
        [
            [
                *(line.network, line.protection, line.fault),
                *(_scores(line) if scored else ()),
                size(line.nbytes),
                f"{1e3 * line.seconds:.2f} ms",
            ]
            for line in found
        ],
    )


def _scores(line: Line) -> tuple[str, ...]:
    return (
        _number(line.score),
        "-" if line.intact is None else f"{line.intact:.4f}",
        "-" if line.change is None else f"{line.change:+.4f}",
        "-" if line.harmed is None else _share(line.harmed),
    )


def print_comparisons(found: list[Comparison]) -> None:
    """Two protections, side by side."""
    print_table(
        ["network", "fault", "a", "b", "trials", "only a", "only b", "a - b", "p", "score a - b"],
        [
            [
                *(each.network, each.fault, each.a, each.b, f"{each.trials:,}"),
                *(f"{each.only_a:,}", f"{each.only_b:,}"),
                _number(each.difference),
                "-" if each.p is None else f"{each.p:.2g}",
                _number(each.score),
            ]
            for each in found
        ],
    )


def _event(out: Path) -> str:
    """What a campaign looks for, in words."""
    from parimend.campaign import Store

    stop = Store(out).spec.stop
    return "harmed" if stop.harmed else " or ".join(stop.outcomes)


def _intervals(outs: Sequence[Path]) -> str:
    from parimend.campaign import Store

    levels = sorted({Store(out).spec.stop.confidence for out in outs})
    return f"intervals: {' and '.join(f'{100 * level:g} %' for level in levels)}"


def _do(name: str, act: Callable[[Callable[[int, int], None]], Status], json: bool) -> None:
    """Run, and show how far it is and how long the rest takes."""
    with reaching("trials") as told, aside(json):
        try:
            ended = act(told)
        except KeyboardInterrupt as interrupt:
            why = str(interrupt) or "interrupted"
            interrupt.args = (f"{why}; what was done is kept, resume goes on",)
            raise
    _tell(name, ended, json)


def _tell(name: str, ended: Status, json: bool) -> None:
    if json:
        print_json(f"campaign {name}", ended.as_dict())
    else:
        say(_progress(ended))
        _say_reach([ended])


def _end(name: str, found: dict[str, Any], outs: Sequence[Path], json: bool, trouble: str) -> None:
    """Say of which campaigns something was told, that there is more to come, and what could not be
    written beside it.
    """
    from parimend.campaign import status

    campaigns = [status(each) for each in outs]
    if json:
        facts = {**found, "campaigns": [each.as_dict() for each in campaigns]}
        print_json(f"campaign {name}", facts, trouble)
    else:
        for each in campaigns:
            if not each.finished or each.damaged:
                say(_progress(each))
        _say_reach(campaigns)
    require_written(trouble)


def _say_reach(campaigns: Sequence[Status]) -> None:
    """Say what of the networks is neither struck nor protected, once of each."""
    for said in dict.fromkeys(reach.said for each in campaigns for reach in each.reach):
        if said:
            say(said)


def _progress(of: Status) -> str:
    state = "finished" if of.finished else "running" if of.running else "interrupted"
    damaged = f"; {counted(of.damaged, 'damaged line')}: not counted" if of.damaged else ""
    done = f"{counted(of.trials, 'trial')} in {counted(of.tasks, 'task')}"
    return f"{of.path}: {state}, {done}{damaged}"


def _engine(name: str, workers: int | None, address: str | None) -> Engine:
    from parimend.campaign.engines import Ray, engine_of

    if address is not None:
        if name != "ray":
            raise typer.BadParameter("--address is that of a Ray cluster: add --engine ray")
        return Ray(workers, address)
    return engine_of(name, workers)


def _share(of: Estimate) -> str:
    """A share with its interval, in per cent."""
    if math.isnan(of.value):
        return "-"
    if of.upper is not None:
        return f"0 (< {per_cent(100 * of.upper)} %)"
    value, low, high = (per_cent(100 * each) for each in (of.value, of.low, of.high))
    return f"{value} % ({low}-{high})"


def _number(of: Estimate | None) -> str:
    if of is None or math.isnan(of.value):
        return "-"
    return f"{of.value:.4f} ({of.low:.4f} to {of.high:.4f})"
