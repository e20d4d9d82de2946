import json
import threading
import time
import urllib.request
import warnings

import pytest
import torch

import parimend as pm
from parimend.errors import MismatchError, SpecError
from parimend.faults import draw
from parimend.records import Verdict
from parimend.scrub import Scrubber, serve_metrics


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
    assert len(record["word"]["changes"]) == 10
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


def test_weights_that_carry_a_code_are_not_resealed():
    model = network()
    scrubber = Scrubber(model, pm.protect_(model, 5, "lowbits"))
    with pytest.raises(SpecError, match="lives in the weights"), scrubber.update():
        raise AssertionError("not reached")


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


def test_misuse():
    model = network()
    seal = pm.protect_(model, 5)
    with pytest.raises(SpecError, match="share"):
        Scrubber(model, seal, share=0.0)
    with pytest.raises(MismatchError, match=r"0\.weight"):
        Scrubber(torch.nn.Linear(3, 3), seal)
    with Scrubber(model, seal) as scrubber, pytest.raises(SpecError, match="runs already"):
        scrubber.start()
