"""``parimend inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parimend.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from parimend.files.seals import Sealed


def command(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A protected file, or a folder or index of shards."),
    ],
    json: Json = False,
) -> None:
    """Show how a file is protected: its tensors and what its seal says of them.

    Reads the seal, and nothing of the data: whether they are right is what check says.
    """
    from parimend.files import seals_of

    found, problems = seals_of(path)
    if json:
        files = [_as_dict(target, sealed) for target, sealed in found.items()]
        files += [{"path": str(target), "problem": text} for target, text in problems.items()]
        print_json("inspect", {"files": files})
    else:
        for target, sealed in found.items():
            _print(target, sealed)
        for target, text in problems.items():
            console().print(f"{target}: {text}", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _words(sealed: Sealed) -> list[dict[str, Any]]:
    return [
        {
            "name": word.name,
            "code": word.code.spec(),
            "elements": word.word.elements,
            "masks": {part.name: f"{part.mask:#x}" for part in word.parts if part.mask},
            "sha256": word.sha256.hex(),
        }
        for word in sealed.seal.words
    ]


def _as_dict(path: Path, sealed: Sealed) -> dict[str, Any]:
    covered = {part.name for word in sealed.seal.words for part in word.parts}
    return {
        "path": str(path),
        "sidecar": str(sealed.path or ""),
        "format": sealed.layout.format.name,
        "carrier": sealed.seal.carrier,
        "errors": sealed.seal.errors,
        "notes": dict(sealed.seal.notes),
        "words": _words(sealed),
        "tensors": [
            {
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "bytes": entry.end - entry.begin,
                "covered": entry.name in covered,
            }
            for entry in sealed.layout.entries
        ],
    }


def _print(path: Path, sealed: Sealed) -> None:
    content = _as_dict(path, sealed)
    print_table(
        ["tensor", "dtype", "shape", "bytes", "covered"],
        [
            [
                tensor["name"],
                tensor["dtype"],
                " x ".join(map(str, tensor["shape"])) or "scalar",
                f"{tensor['bytes']:,}",
                "yes" if tensor["covered"] else "no",
            ]
            for tensor in content["tensors"]
        ],
    )
    print_table(
        ["word", "elements", "code", "sha256"],
        [
            [
                word["name"],
                f"{word['elements']:,}",
                " ".join(f"{key}={value}" for key, value in word["code"].items()),
                word["sha256"],
            ]
            for word in content["words"]
        ],
    )
    where = content["sidecar"] or "in the file"
    console().print(
        f"{path}: {content['carrier']}, {content['errors']:,} errors; seal {where}", soft_wrap=True
    )
