"""The picture of the README: accuracy against the number of flipped bits, with and without repair.

    python recipes/picture.py --picture docs/damage-and-repair.svg       # digits
    python recipes/picture.py --data mnist --root FOLDER

The network of the demonstration is trained with a seed. Every protection meets the same flipped
bits, anywhere in its weights, and the accuracy is taken after the repair; the second panel shows
what MSET and RADAR do not aim at, that all is as before, bit for bit. Network and trials are kept
in OUT: an interrupted call goes on where it was. Without --picture that is drawn into OUT, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pictures import pictures_of
from safetensors.torch import save_file

from parimend import demo
from parimend.campaign import Spec, run
from parimend.report import Chart, Sheet, campaign_sheets, write_picture

COUNTS = (1, 3, 10, 30, 100, 300, 1000, 3000)
"""Flipped bits."""
PROTECTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("unprotected", {}),
    "parimend-210": ("Parimend for 210 words", {"kind": "sidecar", "errors": 210}),
    "parimend-1000": ("Parimend for 1,000 words", {"kind": "sidecar", "errors": 1000}),
    "secded": ("SECDED (72,64)", {}),
    "radar": ("RADAR-like", {"group": 32}),
    "mset": ("MSET", {}),
}
"""Names in a picture, and options; docs/campaigns.md has the rules."""


def measured(data: str, root: Path | None, out: Path, trials: int, workers: int) -> Sheet:
    """What became of the trials."""
    pictures = pictures_of(data, root)
    weights = out / "network.safetensors"
    if not weights.exists():
        out.mkdir(parents=True, exist_ok=True)
        model, _ = demo.train(pictures, 0, None, lambda done, total: None)
        save_file(model.state_dict(), weights)
    network = {
        "build": "parimend.demo:Network",
        "arguments": {"pixels": pictures.train_x.shape[1]},
        "file": str(weights.resolve()),
        "data": "parimend.datasets:load",
        "data_arguments": {"name": data, "root": root and str(root)},
        "metric": "parimend.demo:accuracy",
    }
    spec = Spec.of(
        {
            "networks": {data: network},
            "protections": {name: options for name, (_, options) in PROTECTIONS.items()},
            "faults": {str(count): {"kind": "bitflip", "count": count} for count in COUNTS},
            "stop": {"trials": trials},
        }
    )
    run(spec, out / "results", workers=workers)
    return campaign_sheets(out / "results")[0]


def pictured(sheet: Sheet) -> Sheet:
    """The two panels, with names for people who have not read the docs."""
    names = {"count": "flipped bits", "score": "accuracy", "repaired": "bit for bit as before"}
    units = {"score": "%"}
    columns = tuple(
        replace(each, name=names.get(each.name, each.name), unit=units.get(each.name, each.unit))
        for each in sheet.columns
    )
    at = [each.name for each in columns].index("protection")
    kept = dict(zip(sheet.values("protection"), sheet.values("kept"), strict=True))

    def label(name: str) -> str:
        return (
            f"{PROTECTIONS[name][0]}, {kept[name] / 1000:.3g} kB"
            if kept[name]
            else PROTECTIONS[name][0]
        )

    rows = [(*row[:at], label(row[at]), *row[at + 1 :]) for row in sheet.rows]
    panels = (("flipped bits", "accuracy"), ("flipped bits", "bit for bit as before"))
    chart = Chart(("flipped bits",), ("accuracy",), ("protection",), joined=True, panels=panels)
    return replace(sheet, columns=columns, rows=rows, chart=chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--out", type=Path, help="runs/picture/DATA by default")
    parser.add_argument("--picture", type=Path, help="OUT/picture.svg by default")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    out = args.out or Path("runs/picture") / args.data
    sheet = measured(args.data, args.root, out, args.trials, args.workers)
    picture = args.picture or out / "picture.svg"
    write_picture(pictured(sheet), picture)
    print(picture)


if __name__ == "__main__":
    main()
