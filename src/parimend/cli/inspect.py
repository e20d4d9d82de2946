"""``parimend inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parimend.cli.options import Json, SealDir
from parimend.cli.output import counting, print_json, print_table, say
from parimend.errors import SealError, SpecError

if TYPE_CHECKING:
    from parimend.codes import Certificate
    from parimend.files.seals import Sealed
    from parimend.seal import SealedWord

Verified = dict["Certificate", str]
"""What is wrong with each certificate; nothing, if it was proven again."""


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            readable=False,  # it is told of each when its turn comes
            help="One or more of these: a protected file; a folder; or the index of shards.",
        ),
    ],
    verify_certificate: Annotated[
        bool,
        typer.Option(
            "--verify-certificate",
            help="Prove again, from the codes alone, what certificates in the seal state; "
            "takes seconds.",
        ),
    ] = False,
    seal_dir: SealDir = None,
    json: Json = False,
) -> None:
    """Show how files are protected: their tensors and what their seals say of them.

    Reads the seal, not the data: check says whether these are right.

    guaranteed: any that many wrong words of a protected word are repaired, always; proven.
    bound: proven but for a stated probability. measured: by simulation. noticed: a check notices
    any that many wrong words, always. missed: the probability, at most, that more go unnoticed.
    """
    from parimend.files import seals_of
    from parimend.files.protecting import each_of

    todo = [(path, partial(seals_of, path, seal_dir)) for path in paths]
    done, problems = each_of(todo, len(paths) > 1)
    found = {target: sealed for _, (some, _) in done for target, sealed in some.items()}
    problems |= {target: text for _, (_, some) in done for target, text in some.items()}
    verified = _verified(paths, found) if verify_certificate else {}
    if json:
        files = [_as_dict(target, sealed, verified) for target, sealed in found.items()]
        files += [{"path": str(target), "problem": text} for target, text in problems.items()]
        print_json("inspect", {"files": files})
    else:
        for target, sealed in found.items():
            _print(target, sealed, verified)
        for target, text in problems.items():
            say(f"{target}: {text}")
    raise typer.Exit(1 if problems or any(verified.values()) else 0)


def _verified(paths: Sequence[Path], found: Mapping[Path, Sealed]) -> Verified:
    """Prove every certificate of some files again, equal ones once."""
    words = {
        word.certificate: word
        for sealed in found.values()
        for word in sealed.seal.words
        if word.certificate
    }
    if not words:
        raise SpecError(
            f"{', '.join(map(str, paths))} has no certificate to verify: what its seal guarantees "
            "is proven for every code of its kind (docs/guarantees.md); protect --carrier real "
            "--guaranteed 3 makes one"
        )
    verified: Verified = {}
    with counting(len(words), "verifying certificates") as advance:
        for certificate, word in words.items():
            try:
                word.verify_certificate()
                verified[certificate] = ""
            except SealError as error:
                verified[certificate] = str(error).removeprefix(f"{word.name}: ")
            advance(1)
    return verified


def _words(sealed: Sealed, verified: Verified) -> list[dict[str, Any]]:
    return [
        {
            "name": word.name,
            "code": word.code.spec(),
            "elements": word.word.elements,
            **word.promise(sealed.seal.errors).as_dict(),
            "certificate": _certificate(word, verified),
            "masks": {part.name: f"{part.mask:#x}" for part in word.parts if part.mask},
            "sha256": word.sha256.hex(),
        }
        for word in sealed.seal.words
    ]


def _certificate(word: SealedWord, verified: Verified) -> dict[str, Any] | None:
    if word.certificate is None:
        return None
    content = {**word.certificate.facts, "statement": word.certificate.statement}
    if word.certificate in verified:
        problem = verified[word.certificate]
        content |= {"verified": not problem, "problem": problem}
    return content


def _as_dict(path: Path, sealed: Sealed, verified: Verified) -> dict[str, Any]:
    covered = {part.name for word in sealed.seal.words for part in word.parts}
    return {
        "path": str(path),
        "sidecar": str(sealed.path or ""),
        "format": sealed.layout.format.name,
        "carrier": sealed.seal.carrier,
        "errors": sealed.seal.errors,
        **sealed.seal.promise.as_dict(),
        "notes": dict(sealed.seal.notes),
        "words": _words(sealed, verified),
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


def _print(path: Path, sealed: Sealed, verified: Verified) -> None:
    content, seal = _as_dict(path, sealed, verified), sealed.seal
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
                word["sha256"] or "-",
            ]
            for word in content["words"]
        ],
    )
    promises = [(word.name, word.promise(seal.errors)) for word in seal.words]
    print_table(
        ["word", "guaranteed", "bound", "measured", "noticed", "missed"],
        [
            [name, *promise.cells, f"{promise.noticed:,}", f"{promise.missed:.2g}"]
            for name, promise in promises
        ],
    )
    for word in content["words"]:
        if proof := word["certificate"]:
            _print_certificate(path, word["name"], proof)
    where = content["sidecar"] or "in the file"
    errors = f"{seal.errors:,} errors ({seal.promise})"
    say(f"{path}: {seal.carrier}, {errors}; seal {where}")


def _print_certificate(path: Path, name: str, proof: dict[str, Any]) -> None:
    how = {None: "certificate, not verified now", True: "certificate, verified"}
    said = proof.get("problem") or f"{how[proof.get('verified')]}: {proof['statement']}"
    say(f"{path}: {name}: {said}")
