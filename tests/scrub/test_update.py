"""Changes on purpose seal no damage, and a sweep counts if all of it was seen."""

import copy
import inspect
import sys
import threading
import time
from collections import UserDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import parimend as pm
from parimend.carriers import Sidecar
from parimend.scrub import Scrubber, gate, looks, weights
from parimend.scrub.telling import Teller
from parimend.stores.model import ModelTensors
from tests.interrupted import interrupted

FEW = 3
RESTING = {"target": 1e-3, "worst_rate": 1e-5}
"""Options of a scrubber whose sweeps are minutes apart."""


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(30, 80), torch.nn.ReLU(), torch.nn.Linear(80, 10))


def scrubber(model, per="model", **options):
    return Scrubber(model, pm.protect_(model, FEW, per=per), **options)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def write(tensor, value, count):
    with torch.no_grad():
        tensor.view(-1)[:count] = value


def equal(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@settings(max_examples=12, deadline=None)
@given(
    per=st.sampled_from(["model", "tensor", "row"]),
    wrong=st.dictionaries(
        st.tuples(st.sampled_from(["0.weight", "0.bias", "2.weight", "2.bias"]), st.integers(0, 9)),
        st.floats(width=32),
        max_size=FEW,
    ),
    changed=st.sampled_from(["0.weight", "0.bias", "2.weight", "2.bias"]),
)
def test_an_update_seals_what_it_changed_and_no_damage(per, wrong, changed):
    model = network()
    one = scrubber(model, per)
    tensors, right = model.state_dict(), copy.deepcopy(model.state_dict())
    for (name, place), value in wrong.items():
        tensors[name].view(-1)[place] = value
    with one.update():
        assert equal(model, right)
        tensors[changed].add_(1.0)
        right[changed].add_(1.0)
    assert equal(model, right)
    assert one.sweep() == []
    assert pm.check(model, one.seal).verdict == "clean"


@pytest.mark.parametrize(
    ("per", "name", "kinds"),
    [
        ("model", "0.weight .. 2.bias", ["uncorrectable"]),
        ("tensor", "0.weight", ["uncorrectable", "repaired"]),
    ],
)
def test_what_is_beyond_repair_is_told_before_an_update_and_after_it(per, name, kinds, recwarn):
    model, told = network(), []
    one = scrubber(model, per, on_event=told.append)
    write(model[0].weight, 7.0, FEW + 1)
    write(model[2].weight, 7.0, FEW if per == "tensor" else 0)  # a word beside it is repaired
    with one.update():
        assert [event.kind for event in told] == kinds
        model[0].bias.data += 1.0
        model[0].weight.data[9] += 1.0
    failed, sealed = told[len(kinds) :]
    assert (failed.kind, sealed.kind) == ("failed", "sealed")
    assert failed.reason.startswith(f"{name}: what was wrong could not be repaired")
    assert [str(warned.message) for warned in recwarn] == [f"parimend.Scrubber: {failed.reason}"]
    assert one.counters.uncorrectable == one.counters.failures == 1


def test_a_reload_is_the_remedy_and_nothing_is_left_to_tell():
    model, told = network(), []
    one = scrubber(model, on_event=told.append)
    good = copy.deepcopy(model.state_dict())
    write(model[0].weight, 7.0, 500)
    one.sweep()
    with one.update():  # it was told already, and is as it was then
        model.load_state_dict(good)
    assert [event.kind for event in told] == ["uncorrectable", "sealed"]
    write(model[0].weight, 7.0, 500)
    one.sweep()
    write(model[0].weight, 8.0, 500)
    with one.update():  # this is other damage
        model.load_state_dict(good)
    kinds = ["uncorrectable", "sealed", "uncorrectable", "uncorrectable", "sealed"]
    assert [event.kind for event in told] == kinds
    assert pm.check(model, one.seal).verdict == "clean"


def test_what_is_told_before_an_update_may_change_weights_too():
    model, told = network(), []
    good = copy.deepcopy(model.state_dict())

    def reload(event):
        told.append(event.kind)
        if event.kind == "uncorrectable":
            with one.update():
                model.load_state_dict(good)

    one = scrubber(model, on_event=reload)
    write(model[0].weight, 7.0, 500)
    with one.update():
        assert equal(model, good)
        write(model[2].bias, 1.0, 10)
    assert told == ["uncorrectable", "sealed", "sealed"]
    assert torch.equal(model[0].weight, good["0.weight"])
    assert one.sweep() == []


def test_nothing_is_told_while_forward_passes_wait():
    model, x, answers = network(), torch.zeros(1, 30), []

    def ask(event):
        asked = threading.Thread(target=lambda: answers.append((event.kind, model(x))), daemon=True)
        asked.start()
        asked.join(20)

    with scrubber(model, on_event=ask, **RESTING) as one:
        assert until(lambda: one.last_sweep)
        write(model[0].weight, 7.0, 1)
        with one.update():
            write(model[2].bias, 1.0, 10)
        with pytest.raises(ValueError, match="torn"):
            tear(one, ValueError("torn"), model[0].weight, 1)
        assert until(lambda: len(answers) == 4)
    assert [kind for kind, _ in answers] == ["repaired", "sealed", "failed", "repaired"]


def test_weights_that_cannot_be_looked_at_before_an_update_are_told_and_may_come_back():
    model, told = network(), []
    one = scrubber(model, "tensor", on_event=told.append)
    layer, model[2] = model[2], torch.nn.Linear(80, 10).double()
    write(model[0].weight, 7.0, 1)
    with pytest.warns(UserWarning, match="is not watched"), one.update():
        model[2] = layer
    assert [event.kind for event in told] == ["repaired", "unwatched", "unwatched", "sealed"]
    assert one.sweep() == []
    assert one.last_sweep


def tear(one, error, tensor, count):
    with one.update():
        write(tensor, 7.0, count)
        raise error


@pytest.mark.parametrize("error", [ValueError("torn"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", [0, FEW, FEW + 1])
def test_an_update_that_raises_renews_nothing_and_is_told(error, count, recwarn):
    model, told = network(), []
    good = copy.deepcopy(model.state_dict())
    one = scrubber(model, on_event=told.append)
    seal = one.seal
    with pytest.raises(type(error)):
        tear(one, error, model[0].weight, count)
    assert one.seal is seal
    assert [event.kind for event in told] == ["failed"]
    assert f"an update was cut short, what it changed counts as damage: {error!r:.10}" in (
        told[0].reason
    )
    assert len(recwarn) == 1
    found = [event.kind for event in one.sweep()]
    assert found == {0: [], FEW: ["repaired"], FEW + 1: ["uncorrectable"]}[count]
    assert equal(model, good) is (count <= FEW)
    with one.update():  # what is there now is meant, if it was left so
        pass
    assert pm.check(model, one.seal).verdict == "clean"
    assert told[-1].kind == "sealed"


def test_after_an_update_that_raised_a_sweep_with_a_target_does_not_wait(monkeypatch):
    monkeypatch.setattr("parimend.scrub.scrubber.REST", 0.01)
    model = network()
    good = copy.deepcopy(model.state_dict())
    with scrubber(model, **RESTING) as one:
        assert until(lambda: one.counters.sweeps == 1)
        with pytest.raises(ValueError, match="torn"):
            tear(one, ValueError("torn"), model[0].weight, 1)
        assert until(lambda: one.counters.repairs)
    assert equal(model, good)


def test_what_an_update_found_is_known_to_the_schedule():
    model = network()
    one = scrubber(model, **RESTING)
    first = one.pace
    one.sweep()
    write(model[0].weight, 7.0, 1)
    with one.update():
        pass
    assert one._schedule.found == 1
    write(model[0].weight, 7.0, 500)
    with one.update():
        model[0].reset_parameters()
    assert one.sweep() == []
    assert one.pace is first  # a word was lost, whatever is there now


def test_an_update_waits_for_what_was_launched_on_a_device(monkeypatch):
    model, log = network(), []
    monkeypatch.setattr(looks, "wait_for", lambda devices: log.append(devices))
    monkeypatch.setattr(weights, "wait_for", lambda devices: log.append(devices))
    one = scrubber(model)
    with one.update():
        log.append("the block")
    here = {torch.device("cpu")}
    assert log == [here, "the block", here]


def test_a_sweep_that_is_stopped_within_a_word_does_not_count(monkeypatch):
    model, look = network(), Sidecar.look

    def stopping(self, word, tensors):
        for read in look(self, word, tensors):
            one._looks.stopped.set()
            yield read

    one = scrubber(model, share=1.0)
    with monkeypatch.context() as within:
        within.setattr(Sidecar, "look", stopping)
        one.start()
        assert until(lambda: not one.alive)
        one.stop()
    assert one.counters.bytes_read
    assert (one.counters.sweeps, one.last_sweep) == (0, 0.0)
    with one:
        assert until(lambda: one.counters.sweeps)
    assert one.last_sweep


class Slow(torch.nn.Module):
    """Passes on what it gets when it is told to."""

    def __init__(self):
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, x):
        self.inside.set()
        self.go_on.wait(20)
        return x


def test_a_sweep_that_is_stopped_before_a_repair_does_not_count():
    model, told = network(), []
    model[1] = slow = Slow()
    with scrubber(model, share=1.0, on_event=told.append) as one:
        thread = threading.Thread(target=model, args=(torch.zeros(1, 30),))
        thread.start()
        assert slow.inside.wait(20)
        write(model[0].weight, 7.0, 1)
        assert until(lambda: one._looks.gate._owner)  # the repair waits
        known = one.counters.sweeps, one.last_sweep
    assert (one.counters.sweeps, one.last_sweep) == known
    slow.go_on.set()
    thread.join()
    assert told == []
    assert [event.kind for event in one.sweep()] == ["repaired"]


def overtaken(monkeypatch, times, update):
    """Looks at a word, the first few of which an update overtakes."""
    look, left = Sidecar.look, list(range(times))

    def looking(self, word, tensors):
        yield 0
        if left:
            left.pop()
            update()
        return (yield from look(self, word, tensors))

    monkeypatch.setattr(Sidecar, "look", looking)


@pytest.mark.parametrize(("times", "seen"), [(0, True), (1, True), (looks.ATTEMPTS, False)])
def test_a_word_that_an_update_overtakes_is_looked_at_again(monkeypatch, times, seen):
    model = network()
    one = scrubber(model, **RESTING)

    def update():
        with monkeypatch.context() as within:
            within.setattr(Sidecar, "look", look)
            with one.update():
                write(model[0].weight, 7.0, 500)

    look = Sidecar.look
    overtaken(monkeypatch, times, update)
    assert one.sweep() == []
    assert one.counters.sweeps == seen
    assert bool(one.last_sweep) is seen
    assert (one._schedule.seconds_left(time.monotonic()) > 0) is seen
    assert one.unwatched == frozenset()
    assert one.sweep() == []
    assert one.counters.sweeps == seen + 1


def test_within_an_update_nothing_is_looked_at():
    model = network()
    one = scrubber(model)
    sweeping, go_on = threading.Event(), threading.Event()

    def sweep():
        assert one.sweep() == []
        with one._one_sweep(pause=False):
            sweeping.set()
            go_on.wait(20)

    other = threading.Thread(target=sweep)
    with one.update():
        write(model[0].weight, 7.0, 500)
        other.start()
        assert sweeping.wait(20)
        assert one.sweep() == []
        assert other.is_alive()  # it was not waited for: it may wait for this update
        go_on.set()
        other.join()
    assert (one.counters.sweeps, one.last_sweep) == (0, 0.0)


def test_tensors_that_an_update_replaces_are_no_others_whenever_they_are_looked_for():
    class Replaced(UserDict):
        replacing = False

        def __getitem__(self, name):
            tensor = super().__getitem__(name)
            return tensor.clone() if self.replacing else tensor

    tensors = Replaced({"weight": torch.randn(30, 40)})
    one, told = scrubber(tensors), []
    other = threading.Thread(target=lambda: told.extend(one.sweep()))
    with one.update():
        tensors.replacing = True
        other.start()
        other.join()
        tensors.replacing = False
    assert told == []
    assert one.sweep() == []


def test_what_does_not_fit_until_an_update_is_done_is_not_told():
    model, told = network(), []
    model.append(torch.nn.Linear(80, 10))
    model[3].weight = model[2].weight
    one = scrubber(model, on_event=told.append)
    weight = model[2].weight
    with one.update():
        model[2].weight = None  # nor is the other tied to it
        other = threading.Thread(target=one.sweep)
        other.start()
        other.join()
        model[2].weight = weight
    assert [event.kind for event in told] == ["sealed"]
    assert (one.counters.failures, one.unwatched) == (0, frozenset())


def test_a_thread_that_sees_nothing_rests(monkeypatch):
    monkeypatch.setattr("parimend.scrub.scrubber.REST", 30.0)
    model, begun = network(), []
    with scrubber(model, share=1.0) as one:
        assert until(lambda: one.last_sweep)
        monkeypatch.setattr(one._looks, "look_up", lambda pause: begun.append(pause))
        with one.update():
            before = begun.count(True)
            time.sleep(0.2)
            assert begun.count(True) <= before + 1


@pytest.mark.filterwarnings("ignore:parimend.Scrubber")
@pytest.mark.parametrize(
    ("count", "kinds"),
    [(1, ["repaired", "sealed"]), (400, ["uncorrectable", "failed", "sealed"])],
)
def test_what_was_located_is_no_damage_of_what_an_update_wrote(monkeypatch, count, kinds):
    model, told = network(), []
    one = scrubber(model, on_event=told.append)
    located, reached, updated = [], threading.Event(), threading.Event()
    find, is_valid = looks.find, weights.Weights.is_valid

    def locating(*args, **kwargs):
        located.append(find(*args, **kwargs))
        return located[-1]

    def valid(*args):
        if located and not reached.is_set():
            reached.set()
            updated.wait(20)
        return is_valid(*args)

    monkeypatch.setattr(looks, "find", locating)
    monkeypatch.setattr(weights.Weights, "is_valid", valid)
    write(model[0].weight, 7.0, count)
    sweeping = threading.Thread(target=one.sweep)
    sweeping.start()
    assert reached.wait(20)
    with one.update():
        write(model[0].weight, 5.0, 500)
    updated.set()
    sweeping.join()
    assert [event.kind for event in told] == kinds
    assert (model[0].weight.view(-1)[:500] == 5.0).all()


def test_updates_from_several_threads_follow_each_other():
    model, inside, most = network(), [], []
    with scrubber(model, share=1.0) as one:

        def update(number):
            for _ in range(5):
                with one.update():
                    inside.append(number)
                    most.append(len(inside))
                    write(model[0].weight, float(number), 40 * number)
                    inside.pop()

        threads = [threading.Thread(target=update, args=(number,)) for number in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] * 15
    assert pm.check(model, one.seal).verdict == "clean"
    assert one.counters.repairs == one.counters.uncorrectable == one.counters.failures == 0


def test_totals_from_several_threads_add_up():
    teller = Teller(lambda event: None, None)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [teller.count(repairs=1) for _ in range(500)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert teller.counters.repairs == 2000


@pytest.mark.parametrize("wrong", [0, 2])
@pytest.mark.parametrize("per", ["model", "tensor"])
def test_nothing_is_read_while_weights_are_moved(monkeypatch, per, wrong):
    """`share_memory` frees what it moves: whoever reads on there ends the process."""
    model = network()
    one = scrubber(model, per)
    read, reads, begun = ModelTensors.read, [], threading.Event()

    def slowly(self, part):
        if threading.current_thread() is not sweeping:
            return read(self, part)
        reads.append(part)
        begun.set()
        time.sleep(0.2)
        data = read(self, part)
        reads.pop()
        return data

    monkeypatch.setattr(ModelTensors, "read", slowly)
    write(model[0].weight, 5.0, wrong)
    sweeping = threading.Thread(target=one.sweep)
    sweeping.start()
    assert begun.wait(20.0)
    with one.update():
        assert not reads
        model.share_memory()
        time.sleep(0.1)
        assert not reads
    sweeping.join()
    monkeypatch.undo()
    assert one.sweep() == []


def test_rows_of_a_tensor_that_is_gone_are_warned_of_once(recwarn):
    tensors = {"w": torch.zeros(50, 8), "v": torch.zeros(9)}
    one = Scrubber(tensors, pm.protect_(tensors, FEW, per="row"))
    del tensors["w"]
    assert len(one.sweep()) == 50
    assert one.unwatched == {"w"}
    assert len([each for each in recwarn if "w is not watched" in str(each.message)]) == 1


@pytest.mark.parametrize("carrier", ["", "real", "lowbits"])
def test_what_is_imposed_on_watched_weights_is_no_damage(carrier):
    model = network()
    with pm.Scrubber(model, pm.protect_(model, errors=FEW)) as scrubber:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if carrier:
            seal = pm.protect_(model, errors=FEW, carrier=carrier)
        else:
            pm.guard_(model, impose=True).project_()
        after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert not equal(model, before)
        scrubber.sweep()
        assert equal(model, after)
        assert pm.check(model, scrubber.seal).verdict == "clean"
        assert not carrier or pm.check(model, seal).verdict == "clean"
    assert scrubber.counters.repairs == scrubber.counters.uncorrectable == 0


def test_an_update_is_made_of_nothing_else():
    model, other = network(), network()
    scrubber = pm.Scrubber(model, pm.protect_(model, errors=FEW))
    own = list(model.parameters())
    assert not scrubber.watches(own, as_sealed=False)  # it does not run
    with scrubber:
        assert scrubber.watches(own, as_sealed=False)
        assert not scrubber.watches(own, as_sealed=True)
        assert not scrubber.watches(other.parameters(), as_sealed=False)
        with scrubber.update():
            assert not scrubber.watches(own, as_sealed=False)
    seal = pm.protect_(model, errors=FEW, carrier="lowbits")
    with pm.Scrubber(model, seal) as scrubber:
        assert not scrubber.watches(own, as_sealed=False)  # which lives in them


def test_wherever_an_interrupt_comes_in_a_start_a_stop_takes_the_hooks_away():
    model = torch.nn.Linear(2, 2)
    one = scrubber(model)
    for _ in interrupted(one.start, inspect.getfile(Scrubber), gate.__file__):
        one.stop()
        assert not one.alive
        assert not model._forward_pre_hooks
        assert not model._forward_hooks
    one.stop()


@pytest.mark.parametrize("updating", [False, True])
def test_wherever_an_interrupt_comes_others_go_on(updating):
    model = torch.nn.Linear(2, 2)
    one = scrubber(model, share=1.0)

    def work():
        if not updating:
            one.sweep()
            return
        with one.update():
            pass

    def others():
        one._sweep(pause=True)
        with one.update():
            pass

    for _ in interrupted(work, inspect.getfile(Scrubber), gate.__file__, weights.__file__):
        thread = threading.Thread(target=others, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
        assert not one._looks.gate._asking
