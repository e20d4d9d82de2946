"""Names of tensors and layers: choosing by shell patterns, listing in messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from parimend.arguments import require
from parimend.errors import ParimendError, WordError

_NOT = "!"
_PATTERNS = "a shell pattern or a list of them"


def select(
    names: Iterable[str],
    only: str | Sequence[str] | None,
    *,
    what: str = "tensor",
    argument: str = "only",
    error: type[ParimendError] = WordError,
) -> list[str]:
    """Those of ``names`` that shell patterns choose, in their order.

    Args:
        names: to choose from.
        only: shell patterns (``*``, ``?``, ``[...]``), case-sensitive. A name needs to match one of
            them, and none of those that begin with ``!``; where all of them do, that is enough.
            None: all names.
        what: the names stand for, for messages.
        argument: what ``only`` is called, for messages.
        error: to raise.

    Raises:
        ParimendError: ``error``, if a pattern matches nothing, or there is none, or if they leave
            nothing.
        SpecError: if ``only`` is something else.

    Example:
        >>> select(["conv.weight", "conv.bias", "fc.weight"], ["*.weight"])
        ['conv.weight', 'fc.weight']
        >>> select(["conv.weight", "conv.bias", "fc.weight"], ["*.weight", "!fc.*"])
        ['conv.weight']
    """
    names = list(names)
    if only is None:
        return names
    patterns = texts(only, argument, _PATTERNS)
    if not patterns:
        raise error(f"{argument}={only!r} selects no {what}; leave it out to select all of them")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix(_NOT)) for name in names):
            inside = f"{pattern}.*"
            is_part = any(fnmatchcase(name, inside.removeprefix(_NOT)) for name in names)
            hint = f", but {inside!r} does" if is_part else ""
            known = listed([name for name in names if name])
            raise error(f"no {what} matches {pattern!r}{hint}; there are {known}")
    chosen = [name for name in names if is_chosen([name], patterns)]
    if not chosen:
        raise error(f"{argument}={patterns} leaves no {what}; there are {listed(names)}")
    return chosen


def takes_in(only: str | Sequence[str] | None) -> bool:
    """Whether shell patterns say what to take; else it is the usual, but for what they take out.

    >>> takes_in(["*.weight", "!fc.*"]), takes_in("!fc.*"), takes_in(None)
    (True, False, False)
    """
    if only is None:
        return False
    patterns = texts(only, "only", _PATTERNS)
    return not patterns or not all(pattern.startswith(_NOT) for pattern in patterns)


def is_chosen(names: Sequence[str], only: str | Sequence[str] | None) -> bool:
    """Whether shell patterns choose what has some names; see `select`.

    >>> is_chosen(["head.weight", "head.weight.scale"], "!head.weight")
    False
    """
    if only is None:
        return True
    patterns = texts(only, "only", _PATTERNS)
    matching = {p for p in patterns for name in names if fnmatchcase(name, p.removeprefix(_NOT))}
    out = any(pattern.startswith(_NOT) for pattern in matching)
    return not out and (bool(matching) or not takes_in(patterns))


def texts(value: str | Sequence[str], argument: str, what: str) -> list[str]:
    """A text, or several, that were given as an argument: one is a sequence of letters, too.

    Raises:
        SpecError: if it is something else: that ``argument`` must be ``what``.

    >>> texts("conv.*", "only", "a pattern"), texts(("a", "b"), "only", "a pattern")
    (['conv.*'], ['a', 'b'])
    """
    several = [value] if isinstance(value, str) else value
    require(several, argument, what, list, tuple, set, frozenset)
    for each in several:
        require(each, argument, what, str)
    return list(several)


def listed(names: Collection[str], most: int = 8) -> str:
    """Names for a message, cut short where there are many.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], most=2), listed([])
    ('a, b', 'a, b and 1 more', 'none')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(islice(names, most)) or "none") + more


def some(names: Iterable[str]) -> str:
    """The first few names in their order, for a message.

    >>> some(["d", "a", "b", "c"])
    'a, b, c and 1 more'
    """
    return listed(sorted(names), most=3)
