"""How texts and tables are shown: on a terminal, in a `repr`, in a notebook."""

from __future__ import annotations

import html
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from textwrap import wrap

ROWS = 24
"""Rows of a table in a notebook; of more it says how many there are."""


_NARROW = 24  # characters that the last column of a table has at least
_RULED = 80  # characters of it, at most, that the line below the titles is drawn for


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


def command_word(path: object) -> str:
    r"""A path as it is typed in a shell, on one line; where that takes ``$'...'``, in bash or zsh.

    >>> print("parimend check", command_word("my model.bin"), command_word("-x"))
    parimend check 'my model.bin' ./-x
    >>> print(command_word("a\n'b'"))
    $'a\x0a\x27b\x27'
    """
    text = str(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_typed, text)) + "'"


def _typed(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def brief(text: str, most: int = 100) -> str:
    """A text for a `repr`, on one line, its middle left out where it is long.

    >>> brief("a" * 1000, most=9)
    'aaa...aaa'
    """
    shown = escaped(text[: 2 * most] + text[-2 * most :] if len(text) > 4 * most else text)
    half = (most - 3) // 2
    return shown if len(shown) <= most else f"{shown[:half]}...{shown[-half:]}"


def counted(number: int, noun: str) -> str:
    """A number of things, in words.

    >>> counted(1, "file"), counted(1234, "word")
    ('1 file', '1,234 words')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def per_cent(value: float, digits: int = 3) -> str:
    """Per cent with so many digits, or as many as it takes: what is less than all never reads 100.

    >>> per_cent(12.345), per_cent(99.98), per_cent(100.0)
    ('12.3', '99.98', '100')
    """
    shown = f"{value:.{digits}g}"
    return per_cent(value, digits + 1) if shown == "100" and value < 100.0 else shown


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None
) -> Iterator[str]:
    """A plain table, line by line, every text escaped; columns of numbers stand to the right.

    Args:
        columns: their titles.
        rows: as many texts each.
        width: where the last column, of text, is broken to fit; nothing is without.

    >>> for line in table(["file", "words"], [["a", "1,234"], ["b", "7"]]):
    ...     print(line)
    file  words
    -----------
    a     1,234
    b         7
    """
    shown = [list(map(escaped, row)) for row in rows]
    places = range(len(columns))
    sizes = [max(len(row[i]) for row in [columns, *shown]) for i in places]
    right = [bool(rows) and all(row[i].replace(",", "").isdigit() for row in rows) for i in places]
    room = sizes[-1] if width is None else max(width - sum(sizes[:-1]) - 2 * len(sizes), _NARROW)

    def line(texts: Sequence[str]) -> str:
        fitted = (
            text.rjust(size) if is_number else text.ljust(size)
            for text, size, is_number in zip(texts, sizes, right, strict=True)
        )
        return "  ".join(fitted).rstrip()

    yield line(columns)
    yield "-" * (sum(sizes[:-1]) + 2 * len(sizes) - 2 + min(sizes[-1], room, _RULED))
    for *cells, last in shown:
        is_long = len(last) > room
        broken = wrap(last, room, break_long_words=False, break_on_hyphens=False) if is_long else []
        first, *more = broken or [last]  # of nothing but spaces nothing is left
        yield line([*cells, first])
        for text in more:
            yield line([*("" for _ in cells), text])


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
