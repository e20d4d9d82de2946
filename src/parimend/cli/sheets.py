"""Options of commands that write pages, pictures and CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from parimend.cli.contract import unwritten
from parimend.cli.options import written

if TYPE_CHECKING:
    from parimend.report import Sheet

_FILES = "Files"  # together in the help

Html = Annotated[
    Path | None,
    written("Write a page with tables, figures and filters to this file (.html).", panel=_FILES),
]
Picture = Annotated[
    Path | None, written("Draw a picture into this file (.svg, .png or .pdf).", panel=_FILES)
]
Csv = Annotated[
    Path | None, written("Write the table to this file (.csv); more go beside it.", panel=_FILES)
]


@dataclass(frozen=True)
class Files:
    """Where sheets go; nowhere by default.

    Attributes:
        html, picture, csv: the files.
        read: what the command reads.
        beside: what else it writes.

    Raises:
        ParimendError: if one of them cannot be written, before anything long begins.
    """

    html: Path | None = None
    picture: Path | None = None
    csv: Path | None = None
    read: Sequence[Path] = ()
    beside: Path | None = None

    def __post_init__(self) -> None:
        if not self:
            return
        from parimend.cli.places import require_distinct, require_free
        from parimend.report import require_csv, require_page, require_picture

        asked = (
            (self.html, require_page),
            (self.picture, require_picture),
            (self.csv, require_csv),
        )
        for path, require in asked:
            if path is not None:
                require(path)
                require_free(path)
        require_distinct([self.beside, self.html, self.picture, self.csv], self.read)

    def __bool__(self) -> bool:
        return any(path is not None for path in (self.html, self.picture, self.csv))

    def write(self, sheets: Sequence[Sheet], title: str, confidence: float = 0.95) -> str:
        """Write the files that are asked for, whichever of them cannot be; see `unwritten`."""
        from parimend.cli.places import require_distinct, require_free
        from parimend.report import csv_files, write_csv, write_page, write_picture

        html, picture, csv = self.html, self.picture, self.csv

        def require() -> None:
            # What lies beside the table is known when its sheets are.
            tables = csv_files(sheets, csv) if csv is not None else []
            for path in tables:
                require_free(path)
            require_distinct([self.beside, *tables], self.read)

        def page() -> None:
            if html is not None:
                write_page(sheets, html, title, confidence=confidence)

        def drawing() -> None:
            if picture is not None:
                write_picture(sheets[0], picture, title)

        def table() -> None:
            if csv is not None:
                write_csv(sheets, csv)

        return unwritten(require) or unwritten(page, drawing, table)
