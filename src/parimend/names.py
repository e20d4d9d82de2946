"""Names of tensors and layers: choosing by shell patterns, listing in messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from parimend.arguments import require
from parimend.errors import ParimendError, WordError


def select(
    names: Iterable[str],
    only: str | Sequence[str] | None,
    *,
    what: str = "tensor",
    argument: str = "only",
    error: type[ParimendError] = WordError,
) -> list[str]:
    """Those of ``names`` that match a shell pattern, in their order.

    Args:
        names: to choose from.
        only: shell patterns (``*``, ``?``, ``[...]``), case-sensitive; a name needs to match one of
            them. None: all names.
        what: the names stand for, for messages.
        argument: what ``only`` is called, for messages.
        error: to raise.

    Raises:
        ParimendError: ``error``, if a pattern matches nothing.
        SpecError: if ``only`` is something else.

    Example:
        >>> select(["conv.weight", "conv.bias", "fc.weight"], ["*.weight"])
        ['conv.weight', 'fc.weight']
    """
    names = list(names)
    if only is None:
        return names
    patterns = texts(only, argument, "a shell pattern or a list of them")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise error(f"no {what} matches {pattern!r}; there are {listed(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


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
