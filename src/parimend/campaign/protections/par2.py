"""par2: Reed-Solomon codes over the blocks of a file, by the program of that name."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from parimend.campaign.protections.base import Bytes, Network, Protection, Tensors
from parimend.errors import SpecError
from parimend.experiment import Answer
from parimend.outcomes import Verdict
from parimend.words.bits import byte_view

_FILE = "weights"
_INTACT, _REPAIRABLE = 0, 1
"""What the program ends with; other numbers say that it cannot repair."""


@dataclass(frozen=True)
class Par2(Protection):
    """The weights as one file with recovery files beside it, made and used by ``par2``.

    A block in which anything is wrong is lost as a whole, and each recovery block brings back one.
    The times of a repair are those of the program, with writing and reading its files.

    Attributes:
        blocks: into which the file is cut.
        redundancy: recovery blocks, in per cent of these.
    """

    blocks: int = 2000
    redundancy: int = 10
    kind: ClassVar[str] = "par2"
    source: ClassVar[str] = "Parity Volume Set Specification 2.0, 2003; the program par2cmdline"

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= 32768 or not 1 <= self.redundancy <= 100:
            raise SpecError(
                f"par2 takes 1 to 32768 blocks and 1 to 100 per cent of redundancy, not "
                f"{self.blocks} and {self.redundancy}"
            )

    def protect_(self, network: Network) -> dict[str, Bytes]:
        with _files(network.tensors, {}) as folder:
            code, said = _par2(
                folder, "create", f"-b{self.blocks}", f"-r{self.redundancy}", f"{_FILE}.par2", _FILE
            )
            if code:
                raise SpecError(f"par2 create fails: {said}")
            return {
                path.name: np.fromfile(path, np.uint8) for path in sorted(folder.glob("*.par2"))
            }

    def repair_(self, tensors: Tensors, kept: dict[str, Bytes]) -> Answer:
        with _files(tensors, kept) as folder:
            code, _ = _par2(folder, "verify", f"{_FILE}.par2")
            if code == _INTACT:
                return Answer(Verdict.CLEAN, 0)
            if code != _REPAIRABLE or _par2(folder, "repair", f"{_FILE}.par2")[0]:
                return Answer(Verdict.UNCORRECTABLE, 0)
            return Answer(Verdict.CORRECTED, _read_back(tensors, folder / _FILE))

    def exposed(self, kept: dict[str, Bytes]) -> Mapping[str, Bytes]:
        return kept


@contextmanager
def _files(tensors: Tensors, kept: Mapping[str, Bytes]) -> Iterator[Path]:
    """A folder with the weights in a file, and with what is kept."""
    with tempfile.TemporaryDirectory(prefix="parimend-par2-") as name:
        folder = Path(name)
        with open(folder / _FILE, "wb") as file:
            for each, tensor in tensors.items():
                file.write(byte_view(tensor, each).data)
        for each, data in kept.items():
            data.tofile(folder / each)
        yield folder


def _read_back(tensors: Tensors, path: Path) -> int:
    """Take what was repaired; gives the number of bytes that changed."""
    repaired, start, changed = np.fromfile(path, np.uint8), 0, 0
    for name, tensor in tensors.items():
        data = byte_view(tensor, name)
        fresh = repaired[start : start + data.size]
        changed += int(np.count_nonzero(data != fresh))
        data[:] = fresh
        start += data.size
    return changed


def _par2(folder: Path, *arguments: str) -> tuple[int, str]:
    """How the program ended, and what it said.

    Raises:
        SpecError: if it is not installed.
    """
    program = shutil.which("par2")
    if program is None:
        raise SpecError(
            "the program par2 is not installed: install the package par2 (Debian, Ubuntu: apt "
            "install par2; macOS: brew install par2), or leave this protection out"
        )
    done = subprocess.run(
        [program, arguments[0], "-q", "-t1", *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stderr.strip() or done.stdout.strip()
    return done.returncode, " ".join(said.split())[:300]
