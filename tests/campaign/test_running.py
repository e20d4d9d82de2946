"""Campaigns end to end: what is done stays, and numbers depend on the tasks alone."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import parimend as pm
from parimend.campaign import Fact, Prepared, Spec, Store, resume, run, status
from parimend.campaign.engines import Local, Ray, local
from parimend.errors import (
    BusyError,
    CampaignError,
    FormatError,
    MismatchError,
    SpecError,
    WorkerDiedError,
)
from tests.campaign.conftest import HERE, RECIPE, tables

ROOT = HERE.parents[1]


def spec(**more):
    return Spec.of(tables(**more), HERE)


def statistics_of(out):
    return (out / "statistics.jsonl").read_bytes()


def trials_of(out):
    """By protection and fault, a letter and a score for each trial, in their order."""
    found = {}
    for row in Store(out).statistics().sorted():
        key = row.task.protection.name, row.task.fault.name
        outcomes, scores = found.get(key, ("", ()))
        found[key] = outcomes + row.outcomes, scores + row.scores
    return found


def test_a_campaign_counts_what_became_of_every_trial(tmp_path):
    seen = []
    end = run(spec(), tmp_path, workers=1, progress=lambda *args: seen.append(args))
    assert (end.trials, end.tasks, end.finished, end.running) == (80, 16, True, False)
    assert seen[0] == (0, 80)
    assert seen[-1] == (80, 80)
    trials = trials_of(tmp_path)
    assert trials["none", "flip"][0] == 20 * "s"
    assert trials["sidecar", "flip"][0] == 20 * "r"
    assert trials["sidecar", "five"][0] == 20 * "d"  # more than its budget
    store = Store(tmp_path)
    facts = {fact.protection: fact for fact in store.prepared.facts}
    assert facts["none"].nbytes == 0
    assert facts["sidecar"].nbytes > 0
    assert facts["sidecar"].score == facts["none"].score > 0.7
    assert set(trials["sidecar", "flip"][1]) == {facts["sidecar"].score}
    assert min(trials["none", "five"][1]) < facts["none"].score
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "campaign.json",
        "rows.jsonl",
        "statistics.jsonl",
    ]


def test_all_protections_meet_the_same_faults(tmp_path):
    run(spec(protections={"none": {}, "blind": {"kind": "none"}}), tmp_path, workers=1)
    rows = Store(tmp_path).statistics().sorted()
    a, b = ([r for r in rows if r.task.protection.name == name] for name in ("none", "blind"))
    assert [r.scores for r in a] == [r.scores for r in b]
    assert len({r.scores for r in a}) > 1


def test_workers_and_blocks_and_order_do_not_change_a_number(tmp_path):
    kinds = {
        "protections": {"sidecar": {"errors": 2}, "guards": {"k": 3}},
        "faults": {
            "stuck": {"kind": "bitflip", "count": 3, "stays": True},
            "tile": {"kind": "upset", "pattern": "tile", "size": 4},
        },
        "stop": {"trials": 10},
    }
    run(spec(**kinds), tmp_path / "one", workers=1)
    run(spec(**kinds), tmp_path / "two", workers=2)
    assert statistics_of(tmp_path / "one") == statistics_of(tmp_path / "two")
    run(spec(**kinds, block=7), tmp_path / "other", engine=Backwards())
    assert trials_of(tmp_path / "other") == trials_of(tmp_path / "one")


class Backwards(Local):
    """Does the last task first."""

    def __init__(self):
        super().__init__(workers=1)

    def rows(self, tasks):
        return super().rows(tasks[::-1])


class Ending(Local):
    """Ends after some tasks, as often as is said."""

    def __init__(self, error, after, times=1):
        super().__init__(workers=1)
        self.error, self.after, self.times = error, after, times

    def rows(self, tasks):
        for done, row in enumerate(super().rows(tasks)):
            if done == self.after and self.times:
                self.times -= 1
                raise self.error
            yield row


def test_what_is_interrupted_goes_on_where_it_was(tmp_path):
    run(spec(), tmp_path / "whole", workers=1)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(spec(), out, engine=Ending(KeyboardInterrupt(), 5))
    assert (status(out).tasks, status(out).finished, status(out).running) == (5, False, False)
    lines = (out / "rows.jsonl").read_bytes()
    assert resume(out, workers=1).tasks == 16
    assert (out / "rows.jsonl").read_bytes().startswith(lines)
    assert statistics_of(out) == statistics_of(tmp_path / "whole")
    before = (out / "rows.jsonl").read_bytes()
    assert resume(out, workers=1).tasks == 16
    assert (out / "rows.jsonl").read_bytes() == before


def test_lines_that_are_torn_or_damaged_do_not_count(tmp_path):
    run(spec(), tmp_path, workers=1)
    expected = statistics_of(tmp_path)
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"outcomes":"', b'"outcomes":"s', 1)
    lines[-1] = lines[-1][:50]
    rows.write_bytes(b"".join(lines))
    assert (status(tmp_path).tasks, status(tmp_path).damaged) == (14, 2)
    resume(tmp_path, workers=1)
    assert statistics_of(tmp_path) == expected
    assert status(tmp_path).tasks == 16


@pytest.mark.parametrize(
    ("workers", "times"),
    [(1, 1), *(pytest.param(*of, marks=pytest.mark.long) for of in [(1, 10), (2, 1)])],
)
def test_killed_at_any_moment_nothing_is_lost_and_nothing_doubled(tmp_path, workers, times):
    script = ROOT / "scripts" / "kill_campaign.py"
    options = ["--times", str(times), "--workers", str(workers), "--seed", "3"]
    ended = subprocess.run(
        [sys.executable, script, "--out", tmp_path, *options], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert f"killed {times} times" in ended.stdout
    assert "0 lost, 0 doubled, the statistics are those of an uninterrupted run" in ended.stdout


def test_two_runs_on_one_folder_are_refused(tmp_path):
    class Second(Local):
        def rows(self, tasks):
            with pytest.raises(BusyError, match="being written by another process"):
                run(spec(), tmp_path, workers=1)
            assert status(tmp_path).running
            return super().rows(tasks)

    assert run(spec(), tmp_path, engine=Second(1)).finished
    (tmp_path / ".rows.jsonl.lock").touch()  # as a killed process leaves it behind
    assert not status(tmp_path).running


def test_a_campaign_that_began_while_another_process_waited_is_the_same(tmp_path):
    """Both opened an empty folder; a recipe that trains may not give one network twice."""
    first, second = Store.make(tmp_path, spec()), Store.make(tmp_path, spec())
    one, other = (Prepared((Fact("digits", "none", w, 0.5, 0.5, 0, 0.0),), {}) for w in "ab")
    with first.writing():
        first.note(one)
    with second.writing(), pytest.raises(MismatchError, match="is not the one that the campaign"):
        second.note(other)
    assert Store(tmp_path).prepared == one


def test_a_folder_whose_name_is_no_text(tmp_path):
    """File systems take any bytes, and torch maps no file whose name is not UTF-8."""
    assert run(spec(), tmp_path / "\udcff", workers=1).finished


def test_what_else_is_in_the_folder_stays(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").write_text("mine")
    run(spec(stop={"trials": 2}), tmp_path, workers=1)
    assert (tmp_path / "packed" / "mine").read_text() == "mine"


def test_a_spec_put_together_by_hand_is_looked_at_before_a_folder_is_made(tmp_path):
    with pytest.raises(SpecError, match="block must be at least 1"):
        run(replace(spec(), block=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_spec_is_refused(tmp_path):
    run(spec(), tmp_path, workers=1)
    with pytest.raises(MismatchError, match="another spec"):
        run(spec(seed=1), tmp_path, workers=1)


def test_another_campaign_that_was_begun_meanwhile_is_not_mixed_with(tmp_path):
    """Two began where there was none: the one that comes later finds what the other left."""
    mine = Store.make(tmp_path, spec())
    (tmp_path / "campaign.json").unlink()
    run(spec(seed=1), tmp_path, workers=1)
    with pytest.raises(MismatchError, match="another spec"), mine.writing():
        pass


def test_a_campaign_that_failed_before_any_result_makes_way_for_another(tmp_path):
    wrong = tables()
    wrong["networks"]["digits"]["build"] = f"{RECIPE}:absent"
    with pytest.raises(SpecError, match="has no function 'absent'"):
        run(Spec.of(wrong, HERE), tmp_path, workers=1)
    with pytest.raises(SpecError, match="has no protection 'none'; there are no results yet"):
        pm.campaign.compare(f"{tmp_path}:none", f"{tmp_path}:sidecar")
    begun = Store.make(tmp_path, Spec.of(wrong, HERE))
    assert run(spec(), tmp_path, workers=1).finished
    with pytest.raises(MismatchError, match="another spec"), begun.writing():
        pass
    assert run(spec(), tmp_path, workers=1).finished


def test_results_of_another_version_are_refused(tmp_path):
    run(spec(), tmp_path, workers=1)
    head = json.loads((tmp_path / "campaign.json").read_text())
    (tmp_path / "campaign.json").write_text(json.dumps(head | {"rules": 0}))
    with pytest.raises(MismatchError, match="by the rules 0"):
        resume(tmp_path)
    (tmp_path / "campaign.json").write_text(json.dumps(head | {"version": 9}))
    with pytest.raises(FormatError, match=r"parimend.campaign 9, and .* reads parimend.campaign 1"):
        status(tmp_path)
    (tmp_path / "campaign.json").write_text("{")
    with pytest.raises(FormatError, match="does not describe a campaign"):
        status(tmp_path)
    with pytest.raises(FormatError, match="holds no campaign"):
        status(tmp_path / "other")


def test_two_folders_add_up(tmp_path):
    run(spec(), tmp_path / "a", workers=1)
    run(spec(seed=1), tmp_path / "b", workers=1)
    a, b = (Store(tmp_path / name).statistics() for name in "ab")
    assert len(a + b) == len(a) + len(b) == 32
    assert (a + b).to_bytes() == (b + a).to_bytes()
    assert (a + a).to_bytes() == a.to_bytes() == statistics_of(tmp_path / "a")


def test_a_network_that_changed_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    here = tables(networks={"n": {"file": str(file)}}, protections={"none": {}})
    save_file({"w": np.ones(50, np.float32)}, file)
    assert run(here, tmp_path / "out", workers=1).trials == 40
    save_file({"w": np.zeros(50, np.float32)}, file)
    with pytest.raises(MismatchError, match="the network n is not the one"):
        resume(tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metric": f"{RECIPE}:not_a_number"}, CampaignError, "gives nan: a score must be"),
        ({"metric": f"{RECIPE}:failing"}, CampaignError, "fails: ValueError: no such layer"),
        ({"metric": f"{RECIPE}:ending"}, CampaignError, r"^the metric .* fails: SystemExit: 0"),
        (
            {"metric": f"{RECIPE}:failing_when_damaged"},
            CampaignError,
            r"digits, none, five, trial \d+: the metric .* fails: OverflowError",
        ),
        (
            {"metric": f"{RECIPE}:drifting"},
            CampaignError,
            r"digits under none: the intact network scores .* in a worker, and .* before",
        ),
        ({"metric": f"{RECIPE}:accuracies"}, SpecError, "has no function 'accuracies'"),
        ({"build": "no_such_recipe:network"}, SpecError, "cannot be imported"),
        ({"build": f"{RECIPE}:nothing"}, CampaignError, "gives a int, not a torch.nn.Module"),
        ({"build": f"{RECIPE}:broken"}, CampaignError, "loaded: RuntimeError: out of memory"),
        ({"build": f"{RECIPE}:leaving"}, CampaignError, "cannot be loaded: SystemExit: 0"),
        ({"data": f"{RECIPE}:broken"}, CampaignError, "broken fails: RuntimeError: out of memory"),
        ({"data": f"{RECIPE}:leaving"}, CampaignError, "leaving fails: SystemExit: 0"),
        ({"arguments": {"width": 3}}, CampaignError, "unexpected keyword argument 'width'"),
        ({"file": "none.safetensors"}, CampaignError, "none.safetensors"),
    ],
)
def test_what_fails_says_where(tmp_path, change, error, message):
    network = tables()["networks"]["digits"] | change
    given = spec(networks={"digits": network}, stop={"trials": 60})
    with pytest.raises(error, match=message):
        run(given, tmp_path, workers=1)
    assert not (tmp_path / ".rows.jsonl.packed").exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_what_was_done_before_a_metric_failed_is_kept(tmp_path, workers):
    network = tables()["networks"]["digits"] | {"metric": f"{RECIPE}:failing_when_damaged"}
    given = spec(networks={"digits": network}, stop={"trials": 200})
    with pytest.raises(CampaignError, match="OverflowError"):
        run(given, tmp_path, workers=workers)
    assert status(tmp_path).damaged == 0


def test_what_cannot_be_struck_or_protected_is_said_at_once(tmp_path):
    with pytest.raises(SpecError, match=r"\[faults.many\] on digits: bitflip .* can change only"):
        run(spec(faults={"many": {"kind": "bitflip", "count": 10**6}}), tmp_path / "a")
    with pytest.raises(SpecError, match=r"\[protections.real\] on digits"):
        run(spec(protections={"real": {"errors": 5000}}), tmp_path / "b")
    with pytest.raises(SpecError, match=r"\[faults.leo\] on digits: only must be .* not an int: 5"):
        run(spec(faults={"leo": {"days": 1, "only": 5}}), tmp_path / "c")
    assert status(tmp_path / "a").tasks == 0


def test_tasks_of_workers_that_died_are_done_again(tmp_path):
    died = WorkerDiedError("a worker died")
    assert run(spec(), tmp_path / "a", engine=Ending(died, 1, times=6)).finished
    with pytest.raises(CampaignError, match="3 times without a task being done"):
        run(spec(), tmp_path / "b", engine=Ending(died, 0, times=6))
    assert resume(tmp_path / "b", workers=1).finished
    assert statistics_of(tmp_path / "a") == statistics_of(tmp_path / "b")


@pytest.fixture
def bare(monkeypatch):
    """Workers that load nothing, and do with a task what is said."""
    monkeypatch.setattr(local, "_begin", lambda parent: None)
    return lambda work: monkeypatch.setattr(local, "_work", lambda folder, base, task: work(task))


def test_a_process_that_is_killed_is_a_worker_that_died(tmp_path, bare):
    engine = Local(2).start(tmp_path, tmp_path)
    bare(lambda task: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerDiedError, match="a worker died"):
        next(engine.rows([1]))
    bare(lambda task: task)
    assert next(engine.rows([1])) == 1  # by others
    engine.stop()


@pytest.mark.long
def test_a_campaign_goes_on_when_a_process_is_killed(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    network = tables()["networks"]["digits"] | {"metric": f"{RECIPE}:deadly"}
    monkeypatch.setenv("CAMPAIGN_MARK", str(mark))
    monkeypatch.setenv("CAMPAIGN_PARENT", str(os.getpid()))
    given = spec(networks={"digits": network}, faults={"flip": {"kind": "bitflip", "count": 1}})
    assert run(given, tmp_path / "out", workers=2).finished
    assert mark.exists()


def test_an_interrupt_of_all_processes_ends_the_campaign(tmp_path, bare):
    """As Ctrl-C in a terminal: what waits is cancelled, and the workers are gone already."""
    bare(lambda task: task or time.sleep(60))
    engine = Local(2).start(tmp_path, tmp_path)
    rows = engine.rows([1, *[0] * 20])
    assert next(rows) == 1
    for worker in [*engine.pool._processes]:
        os.kill(worker, signal.SIGKILL)
    closing = threading.Thread(target=rows.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    engine.stop()


def test_a_full_disk_ends_in_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    write, written = os.write, []

    def full(file, data):
        if not os.readlink(f"/proc/self/fd/{file}").endswith("rows.jsonl"):
            return write(file, data)  # a pipe of another thread
        written.append(len(data))
        return write(file, data[:100]) if len(written) == 4 else write(file, data)

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match=r"No space left .*rows.jsonl"):
        run(spec(), tmp_path, workers=1)
    monkeypatch.undo()
    assert (status(tmp_path).tasks, status(tmp_path).damaged) == (3, 1)
    assert resume(tmp_path, workers=1).tasks == 16


def test_a_disk_that_is_full_before_the_first_trial_ends_in_one_sentence(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*packed/.*\.pt'"):
            run(spec(), tmp_path, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert resume(tmp_path, workers=1).finished


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"data": f"{RECIPE}:endless"}, "the data cannot be handed to workers"),
        ({"build": f"{RECIPE}:locked", "arguments": {}}, "the network cannot be copied: .*lock"),
    ],
)
def test_what_workers_cannot_be_given_is_named(tmp_path, more, what):
    given = tables()
    given["networks"]["digits"] |= {"metric": f"{RECIPE}:a_half"} | more
    with pytest.raises(CampaignError, match=what):
        run(Spec.of(given, HERE), tmp_path, workers=1)


def test_a_module_with_weights_from_a_file(tmp_path):
    file, archive = tmp_path / "digits.safetensors", tmp_path / "digits.pt"
    sys.path.append(str(HERE))
    from digits_recipe import network

    trained = network(steps=40)
    save_file({name: t.numpy() for name, t in trained.state_dict().items()}, file)
    torch.save(trained.state_dict(), archive)
    run(spec(), tmp_path / "built", workers=1)
    for path in (file, archive):
        source = tables()["networks"]["digits"] | {"file": str(path), "arguments": {"steps": 0}}
        run(spec(networks={"digits": source}), tmp_path / path.suffix, workers=1)
        assert trials_of(tmp_path / path.suffix) == trials_of(tmp_path / "built")


def test_a_folder_of_a_hub(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=30, intermediate_size=8, max_position_embeddings=8, **sizes)
    BertModel(config).save_pretrained(tmp_path / "bert")
    given = spec(networks={"bert": {"folder": str(tmp_path / "bert")}})
    assert run(given, tmp_path / "out", workers=1).trials == 80


def test_engines_are_named(tmp_path):
    with pytest.raises(SpecError, match="did you mean 'local'"):
        run(spec(), tmp_path, engine="locale")


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize(
    ("workers", "says"),
    [
        (0, "1 to 32768, not 0"),
        (2**31, "32768, not 2147483648"),
        (1.5, "whole number"),
        (True, "bool"),
    ],
)
def test_workers_are_a_number_of_them(tmp_path, engine, workers, says):
    with pytest.raises(SpecError, match=f"workers must be .*{says}"):
        run(spec(), tmp_path / "out", engine=engine, workers=workers)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SpecError, match=says):
        {"local": Local, "ray": Ray}[engine](workers)


def test_the_room_is_the_public_name():
    assert pm.campaign.run is run
    assert "campaign" in dir(pm)
