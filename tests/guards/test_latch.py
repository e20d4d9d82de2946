"""Alarms that wait for the end of a forward are never lost, and nothing wrong is given back."""

import pytest
import torch
from torch import nn

from parimend.errors import ComputationError, GuardError
from parimend.guards import Policy, graph, guard_, latch, layer, observing
from parimend.removable import Hook


class Net(nn.Module):
    """A model with a plain argument, that gives tensors in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 8)

    def forward(self, x, scale=1.0):
        hidden = self.first(x)
        return {"y": self.second(torch.relu(hidden)) * scale, "hidden": (hidden, None)}


@pytest.fixture(autouse=True)
def no_graphs_of_others():
    """All compiled modules share a cache of a few graphs."""
    torch._dynamo.reset()


@pytest.fixture(params=["cpu", "gpu"])
def compiled_on(request, monkeypatch):
    """Compiled for the processor, or as for a device that it has to wait for."""
    if request.param == "gpu":
        monkeypatch.setattr(layer, "waits_for", lambda y: torch.compiler.is_compiling())
    return request.param


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def x():
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(1))


def failing(model, calls):
    """Lets so many calls of the first layer go wrong, each in one output of one sample."""
    left = [calls]

    def hook(module, args, y):
        if left[0]:
            left[0] -= 1
            y[2, 3] += 5.0

    return model.first.register_forward_hook(Hook(hook), prepend=True)


def fail_in_first(monkeypatch):
    """Lets every call of the first layer go wrong, in graphs too; by what."""
    forward, error = nn.Linear.forward, torch.zeros(6, 32)
    error[2, 3] = 5.0

    def wrong(module, x):
        y = forward(module, x)
        return y + error if module.out_features == 32 else y

    monkeypatch.setattr(nn.Linear, "forward", wrong)
    return error


def same(a, b):
    torch.testing.assert_close(a["y"], b["y"])
    torch.testing.assert_close(a["hidden"][0], b["hidden"][0])


@pytest.mark.parametrize(
    ("calls", "action", "where"), [(1, "recomputed", -1), (99, "corrected", 2)]
)
def test_a_wrong_forward_is_run_again(model, x, calls, action, where):
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        right = model(x, scale=2.0)
        handle = failing(model, calls)
        same(model(x, scale=2.0), right)
        handle.remove()
        [event] = guards.events
        assert (event.layer, event.kind, event.where) == ("first", action, where)
        same(model(x, scale=2.0), right)
        assert len(guards.events) == 1


@pytest.mark.parametrize("calls", [1, 99])
def test_every_policy_keeps_its_word(model, x, calls):
    with torch.no_grad():
        right = model(x)
        with guard_(model, 4, policy="raise", deferred=True) as guards:
            handle = failing(model, calls)
            with pytest.raises(ComputationError, match="first"):
                model(x)
            handle.remove()
            same(model(x), right)
            assert [e.kind for e in guards.events] == ["raised"]
        with guard_(model, 4, policy="record", deferred=True) as guards:
            handle = failing(model, calls)
            wrong = model(x)
            handle.remove()
            assert float((wrong["hidden"][0] - right["hidden"][0])[2, 3]) > 4
            assert [e.kind for e in guards.events] == ["recorded"]


def test_modes_without_gradients_may_change(model, x):
    modes = (torch.inference_mode, torch.no_grad, torch.inference_mode)
    with guard_(model, 4, deferred=True) as guards:
        for mode in modes:
            with mode():
                right = model(x)
                handle = failing(model, 1)
                same(model(x), right)
                handle.remove()
        assert [e.kind for e in guards.events] == ["recomputed"] * 3


def test_weights_are_repaired_in_the_second_run(model, x):
    with torch.no_grad():
        right, before = model(x), model.first.weight.clone()

        def repair(event):
            model.first.weight.copy_(before)

        policy = Policy("correct", on_weights=repair)
        with guard_(model, 4, policy=policy, deferred=True) as guards:
            model.first.weight[3] += 1.0
            same(model(x), right)
            assert {e.kind for e in guards.events} == {"repaired"}


def test_nothing_waits_where_a_forward_may_not_be_repeated(model, x):
    class Cache:
        pass

    runs = []
    model.second.register_forward_hook(lambda *_: runs.append(1))
    original = model.forward
    with guard_(model, 4, deferred=True) as guards:
        handle = failing(model, 99)
        model(x)["y"].sum().backward()  # with gradients
        with torch.no_grad():
            model.forward(x, torch.ones(1))
            assert len(runs) == 3
            del runs[:]
            with pytest.raises(TypeError):
                model(x, Cache())
        assert len(runs) == 1
        handle.remove()
        assert len(guards.events) == 3
    assert model.forward == original


def test_a_layer_that_screens_too_much_is_judged_in_the_second_run():
    layer = nn.Linear(512, 16, bias=False)
    with torch.no_grad():
        layer.weight[:, 256:] = -layer.weight[:, :256]
        half = torch.randn(100, 256, generator=torch.Generator().manual_seed(0))
        model = nn.Sequential(layer)
        with guard_(model, 1, policy="raise", deferred=True) as guards:
            model(torch.cat([half, half + 1e-6], 1))
            assert guards.events == ()
            assert guards.screened > 0


def prone(kind):
    """A model whose healthy outputs the screen stops, an input, and options of its guards."""
    torch.manual_seed(0)
    if kind == "ignored":  # outputs are what is left of large terms that cancel
        layer, x = nn.Linear(64, 16, bias=False), torch.randn(20, 32)
        layer.weight.data[:, 32:] = -layer.weight.data[:, :32]
        return nn.Sequential(layer), torch.cat([x, x + 1e-6], 1)
    if kind == "narrow":  # two outputs are often small together
        return nn.Sequential(nn.Conv2d(3, 2, 3, bias=False)), torch.randn(3, 3, 40, 40)
    layer = nn.Linear(64, 64)  # all outputs round in the same direction
    nn.init.constant_(layer.weight, 0.37)
    return nn.Sequential(layer), torch.randn(32, 64)


@pytest.mark.parametrize("answer", ["correct", "recompute", "record", "raise"])
@pytest.mark.parametrize("kind", ["ignored", "narrow", "equal"])
def test_no_harmless_stop_of_the_second_run_hides_an_alarm(kind, answer):
    model, x = prone(kind)
    runs = []
    with torch.no_grad(), guard_(model, policy=answer, deferred=True) as guards:
        counted = model[0].register_forward_pre_hook(lambda *_: runs.append(1))
        right = model(x)
        assert guards.events == ()
        assert guards.screened > 0
        assert len(runs) == 1  # on a CPU it is looked at without another run
        for at in range(0, right.numel(), 1 + right.numel() // 5):
            left = [100 * float(right.abs().max())]

            def hook(module, args, y, at=at, left=left):
                if left:
                    y.view(-1)[at] += left.pop()

            before = len(guards.events)
            handle = model[0].register_forward_hook(Hook(hook), prepend=True)
            if answer == "raise":
                with pytest.raises(ComputationError, match="run it again"):
                    model(x)
            else:
                assert torch.equal(model(x), right) == (answer != "record")
            handle.remove()
            [event] = guards.events[before:]
            said = {"raise": "raised", "record": "recorded"}.get(answer, "recomputed")
            assert (event.layer, event.kind, event.where) == ("0", said, -1)
        counted.remove()


def test_compiled_alarms_wait_on_a_cpu_for_what_is_wrong_alone(monkeypatch):
    model, x = prone("equal")
    runs, again = [], latch.Latch._conclude
    monkeypatch.setattr(latch.Latch, "_conclude", lambda *args: runs.append(1) or again(*args))
    with torch.no_grad(), guard_(model, deferred=True) as guards:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        right = compiled(x)
        assert guards.screened > 0
        assert (runs, guards.events) == ([], ())
        forward, first = nn.Linear.forward, torch.zeros(32, 64)
        first[3, 7] = 100 * float(right.abs().max())

        def wrong(module, x):
            y = forward(module, x)
            return y + first if torch.compiler.is_compiling() else y

        monkeypatch.setattr(nn.Linear, "forward", wrong)
        torch._dynamo.reset()
        torch.testing.assert_close(compiled(x), right)
        assert [(e.kind, e.where) for e in guards.events] == [("recomputed", -1)]


def test_an_alarm_is_told_where_the_second_run_fails(model, x):
    fails = []
    model.second.register_forward_pre_hook(lambda *_: 1 / 0 if fails else fails.append(1))
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        handle = failing(model, 1)
        with pytest.raises(ZeroDivisionError):
            model(x)
        handle.remove()
        assert [(e.layer, e.where) for e in guards.events] == [("first", -1)]


@pytest.mark.parametrize("what", ["input", "buffer"])
@pytest.mark.parametrize("calls", [1, 99])
def test_a_forward_that_changes_what_it_reads_is_no_answer_in_a_second_run(model, x, what, calls):
    model.register_buffer("mean", torch.zeros(12))
    target = x if what == "input" else model.mean

    def change(*_):
        target.add_(1.0)

    model.second.register_forward_hook(change)
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        model(x)
        assert not guards.events
        handle = failing(model, calls)
        with pytest.raises(ComputationError, match=f"changes .*{what}"):
            model(x)
        handle.remove()
        assert [e.layer for e in guards.events] == ["first"]


def test_buffers_that_are_repaired_in_the_second_run_are_not_changed_by_it(model, x):
    model.register_buffer("mean", torch.zeros(12))
    weight = model.first.weight.detach().clone()

    def repair(event):
        model.first.weight.copy_(weight)
        model.mean.zero_()

    policy = Policy("correct", on_weights=repair)
    with torch.no_grad(), guard_(model, 4, policy=policy, deferred=True) as guards:
        right = model(x)
        model.first.weight[3, 3] += 5.0
        same(model(x), right)
        assert guards.events


def test_an_alarm_outlives_a_forward_that_fails(model, x):
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        handle = failing(model, 1)
        stop = model.second.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(x)
        handle.remove(), stop.remove()
        model(x)
        assert [e.layer for e in guards.events] == ["first"]


def test_every_call_of_the_second_run_is_checked(model, x):
    with torch.no_grad(), guard_(model, 4, every=2, deferred=True) as guards:
        right = model(x)
        handle = failing(model, 99)
        model(x), model(x)
        handle.remove()
        assert [e.kind for e in guards.events] == ["corrected"]
        same(model(x), right)


class TestCapturedGraphs:
    """The state machine of a CUDA graph: a capture reads nothing, replays set alarms."""

    @pytest.fixture(autouse=True)
    def capturing(self, monkeypatch):
        self.now = False
        monkeypatch.setattr(latch, "capturing", lambda: self.now)

    def captured(self, model, x):
        model(x)
        self.now = True
        y = model(x)
        self.now = False
        return y

    def place(self, guards):
        [captured] = guards._journal.latch._captured
        return captured.alarms[torch.device("cpu")]

    def test_alarms_stay_until_they_are_read(self, model, x):
        with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
            y = self.captured(model, x)
            right = {"y": y["y"].clone(), "hidden": (y["hidden"][0].clone(), None)}
            assert guards.settle()
            # A replay goes wrong, then others that are not read, and a forward that is not a graph.
            y["y"].fill_(9.0)
            self.place(guards)[0] = 1
            model(x)
            assert guards.events == ()
            assert not guards.settle()
            same(y, right)
            [event] = guards.events
            assert (event.layer, event.kind, event.where) == ("first", "recomputed", -1)
            assert guards.settle()
            x.mul_(2.0)  # the graph's input is what the next replay reads
            self.place(guards)[1] = 1
            assert not guards.settle()
            same(y, model(x))

    @pytest.mark.parametrize("kind", ["ignored", "narrow", "equal"])
    def test_a_stop_is_harmless_only_if_the_outputs_are_the_same(self, kind):
        model, x = prone(kind)
        with torch.no_grad(), guard_(model, deferred=True) as guards:
            y = self.captured(model, x)
            right = y.clone()
            self.place(guards)[0] = 1  # of the screen, which alone can look there
            assert not guards.settle()
            assert guards.events == ()
            y.view(-1)[7] += 1.0
            self.place(guards)[0] = 1
            assert not guards.settle()
            assert torch.equal(y, right)
            assert [(e.kind, e.where) for e in guards.events] == [("recomputed", -1)]

    @pytest.mark.parametrize("compiled", [False, True])
    def test_several_forwards_in_one_graph(self, model, x, compiled):
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
            run(x)
            self.now = True
            ys = [run(x), run(2.0 * x)]
            self.now = False
            right = [y["y"].clone() for y in ys]
            for y in ys:
                y["y"].fill_(9.0)
            first = guards._journal.latch._captured[0]
            first.alarms[torch.device("cpu")][1] = 1
            run(x)  # has places of its own, and leaves these alone
            assert not guards.settle()
            for y, expected in zip(ys, right, strict=True):
                torch.testing.assert_close(y["y"], expected)
            assert guards.settle()

    def test_compilers_that_capture_unasked_are_refused(self, model, x, monkeypatch):
        monkeypatch.setattr(graph, "_TAGS", [])
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        guarded = guard_(model, 4, deferred=True)
        with torch.no_grad(), guarded, pytest.raises(GuardError, match="or use a newer PyTorch"):
            self.captured(compiled, x)

    def test_the_capture_itself_is_checked_by_no_one_else(self, model, x):
        with torch.no_grad(), guard_(model, 4, policy="raise", deferred=True) as guards:
            model(x)
            handle = failing(model, 1)
            self.now = True
            model(x)
            self.now = False
            handle.remove()
            model(x)
            with pytest.raises(ComputationError, match="first"):
                guards.settle()

    def test_it_needs_a_run_before(self, model, x):
        with torch.no_grad(), guard_(model, 4, deferred=True):
            self.now = True
            with pytest.raises(GuardError, match="run the model once before, as it is"):
                model(x)

    def test_of_a_compiled_model(self, model, x, compiled_on):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
            y = self.captured(compiled, x)
            right = {"y": y["y"].clone(), "hidden": (y["hidden"][0].clone(), None)}
            assert guards.settle()
            y["y"].fill_(9.0)
            self.place(guards)[1] = 1
            compiled(x)  # one that is not a graph
            assert not guards.settle()
            same(y, right)
            [event] = guards.events
            assert (event.kind, event.where) == ("recomputed", -1)
            assert guards.settle()

    def test_alarms_of_a_compiled_model_add_up(self, model, x, monkeypatch, compiled_on):
        fail_in_first(monkeypatch)
        with torch.no_grad(), guard_(model, 4, policy="record", deferred=True) as guards:
            compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
            self.captured(compiled, x)
            assert self.place(guards).tolist() == [1, 0]
            before = len(guards.events)
            assert not guards.settle()
            assert {event.layer for event in guards.events[before:]} == {"first"}

    def test_alarms_that_do_not_wait_cannot_be_read_then(self, model, x, monkeypatch):
        class Unreadable:
            def __bool__(self):
                raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(observing, "capturing", lambda: self.now)
        with torch.no_grad(), guard_(model, 4) as guards:
            for guard, *_ in guards._layers.values():
                guard.checks.suspicious = lambda y, x: Unreadable()
            with pytest.raises(RuntimeError, match="not permitted"):
                model(x)
            self.now = True
            with pytest.raises(GuardError, match="guard with deferred=True"):
                model(x)

    def test_without_deferring_there_is_nothing_to_settle(self, model):
        with guard_(model, 4) as guards:
            assert guards.settle()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_outputs_that_were_expanded_are_put_right(x, backend, monkeypatch, compiled_on):
    class Expanding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(12, 32)

        def forward(self, x):
            return self.first(x)[:, None].expand(-1, 3, -1)

    torch.manual_seed(0)
    model = Expanding().eval()
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        right = model(x).clone()
        fail_in_first(monkeypatch)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(x), right)
        assert guards.events


@pytest.mark.parametrize(
    "answer", ["correct", *(pytest.param(x, marks=pytest.mark.long) for x in ("record", "raise"))]
)
def test_compiled_without_a_graph_break(model, x, answer, monkeypatch, compiled_on):
    with torch.no_grad():
        right = model(x, scale=2.0)
        with guard_(model, 4, policy=answer, deferred=True) as guards:
            compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
            same(compiled(x, scale=2.0), right)
            assert guards.events == ()
            error = fail_in_first(monkeypatch)
            torch._dynamo.reset()
            if answer == "raise":
                with pytest.raises(ComputationError, match="first"):
                    compiled(x, scale=2.0)
            else:
                y = compiled(x, scale=2.0)
                off = 0.0 if answer == "correct" else 5.0
                torch.testing.assert_close(y["hidden"][0], right["hidden"][0] + off / 5 * error)
            [event] = guards.events
            assert (event.layer, event.sample) == ("first", (2,))


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_a_compiled_part_of_a_model_does_not_wait(model, x):
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        right = model(x)
        model.first.weight[3] += 1.0
        part = torch.compile(model.first, backend="aot_eager", fullgraph=True)
        part(x)
        assert {e.kind for e in guards.events} == {"suspect"}
        model.first.weight[3] -= 1.0
        same(model(x), right)


class Thing:
    """An object in which nobody looks for tensors."""

    def __init__(self, y):
        self.y = y


class Boxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 32)

    def forward(self, x):
        return Thing(self.layer(x))


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_outputs_of_unknown_types_are_not_in_one_graph(x):
    model = Boxed().eval()
    with torch.no_grad(), guard_(model, 4, deferred=True) as guards:
        right = model(x).y
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(compiled(x).y, right)
        assert guards.events == ()
        model.layer.weight[3] += 1.0
        for run in (compiled, model):
            before = len(guards.events)
            run(x)
            assert {e.kind for e in guards.events[before:]} == {"suspect"}
        assert guards._journal.latch.traced is None


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Linear(6, 8), (6,)),
        pytest.param(nn.Conv2d(3, 8, 3, padding=1), (3, 7, 9), marks=pytest.mark.long),
        pytest.param(nn.ConvTranspose1d(3, 8, 3), (3, 7), marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(("deferred", "dynamic"), [(False, None), (True, True)])
@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_compiled_for_inputs_of_any_number(module, size, deferred, dynamic, compiled_on):
    model = nn.Sequential(module).eval()
    with torch.no_grad(), guard_(model, 1, deferred=deferred) as guards:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        for samples in (2, 3, 5):
            x = torch.randn(samples, *size)
            torch.testing.assert_close(compiled(x), model(x))
        assert guards.events == ()
        module.weight.data.view(-1)[0] += 100.0
        compiled(torch.randn(4, *size))
        assert guards.events


@pytest.mark.parametrize("depth", [2, 5])
def test_a_device_reduces_the_stops_of_all_layers_at_once(depth, monkeypatch):
    monkeypatch.setattr(layer, "waits_for", lambda y: True)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(depth))).eval()
    graphs = []
    with torch.no_grad(), guard_(model, 1, deferred=True):
        run = torch.compile(model, backend=lambda gm, _: graphs.append(gm) or gm, fullgraph=True)
        run(torch.randn(3, 8))
    [compiled] = graphs
    assert [node.target for node in compiled.graph.nodes].count("any") == 1
