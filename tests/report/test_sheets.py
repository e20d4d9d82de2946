"""Sheets, and the CSV files and pages that hold what is in them."""

import base64
import csv
import gzip
import json
import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.errors import SpecError
from parimend.experiment import Estimate
from parimend.report import Chart, Column, Known, Sheet, csv_files, places, write_csv, write_page
from parimend.report import page as pages
from parimend.showing import escaped
from tests.report.conftest import HOSTILE, sheet

CELLS = st.none() | st.text() | st.integers() | st.floats()


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match="two columns have one name: a, a"):
        Sheet("s", "", (Column("a"), Column("a")), [])
    with pytest.raises(SpecError, match="a row has 2 values for 1 columns"):
        Sheet("s", "", (Column("a"),), [(1, 2)])
    with pytest.raises(SpecError, match="its chart names 'b'; there are a"):
        Sheet("s", "", (Column("a"),), [(1,)], Chart(("a",), ("b",), ()))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Estimate(-1.5, -2.0, -1.0), "-1.5 (-2 to -1) *"),
        (Estimate(-1.5, -2.0, 0.0), "-1.5 (-2 to 0)"),
        (Estimate(0.0, 0.0, 4.0, 3.0), "0 (< 3)"),
        (Estimate(math.nan, 0.0, math.inf), "-"),
        (Estimate(2.0, 1.0, math.inf), "2 (1 to inf) *"),
        (math.nan, "-"),
        (0.12345, "0.1235"),
        (12345, "12,345"),
        ("a", "a"),
    ],
)
def test_texts_of_cells(value, text):
    assert Column("difference", neutral=0.0).text(value) == text


def test_less_than_all_never_reads_as_all():
    repaired = Column("repaired", "%")
    assert repaired.text(Estimate(99.998, 99.99, 100.0)) == "99.998 (99.99 to 100)"
    assert repaired.text(99.9999) == "99.9999"
    assert repaired.text(100.0) == "100"


def test_rows_that_are_chosen_at_first():
    columns = (Column("a"), Column("kind", choice=True, chosen=("x",)))
    assert Sheet("s", "", columns, [(1, "x"), (2, "y"), (3, "x")]).chosen().values("a") == [1, 3]


def test_csv_has_all_numbers_in_full(tmp_path):
    columns = (Column("name"), Column("silent", "%"), Column("score"))
    rows = [
        ('a, "b"', Estimate(1 / 3, 0.1, math.inf), 0.1),
        ("c\nd", Estimate(0.0, 0.0, 0.5, 0.25), None),
        ("e", None, math.nan),
    ]
    first, second = Sheet("one", "", columns, rows), Sheet("by bit", "", columns, rows[:1])
    written = write_csv([first, second], tmp_path / "t.csv")
    assert written == csv_files([first, second], tmp_path / "t.csv")
    assert [path.name for path in written] == ["t.csv", "t-by-bit.csv"]
    with open(written[0], newline="") as file:
        assert list(csv.reader(file)) == [
            [
                "name",
                "silent, %",
                "silent, %, low",
                "silent, %, high",
                "silent, %, at most",
                "score",
            ],
            ['a, "b"', repr(1 / 3), "0.1", "inf", "", "0.1"],
            ["c\nd", "0.0", "0.0", "0.5", "0.25", ""],
            ["e", "", "", "", "", ""],
        ]
    with pytest.raises(SpecError, match=r"t\.txt: a table is a file \.csv"):
        write_csv([first], tmp_path / "t.txt")


def test_csv_holds_names_that_are_no_text(tmp_path):
    [path] = write_csv([Sheet("s", "", (Column("file"),), [("caf\udce9",)])], tmp_path / "t.csv")
    assert path.read_text().splitlines() == ["file", "caf\\udce9"]


def test_no_name_is_a_formula_of_a_spreadsheet(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "w=1", "'", ""]
    columns = (Column("tensor"), Column("change"))
    [path] = write_csv([Sheet("s", "", columns, [(n, -0.5) for n in names])], tmp_path / "t.csv")
    with open(path, newline="") as file:
        found = list(csv.reader(file))[1:]
    assert [row[0] for row in found] == [f"'{n}" for n in names[:6]] + names[6:]
    assert {row[1] for row in found} == {"-0.5"}


class Parsed(HTMLParser):
    """The elements of a page and what is in its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.held, self.inside = [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = dict(attrs).get("id") or tag

    def handle_data(self, data):
        self.held[self.inside] = self.held.get(self.inside, "") + data

    def unpacked(self, name):
        return gzip.decompress(base64.b64decode(self.held[name])).decode()


@pytest.fixture
def no_plotly(monkeypatch):
    """Packing it takes a second; one test does."""
    monkeypatch.setattr(pages, "_plotly", lambda: "plotly")


def test_a_page_holds_the_sheets_and_plotly_and_loads_nothing(tmp_path):
    from plotly.offline import get_plotlyjs

    path = tmp_path / "page.html"
    write_page([sheet()], path, "Campaign <a> & b", confidence=0.99)
    text = path.read_text()
    page = Parsed(text)
    assert page.unpacked("plotly") == get_plotlyjs()
    assert len(text) < 2.5e6
    assert "<title>Campaign &lt;a&gt; &amp; b</title>" in text
    assert "99 % confidence" in text
    assert "{{" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert {name for name, _ in page.attributes} & {"src", "srcset", "action"} == set()
    (shown,) = json.loads(page.unpacked("data"))
    given = sheet()
    assert [each["name"] for each in shown["columns"]] == [each.name for each in given.columns]
    silent = shown["columns"][3]
    assert (silent["known"], silent["numeric"]) == ("measured", True)
    assert silent["upper"] == [cell.upper for cell in given.values("silent")]
    assert silent["numbers"] == [cell.value for cell in given.values("silent")]
    assert silent["texts"][0] == given.column("silent").text(given.rows[0][3])
    write_page([sheet()], tmp_path / "again.html", "Campaign <a> & b", confidence=0.99)
    assert (tmp_path / "again.html").read_text() == text


@given(st.text(), st.lists(st.tuples(st.text(), CELLS), max_size=5))
def test_no_text_is_markup(tmp_path_factory, title, rows):
    path = tmp_path_factory.getbasetemp() / "any.html"
    columns = (Column("name", choice=True), Column("value", known=Known.BOUNDED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_plotly", lambda: "plotly")
        patch.setattr("os.fsync", lambda descriptor: None)
        write_page([Sheet("s", title, columns, rows)], path, title)
    page = Parsed(path.read_bytes().decode())
    assert page.tags.count("script") == 3
    assert (page.tags.count("img"), page.held["script"].strip()) == (
        0,
        pages._source("page.js").strip(),
    )
    (shown,) = json.loads(page.unpacked("data"))
    names = [escaped(name) for name, _ in rows]
    assert shown["columns"][0]["texts"] == names
    assert shown["about"] == escaped(title)


def test_hostile_names_are_text(tmp_path, no_plotly):
    write_page([sheet()], tmp_path / "page.html", HOSTILE[0])
    page = Parsed((tmp_path / "page.html").read_text())
    assert page.tags.count("script") == 3
    assert page.held["h1"].strip() == HOSTILE[0]
    assert HOSTILE[1] in json.loads(page.unpacked("data"))[0]["columns"][0]["texts"]


def test_a_page_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match=r"page\.txt: a page is a file \.html"):
        write_page([sheet()], tmp_path / "page.txt", "")
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"a page needs plotly: pip install 'parimend\[report\]'"):
        write_page([sheet()], tmp_path / "page.html", "")
