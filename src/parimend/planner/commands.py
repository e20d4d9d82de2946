"""What carries a plan out, as it is typed."""

from __future__ import annotations

import os
import shlex
from typing import Any

from parimend.arguments import path_of
from parimend.carriers import Options
from parimend.names import texts
from parimend.planner.planning import Plan
from parimend.showing import command_word

_DEFAULTS = {"per": "model", "seed": 0, "guaranteed": None}
"""Options that are left out where they are this."""


def command_of(made: Plan, source: Any, options: Options) -> str:
    """What carries a plan out: on the command line for a file, in Python for a model.

    Args:
        made: the plan.
        source: what was planned.
        options: with which.
    """
    if not isinstance(source, str | os.PathLike):
        asked = {key: value for key, value in options.items() if value is not None}
        more = "".join(f", {key}={value!r}" for key, value in asked.items())
        return f'pm.protect_(model, {made.errors}, "{made.carrier}"{more})'
    path = command_word(path_of(source))
    parts = [f"parimend protect {path} --carrier {made.carrier} --errors {made.errors}"]
    patterns = texts(options.get("only") or (), "only", "a shell pattern or a list of them")
    parts += [f"--only {shlex.quote(pattern)}" for pattern in patterns]
    given = {key: options.get(key, default) for key, default in _DEFAULTS.items()}
    parts += [f"--{key} {value}" for key, value in given.items() if value != _DEFAULTS[key]]
    if made.request.carrier.moves:
        parts.append("--out OUT")
    return " ".join(parts)
