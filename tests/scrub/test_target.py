"""A scrubber with a target sweeps as often as that takes."""

import time
import urllib.request

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.errors import SpecError
from parimend.risk import Environment, Events
from parimend.risk.exposed import Exposed
from parimend.risk.pace import Pace
from parimend.scrub import Scrubber, serve_metrics
from parimend.scrub.schedule import Schedule

BITS = 32 * 1030
DAY = 86400.0


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(30, 25), torch.nn.Linear(25, 9), torch.nn.Linear(9, 2)
    )


def scrubber(network, errors=8, **options):
    options = {"target": 1e-3, "worst_rate": 20 / BITS} | options
    return Scrubber(network, pm.protect_(network, errors), **options)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def pace():
    return Pace.of([Exposed(1e9, np.zeros(9))], Environment("storm", rate=2e-8), 1e-3)


def test_a_schedule_learns_from_whole_sweeps():
    first = pace()
    schedule = Schedule(first, now=1000.0)
    schedule.began(1000.0 + DAY)
    schedule.found = 3
    schedule.ended(complete=False)  # what was found is kept, and the next one is due
    assert schedule.pace is first
    assert schedule.seconds_left(1000.0 + DAY) == 0.0
    schedule.began(1000.0 + 2 * DAY)
    schedule.found += 1
    schedule.ended(complete=True)
    assert (schedule.pace.weights == first.after(4, 2.0).weights).all()
    assert schedule.found == 0
    due = 1000.0 + 2 * DAY + DAY * schedule.pace.interval
    assert schedule.seconds_left(due - 60.0) == pytest.approx(60.0, abs=1e-3)
    schedule.began(due)
    schedule.found, schedule.lost = 7, True
    schedule.ended(complete=False)
    schedule.began(due)
    schedule.ended(complete=True)  # nobody knows how many events that took
    assert (schedule.pace, schedule.found, schedule.lost) == (first, 0, False)
    schedule.hurry()
    assert schedule.seconds_left(due) == 0.0


def test_a_schedule_is_late_when_a_sweep_takes_longer_than_the_interval():
    schedule = Schedule(pace(), now=0.0)
    interval = DAY * schedule.pace.interval
    told = []
    for lasting in (0.9, 1.1, 1.2, 0.8, 1.3):
        schedule.began(0.0)
        told.append((schedule.is_newly_late(lasting * interval), schedule.late))
    assert told == [(False, False), (True, True), (False, True), (False, False), (True, True)]


def test_without_a_target_sweeps_follow_each_other():
    network = model()
    plain = Scrubber(network, pm.protect_(network, 5), share=1.0)
    assert plain.pace is None
    with plain:
        assert until(lambda: plain.counters.sweeps > 5)
    assert plain.counters.late == 0


def test_with_a_target_the_next_sweep_waits_and_stopping_does_not():
    with scrubber(model()) as paced:
        assert until(lambda: paced.counters.sweeps)
        assert paced.pace.interval > 1 / 240  # six minutes, and more
        time.sleep(0.1)
        assert paced.counters.sweeps == 1
        paced._schedule.began(time.monotonic() - DAY)  # another sweep may shorten the interval
        assert until(lambda: paced.counters.sweeps == 2)
    assert not paced.alive


def test_what_is_repaired_sets_the_interval():
    network = model()
    paced = scrubber(network, errors=40, events={1: 0.9, 3: 0.1})
    first = paced.pace
    paced.sweep()
    with torch.no_grad():
        network[0].weight[3, 4:8] = 7.0  # a burst: one event
        network[1].weight[0, :3] = network[2].bias[1] = 7.0
    [event] = paced.sweep()
    assert (event.kind, len(event.changes)) == ("repaired", 8)
    after = paced.pace.weights
    for events in range(6):  # hardly any time has passed, so that the number alone counts
        close = np.allclose(first.after(events, 1e-9).weights, after, atol=1e-3)
        assert close is (events == 3)
    assert paced.pace.interval <= first.interval


def test_memory_that_fails_for_good_is_no_event():
    network = model()
    paced = scrubber(network)
    for sweep in range(6):
        before = paced.pace.rate
        with torch.no_grad():
            network[0].weight[3, 4] = 7.0
        assert [event.kind for event in paced.sweep()][:1] == ["repaired"]
        assert (paced.pace.rate > before * (1 + 1e-6)) is (sweep < 3)
    assert len(paced.stuck) == 1


def test_what_is_lost_gives_up_what_is_known():
    network = model()
    paced = scrubber(network, errors=2)
    first = paced.pace
    paced.sweep()
    assert paced.pace is not first
    with torch.no_grad():
        network[0].weight[:3] = 7.0
    assert [event.kind for event in paced.sweep()] == ["uncorrectable"]
    assert paced.pace is first


def test_sweeps_that_take_too_long_are_told_once_and_counted(monkeypatch):
    monkeypatch.setattr(Schedule, "seconds_left", lambda self, now: -1.5)
    told = []
    with scrubber(model(), on_event=told.append) as late:
        assert until(lambda: late.counters.late >= 3)
    assert [event.kind for event in told] == ["late"]
    assert "begun 1.5 s before this one ended: raise share, which is 0.01" in told[0].reason


def test_gauges_are_served():
    paced = scrubber(model())
    paced.sweep()
    server, thread = serve_metrics(paced, port=0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as response:
            lines = dict(
                line.rsplit(" ", 1)
                for line in response.read().decode().splitlines()
                if not line.startswith("#")
            )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    interval = float(lines["parimend_scrub_interval_seconds"])
    assert interval == pytest.approx(DAY * paced.pace.interval)
    assert float(lines["parimend_scrub_events_per_day"]) == pytest.approx(paced.pace.events)
    assert 0.0 < float(lines["parimend_scrub_loss_probability"]) <= 1e-3 * 1.001
    assert lines["parimend_scrub_stuck_words"] == "0.0"
    assert lines["parimend_scrub_late_total"] == "0.0"


def test_an_environment_may_be_the_worst():
    where = Environment("mine", rate=20 / BITS, events=Events.of("1:0.9,2:0.1"))
    network = model()
    given = scrubber(network, worst_rate=where).pace
    spelled = scrubber(network, worst_rate=20 / BITS, events="1:0.9,2:0.1").pace
    assert (given.horizon.losses == spelled.horizon.losses).all()
    other = scrubber(network, worst_rate=where, events="1:1").pace
    assert other.shortest > given.shortest
    numpys = scrubber(network, target=np.float32(2**-10), worst_rate=np.float32(2**-20)).pace
    assert numpys.interval == scrubber(network, target=2**-10, worst_rate=2**-20).pace.interval
    known = scrubber(network, worst_rate="leo").pace
    assert known.horizon.rates[-1] == 4.04e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "give target=..., the probability"),
        ({"target": None, "worst_rate": None, "events": "1:1"}, "give target=..., the probability"),
        ({"worst_rate": None}, "a target needs worst_rate="),
        ({"target": 0}, "target must be a probability per year between 0 and 1, not 0"),
        ({"target": "often"}, "target must be a probability per year between 0 and 1, not a str"),
        ({"worst_rate": -1e-9}, "worst_rate must be events .* above 0 and at most 1, not -1e-09"),
        ({"worst_rate": 1.5}, "above 0 and at most 1, not 1.5"),
        ({"worst_rate": []}, "worst_rate must be a number of events .* not a list"),
        ({"worst_rate": "leao"}, "unknown environment 'leao'.*did you mean leo"),
        ({"worst_rate": "disk"}, "the worst rate must be .* above 1e-300"),
        ({"events": "1:0.5"}, "shares of events must add up to 1"),
        ({"events": "1:0.5,64:0.5"}, "events of up to 64 words.*budget of 8.*larger budget"),
    ],
)
def test_misuse(options, message):
    with pytest.raises(SpecError, match=message):
        scrubber(model(), **options)


def test_codes_that_guarantee_nothing_are_told():
    network = model()
    seal = pm.protect_(network, 4, "lowbits")
    with pytest.raises(SpecError, match=r"probability of up to 0\.001.*take a budget that is guar"):
        Scrubber(network, seal, target=1e-3, worst_rate=20 / BITS)
