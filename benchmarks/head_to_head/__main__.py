"""All protections under the same faults, on four networks: the tables of docs/head_to_head.md.

python benchmarks/head_to_head                      # all of them
python benchmarks/head_to_head mnist --workers 2
python benchmarks/head_to_head --tables             # of what is there

It needs the program par2, and data in `data/`, as `contenders.py` says. Each campaign is a spec
beside this file, which `parimend campaign run` takes as well. Results go to runs/head_to_head;
interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from math import inf, nan
from pathlib import Path

from parimend.campaign import Line, Store, lines, run
from parimend.errors import ParimendError

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "runs" / "head_to_head"
CAMPAIGNS = ("mnist", "everything", "wrn_head", "cifar", "minilm", "upsets")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="only print what is there")
    args = parser.parse_args()
    try:
        for name in args.campaigns or CAMPAIGNS:
            out = OUT / f"{name}.results"
            if not args.tables:
                run(HERE / f"{name}.toml", out, workers=args.workers)
            if found := lines(out):
                show(found, quickest(out))
    except (ParimendError, OSError) as error:  # data or results that are not there
        raise SystemExit(str(error)) from None


def quickest(out: Path) -> dict[str, float]:
    """Milliseconds of every protection: of its fastest repair under the fault that takes longest.

    The fastest, since a machine that does other things as well makes repairs slower, never faster.
    """
    found: dict[tuple[str, str], float] = {}
    for row in Store(out).statistics().rows.values():
        key = row.task.protection.name, row.task.fault.name
        found[key] = min(found.get(key, inf), *row.seconds)
    return {name: 1e3 * max(s for (n, _), s in found.items() if n == name) for name, _ in found}


def show(found: list[Line], ms: Mapping[str, float]) -> None:
    """A table: a row for each protection, a column for each fault."""
    faults = list(dict.fromkeys(line.fault for line in found))
    first = found[0]
    intact = 100 * (first.intact - first.change)
    print(f"\n**{first.network}**, {intact:.2f} % without damage, {first.trials} trials a cell\n")
    print(f"| protection | bytes kept | change | ms | {' | '.join(faults)} |")
    print("|---" * (4 + len(faults)) + "|")
    for name in dict.fromkeys(line.protection for line in found):
        row = {line.fault: line for line in found if line.protection == name}
        one, cells = row[faults[0]], " | ".join(cell(row[fault]) for fault in faults)
        change, time = f"{100 * one.change:+.2f}", f"{ms.get(name, nan):,.1f}"
        print(f"| {name} | {one.nbytes:,} | {change} | {time} | {cells} |")


def cell(line: Line) -> str:
    """Mean score in per cent; shares of trials as before / detected / silently wrong."""
    if line.trials < 2:
        return "-"
    return f"{100 * line.score.value:.1f}, {' / '.join(shares(line))}"


def shares(line: Line) -> Iterable[str]:
    for names in (("repaired", "masked"), ("detected",), ("miscorrected", "silent")):
        yield f"{100 * sum(line.outcomes[name].value for name in names):.0f}"


if __name__ == "__main__":
    main()
