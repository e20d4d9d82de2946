"""What was looked at and found, as a file that a tool of the user's can sign."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parimend.arguments import path_of
from parimend.atomic import PathLike
from parimend.errors import FormatError
from parimend.files.checking import check_file
from parimend.files.members import seals_of
from parimend.loading.unchanged import unchanged
from parimend.outcomes import FileOutcome, Report, Verdict
from parimend.record import Record
from parimend.regular import open_regular
from parimend.stores.base import CHUNK
from parimend.stores.file import Progress, silent

SCHEMA = 1
"""Version of receipts: it changes when something is taken away or gets another meaning."""


@dataclass(frozen=True, repr=False)
class ReceiptFile(Record):
    """One file of a receipt.

    Attributes:
        name: below the path that the receipt is for; that of a single file.
        verdict: of the file; see `FileOutcome`.
        size: its bytes; 0 if it is missing.
        sha256: of all of them, as ``sha256sum`` computes it; empty if it cannot be read.
        seal_sha256: of the sidecar; empty if there is none.
        carrier: where the redundancy lives.
        errors: number of wrong words that it is made to repair.
        elements: number of elements in the file.
        covered: number of them that are protected.
        findings: what is wrong, in words.
    """

    name: str
    verdict: Verdict
    size: int
    sha256: str
    seal_sha256: str
    carrier: str
    errors: int
    elements: int
    covered: int
    findings: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Receipt(Record):
    """What was found in protected files at a time, with digests that say which files these were.

    Attributes:
        verdict: the worst of the files.
        time: when the check ended: UTC, as in RFC 3339, to the second.
        versions: of parimend, Python and numpy.
        files: what was covered and found, in each.
        schema: `SCHEMA`.

    Example:
        >>> import tempfile, torch, parimend as pm
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pm.save_file({"w": torch.ones(100)}, Path(folder, "a.safetensors"), errors=2)
        ...     receipt, _ = pm.receipt(folder)
        >>> [file.name for file in receipt.files], receipt.verdict.value
        (['a.safetensors'], 'clean')
        >>> receipt.to_bytes()[:38]
        b'{"files":[{"carrier":"sidecar","covere'
    """

    verdict: Verdict
    time: str
    versions: dict[str, str]
    files: tuple[ReceiptFile, ...]
    schema: int = SCHEMA

    def to_bytes(self) -> bytes:
        """The receipt as canonical JSON (RFC 8785): the same content gives the same bytes."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")


def receipt(
    path: PathLike,
    *,
    progress: Progress = silent,
    seal_dir: PathLike | None = None,
    workers: int | None = 1,
) -> tuple[Receipt, Report]:
    """Check protected files, and write down which files these were and what was found.

    Beside the check all bytes are hashed: sums find accidents, and a signature is to hold against
    more than these. Nothing is signed here: sign `Receipt.to_bytes` with a tool that has your keys,
    such as ``ssh-keygen -Y sign``, ``openssl dgst -sign`` or ``cosign sign-blob``.

    Args:
        path: as for `parimend.check_file`.
        progress: see `parimend.check_file`; hashing counts, too.
        seal_dir, workers: see `parimend.check_file`.

    Returns:
        The receipt, and the report that it is made of.

    Raises:
        MismatchError: if a file is written meanwhile.
        SealError, MismatchError, FormatError, SpecError, OSError: as `parimend.check_file` does.
    """
    path = path_of(path)
    with unchanged(path, "looked at", seal_dir):
        report = check_file(path, progress=progress, seal_dir=seal_dir, workers=workers)
        seals, _ = seals_of(path, seal_dir)
        sides = {str(file): sealed.path for file, sealed in seals.items()}
        base = path if path.is_dir() else path.parent
        files = tuple(
            _written_down(file, sides.get(file.path), base, progress) for file in report.files
        )
    return Receipt(report.verdict, _now(), _versions(), files), report


def _written_down(
    found: FileOutcome, side: Path | None, base: Path, progress: Progress
) -> ReceiptFile:
    path = Path(found.path)
    return ReceiptFile(
        name=str(path.relative_to(base)),
        verdict=found.verdict,
        size=path.stat().st_size if path.is_file() else 0,
        sha256=_sha256(path, progress),
        seal_sha256=_sha256(side, progress) if side else "",
        carrier=found.carrier,
        errors=found.errors,
        elements=found.elements,
        covered=found.covered,
        findings=found.findings,
    )


def _sha256(path: Path, progress: Progress) -> str:
    """Of a whole file; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
                progress(len(piece))
    except (FormatError, OSError):
        return ""
    return digest.hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _versions() -> dict[str, str]:
    from parimend import __version__

    return {
        "parimend": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
