"""Sheets of campaigns, comparisons, maps and traces hold what was found; commands write them."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

import parimend as pm
from parimend.campaign import Spec, compare, lines
from parimend.planner import map_of
from parimend.report import (
    campaign_sheets,
    comparison_sheets,
    map_sheets,
    trace_sheets,
    write_picture,
)
from parimend.upsets import Upset
from tests.campaign.conftest import HERE, tables
from tests.report.test_sheets import Parsed


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A finished campaign with flips in three numbers."""
    faults = {f"flip-{n}": {"kind": "bitflip", "count": n} for n in (1, 2, 8)}
    out = tmp_path_factory.mktemp("campaign") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        pm.campaign.run(Spec.of(tables(faults=faults, stop={"trials": 5}), HERE), out, workers=1)
    return out


def test_a_campaign_is_a_row_for_each_line(campaign):
    (sheet,) = campaign_sheets(campaign)
    found = lines(campaign)
    assert len(sheet.rows) == len(found) == 6
    assert sheet.values("count") == [1, 1, 2, 2, 8, 8]
    assert sheet.values("guaranteed") == [0, 2] * 3
    for line, silent, score, harmed in zip(
        found, *map(sheet.values, ("silent", "score", "harmed")), strict=True
    ):
        there = line.outcomes["silent"]
        assert (silent.value, silent.low) == (100 * there.value, 100 * there.low)
        assert silent.upper == (None if there.upper is None else 100 * there.upper)
        assert (score.value, score.high) == (line.score.value, line.score.high)
        assert harmed.value == 100 * line.harmed.value
    assert sheet.chart.along == ("count", "fault")
    assert sheet.chart.joined


def test_strata_are_a_table_of_their_own(tmp_path):
    given = tables(
        networks={"n": {"file": "n.safetensors"}},
        faults={"one": {"kind": "bitflip", "count": 1}},
        strata={"layers": True, "bits": [[0, 22], [23, 31]]},
        stop={"trials": 40, "first": 20},
    )
    save_file({"a": torch.randn(30, 10), "b": torch.randn(9)}, tmp_path / "n.safetensors")
    pm.campaign.run(Spec.of(given, tmp_path), tmp_path / "out", workers=1)
    whole, strata = campaign_sheets(tmp_path / "out")
    assert "score" not in [column.name for column in whole.columns]
    assert whole.chart.values[0] == "silent"
    names = ("protection", "layer", "bits")
    rows = list(zip(*map(strata.values, names), strict=True))
    bits = ("0-22", "23-31")
    assert rows == [(p, t, b) for p in ("none", "sidecar") for t in ("a", "b") for b in bits]
    assert sum(strata.values("trials")) == sum(whole.values("trials")) == 80


def test_a_tensor_may_be_called_all(tmp_path):
    given = tables(
        networks={"n": {"file": "n.safetensors"}},
        protections={"none": {}},
        faults={"one": {"kind": "bitflip", "count": 1}},
        strata={"layers": True},
        stop={"trials": 20, "first": 10},
    )
    save_file({"all": torch.randn(30), "w": torch.randn(90)}, tmp_path / "n.safetensors")
    pm.campaign.run(Spec.of(given, tmp_path), tmp_path / "out", workers=1)
    whole, strata = campaign_sheets(tmp_path / "out")
    assert whole.values("trials") == [20]
    assert strata.values("layer") == ["all", "w"]


def test_campaigns_that_call_other_faults_the_same_keep_them_apart(tmp_path, run):
    for name, count, confidence in (("a", 1, 0.95), ("b", 8, 0.99)):
        save_file({"w": torch.randn(30)}, tmp_path / f"{name}.safetensors")
        given = tables(
            networks={name: {"file": f"{name}.safetensors"}},
            faults={"flips": {"kind": "bitflip", "count": count}},
            stop={"trials": 5, "confidence": confidence},
        )
        pm.campaign.run(Spec.of(given, tmp_path), tmp_path / name, workers=1)
    (sheet,) = campaign_sheets(tmp_path / "a", tmp_path / "b")
    assert dict(zip(sheet.values("network"), sheet.values("count"), strict=True)) == {
        "a": 1,
        "b": 8,
    }
    page = tmp_path / "out.html"
    code, _, error = run("campaign", "report", tmp_path / "a", tmp_path / "b", "--html", page)
    assert (code, page.exists()) == (2, False)
    assert "95 % in" in error
    assert "report one by one" in error


def test_a_comparison_is_paired_differences(campaign):
    found = compare(f"{campaign}:none", f"{campaign}:sidecar")
    (sheet,) = comparison_sheets(found)
    assert sheet.values("fault") == [each.fault for each in found]
    assert [cell.low for cell in sheet.values("difference")] == [
        100 * each.difference.low for each in found
    ]
    assert [cell.value for cell in sheet.values("score")] == [each.score.value for each in found]
    assert sheet.column("difference").text(sheet.values("difference")[0]).endswith(" *")


def test_a_map_says_what_is_proven(tmp_path):
    found = map_of(torch.nn.Linear(512, 10), carriers=["sidecar", "real"], budgets=[4, 210])
    (sheet,) = map_sheets(found)
    assert sheet.values("known") == ["proven", "proven", "measured", "measured"]
    assert sheet.values("bytes") == [point.seal_bytes for point in found.points]
    assert len(sheet.chosen().rows) == len(found.best)
    write_picture(sheet, tmp_path / "map.svg", found.source)
    text = (tmp_path / "map.svg").read_text()
    assert "filled: proven, open: measured" in text
    assert "check, ms" in text


def test_a_trace_is_followed_layer_by_layer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    found = pm.propagation.trace(model.eval(), torch.rand(5, 4), [Upset("bitflip")], seeds=range(6))
    sheets = {sheet.name: sheet for sheet in trace_sheets(found)}
    assert list(sheets) == ["struck layers", "on the way", "layers passed", "by size", "by bit"]
    struck = sheets["struck layers"]
    assert struck.values("layer") == ["0", "2"]
    assert [cell.value for cell in struck.values("changed")] == [
        100 * each.changed.value for each in found.struck
    ]
    assert sheets["on the way"].values("at") == ["0", "1", "2", "(model)", "2", "(model)"]
    assert len(sheets["layers passed"].rows) == len(found.layers)
    assert sum(sheets["by bit"].values("faults")) == sum(sheets["by size"].values("faults")) == 60
    upset = pm.propagation.trace(model, torch.rand(5, 4), [Upset("offset")], seeds=range(2))
    assert "by bit" not in [sheet.name for sheet in trace_sheets(upset)]


def test_commands_write_pages_pictures_and_tables(campaign, tmp_path, run):
    files = [tmp_path / f"out.{suffix}" for suffix in ("html", "svg", "csv")]
    options = [
        text for pair in zip(("--html", "--picture", "--csv"), files, strict=True) for text in pair
    ]
    weights = tmp_path / "m.safetensors"
    save_file({"w": torch.randn(60, 50)}, weights)
    for arguments, title, rows in (
        (("campaign", "report", campaign), "Campaign out", 6),
        (("campaign", "compare", f"{campaign}:none", f"{campaign}:sidecar"), "out:none", 3),
        (("plan", weights, "--errors", 4), "m.safetensors", None),
    ):
        code, _, error = run(*arguments, *options)
        assert (code, error) == (0, "")
        page = Parsed(files[0].read_text())
        assert title in page.held["title"]
        assert "95 % confidence" in files[0].read_text()
        (shown,) = json.loads(page.unpacked("data"))
        with open(files[2], newline="") as file:
            kept = list(csv.reader(file))
        assert len(kept) - 1 == len(shown["columns"][0]["texts"]) == (rows or len(kept) - 1)
        assert files[1].read_bytes().startswith(b"<?xml")
        for file in files:
            file.unlink()


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, run):
    code, out, error = run("propagate", "nowhere:model", "--html", tmp_path / "page.pdf")
    assert (code, out, "page.pdf: a page is a file .html" in error) == (2, "", True)
    code, out, error = run("propagate", "nowhere:model", "--csv", tmp_path / "no" / "t.csv")
    assert (code, out, f"there is no folder {tmp_path / 'no'}" in error) == (2, "", True)
    (tmp_path / "t.svg").mkdir()
    code, out, error = run("plan", "nowhere", "--picture", tmp_path / "t.svg", "--json")
    assert (code, "t.svg" in json.loads(out)["error"]) == (2, True)
