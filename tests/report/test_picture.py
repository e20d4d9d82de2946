"""Pictures: every cell is where it belongs, told apart by more than colour."""

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from parimend.errors import SpecError
from parimend.experiment import Estimate
from parimend.report import Chart, Column, Sheet, places, write_picture
from parimend.report.picture import _Panel
from tests.report.conftest import HOSTILE, sheet


def drawn(given, along, value):
    axes = Figure().subplots()
    return axes, _Panel(given, given.chart, along, value).draw(axes)


def marks(axes):
    """Of what is drawn with a mark: places, mark, colour, filled."""
    return [
        (line.get_xydata(), line.get_marker(), line.get_color(), line.get_fillstyle() == "full")
        for line in axes.lines
        if len(line.get_xdata()) and line.get_marker() not in ("None", "")
    ]


@pytest.mark.parametrize("lying", [False, True])
def test_marks_are_at_the_values_and_arrows_at_the_bounds(lying):
    cells = [Estimate(4.0, 3.0, 6.0), Estimate(0.0, 0.0, 3.7, 2.95)]
    columns = (Column("count", log=True), Column("silent", "%"))
    chart = Chart(("count",), ("silent",), (), lying=lying)
    axes, _ = drawn(
        Sheet("s", "", columns, list(zip((1, 10), cells, strict=True)), chart), "count", "silent"
    )
    (seen, mark, _, filled), (bound, arrow, _, empty) = marks(axes)
    turn = slice(None, None, -1) if lying else slice(None)
    assert (seen[0].tolist(), mark, filled) == ([1.0, 4.0][turn], "o", True)
    assert (bound[0].tolist(), arrow, empty) == ([10.0, 2.95][turn], "<" if lying else "v", False)
    (bar,) = (each.get_segments() for each in axes.collections[:1])
    assert np.allclose(bar[0], [[1.0, 3.0][turn], [1.0, 6.0][turn]])
    assert (axes.get_yscale() if lying else axes.get_xscale()) == "log"


@pytest.mark.parametrize("lying", [False, True])
def test_numbers_on_logarithmic_axes_are_read_as_they_are(tmp_path, lying):
    columns = (Column("bytes", log=True), Column("check", "ms", log=True))
    crowded = [(25, 0.07), (96, 0.09), (99, 0.1), (1749, 0.2), (8267, 3.0)]
    roomy = [(1, 10.0), (10, 1e4), (1000, 1e9)]
    for rows, told in (
        (crowded, {"1,000", "0.1"}),
        (roomy, {"1", "10", "1,000", "1e+06", "100,000"}),
    ):
        chart = Chart(("bytes",), ("check",), (), lying=lying)
        write_picture(Sheet("s", "", columns, rows, chart), tmp_path / "a.svg")
        texts = {each.text for each in ElementTree.parse(tmp_path / "a.svg").iter() if each.text}
        assert told <= texts
        assert not [text for text in texts if "$" in text or "mathdefault" in text]


def test_series_are_told_apart_by_colour_mark_and_dash():
    _, handles = drawn(sheet(names=["_a", "b"], layers=2, joined=True), "count", "kept")
    legend = {handle.get_label(): handle for handle in handles}
    assert list(legend) == ["_a, layer.0", "_a, layer.1", "b, layer.0", "b, layer.1"]
    looks = {name: (x.get_color(), x.get_marker(), x.get_linestyle()) for name, x in legend.items()}
    assert len({mark for _, mark, _ in looks.values()}) == 4
    assert looks["_a, layer.0"][0] == looks["_a, layer.1"][0] != looks["b, layer.0"][0]
    assert looks["_a, layer.0"][2] == looks["b, layer.0"][2] != looks["_a, layer.1"][2]


def test_what_is_proven_is_filled_and_names_stand_side_by_side():
    columns = (Column("carrier"), Column("known"), Column("errors", neutral=0.0))
    rows = [("real", "proven", 3), ("real", "measured", 5), ("sidecar", "proven", 7)]
    chart = Chart(("carrier",), ("errors",), ("known",), known="known")
    axes, _ = drawn(Sheet("s", "", columns, rows, chart), "carrier", "errors")
    found = {(round(float(x), 3), float(y)): full for xy, *_, full in marks(axes) for x, y in xy}
    assert found == {(-0.15, 3.0): True, (0.85, 7.0): True, (0.15, 5.0): False}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["real", "sidecar"]


@pytest.mark.parametrize("unseen", [True, False])
def test_arrows_are_explained_where_there_are_any(tmp_path, unseen):
    cells = [Estimate(4.0, 3.0, 6.0), Estimate(0.0, 0.0, 3.7, 2.95 if unseen else None)]
    columns = (Column("fault"), Column("rule"), Column("silent", "%"))
    rows = [("flips", "none", cells[0]), ("flips", "sidecar", cells[1])]
    chart = Chart(("fault",), ("silent",), ("rule",))
    write_picture(Sheet("s", "", columns, rows, chart), tmp_path / "a.svg")
    told = "open arrow: an upper bound, where none was seen" in (tmp_path / "a.svg").read_text()
    assert told == unseen


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_same_sheet_gives_the_same_picture(tmp_path, suffix):
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write_picture(sheet(), first, HOSTILE[2])
    write_picture(sheet(), second, HOSTILE[2])
    assert first.stat().st_size > 2000
    assert first.read_bytes() == second.read_bytes()
    if suffix == "svg":
        texts = "".join(ElementTree.parse(first).getroot().itertext())
        assert HOSTILE[0] in texts


@pytest.mark.parametrize("letters", [100, 3000])
def test_long_names_have_room(tmp_path, letters):
    names = [f"{i:<{letters}}".replace(" ", "x") for i in range(3)]
    columns = (Column("layer"), Column("changed", "%"))
    chart = Chart(("layer",), ("changed",), (), lying=True)
    given = Sheet("s", "", columns, [(name, 1.0) for name in names], chart)
    write_picture(given, tmp_path / "a.svg")  # matplotlib warns where there is none
    axes, _ = drawn(given, "layer", "changed")
    assert sorted(marks(axes)[0][0][:, 1]) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (None, np.inf)])
def test_a_logarithmic_axis_may_have_nothing_on_it(tmp_path, numbers):
    columns = (Column("size", log=True), Column("error", log=True))
    rows = list(zip((0.0, 0.0), numbers, strict=True))
    write_picture(
        Sheet("s", "", columns, rows, Chart(("size",), ("error",), ())), tmp_path / "a.svg"
    )


def test_places_that_are_no_number_are_left_out_of_a_logarithmic_axis(tmp_path):
    columns = (Column("size", log=True), Column("changed"))
    rows = [(0.1, 1.0), (math.inf, 2.0), (10.0, 3.0)]
    given = Sheet("by size", "", columns, rows, Chart(("size",), ("changed",), (), joined=True))
    write_picture(given, tmp_path / "a.svg")
    axes, _ = drawn(given, "size", "changed")
    assert marks(axes)[0][0].tolist() == [[0.1, 1.0], [10.0, 3.0]]


def test_a_picture_that_cannot_be_drawn_says_why(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match=r"map\.gif: a picture is a file \.svg or \.png or \.pdf"):
        write_picture(sheet(), tmp_path / "map.gif")
    with pytest.raises(SpecError, match="sheet s has no chart"):
        write_picture(Sheet("s", "", (Column("a"),), []), tmp_path / "a.svg")
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'parimend\[plot\]'"):
        write_picture(sheet(), tmp_path / "a.svg")
