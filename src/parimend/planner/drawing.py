"""Maps as pictures (needs the ``plot`` extra)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from parimend.arguments import path_of
from parimend.atomic import atomic
from parimend.errors import SpecError
from parimend.planner.maps import Map, Point

# Told apart by colour-blind people, and by shape (Okabe and Ito).
_STYLES = {"sidecar": ("#0072B2", "o"), "real": ("#D55E00", "s"), "lowbits": ("#009E73", "^")}
_FORMATS = (".svg", ".png", ".pdf")


def draw_map(found: Map, path: str | os.PathLike[str]) -> None:
    """Draw a map: what is kept beside the weights against what it repairs.

    Filled marks are guaranteed, open ones measured; the second panel has the seconds of a check.
    Dominated points are left out.

    Args:
        found: the map.
        path: ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        SpecError: for another kind of file, or without matplotlib.
        OSError: if the file cannot be written.
    """
    target = path_of(path)
    if target.suffix not in _FORMATS:
        raise SpecError(f"{target}: a picture is one of {', '.join(_FORMATS)}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError("pictures need matplotlib: pip install 'parimend[plot]'") from None
    # The same map gives the same file.
    with rc_context({"svg.hashsalt": "parimend", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for carrier, (colour, mark) in _STYLES.items():
            points = [point for point in found.best if point.carrier == carrier]
            if not points:
                continue
            for axes, cost in ((left, _bytes), (right, _check)):
                _scatter(axes, points, cost, colour, mark, carrier)
        left.set(xscale="log", yscale="log", xlabel="bytes of checks")
        left.set_ylabel("wrong words of 32 bits\n(filled: guaranteed, open: measured)")
        right.set(xscale="log", xlabel="milliseconds of a check")
        left.legend(frameon=False)
        figure.suptitle(found.source if not found.where else f"{found.source}, {found.where}")
        metadata: dict[str, Any] = {"Date": None} if target.suffix == ".svg" else {}
        with atomic(Path(target)) as file:
            figure.savefig(file, format=target.suffix[1:], metadata=metadata or None, dpi=150)


def _bytes(point: Point) -> float:
    return point.seal_bytes


def _check(point: Point) -> float:
    return 1e3 * point.check


def _scatter(axes: Any, points: list[Point], cost: Any, colour: str, mark: str, name: str) -> None:
    costs = [cost(point) for point in points]
    style = {"color": colour, "marker": mark, "linestyle": "none", "markersize": 7}
    axes.plot(costs, [p.errors for p in points], **style, fillstyle="none")
    sure = [(c, p.guaranteed) for c, p in zip(costs, points, strict=True) if p.guaranteed]
    axes.plot([c for c, _ in sure], [g for _, g in sure], **style, label=name)
