"""Records say in one line what they hold, and are written as JSON in one way."""

import json
import math

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.carriers.finding import Finding
from parimend.decoders.decoding import Decoding
from parimend.events import Event
from parimend.guards import Coverage, GuardEvent
from parimend.outcomes import (
    Change,
    FileOutcome,
    Report,
    Verdict,
    WordOutcome,
    worst,
)
from parimend.record import Record
from parimend.scrub import Counters
from parimend.showing import ROWS, html_table
from parimend.words.layout import Word, whole

LONG = "layer" * 1000
CHANGE = Change(LONG, (3, 4), "F32", b"\0\0\xc0\x7f", b"\0\0\x80\x3f")
WORD = WordOutcome("w" * 5000, Verdict.CORRECTABLE, 10**9, (CHANGE,) * 1000)
LOST = WordOutcome("\x1b[31m\n", Verdict.UNCORRECTABLE, 5, unexplained=9, reason="r" * 5000)
FILE = FileOutcome((WORD, LOST) * 500, "/long" * 1000, "sidecar", 210, 10**9, missing=3)
SEAL = pm.protect_({"w" * 1000: torch.ones(10_000)}, errors=300)
GUARD = GuardEvent(
    "suspect", 7, layer=LONG, sample=(1, 2), positions=((3, 4),) * 900, channels=tuple(range(900))
)
HUGE = Report((FILE,) * 1000)
RECORDS = [
    (Decoding(Verdict.CORRECTED, np.arange(10**5), np.arange(10**5)), "100000 wrong words"),
    (CHANGE, "[3, 4] F32, nan instead of 1.0"),
    (Change("w", (0,) * 900, "F8_E4M3", b"\0", b"\1"), "0.0 instead of 0.00195"),
    (WORD, "correctable"),
    (LOST, "uncorrectable"),
    (FILE, "3 bytes missing"),
    (FileOutcome((), "a", problem="missing"), "unknown, missing"),
    (FileOutcome((WORD,)), "model correctable"),
    (HUGE, "1,000 files, 1,000,000 protected words"),
    (Report((FileOutcome((LOST,) * 5),)), "<Report: uncorrectable, 5 protected words"),
    (
        Report((FileOutcome((), "a", fetched=4096),)),
        "0 protected words of 0 elements, 0 wrong, 4",
    ),
    (Event("repaired", 7, "r" * 1000, (CHANGE,) * 100), "100 elements"),
    (Event("failed", 7, "\x1b[31m" * 1000), "failed at 7"),
    (GUARD, "suspect"),
    (Coverage(LONG, "Linear", "uncovered", "r" * 1000), "uncovered"),
    (Counters(sweeps=3), "sweeps=3"),
    (Finding(Verdict.CORRECTABLE, [(0, 1, b"\0", b"\1")] * 1000, reason="r" * 1000), "1000 elem"),
    (Word((whole(LONG, "F32", (3, 4)),) * 1000), "Word"),
    (whole(LONG, "F32", (3, 4)), "Part"),
    (pm.plan({LONG: torch.ones(10_000)}, errors=3).words[0], "PlannedWord"),
    (pm.plan({LONG: torch.ones(10_000)}, errors=3, service="leo"), "3 guaranteed"),
    (pm.Protection("p" * 1000, "", SEAL, 10**9, 10**9, 10**9), "Protection"),
    (SEAL, "300 errors"),
    (SEAL.words[0], "Screened"),
]


@pytest.mark.parametrize(("record", "says"), RECORDS)
def test_a_repr_is_short(record, says):
    text = repr(record)
    assert says in text
    assert len(text) < 300
    assert text.isprintable()


SMALL = FileOutcome((LOST, WordOutcome("w", Verdict.CORRECTED, 5, (CHANGE,) * 3)), "a")
WRITTEN = [each for each, _ in RECORDS if isinstance(each, Record) and each not in (FILE, HUGE)]


@pytest.mark.parametrize("record", [*WRITTEN, SMALL, Report((SMALL,), 0.5)])
def test_every_record_is_one_line_of_json(record):
    line = record.to_json()
    assert "\n" not in line
    assert json.loads(line) == record.as_dict()


def test_elements_are_written_in_the_order_of_their_bytes():
    """Everywhere the same: in reports, in the scrubber's log, in what training tells."""
    one = {
        "tensor": LONG,
        "index": [3, 4],
        "dtype": "F32",
        "received": "0000c07f",
        "original": "0000803f",
        "received_value": "nan",
        "original_value": 1.0,
    }
    assert CHANGE.as_dict() == one
    assert Event("repaired", 1, changes=(CHANGE,)).as_dict()["changes"] == [one]
    word = WordOutcome("w", Verdict.CORRECTED, 5, (CHANGE,))
    told = Event("repaired", 1, changes=word.changes, word=word).as_dict()
    assert told["changes"] == [one]
    assert told["word"] == {
        "name": "w",
        "verdict": "corrected",
        "elements": 5,
        "unexplained": 0,
        "reason": "",
        "proof": "",
    }
    [file] = Report((FileOutcome((word,)),)).as_dict()["files"]
    assert file["words"] == [told["word"] | {"changes": [one]}]


def test_events_of_all_sources_are_written_alike():
    common = {"kind", "where", "reason", "changes", "word", "time"}
    assert Event("sealed", 3).as_dict().keys() == common
    told = GuardEvent("replaced", 3, layer="0", magnitude=math.inf).as_dict()
    of_guards = {"layer", "sample", "positions", "channels", "magnitude", "function"}
    assert told.keys() == common | of_guards
    assert (told["kind"], told["layer"], told["magnitude"]) == ("replaced", "0", "inf")


def test_events_are_equal_whenever_they_were_told():
    assert Event("sealed", 3, time=1.0) == Event("sealed", 3, time=2.0)
    assert Event("sealed", 3) != Event("sealed", 4)


def test_what_is_not_known_is_not_right():
    assert not Verdict.UNKNOWN.ok
    assert worst(Verdict.CORRECTABLE, Verdict.UNKNOWN, Verdict.CLEAN) is Verdict.UNKNOWN
    assert worst(Verdict.UNKNOWN, Verdict.UNCORRECTABLE) is Verdict.UNCORRECTABLE
    assert worst() is Verdict.CLEAN


def test_models_and_files_have_the_same_kind_of_report(tmp_path):
    model, path = {"w": torch.ones(1000)}, tmp_path / "w.safetensors"
    seal = pm.protect_(model, errors=3)
    pm.save_file(model, path, errors=3)
    reports = [pm.check(model, seal), pm.check_file(path), pm.verify(path)]
    model["w"][7] = 0.0
    reports += [pm.check(model, seal), pm.repair_(model, seal)]
    for report in reports:
        assert isinstance(report, pm.Report)
        assert (report.elements, report.covered, len(report.words)) == (1000, 1000, 1)
        assert [(f.carrier, f.errors) for f in report.files] == [("sidecar", 3)]
        assert report.seconds > 0
    assert [report.verdict.value for report in reports[2:]] == ["clean", "correctable", "corrected"]
    assert [report.ok for report in reports] == [True, True, True, False, True]
    assert [change.index for change in reports[3].changes] == [(7,)]
    assert reports[4].files[0].findings == ("1 wrong element, corrected",)


def test_a_report_is_a_table_in_a_notebook():
    clean = [WordOutcome(f"fine {i}", Verdict.CLEAN, 5) for i in range(500)]
    wrong = WordOutcome("<b>&", Verdict.CORRECTED, 5, (CHANGE,) * 100)
    lost = WordOutcome("lost", Verdict.UNCORRECTABLE, 5, reason="<too> much\x1b[2J")
    files = [FileOutcome((), f"/{i}", "sidecar", 3, 5) for i in range(100)]
    text = Report((*files, FileOutcome((*clean, wrong, lost), "<i>", "real", 3)))._repr_html_()
    assert "&lt;b&gt;&amp;" in text
    assert "&lt;i&gt;" in text
    assert not [each for each in ("<b>", "<i>", "<too>", "\x1b") if each in text]
    assert text.count("<table>") == 3
    assert text.count("<tr>") <= 3 * (ROWS + 2)
    assert "and 76 more" in text.replace(",", "")
    # What is wrong comes first, however much is right.
    words = text[text.index("<th>word") :]
    assert words.index("lost") < words.index("&lt;b&gt;") < words.index("fine 0")
    assert text.index("&lt;i&gt;") < text.index("/0<")


def test_a_model_has_no_table_of_files():
    text = Report((FileOutcome((WordOutcome("w", Verdict.CLEAN, 5),)),))._repr_html_()
    assert text.count("<table>") == 1
    assert "clean" in text


def test_a_seal_is_a_table_in_a_notebook():
    model = {f"<{i}>": torch.ones(100) for i in range(50)}
    text = pm.protect_(model, errors=2, per="tensor")._repr_html_()
    assert "&lt;0&gt;" in text
    assert "<0>" not in text
    assert f"and {50 - ROWS} more" in text
    assert "Screened" in text
    assert len(SEAL._repr_html_()) < 2000


def test_a_table_takes_no_more_rows_than_it_shows():
    taken = []
    rows = ([str(i)] for i in range(10**9) if taken.append(i) is None)
    assert html_table(["n"], rows, 10**9).endswith("and 999,999,976 more</td></tr></table>")
    assert len(taken) <= ROWS + 1


def test_a_report_counts_nothing_that_is_not_known():
    change = Change("w", (0,), "U8", b"\1", b"\0")
    known = WordOutcome("w", Verdict.CORRECTABLE, 9, (change,))
    lost = WordOutcome("v", Verdict.UNCORRECTABLE, 9, unexplained=3, reason="too much")
    for words, says in (
        ((known,), "1 protected word of 9 elements, 1 wrong>"),
        ((lost,), "1 protected word of 9 elements, unknown how many are wrong>"),
        ((known, lost), "2 protected words of 9 elements, more than 1 wrong>"),
    ):
        assert repr(Report((FileOutcome(words, covered=9),))).endswith(says)


def test_a_printed_report_says_what_is_wrong_and_what_to_do():
    model = torch.nn.Linear(100, 50)
    seal = pm.protect_(model, 5)
    assert str(pm.check(model, seal)) == repr(pm.check(model, seal))
    with torch.no_grad():
        model.weight.mul_(0.5)  # a step of training, for one
    for report in pm.check(model, seal), pm.repair_(model, seal):
        first, finding, advice = str(report).splitlines()
        assert first == repr(report)
        assert finding == "uncorrectable: more damage than the code can repair"
        assert "changed on purpose" in advice
    assert pm.check(model, pm.refresh(model, seal)).verdict is Verdict.CLEAN


def test_a_printed_report_is_no_longer_than_a_screen():
    words = (WordOutcome("w", Verdict.UNCORRECTABLE, 1, reason="lost\x1b"),)
    files = tuple(FileOutcome(words, f"{number}.bin") for number in range(3000))
    lines = str(Report(files)).splitlines()
    assert len(lines) == 22
    assert lines[1] == r"0.bin: uncorrectable: lost\x1b"
    assert lines[-1] == "... and 2,980 more"
