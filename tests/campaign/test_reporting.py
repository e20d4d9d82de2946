"""What a campaign says of its trials, in Python and on the command line."""

import json
import math
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.stats import binomtest

from parimend.campaign import Spec, Store, compare, confidence_of, lines, resume, run
from parimend.campaign.estimates import bonett_price
from parimend.errors import FormatError, MismatchError, SpecError
from parimend.report import campaign_sheets
from tests.campaign.conftest import HERE, tables

TOML = """
[networks.digits]
build = "digits_recipe:network"
arguments = {steps = 40}
data = "digits_recipe:pictures"
metric = "digits_recipe:accuracy"

[protections.none]
[protections.sidecar]
errors = 3

[faults.four]
kind = "random"
count = 4
[faults.one]
kind = "single-bit"

[stop]
trials = 40
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A finished campaign."""
    out = tmp_path_factory.mktemp("campaign")
    run(Spec.of(_tables(), HERE), out / "out", workers=1)
    return out / "out"


def _tables(**more):
    return tomllib.loads(TOML) | more


def test_a_line_counts_the_trials_with_intervals(campaign):
    found = {(line.protection, line.fault): line for line in lines(campaign)}
    assert len(found) == 4
    lost = found["sidecar", "four"]
    assert lost.trials == 40
    assert lost.outcomes["detected"].value == 1.0
    none = found["none", "one"].outcomes["silent"]
    interval = binomtest(40, 40).proportion_ci(0.95, "wilson")
    assert (none.value, none.low, none.high) == (1.0, interval.low, interval.high)
    assert (none.method, none.upper) == ("wilson", None)
    unseen = found["sidecar", "one"].event
    assert unseen.value == 0.0
    assert unseen.upper == pytest.approx(1 - 0.05 ** (1 / 40))
    assert found["sidecar", "one"].outcomes["repaired"].value == 1.0
    assert found["sidecar", "one"].nbytes > 0
    assert found["sidecar", "one"].change == 0.0
    assert (found["sidecar", "one"].guaranteed, found["none", "one"].guaranteed) == (3, 0)
    assert {line.where.name for line in found.values()} == {"all"}


def test_rows_of_another_campaign_do_not_count(campaign, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign, out)
    run(Spec.of(_tables(seed=1), HERE), tmp_path / "other", workers=1)
    with open(out / "rows.jsonl", "ab") as file:
        file.write((tmp_path / "other" / "rows.jsonl").read_bytes())
    assert [line.as_dict() for line in lines(out)] == [line.as_dict() for line in lines(campaign)]


def test_scores_are_those_of_the_trials(campaign):
    found = {(line.protection, line.fault): line for line in lines(campaign)}
    rows = [
        row
        for row in Store(campaign).statistics().sorted()
        if (row.task.protection.name, row.task.fault.name) == ("none", "four")
    ]
    scores = np.array([score for row in rows for score in row.scores])
    line = found["none", "four"]
    assert line.score.value == pytest.approx(scores.mean())
    half = 1.959964 * scores.std(ddof=1) / math.sqrt(40)
    assert line.score.high == pytest.approx(scores.mean() + half)
    assert line.harmed.value == np.mean(scores < line.intact)
    assert line.harmed.value > 0.5
    assert found["sidecar", "one"].harmed.value == 0.0


def test_campaigns_are_added_and_no_trial_counts_twice(campaign, tmp_path):
    run(Spec.of(_tables(seed=1), HERE), tmp_path / "more", workers=1)
    assert {line.trials for line in lines(campaign, tmp_path / "more")} == {80}
    assert [line.as_dict() for line in lines(campaign, campaign)] == [
        line.as_dict() for line in lines(campaign)
    ]


def _plain(out, seed=1, value=0.5, **more):
    """A short campaign without a metric; where it is."""
    file = out.with_suffix(".safetensors")
    save_file({"w": np.full(60, value, np.float32)}, file)
    given = tables(
        networks={"w": {"file": str(file)}},
        faults={"four": {"kind": "random", "count": 4}},
        stop={"trials": 30},
        seed=seed,
        block=20,
    )
    run(given | more, out, workers=1)
    return out


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"faults": {"four": {"kind": "random", "count": 5}}}, "fault"),
        ({"protections": {"none": {}, "sidecar": {"errors": 4}}}, "protection"),
        ({"value": 0.25}, "weights"),
        ({"stop": {"trials": 30, "outcomes": ["repaired"]}}, "what is looked for"),
        ({"stop": {"trials": 30, "confidence": 0.5}}, "confidence"),
    ],
)
def test_what_has_one_name_and_is_not_the_same_is_not_added(more, what, tmp_path):
    one, other = _plain(tmp_path / "one"), _plain(tmp_path / "other", seed=2, **more)
    for both in ((one, other), (other, one)):
        with pytest.raises(MismatchError, match=f"differ in .*{what}"):
            lines(*both)


@pytest.mark.parametrize("more", [{"stop": {"trials": 45}}, {"block": 7}])
def test_a_trial_in_tasks_of_two_sizes_is_not_counted_twice(more, tmp_path):
    one, other = _plain(tmp_path / "one"), _plain(tmp_path / "other", **more)
    with pytest.raises(MismatchError, match="of seed 1, which would count twice"):
        lines(one, other)
    two = _plain(tmp_path / "two", seed=2, **more)
    trials = more.get("stop", {"trials": 30})["trials"]
    assert {line.trials for line in lines(one, two)} == {30 + trials}


def test_a_sum_with_a_campaign_that_was_ended_by_what_was_seen_has_sequences(tmp_path):
    fixed = _plain(tmp_path / "fixed")
    ended = _plain(tmp_path / "ended", seed=2, stop={"trials": 200, "width": 0.5, "first": 10})
    for both in ((fixed, ended), (ended, fixed)):
        assert {line.event.method for line in lines(*both)} == {"sequence"}


def test_only_the_same_event_is_compared(tmp_path):
    one = _plain(tmp_path / "one")
    other = _plain(tmp_path / "other", stop={"trials": 30, "outcomes": ["repaired"]})
    with pytest.raises(MismatchError, match="differ in what is looked for"):
        compare(one, other)


def test_protections_are_compared_trial_by_trial(campaign):
    found = {each.fault: each for each in compare(f"{campaign}:none", f"{campaign}:sidecar")}
    one = found["one"]
    assert (one.trials, one.only_a, one.only_b) == (40, 40, 0)
    assert one.p == pytest.approx(2.0**-39)
    assert one.difference.value == 1.0
    assert 0.8 < one.difference.low < 1.0
    assert one.score.value <= 0.0
    same = compare(f"{campaign}:none", f"{campaign}:none")[0]
    assert (same.p, same.only_a, same.only_b) == (1.0, 0, 0)
    assert same.difference.low < 0.0 < same.difference.high
    assert len(compare(campaign, campaign)) == 4


def test_names_of_folders_may_have_colons(campaign, tmp_path, command):
    """The campaign in ``a:sidecar`` is meant then, and not a protection of the one in ``a``."""
    one, other = tmp_path / "a", tmp_path / "a:sidecar"
    for folder in (one, other):
        shutil.copytree(campaign, folder)
    found = compare(f"{other}:none", other)
    assert {(each.a, each.b) for each in found} == {
        (f"{other}:none", f"{other}:none"),
        (f"{other}:none", f"{other}:sidecar"),
    }
    status, out, _ = command("campaign", "compare", f"{one}:none", other, "--json")
    assert (status, {each["path"] for each in json.loads(out)["campaigns"]}) == (
        0,
        {str(one), str(other)},
    )


def test_the_paired_interval_is_that_of_the_paper():
    """Bonett and Price 2012: p12 = (f12 + 1) / (n + 2), p21 likewise."""
    found = bonett_price(12, 4, 100, 0.95)
    p12, p21 = 13 / 102, 5 / 102
    half = 1.959964 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / 102)
    assert found.value == pytest.approx(0.08)
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half))


def test_paired_intervals_cover(rng):
    missed = 0
    for _ in range(2000):
        kinds = rng.multinomial(200, [0.08, 0.03, 0.89])
        found = bonett_price(int(kinds[0]), int(kinds[1]), 200, 0.95)
        missed += not found.low <= 0.05 <= found.high
    assert missed <= 120  # 5 %, and a little for the simulation


def test_strata_and_early_ends_have_sequences(tmp_path):
    given = _tables(
        faults={"one": {"kind": "bitflip", "count": 1}},
        strata={"bits": [[0, 22], [23, 30], [31, 31]]},
        stop={"trials": 120, "harmed": True, "first": 30},
    )
    run(Spec.of(given, HERE), tmp_path, workers=1)
    none, sidecar = lines(tmp_path)
    assert (none.trials, none.event.method) == (120, "sequence")
    assert 0.0 < none.event.value < 0.4
    assert none.event.low <= none.event.value <= none.event.high
    whole, *parts = lines(tmp_path, strata=True)[:4]
    assert whole.as_dict() == none.as_dict()
    assert [part.where.bits for part in parts] == [(0, 22), (23, 30), (31, 31)]
    assert sum(part.trials for part in parts) == none.trials
    assert sum(part.where.weight * part.event.value for part in parts) == pytest.approx(
        none.event.value
    )
    assert all(part.event.low <= part.event.value <= part.event.high for part in parts)
    assert {part.event.method for part in parts} == {"sequence"}
    score = sum(part.where.weight * part.score.value for part in parts)
    assert score == pytest.approx(none.score.value)
    assert sidecar.event.value == 0.0
    assert sidecar.event.upper == sidecar.event.high
    assert [each.as_dict() for each in lines(tmp_path, tmp_path)] == [
        none.as_dict(),
        sidecar.as_dict(),
    ]
    (found,) = compare(f"{tmp_path}:none", f"{tmp_path}:sidecar")
    assert found.p is None
    assert found.difference.method == "sequence"
    assert found.difference.value == pytest.approx(none.event.value)
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert found.only_b == 0


def test_a_copy_that_was_interrupted_takes_no_trials_from_the_whole(tmp_path):
    """Of a round that it has in part it counts none, so that they count where all of it is."""
    whole = _plain(
        tmp_path / "whole",
        faults={"one": {"kind": "bitflip", "count": 1}},
        strata={"bits": [[0, 22], [23, 31]]},
        stop={"trials": 40, "first": 10},
        block=2,
    )
    rows = (whole / "rows.jsonl").read_bytes().splitlines(keepends=True)
    begun = tmp_path / "begun"
    shutil.copytree(whole, begun)
    (begun / "rows.jsonl").write_bytes(b"".join(rows[: len(rows) // 2]))
    alone = [line.as_dict() for line in lines(whole)]
    assert {line["trials"] for line in alone} == {40}
    assert 0 < lines(begun)[0].trials < 40
    for both in ((begun, whole), (whole, begun)):
        assert [line.as_dict() for line in lines(*both)] == alone


@pytest.mark.parametrize("name", ["status", "report"])
def test_what_is_there_is_told_at_once(campaign, name):
    """Networks and what protects them take longer to load than the rows to read."""
    script = (
        "import sys; from parimend.cli import main\n"
        f"try: main(['campaign', {name!r}, sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'numba', 'llvmlite', 'torch', 'parimend.guards'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, campaign], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_protection_that_came_later_keeps_its_trials_beside_those_that_were_there(tmp_path):
    given = {
        "faults": {"one": {"kind": "bitflip", "count": 1}},
        "strata": {"bits": [[0, 22], [23, 31]]},
        "stop": {"trials": 40, "first": 10},
    }
    first = _plain(tmp_path / "first", protections={"none": {}}, **given)
    later = _plain(tmp_path / "later", protections={"none": {}, "copies": {}}, **given)
    for both in ((first, later), (later, first)):
        found = {line.protection: line.trials for line in lines(*both)}
        assert found == {"none": 40, "copies": 40}


@pytest.mark.parametrize(
    # 105: in part of a round
    ("short", "least"),
    [pytest.param(60, 60, marks=pytest.mark.long), (105, 60)],
)
def test_a_campaign_that_went_on_for_longer_is_compared_either_way(tmp_path, short, least):
    for name, trials in (("long", 150), ("short", short)):
        given = _tables(
            faults={"one": {"kind": "bitflip", "count": 1}},
            strata={"bits": [[0, 22], [23, 30], [31, 31]]},
            stop={"trials": trials, "harmed": True, "first": 60},
            block=7,
        )
        run(Spec.of(given, HERE), tmp_path / name, workers=1)
    both = f"{tmp_path}/long:none", f"{tmp_path}/short:sidecar"
    (found,), (back,) = compare(*both), compare(*reversed(both))
    assert least <= found.trials == back.trials <= short
    assert (found.only_a, found.only_b) == (back.only_b, back.only_a)
    assert found.difference.value == pytest.approx(-back.difference.value)


def test_what_cannot_be_compared_says_why(campaign, tmp_path):
    with pytest.raises(SpecError, match="has no protection 'side'; there are none, sidecar"):
        compare(f"{campaign}:side", campaign)
    run(Spec.of(_tables(seed=1), HERE), tmp_path, workers=1)
    with pytest.raises(SpecError, match="share no trials"):
        compare(f"{campaign}:none", f"{tmp_path}:sidecar")


def test_no_campaign_has_no_confidence():
    with pytest.raises(SpecError, match="name the folder of one"):
        confidence_of()


def test_a_fault_has_the_rows_of_its_name_in_their_order(tmp_path):
    # Of one content: only their names tell them apart.
    faults = {name: {"kind": "bitflip", "count": 1} for name in ("b", "a", "c")}
    run(Spec.of(_tables(faults=faults), HERE), tmp_path, workers=1)
    found = [line for line in lines(tmp_path) if line.protection == "none"]
    assert [line.fault for line in found] == ["b", "a", "c"]
    assert len({(line.trials, line.outcomes["silent"], line.score) for line in found}) == 1


def test_commands_run_resume_tell_and_compare(command, tmp_path, campaign):
    spec, out = tmp_path / "spec.toml", tmp_path / "out"
    spec.write_text(TOML)
    (tmp_path / "digits_recipe.py").write_text("")  # hidden by the one that is loaded
    code, _, error = command("campaign", "run", spec, "--out", out)
    assert (code, "give it another name" in error) == (2, True)
    given = Spec.of(_tables(), HERE)
    with pytest.raises(KeyboardInterrupt):
        run(given, out, workers=1, progress=_interrupt)
    code, text, _ = command("campaign", "status", out)
    assert (code, "interrupted, 20 trials in 1 task\n" in text) == (0, True)
    for name in ("report", "compare"):
        assert "interrupted, 20 trials in 1 task\n" in command("campaign", name, *[out] * 2)[1]
    assert f"{out} is not finished: 20 trials so far" in campaign_sheets(out)[0].about
    code, text, _ = command("campaign", "resume", out, "--workers", 1)
    assert (code, "finished, 160 trials in 8 tasks" in text) == (0, True)
    code, text, _ = command("campaign", "report", out)
    assert code == 0
    assert "100 % (91.2-100)" in text
    assert "0 (< 7.22 %)" in text
    assert text.endswith("intervals: 95 %\n")
    assert "harmed" in text
    assert "trials in" not in text
    assert "not finished" not in campaign_sheets(out)[0].about
    code, text, _ = command("campaign", "compare", f"{out}:none", f"{out}:sidecar")
    assert code == 0
    assert "1.8e-12" in text
    assert "count trials that were silent or miscorrected; intervals: 95 %" in text
    assert (out / "statistics.jsonl").read_bytes() == (campaign / "statistics.jsonl").read_bytes()


def test_a_report_without_a_metric_has_no_columns_of_scores(command, tmp_path):
    _, text, _ = command("campaign", "report", _plain(tmp_path / "out"))
    assert "fault  kept" in text
    assert not {"score", "intact", "change", "harmed"} & set(text.split())


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_what_a_metric_prints_is_no_part_of_the_object(tmp_path, workers):
    np.save(tmp_path / "w.npy", np.ones(500, np.float32))
    (tmp_path / "prints.py").write_text(
        "def score(tensors):\n    print('printed')\n    return 1.0\n"
    )
    (tmp_path / "spec.toml").write_text(
        "[networks.n]\nfile = 'w.npy'\nmetric = 'prints:score'\n[protections.none]\n"
        "[faults.f]\nkind = 'bitflip'\ncount = 4\n[stop]\ntrials = 20\n"
    )
    command = [sys.executable, "-m", "parimend", "campaign", "run", "spec.toml", "--out", "out"]
    done = subprocess.run(
        [*command, "--workers", workers, "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["trials"] == 20, done.stderr
    assert set(done.stderr.splitlines()) == {"printed"}


@pytest.mark.parametrize(("lost", "said"), [(1, ""), (2, "; 2 damaged lines: not counted")])
def test_a_campaign_whose_rows_were_lost_is_not_finished(command, tmp_path, campaign, lost, said):
    """What is there says how far it is, whatever was written when it ended."""
    out = tmp_path / "out"
    shutil.copytree(campaign, out)
    rows = (campaign / "rows.jsonl").read_bytes().splitlines(keepends=True)
    torn = b"".join(line[:40] + b"\n" for line in rows[:lost] if said)
    (out / "rows.jsonl").write_bytes(torn + b"".join(rows[lost:]))
    told = f"interrupted, {20 * (8 - lost)} trials in {8 - lost} tasks{said}\n"
    for name in ("status", "report"):
        code, text, _ = command("campaign", name, out)
        assert (code, told in text) == (0, True)
    assert not json.loads(command("campaign", "status", out, "--json")[1])["finished"]
    assert f"{out} is not finished" in campaign_sheets(out)[0].about
    assert resume(out, workers=1).finished
    assert (out / "statistics.jsonl").read_bytes() == (campaign / "statistics.jsonl").read_bytes()


def test_an_interrupted_command_says_that_it_can_go_on(command, tmp_path, monkeypatch):
    spec = tmp_path / "spec.toml"
    spec.write_text(TOML)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("parimend.campaign.run", interrupted)
    code, _, error = command("campaign", "run", spec, "--out", tmp_path / "out")
    assert (code, "what was done is kept" in error) == (130, True)


def _interrupt(done, known):
    if done:
        raise KeyboardInterrupt


def test_commands_give_one_json_object(command, campaign):
    _, text, _ = command("campaign", "report", campaign, "--json")
    given = json.loads(text)
    assert (given["schema"], given["command"]) == (1, "campaign report")
    assert given["lines"] == json.loads(json.dumps([each.as_dict() for each in lines(campaign)]))
    _, text, _ = command("campaign", "status", campaign, "--json")
    assert given["campaigns"] == [
        {key: value for key, value in json.loads(text).items() if key not in ("schema", "command")}
    ]
    assert json.loads(text)["finished"] is True
    _, text, _ = command("campaign", "compare", campaign, campaign, "--json")
    assert len(json.loads(text)["comparisons"]) == 4


def test_a_campaign_whose_description_is_damaged_says_nothing(campaign, tmp_path):
    shutil.copytree(campaign, tmp_path / "out")
    head = tmp_path / "out" / "campaign.json"
    known = json.loads(head.read_text())
    for fact in known["prepared"]["facts"]:
        fact["score"] -= 0.125
    for damaged in (json.dumps(known), "[" * 100_000, '{"format": "parimend.campaign"}'):
        head.write_text(damaged)
        with pytest.raises(FormatError, match=r"campaign.json (is damaged|does not describe)"):
            lines(tmp_path / "out")


def test_commands_end_in_one_sentence(command, tmp_path, campaign):
    spec = tmp_path / "spec.toml"
    spec.write_text(TOML.replace("trials", "trails"))
    code, _, error = command("campaign", "run", spec, "--out", tmp_path / "out")
    assert (code, "did you mean 'trials'" in error, error.count("\n")) == (2, True, 1)
    code, _, error = command("campaign", "status", tmp_path / "nothing")
    assert (code, "holds no campaign" in error) == (2, True)
    code, _, error = command("campaign", "resume", campaign, "--address", "here:1")
    assert (code, "add --engine ray" in error) == (2, True)


def test_a_campaign_that_has_not_begun_has_no_lines(tmp_path):
    Store.make(tmp_path, Spec.of(tables()))
    assert lines(tmp_path) == []
