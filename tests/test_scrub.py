import contextlib
import copy
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections import UserDict

import pytest
import torch

import parimend as pm
from parimend.carriers import base
from parimend.errors import MismatchError, SpecError
from parimend.faults import draw
from parimend.outcomes import Verdict
from parimend.scrub import Scrubber, serve_metrics
from parimend.scrub.gate import Gate
from parimend.stores.model import ModelTensors
from tests.forked import in_a_fork


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(30, 80), torch.nn.ReLU(), torch.nn.Linear(80, 10))


def break_weights(model, count, seed):
    arrays = {name: p.detach().numpy() for name, p in model.named_parameters()}
    draw("bitflip", arrays, count, seed).apply_(arrays)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_one_sweep_finds_repairs_and_tells(carrier, tmp_path):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seal = pm.protect_(model, 10, carrier)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    told = []
    scrubber = Scrubber(model, seal, on_event=told.append, log=tmp_path / "events.jsonl")
    assert scrubber.sweep() == []
    break_weights(model, 10, 1)
    [event] = scrubber.sweep()
    assert event.kind == "repaired"
    assert event.word.verdict is Verdict.CORRECTED
    assert told == [event]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    [line] = (tmp_path / "events.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["kind"] == "repaired"
    assert record["changes"] == [change.as_dict() for change in event.word.changes]
    assert len(record["changes"]) == 10
    assert record["word"]["verdict"] == "corrected"
    assert scrubber.counters.sweeps == 2
    assert scrubber.counters.elements_repaired == 10
    assert scrubber.counters.busy_seconds > 0


def test_what_cannot_be_repaired_is_told_and_left():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 3))
    break_weights(model, 500, 1)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    [event] = scrubber.sweep()
    assert event.kind == "uncorrectable"
    assert all(torch.equal(p, before[n]) or p.isnan().any() for n, p in model.state_dict().items())
    assert scrubber.counters.uncorrectable == 1


def test_faults_are_repaired_while_the_model_serves_from_several_threads():
    model = network().eval()
    seal = pm.protect_(model, 20)
    x = torch.randn(4, 30)
    with torch.no_grad():
        right = model(x)
    serving, failures = threading.Event(), []

    def serve():
        with torch.no_grad():
            while not serving.is_set():
                try:
                    model(x)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Scrubber(model, seal, share=0.5) as scrubber:
        for seed in range(10):
            repairs = scrubber.counters.repairs
            break_weights(model, 5, seed)
            assert until(lambda repairs=repairs: scrubber.counters.repairs > repairs)
    serving.set()
    for thread in threads:
        thread.join()
    assert failures == []
    # A fault may have come while an earlier one was being located: one more round settles it.
    assert pm.repair_(model, seal).verdict in (Verdict.CLEAN, Verdict.CORRECTED)
    with torch.no_grad():
        assert torch.equal(model(x), right)
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == 0


def test_a_forward_pass_that_raises_does_not_block_repairs():
    model = network()
    seal = pm.protect_(model, 5)
    with Scrubber(model, seal, share=1.0) as scrubber:
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 7))
        break_weights(model, 2, 0)
        assert until(lambda: scrubber.counters.repairs)


def test_updates_on_purpose_are_not_damage():
    model = network()
    events = []
    with Scrubber(model, pm.protect_(model, 5), share=1.0, on_event=events.append) as scrubber:
        old = scrubber.seal
        with scrubber.update(), torch.no_grad():
            model[0].weight.mul_(2.0)
            model(torch.zeros(1, 30))
        sweeps = scrubber.counters.sweeps
        assert until(lambda: scrubber.counters.sweeps > sweeps + 1)
        assert scrubber.seal is not old
    assert [event.kind for event in events] == ["sealed"]
    assert pm.check(model, scrubber.seal).verdict is Verdict.CLEAN
    assert pm.check(model, old).verdict is Verdict.UNCORRECTABLE


@pytest.mark.parametrize("per", ["model", "tensor", "row"])
def test_an_update_during_a_sweep_ends_what_was_known_of_every_word(per):
    """Words that the sweep has yet to look at, and the one that it looks at again."""
    model = network()
    told = []

    def change(event):
        told.append(event.kind)
        if event.kind == "repaired":
            with scrubber.update(), torch.no_grad():
                model[2].bias.fill_(5.0)
                model[0].bias[:3] = 7.0

    scrubber = Scrubber(model, pm.protect_(model, 5, per=per), on_event=change)
    break_weights(model, 1, 0)
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]
    assert told == ["repaired", "sealed"]
    assert (model[2].bias == 5.0).all()
    assert model[0].bias[:3].tolist() == [7.0] * 3
    assert pm.check(model, scrubber.seal).verdict is Verdict.CLEAN


def test_weights_that_carry_a_code_are_not_resealed():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5, "lowbits"))
    reached = []
    with pytest.raises(SpecError, match="lives in the weights"), scrubber.update():
        reached.append("the block")  # what it raises would give way to what is raised at its end
    assert not reached


def test_counters_are_served_to_prometheus():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5))
    scrubber.sweep()
    server, thread = serve_metrics(scrubber, port=0)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url) as response:
            text = response.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "parimend_scrub_sweeps_total 1.0" in text
    assert "parimend_scrub_bytes_read_total" in text
    assert "parimend_scrub_changed_total 0.0" in text
    assert "parimend_scrub_failures_total 0.0" in text
    assert "parimend_scrub_alive 0.0" in text
    assert "parimend_scrub_unwatched_words 0.0" in text
    [line] = re.findall("^parimend_scrub_last_sweep_timestamp_seconds (.*)$", text, re.MULTILINE)
    assert float(line) == scrubber.last_sweep > 0.0


class Interruptible(torch.nn.Module):
    """A network whose forward pass does what ``during`` does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(30, 80)
        self.during = lambda: None

    def forward(self, x):
        self.during()
        return self.layer(x)


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("nested", [False, True])
def test_a_forward_pass_that_is_interrupted_does_not_block_repairs(nested):
    model, x = Interruptible(), torch.zeros(1, 30)
    with Scrubber(model, pm.protect_(model, 5), share=1.0) as scrubber:
        interrupt = raising(KeyboardInterrupt)
        if nested:  # the pass within is interrupted, the one around it goes on

            def during():
                model.during = interrupt
                with pytest.raises(KeyboardInterrupt):
                    model(x)
                model.during = lambda: None

            model.during = during
            model(x)
        else:
            model.during = interrupt
            with pytest.raises(KeyboardInterrupt):
                model(x)
            model.during = lambda: None
        break_weights(model, 2, 0)
        assert until(lambda: scrubber.counters.repairs)
        model(x)
        with scrubber.update():
            pass


def test_a_forward_pass_that_is_interrupted_at_the_gate_leaves_it_open(monkeypatch):
    def interrupted(condition):
        condition._lock.__enter__()
        raise KeyboardInterrupt

    gate, model, x = Gate(), network(), torch.zeros(1, 30)
    gate.attach(model)
    with monkeypatch.context() as within, contextlib.suppress(KeyboardInterrupt):
        within.setattr(threading.Condition, "__enter__", interrupted)
        model(x)
    other = threading.Thread(target=model, args=(x,), daemon=True)
    other.start()
    other.join(5)
    assert not other.is_alive()


def test_repairs_wait_for_a_forward_pass_and_stopping_does_not():
    model, x = Interruptible(), torch.zeros(1, 30)
    inside, go_on = threading.Event(), threading.Event()
    model.during = lambda: (inside.set(), go_on.wait(20))
    scrubber = Scrubber(model, pm.protect_(model, 5), share=1.0)
    scrubber.start()
    thread = threading.Thread(target=model, args=(x,))
    thread.start()
    assert inside.wait(20)
    break_weights(model, 2, 0)
    sweeps = scrubber.counters.sweeps
    assert not until(lambda: scrubber.counters.repairs, 0.2)
    assert scrubber.counters.sweeps <= sweeps + 1
    scrubber.stop()
    assert not scrubber.alive
    go_on.set()
    thread.join()
    model.during = lambda: None
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]


def test_updates_within_forward_passes_do_not_wait_for_each_other():
    model, x = Interruptible(), torch.zeros(1, 30)
    together = threading.Barrier(2)
    right = 4.0 * model.layer.weight.detach().clone()
    with Scrubber(model, pm.protect_(model, 5), share=1.0) as scrubber:

        def double():
            together.wait(20)
            with scrubber.update(), torch.no_grad():
                model.layer.weight.mul_(2.0)

        model.during = double
        threads = [threading.Thread(target=model, args=(x,), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert torch.equal(model.layer.weight, right)
    assert pm.check(model, scrubber.seal).ok


def test_a_sweep_within_a_forward_pass_does_not_wait_for_one_that_waits_for_the_pass():
    # A guard's on_weights may sweep, while the thread has found the same damage.
    model, told = network(), []
    scrubber = Scrubber(model, pm.protect_(model, 10), share=1.0, on_event=told.append)
    gate = scrubber._looks.gate

    def sweep(*_):
        assert until(lambda: gate._owner is not None)  # the thread waits for this pass
        scrubber.sweep()

    with scrubber:
        model[1].register_forward_hook(sweep)
        right = model[0].weight[0, 0].item()
        with torch.no_grad():
            model[0].weight[0, 0] = 7.0
            model(torch.ones(30))
        assert model[0].weight[0, 0] == right
    assert [event.kind for event in told] == ["repaired"]


def test_a_forward_pass_without_end_is_told(monkeypatch, recwarn):
    monkeypatch.setattr("parimend.scrub.looks.PATIENCE", 0.1)
    model, x, told = Interruptible(), torch.zeros(1, 30), []
    inside, go_on = threading.Event(), threading.Event()
    model.during = lambda: (inside.set(), go_on.wait(20))
    seal = pm.protect_(model, 5)
    with Scrubber(model, seal, share=1.0, on_event=told.append) as scrubber:
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        assert inside.wait(20)
        break_weights(model, 2, 0)
        assert until(lambda: told)
        go_on.set()
        thread.join()
        assert until(lambda: scrubber.counters.repairs)
    assert (told[0].kind, told[-1].kind) == ("failed", "repaired")
    assert "waits for forward passes" in str(recwarn[0].message)


@pytest.mark.parametrize("error", [ValueError("full"), SystemExit(), KeyboardInterrupt()])
def test_what_a_callback_raises_is_told_and_scrubbing_goes_on(
    error, tmp_path, monkeypatch, recwarn
):
    monkeypatch.setattr("parimend.scrub.scrubber.REST", 0.01)
    model = network()
    scrubber = Scrubber(
        model, pm.protect_(model, 5), share=1.0, on_event=raising(error), log=tmp_path / "log"
    )
    with scrubber:
        for seed in range(3):
            break_weights(model, 2, seed)
            assert until(lambda seed=seed: scrubber.counters.repairs == seed + 1)
        assert until(lambda: scrubber.counters.failures == 3)
        assert scrubber.alive
    [warning] = recwarn
    assert re.search(f"on_event.*{type(error).__name__}", str(warning.message))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log").read_text().splitlines()]
    assert kinds == ["repaired", "failed"] * 3


def lines_of(log):
    """The events of a log, and how many of its lines are none."""
    events, torn = [], 0
    for line in log.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            torn += 1
    return events, torn


def test_a_log_that_was_torn_loses_no_later_event(tmp_path):
    log, model = tmp_path / "events.jsonl", network()
    seal = pm.protect_(model, 10)
    log.write_text('{"kind": "repai')  # by a process that was killed
    scrubber = Scrubber(model, seal, log=log)
    break_weights(model, 3, 1)
    scrubber.sweep()
    full = log.stat().st_size + 30
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, limits[1]))  # there is room for half a line
    try:
        break_weights(model, 3, 2)
        with pytest.warns(UserWarning, match="the log did not take an event"):
            scrubber.sweep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.stat().st_size == full
    break_weights(model, 3, 3)
    scrubber.sweep()
    events, torn = lines_of(log)
    assert [event["kind"] for event in events] == ["repaired", "repaired"]
    assert torn == 2


def test_a_log_is_where_it_was_whatever_folder_one_goes_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 10), log="events.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    break_weights(model, 3, 1)
    scrubber.sweep()
    events, torn = lines_of(tmp_path / "events.jsonl")
    assert (len(events), torn) == (1, 0)


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    model, told = network(), []
    scrubber = Scrubber(model, pm.protect_(model, 5), on_event=told.append, log=tmp_path)
    break_weights(model, 2, 0)
    with pytest.warns(UserWarning, match="the log did not take"):
        [event] = scrubber.sweep()
    assert event.kind == "repaired"
    assert [event.kind for event in told] == ["repaired", "failed"]
    assert "IsADirectoryError" in told[1].reason


@pytest.mark.parametrize("share", [1e-6, 1e-14])
def test_a_sweep_does_not_wait_for_the_rests_of_the_one_in_the_background(share):
    model = torch.nn.Linear(1000, 1000)
    seal = pm.protect_(model, 10)
    found = []
    with Scrubber(model, seal, share=share) as scrubber:
        assert until(lambda: scrubber.counters.busy_seconds)  # a rest of minutes, or years, begins
        with torch.no_grad():
            model.weight[3, 5] += 1.0
        threads = [
            threading.Thread(target=lambda: found.append(scrubber.sweep()), daemon=True)
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert not any(thread.is_alive() for thread in threads)
    assert scrubber.counters.repairs == 1
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_callbacks_may_update_sweep_and_stop():
    model = network()
    good = copy.deepcopy(model.state_dict())
    told = []

    def reload(event):
        told.append(event.kind)
        if event.kind == "uncorrectable":
            with scrubber.update(), scrubber.update():
                model.load_state_dict(good)
            assert scrubber.sweep() == []
            scrubber.stop()

    scrubber = Scrubber(model, pm.protect_(model, 5), share=1.0, on_event=reload)
    scrubber.start()
    break_weights(model, 500, 1)
    assert until(lambda: not scrubber.alive)
    assert told == ["uncorrectable", "sealed"]
    assert pm.check(model, scrubber.seal).verdict is Verdict.CLEAN
    scrubber.start()
    scrubber.stop()


def test_replaced_tensors_are_the_ones_that_are_watched():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5))
    with scrubber.update():
        model.load_state_dict({n: t + 1 for n, t in model.state_dict().items()}, assign=True)
        model[0] = copy.deepcopy(model[0])
    assert scrubber.sweep() == []
    before = model[0].weight.clone()
    with torch.no_grad():
        model[0].weight[3, :3] = float("nan")
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]
    assert torch.equal(model[0].weight, before)
    model[0] = copy.deepcopy(model[0])  # other tensors, the same weights
    break_weights(model, 2, 0)
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]


@pytest.mark.parametrize("per", ["model", "row"])
@pytest.mark.parametrize("made", [torch.Tensor.view_as, lambda tensor, _: tensor.clone()])
def test_tensors_that_are_made_when_they_are_asked_for(made, per, recwarn):
    class Made(UserDict):
        def __getitem__(self, name):
            tensor = super().__getitem__(name)
            return made(tensor, tensor)

    tensors = {"w": torch.randn(40, 30), "empty": torch.zeros(0, 3)}
    lent = Made(tensors)
    scrubber = Scrubber(lent, pm.protect_(lent, 2, per=per))
    before = tensors["w"].clone()
    tensors["w"][3, 4] += 1.0
    [event, *_] = scrubber.sweep()
    if made is torch.Tensor.view_as:  # views of the same memory
        assert (event.kind, scrubber.counters.sweeps) == ("repaired", 1)
        assert torch.equal(tensors["w"], before)
    else:  # of which none is the one that will be used
        assert event.kind == "unwatched"
        assert "others whenever they are looked for: give the scrubber a model" in event.reason
        assert scrubber.counters.sweeps == 0


def test_tensors_replaced_without_an_update_are_told():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5, only=["*.weight"], per="tensor"))
    model[2] = torch.nn.Linear(80, 10)
    for _ in range(2):
        [event] = scrubber.sweep()
        assert (event.kind, event.word.name) == ("uncorrectable", "2.weight")
        assert "2.weight was replaced" in event.word.reason


@pytest.mark.parametrize("within", [False, True])
def test_tensors_that_are_tied_no_more_are_told(within):
    model = torch.nn.ModuleDict(
        {"in": torch.nn.Embedding(30, 8), "out": torch.nn.Linear(8, 30, bias=False)}
    )
    model["out"].weight = model["in"].weight
    scrubber = Scrubber(model, pm.protect_(model, 5))
    assert scrubber.sweep() == []
    assert not scrubber.unwatched
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with scrubber.update() if within else contextlib.nullcontext():
        model.load_state_dict(state, assign=True)
    with pytest.warns(UserWarning, match=r"out\.weight was the memory of in\.weight"):
        scrubber.sweep()
    assert scrubber.counters.failures == 1
    for _ in range(2):
        assert scrubber.unwatched == {"out.weight"}
        assert scrubber.sweep() == []


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_weights_that_are_lent_for_a_call_are_not_those_that_are_watched(elsewhere, tied):
    """They are left alone; the model's own are looked after meanwhile."""
    model = torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.ReLU(), torch.nn.Linear(30, 30))
    if tied:
        model[2].weight = model[0].weight
    scrubber = Scrubber(model, pm.protect_(model, 5))
    right = model[0].weight.detach().clone()
    lent = {name: p.detach().clone() for name, p in model.named_parameters()}
    lent["0.weight"][0, 0] = 3.0
    if tied:
        lent["2.weight"] = right.clone()
    given = lent["0.weight"].clone()

    def sweep(*_):
        if elsewhere:
            thread = threading.Thread(target=scrubber.sweep)
            thread.start()
            thread.join()
        else:
            scrubber.sweep()

    model[1].register_forward_hook(sweep)
    own = model[0].weight
    for count in (0, 1):
        torch.func.functional_call(model, lent, (torch.ones(1, 30),), tie_weights=not tied)
        assert torch.equal(lent["0.weight"], given)
        assert scrubber.counters.repairs == count
        assert scrubber.counters.sweeps == count + 1
        assert torch.equal(own, right)
        own.data[5, 6] = 1e9
    assert scrubber.counters.uncorrectable == scrubber.counters.failures == 0


def test_a_tied_tensor_that_is_gone_needs_no_protection():
    model = torch.nn.ModuleDict({"in": torch.nn.Embedding(30, 8), "out": torch.nn.Linear(8, 30)})
    model["out"].weight = model["in"].weight
    scrubber = Scrubber(model, pm.protect_(model, 5, only=["in.*"]))
    del model["out"]
    assert scrubber.sweep() == []
    assert not scrubber.unwatched


def test_what_cannot_be_looked_at_is_told_until_it_can(monkeypatch, recwarn):
    monkeypatch.setattr("parimend.scrub.scrubber.REST", 0.01)
    model, told = network(), []
    seal = pm.protect_(model, 5, per="tensor")
    with Scrubber(model, seal, share=1.0, on_event=told.append) as scrubber:
        assert until(lambda: scrubber.last_sweep)
        layer, model[2] = model[2], torch.nn.Linear(80, 10).double()
        bias, model[0].bias = model[0].bias, None
        assert until(lambda: len(told) >= 6)
        assert scrubber.unwatched == {"0.bias", "2.weight", "2.bias"}
        with torch.no_grad():
            model[0].weight[0, :2] = 7.0
        assert until(lambda: scrubber.counters.repairs)
        model[2], model[0].bias = layer, bias
        ended = scrubber.last_sweep
        assert until(lambda: scrubber.last_sweep > ended)
        assert scrubber.unwatched == frozenset()
    assert {event.kind for event in told} == {"unwatched", "repaired"}
    assert any("2.weight is F64" in event.reason for event in told)
    assert any("0.bias, which is not there" in event.reason for event in told)
    assert len(recwarn) == 3  # once for each
    assert json.loads(told[0].to_json())["reason"] == told[0].reason


def test_an_update_to_weights_that_do_not_fit_ends_nothing():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5))
    layer = model[2]
    with pytest.raises(MismatchError, match=r"2\.weight"), scrubber.update():
        model[2] = torch.nn.Linear(7, 7)
    with pytest.warns(UserWarning, match="not watched"):
        assert [event.kind for event in scrubber.sweep()] == ["unwatched"]
    model[2] = layer
    break_weights(model, 2, 0)
    assert [event.kind for event in scrubber.sweep()] == ["repaired"]


def test_damage_that_changes_while_it_is_located_is_looked_at_again(monkeypatch):
    model = network()
    before = copy.deepcopy(model.state_dict())
    scrubber = Scrubber(model, pm.protect_(model, 50))
    prove, upsets = base.proven, [3]

    def upset_before_the_proof(*args):
        if upsets:
            break_weights(model, 1, upsets.pop())
        return prove(*args)

    monkeypatch.setattr(base, "proven", upset_before_the_proof)
    break_weights(model, 1, 0)
    assert [event.kind for event in scrubber.sweep()] == ["changed", "repaired"]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    break_weights(model, 1, 0)
    upsets += range(10)
    assert [event.kind for event in scrubber.sweep()] == ["changed"] * 3
    assert (scrubber.counters.uncorrectable, scrubber.counters.changed) == (0, 4)


def test_a_word_is_looked_at_again_after_a_repair(monkeypatch):
    model = network()
    before = copy.deepcopy(model.state_dict())
    scrubber = Scrubber(model, pm.protect_(model, 50))
    prove, upsets = base.proven, [3]

    def upset_after_the_proof(*args):
        finding = prove(*args)
        if upsets:
            break_weights(model, 1, upsets.pop())
        return finding

    monkeypatch.setattr(base, "proven", upset_after_the_proof)
    break_weights(model, 1, 0)
    assert [event.kind for event in scrubber.sweep()] == ["repaired", "repaired"]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_model_with_a_scrubber_is_copied_without_it():
    model, x = network(), torch.randn(4, 30)
    with Scrubber(model, pm.protect_(model, 5)) as scrubber:
        model.scrubber = scrubber
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
            assert other.scrubber is None
            with scrubber.update():
                assert torch.equal(other(x), model(x))


def test_two_scrubbers_on_one_model():
    model, x = network(), torch.zeros(1, 30)
    before = copy.deepcopy(model.state_dict())
    seal = pm.protect_(model, 5)
    with Scrubber(model, seal, share=1.0) as a, Scrubber(model, seal, share=1.0) as b:
        for seed in range(10):
            break_weights(model, 2, seed)
            sweeps = a.counters.sweeps, b.counters.sweeps
            model(x)
            assert until(lambda s=sweeps: a.counters.sweeps > s[0] + 1)
            assert until(lambda s=sweeps: b.counters.sweeps > s[1] + 1)
        assert a.counters.repairs + b.counters.repairs >= 10
        assert a.counters.uncorrectable == b.counters.uncorrectable == 0
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_forked_process_is_told_that_nothing_watches():
    model, x = network(), torch.zeros(1, 30)
    with Scrubber(model, pm.protect_(model, 5)) as scrubber, scrubber.update():
        child = os.fork()
        if not child:  # pytest must not go on in two processes
            code = 1
            try:
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    threading.Thread(target=model, args=(x,)).run()
                told = "forked" in str(warned[0].message) and len(warned) == 1
                code = 0 if told and not scrubber.alive else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("thread", ["sweeps", "updates"])
def test_a_forked_process_waits_for_no_thread_that_it_has_not(thread):
    model = network()
    reached, go_on = threading.Event(), threading.Event()

    def wait(event=None):
        reached.set()
        go_on.wait(20)

    scrubber = Scrubber(model, pm.protect_(model, 5), share=1.0, on_event=wait)

    def update():
        with scrubber.update():
            wait()

    other = threading.Thread(target=update if thread == "updates" else scrubber.sweep)
    break_weights(model, 2, 0)
    if thread == "updates":
        go_on.set()
        scrubber.sweep()
        go_on.clear()
        reached.clear()
    other.start()
    assert reached.wait(20)

    def work():
        go_on.set()  # of this process
        with scrubber.update(), torch.no_grad():
            model[0].weight.mul_(2.0)
        break_weights(model, 2, 1)
        here = [event.kind for event in scrubber.sweep()] == ["repaired"]
        with scrubber:
            break_weights(model, 2, 2)
            return here and until(lambda: scrubber.counters.repairs >= 3)

    try:
        assert in_a_fork(work)
    finally:
        go_on.set()
        other.join()


def test_a_forked_process_leaves_no_hooks_of_the_old_one_behind():
    model = network()
    with Scrubber(model, pm.protect_(model, 5)) as scrubber:
        kept = len(model._forward_pre_hooks), len(model._forward_hooks)

        def work():
            with scrubber:
                here = len(model._forward_pre_hooks), len(model._forward_hooks)
            return here == kept and not model._forward_pre_hooks and not model._forward_hooks

        assert in_a_fork(work)


class StruckInOneThread(dict[str, torch.Tensor]):
    """A state dict that a thread finds damaged whenever it looks at it."""

    thread = None

    def items(self):
        if threading.current_thread() is self.thread:
            self["weight"][3] = 7.0
        return super().items()


def test_a_forked_process_repairs_while_a_thread_of_the_old_one_does():
    model = network()
    seal = pm.protect_(model, 5)
    reached, go_on = threading.Event(), threading.Event()

    def repair():
        with ModelTensors.lock:
            reached.set()
            go_on.wait(20)

    other = threading.Thread(target=repair)
    other.start()
    assert reached.wait(20)
    break_weights(model, 2, 0)
    try:
        assert in_a_fork(lambda: pm.repair_(model, seal).verdict is Verdict.CORRECTED)
    finally:
        go_on.set()
        other.join()


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("", marks=pytest.mark.long),
        pytest.param("raise SystemExit(0)", marks=pytest.mark.long),
        "scrubber.stop(); scrubber.start()",
    ],
)
def test_a_process_may_end_while_it_is_scrubbed(end):
    code = (
        "import torch, parimend as pm\n"
        "model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(6)])\n"
        "scrubber = pm.Scrubber(model, pm.protect_(model, 20), share=1.0)\n"
        f"scrubber.start()\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_callback_may_stop_the_thread_that_waits_for_its_sweep():
    model = StruckInOneThread(weight=torch.arange(1000.0))
    told = []

    def stop(event):
        told.append(event.kind)
        time.sleep(0.2)  # until the scrubbing thread is to begin a sweep
        scrubber.stop()

    scrubber = Scrubber(model, pm.protect_(model, 5), share=1.0, on_event=stop)
    model.thread = threading.Thread(target=scrubber.sweep, daemon=True)
    scrubber.start()
    model.thread.start()
    model.thread.join(20)
    assert not model.thread.is_alive()
    assert told[0] == "repaired"
    assert not scrubber.alive


def test_misuse():
    model = network()
    seal = pm.protect_(model, 5)
    with pytest.raises(SpecError, match="share"):
        Scrubber(model, seal, share=0.0)
    with pytest.raises(MismatchError, match=r"0\.weight"):
        Scrubber(torch.nn.Linear(3, 3), seal)
    with Scrubber(model, seal) as scrubber, pytest.raises(SpecError, match="runs already"):
        scrubber.start()
    for options, message in (
        ({"share": "1 %"}, "share must be a number .* not a str: '1 %'"),
        ({"on_event": "mail"}, "on_event must be a function .* not a str: 'mail'"),
        ({"log": 3}, "log must be the path of a file"),
        ({"target": 1e-6, "worst_rate": 1e-9, "events": [1]}, r"events must be .* not \[1\]"),
        ({"target": 1e-6, "worst_rate": 1e-9, "events": {1: "all"}}, "events must be sizes"),
    ):
        with pytest.raises(SpecError, match=message):
            Scrubber(model, seal, **options)
    for arguments, message in (
        ((model,), "scrubber must be a Scrubber, not a Sequential"),
        ((scrubber, 70_000), "port must be from 0 to 65535, not 70000"),
        ((scrubber, "http"), "port must be a whole number"),
    ):
        with pytest.raises(SpecError, match=message):
            serve_metrics(*arguments)


def test_a_graph_in_a_module_is_scrubbed():
    model = torch.fx.symbolic_trace(network())  # whose forward is of no module of Python
    with Scrubber(model, pm.protect_(model, 5), share=1.0) as scrubber:
        model(torch.ones(1, 30))
        break_weights(model, 2, 0)
        assert until(lambda: scrubber.counters.repairs)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
def test_torchscript_is_scrubbed_by_its_state():
    model = torch.jit.trace(network(), torch.zeros(1, 30))
    with pytest.raises(SpecError, match=r"takes no hooks.*state_dict"):
        Scrubber(model, pm.protect_(model, 5)).start()
    state = model.state_dict()
    before = state["0.weight"].clone()
    with Scrubber(state, pm.protect_(state, 5), share=1.0) as scrubber:
        with torch.no_grad():
            model.get_parameter("0.weight")[0, 0] = 7.0
        assert until(lambda: scrubber.counters.repairs)
    assert torch.equal(model.get_parameter("0.weight"), before)
