"""Properties that are computed once."""

from __future__ import annotations

import functools
import sys
from typing import Any, TypeVar

_T = TypeVar("_T")


class cached_property(functools.cached_property[_T]):  # noqa: N801  as there
    """A property that is computed when it is first asked for, as of `functools`, and without the
    lock that it has before Python 3.12: one for all instances, which nobody would release in a
    process that is forked while another thread computes.

    Example:
        >>> class Circle:
        ...     @cached_property
        ...     def area(self):
        ...         print("computed")
        ...         return 3.14
        >>> circle = Circle()
        >>> circle.area, circle.area
        computed
        (3.14, 3.14)
    """

    if sys.version_info < (3, 12):

        def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
            if instance is None:
                return self
            value = vars(instance)[self.attrname] = self.func(instance)
            return value
