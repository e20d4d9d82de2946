"""How texts and tables are shown: on a terminal, in a `repr`, in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import islice

ROWS = 24
"""Rows of a table in a notebook; of more it says how many there are."""


def escaped(text: str) -> str:
    r"""Text as a terminal can show it, on one line.

    Names of tensors and files may hold anything, also what a terminal obeys: control characters,
    overrides of the direction, halves of surrogate pairs. They are shown as in Python.

    >>> print(escaped("w\x1b[2J \u202e\n"))
    w\x1b[2J \u202e\n
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(text: str, most: int = 100) -> str:
    """A text for a `repr`, on one line, its middle left out where it is long.

    >>> brief("a" * 1000, most=9)
    'aaa...aaa'
    """
    shown = escaped(text[: 2 * most] + text[-2 * most :] if len(text) > 4 * most else text)
    half = (most - 3) // 2
    return shown if len(shown) <= most else f"{shown[:half]}...{shown[-half:]}"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], total: int) -> str:
    """A table for notebooks: the first `ROWS` rows, every text escaped and brief.

    Args:
        columns: their titles.
        rows: as many texts each; no more are taken than are shown.
        total: how many rows there are.

    >>> html_table(["tensor"], [["<w>"]], total=1)
    '<table><tr><th>tensor</th></tr><tr><td>&lt;w&gt;</td></tr></table>'
    """
    shown = [[_cell("td", text) for text in row] for row in islice(rows, ROWS)]
    lines = [[_cell("th", title) for title in columns], *shown]
    if total > len(shown):
        lines.append([f'<td colspan="{len(columns)}">and {total - len(shown):,} more</td>'])
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in map(''.join, lines))}</table>"


def _cell(tag: str, text: str) -> str:
    return f"<{tag}>{html.escape(brief(text, most=200))}</{tag}>"
