"""The content of a protected file in memory, where it is verified."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from parimend.carriers import diagnose, repair_
from parimend.carriers.base import BY_SUMS
from parimend.files.examining import is_truncated, report_on
from parimend.files.opening import Opened
from parimend.files.unreadable import salvaging
from parimend.formats import Layout, layout_of
from parimend.loading.policy import OnDamage
from parimend.outcomes import FileOutcome, Verdict
from parimend.regular import open_regular
from parimend.stores.file import FileTensors, LoadedTensors


@dataclass(frozen=True)
class Content:
    """What a protected file holds: read once, then looked at, and repaired if that was asked for.

    Attributes:
        path: of the file.
        layout: what the file should be made of.
        data: the bytes of every tensor, by its name; nothing if too much of the file is missing.
        outcome: what was found and done, in memory; the file stays as it is.
        is_right: whether all of it is known to be as it was protected.
    """

    path: Path
    layout: Layout
    data: Mapping[str, NDArray[np.uint8]]
    outcome: FileOutcome
    is_right: bool

    def file(self) -> BinaryIO:
        """The whole file, header and all, in memory."""
        file = io.BytesIO()
        self.layout.write(file, self.data)
        file.seek(0)
        return file


def content_of(found: Opened, on_damage: OnDamage) -> Content:
    """Read a protected file once, and verify what was read.

    Args:
        found: the file.
        on_damage: see `OnDamage`; what is not right is told by `Content.is_right`.

    Raises:
        MismatchError, OSError: as `parimend.check_file` does.
    """
    path, sealed = found.path, found.sealed
    tensors = FileTensors(found.file, sealed.layout)
    if on_damage != "warn" and is_truncated(sealed.seal, tensors):
        # Before memory is taken for what is not there.
        outcome = report_on(found, tensors, diagnose)
        return Content(path, sealed.layout, {}, outcome, False)
    loaded = LoadedTensors(tensors)
    act = repair_ if on_damage == "repair" else diagnose
    search = salvaging(BY_SUMS, tensors)
    outcome = report_on(found, tensors, lambda seal, _: act(seal, loaded, search))
    # What is around the tensors comes from the seal.
    # Without its end nobody knows what lies where; with a problem, whether it was damaged at all.
    is_known = outcome.frame is not Verdict.UNCORRECTABLE and not outcome.problem
    mended = on_damage == "repair" and is_known and all(word.verdict.ok for word in outcome.words)
    return Content(path, sealed.layout, loaded.data, outcome, mended or outcome.ok)


def unverified(path: Path) -> Content:
    """What lies in a file of which no seal is known.

    Raises:
        FormatError, OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        layout = layout_of(file, path)
        data = LoadedTensors(FileTensors(file, layout)).data
    return Content(path, layout, data, FileOutcome((), str(path)), False)
