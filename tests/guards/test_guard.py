"""`guard_` and its handle."""

import copy
import mmap
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from parimend.errors import ComputationError, GuardError, SpecError
from parimend.guards import Policy, guard_
from parimend.layers.convolution import ConvProduct
from parimend.layers.linear import LinearProduct
from parimend.removable import Hook
from parimend.upsets import Upset, upset_


@pytest.fixture(autouse=True)
def no_graphs_of_others():
    """All compiled modules share a cache of a few graphs."""
    torch._dynamo.reset()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 32)).eval()


@pytest.fixture
def x():
    return torch.randn(20, 40, generator=torch.Generator().manual_seed(1))


def test_one_wrong_output_is_named(model, x):
    with guard_(model, 8) as guards:
        model[0].register_forward_hook(Hook(set_output((3, 7), 9.0)), prepend=True)
        model(x)
        [event] = guards.events
    assert (event.layer, event.where, event.sample, event.channels) == ("0", 0, (3,), (7,))
    assert event.positions == ((),)
    assert event.kind == "corrected"
    assert 1 < event.magnitude < 100
    assert "sample (3,)" in str(event)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, -1e30])
@pytest.mark.parametrize("k", [1, 4])
def test_outputs_that_are_not_finite_or_huge_are_corrected(model, x, value, k):
    right = model(x)
    with guard_(model, k) as guards:
        model[0].register_forward_hook(Hook(set_output((3, 7), value)), prepend=True)
        torch.testing.assert_close(model(x), right)
        assert len(guards.events) == 1


@pytest.mark.parametrize("k", [1, 4])
def test_an_input_that_is_nan_is_no_fault(model, x, k):
    x = x.clone()
    x[2, 5], x[4, 0] = float("nan"), float("inf")
    with guard_(model, k, policy="raise") as guards:
        y = model(x)
        assert {(e.sample, e.kind) for e in guards.events} == {((2,), "input"), ((4,), "input")}
    assert y[[2, 4]].isnan().all()


def test_events_with_many_positions_do_not_fill_memory():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3)), torch.full((8, 1, 130, 130), float("nan"))
    with guard_(model) as guards:
        for _ in range(5):
            model(x)
        assert {len(event.positions) for event in guards.events} == {128 * 128}
        last = [(call, (sample,)) for call in range(5) for sample in range(8)][-12:]
        assert [(event.where, event.sample) for event in guards.events] == last
        model(torch.zeros(1, 1, 800, 800).fill_(float("nan")))
        [event] = guards.events  # the last one is kept whatever its size is
        assert (event.where, len(event.positions)) == (5, 798 * 798)


def test_record_and_raise_change_nothing(model, x):
    with guard_(model, 4, policy="record") as guards, upset_(model, Upset("offset"), only=["2"]):
        wrong = model(x)
        assert {e.kind for e in guards.events} == {"recorded"}
        assert len(guards.events) == len(x)
    assert (wrong - model(x)).abs().max() > 0.1
    with guard_(model, 4, policy="raise") as guards, upset_(model, Upset("offset"), only=["2"]):
        with pytest.raises(ComputationError, match=r"2, call 0: sample \(0,\)"):
            model(x)
        assert {e.kind for e in guards.events} == {"raised"}


def test_recompute_does_not_locate(model, x):
    right = model(x)
    with guard_(model, 8, policy="recompute") as guards, upset_(model, Upset("offset"), only=["0"]):
        torch.testing.assert_close(model(x), right)
    assert {e.kind for e in guards.events} == {"recomputed"}


def test_two_wrong_outputs_of_a_sample_are_located(model, x):
    right = model(x)
    with guard_(model, 8) as guards, upset_(model, Upset("offset", count=2, size=1e-2)):
        torch.testing.assert_close(model(x), right, rtol=0, atol=1e-5)
    assert all(len(e.channels) == 2 for e in guards.events)
    assert len(guards.events) == 2 * len(x)


def test_wrong_weights_are_suspected_and_repaired(model, x):
    sound, right = copy.deepcopy(model), model(x)
    with guard_(model, 4) as guards:
        with torch.no_grad():
            model[0].weight[5] += 1.0
        with pytest.warns(
            UserWarning, match="^0: outputs are wrong, also when computed again, and"
        ):
            model(x)
        told = len(guards.events)
        model(x)  # of a layer that was told of no warning is given, but events are
        assert len(guards.events) == 2 * told
        assert {e.kind for e in guards.events} == {"suspect"}
    model.load_state_dict(sound.state_dict())
    told = []

    def repair(event):
        told.append(event.layer)
        model.load_state_dict(sound.state_dict())

    with guard_(model, 4, policy=Policy(on_weights=repair)) as guards:
        with torch.no_grad():
            model[0].weight[5] += 1.0
        torch.testing.assert_close(model(x), right)
        assert told == ["0"]
        assert {e.kind for e in guards.events} == {"repaired"}


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_faults_are_located_among_samples_that_wrong_weights_spoil():
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(60, 64)
    x[:7, 5] = 0.0  # these do not meet the wrong weight
    with guard_(layer, 4) as guards, torch.no_grad():
        layer.weight[3, 5] += 10.0
        right = layer(x)
        assert {e.kind for e in guards.events} == {"suspect"}
        assert len(guards.events) == 53
        before = len(guards.events)

        def hook(module, args, y):
            y[:3, 9] += 5.0

        layer.register_forward_hook(Hook(hook), prepend=True)
        torch.testing.assert_close(layer(x), right)
        found = {e.sample[0]: e for e in guards.events[before:]}
        assert {e.kind for at, e in found.items() if at >= 7} == {"suspect"}
        assert [found[at].kind for at in range(3)] == ["corrected"] * 3
        assert [found[at].channels for at in range(3)] == [(9,)] * 3


@pytest.mark.parametrize(("k", "blocks"), [(1, 1), (1, 4), (4, 1), (4, 4)])
@pytest.mark.parametrize("layer", [nn.Linear(64, 32), nn.Conv2d(8, 32, 3)])
@pytest.mark.parametrize("samples", [3, 4, 40])
@pytest.mark.parametrize("count", [1, 2, 9, 20])
def test_as_many_wrong_outputs_and_samples_as_there_may_be(layer, k, blocks, samples, count):
    """Outputs are named if they can be located, or if the samples are so many that all of them are
    compared.
    """
    torch.manual_seed(0)
    x = torch.randn(50, 64) if isinstance(layer, nn.Linear) else torch.randn(50, 8, 5, 5)
    right, wrong = layer(x), torch.randperm(32)[:count].sort().values

    def hook(module, args, y):
        y[:samples, wrong] = torch.where(torch.arange(count) % 3 == 1, torch.nan, 7.0).reshape(
            count, *[1] * (y.ndim - 2)
        )

    with guard_(layer, k, blocks=blocks) as guards, torch.no_grad():
        handle = layer.register_forward_hook(Hook(hook), prepend=True)
        torch.testing.assert_close(layer(x), right, rtol=0, atol=1e-5)
        handle.remove()
        assert [event.sample[0] for event in guards.events] == list(range(samples))
        named = {"corrected": tuple(wrong.tolist()), "recomputed": ()}
        assert all(event.channels == named[event.kind] for event in guards.events)
        if max(k, blocks) > 1 and samples > 3:
            kind = "corrected" if count <= 16 else "recomputed"
            assert {event.kind for event in guards.events} == {kind}


@pytest.mark.parametrize(
    ("layer", "product", "sizes"),
    [
        (nn.Linear(64, 32), LinearProduct, (64,)),
        (nn.Conv2d(8, 32, 3, groups=2), ConvProduct, (8, 5, 5)),
    ],
)
def test_wrong_samples_are_computed_again_some_at_once(layer, product, sizes, monkeypatch):
    """However many are wrong: only so many of them are in float64, with all that it takes."""
    torch.manual_seed(0)
    x, exact = torch.randn(50, *sizes), []
    right, run = layer(x), product.run

    def noted(self, x, *args):
        exact.extend([len(x)] if x.dtype is torch.float64 else [])
        return run(self, x, *args)

    def hook(module, args, y):
        y[1:48, 5] = 7.0

    positions = right[0, 0].numel()
    inputs = layer.weight[0].numel() * getattr(layer, "groups", 1)
    monkeypatch.setattr("parimend.guards.suspect._AT_ONCE", 10 * 8 * inputs * positions)
    monkeypatch.setattr(product, "run", noted)
    with guard_(layer, 4) as guards, torch.no_grad():
        layer.register_forward_hook(Hook(hook), prepend=True)
        torch.testing.assert_close(layer(x), right, rtol=0, atol=1e-5)
        assert [event.sample[0] for event in guards.events] == list(range(1, 48))
        assert {(event.kind, event.channels) for event in guards.events} == {("corrected", (5,))}
    assert exact == [10, 10, 10, 10, 7]


def test_what_was_found_is_told_where_on_weights_raises(model, x):
    def broken(event):
        raise KeyError(event.layer)

    with guard_(model, 4, policy=Policy(on_weights=broken)) as guards:
        with torch.no_grad():
            model[0].weight[5] += 1.0
        with pytest.raises(KeyError):
            model(x)
        assert {e.layer for e in guards.events} == {"0"}
        assert len(guards.events) == len(x)


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_on_weights_may_run_the_model(model, x):
    told = []

    def repairs_nothing(event):
        told.append(event.layer)
        model(x)

    with guard_(model, 4, policy=Policy(on_weights=repairs_nothing)) as guards, torch.no_grad():
        model[0].weight[5] += 1.0
        model(x)
        assert {e.kind for e in guards.events} == {"suspect"}
    assert told == ["0"]


def test_only_one_call_in_so_many_is_checked(model, x):
    with guard_(model, 4, every=3, only=["0"]) as guards, upset_(model, Upset("offset")):
        for _ in range(6):
            model(x)
    assert {e.where for e in guards.events} == {0, 3}


def test_nothing_remains(model, x):
    before, keys = model(x), list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    guards = guard_(model, 4, activations=True)
    assert list(model.state_dict()) == keys
    guards.remove()
    guards.remove()
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(model(x), before)
    assert {c.reason for c in guards.coverage()} == {"its guard was removed"}
    assert repr(guards) == "<Guards: 0 layers guarded, 0 events>"


def test_projection_takes_little_and_is_free_for_logits(model, x):
    right = model(x)
    guard_(model, 1, impose=["2"]).remove()
    torch.testing.assert_close(model(x).softmax(1), right.softmax(1))
    assert model(x).sum(1).abs().max() < 1e-5


def test_a_sum_of_zero_is_free_before_a_normalization_that_removes_the_mean(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.LayerNorm(64), nn.Linear(64, 8))
    right = model(x)
    with guard_(model, 1, impose=["0"]) as guards:
        torch.testing.assert_close(model(x), right)
        assert guards.coverage()[0].cover == "imposed"


def test_training_goes_on_inside(model, x):
    with guard_(model, 4, impose=True) as guards:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            guards.project_()
        assert guards.events == ()
        assert [c.cover for c in guards.coverage()] == ["imposed", "uncovered", "imposed"]
    # And without being told, a new guard sees that the weights are in the code.
    with guard_(model, 4) as guards:
        assert [c.cover for c in guards.coverage()] == ["imposed", "uncovered", "imposed"]


def test_gradients_are_those_without_guards(model, x):
    def gradient():
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    right = gradient()
    with guard_(model, 4), upset_(model, Upset("offset")):
        for a, b in zip(gradient(), right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_threads(model, x):
    right = model(x)
    with guard_(model, 4, every=1) as guards, upset_(model, Upset("offset"), only=["0"]):
        wrong = []

        def run():
            with torch.no_grad():
                for _ in range(10):
                    if (model(x) - right).abs().max() > 1e-5:
                        wrong.append(1)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(guards.events) == 40 * len(x)


@pytest.mark.parametrize("grad", [False, True])
def test_compiled_without_a_graph_break(model, x, grad, monkeypatch):
    right, forward = model(x), nn.Linear.forward
    error = torch.zeros(20, 64)
    error[3, 7] = 1.0

    def wrong(module, x):
        y = forward(module, x)
        return y + error if module.out_features == 64 else y

    with guard_(model, 4) as guards, torch.set_grad_enabled(grad):
        monkeypatch.setattr(nn.Linear, "forward", wrong)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), right)
        [event] = guards.events
        assert (event.sample, event.channels, event.kind) == ((3,), (7,), "corrected")
    assert (compiled(x) - right).abs().max() > 0.01
    assert len(guards.events) == 1


def test_compiled_graphs_hold_the_checks_and_follow_the_weights(model, x):
    graphs = []

    def look(graph, inputs):
        graphs.append(graph)
        return graph

    with guard_(model, 4, policy="raise") as guards, torch.no_grad():
        compiled = torch.compile(model, backend=look, fullgraph=True)
        compiled(x)
        for _ in range(3):
            model[0].weight.mul_(1.5)
            model[2].weight.add_(0.1)
            guards.project_()
            torch.testing.assert_close(compiled(x), model(x))
        assert guards.events == ()
        assert len(graphs) == 1
        called = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
        assert called.count(torch.ops.parimend.answer_) == 2


@pytest.mark.parametrize("root", [pytest.param(False, marks=pytest.mark.long), True])
def test_no_compiled_graph_passes_guards_by(model, x, root):
    """Graphs are shared by modules of the same structure, and live on."""
    model = model[0] if root else model
    twins = [copy.deepcopy(model) for _ in range(3)]

    def run(network):
        return torch.compile(network, backend="aot_eager", fullgraph=True)(x)

    def break_(network):
        with torch.no_grad():
            next(network.parameters())[5] += 1.0

    before = torch.compile(model, backend="aot_eager", fullgraph=True)
    before(x)
    with guard_(model, 4, policy="record") as first, guard_(twins[0], 2, policy="record") as second:
        run(twins[1])
        run(model), run(twins[0])
        assert first.events == second.events == ()
        break_(model)
        before(x)
        assert len(first.events) == len(x)
        break_(twins[0])
        run(twins[0])
        assert len(second.events) == len(x)
        break_(twins[1])
        run(twins[1])
        assert (len(first.events), len(second.events)) == (len(x), len(x))
    before(x)
    assert len(first.events) == len(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("impose", [False, True])
def test_other_dtypes(model, x, dtype, impose):
    model, x = model.to(dtype), x.to(dtype).repeat(50, 1)
    with guard_(model, 4, impose=impose) as guards, torch.no_grad():
        right = model(x)
        assert guards.events == ()
        size = 4 * max(guards.floor.values())
        with upset_(model, Upset("offset", size=size), only=["0"]):
            y = model(x)
        assert len(guards.events) >= 0.99 * len(x)
        assert (y - right).abs().max() < 0.1 * size + 1e-6 or dtype != torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("impose", [False, True])
def test_a_model_whose_dtype_changes_stays_guarded(model, x, dtype, impose):
    with guard_(model, 4, impose=impose) as guards, torch.inference_mode():
        model.to(dtype)
        right = model(x.to(dtype))
        assert guards.events == ()
        with upset_(model, Upset("offset", size=1.0), only=["0"]):
            torch.testing.assert_close(model(x.to(dtype)), right, rtol=0.1, atol=0.1)
        assert len(guards.events) == len(x)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 39), torch.zeros(3, 40, dtype=torch.float64)])
def test_inputs_that_the_layer_refuses_are_refused_as_before(model, x, wrong):
    with guard_(model, 4, activations=True) as guards:
        with pytest.raises(RuntimeError, match="mat"):
            model(wrong)
        assert model(x[:0]).shape == (0, 32)
        model(x.view(2, 10, 40)), model(x[0])
        assert guards.events == ()


def test_autocast(model, x):
    with guard_(model, 4) as guards, torch.autocast("cpu", torch.bfloat16):
        right = model(x.repeat(50, 1))
        assert right.dtype == torch.bfloat16
        assert guards.events == ()
        with upset_(model, Upset("offset", size=0.5), only=["0"]):
            y = model(x.repeat(50, 1))
        assert guards.events
        torch.testing.assert_close(y, right, rtol=0.05, atol=0.05)


def test_damage_before_the_first_run_in_another_dtype_is_not_learned(model, x):
    def run():  # autocasting keeps the weights that it has cast, so anew for each
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            model(x.repeat(50, 1))
        return [(e.layer, e.kind) for e in guards.events]

    with guard_(model, 4) as guards:
        weights = model[0].weight.data.view(-1).view(torch.int32)
        weights[70] ^= 1 << 30
        with pytest.warns(UserWarning, match="outputs are wrong, also when computed again"):
            told = run()
        assert set(told) == {("0", "suspect")}
        weights[70] ^= 1 << 30
        assert run() == told
        with upset_(model, Upset("offset", size=0.5), only=["0"]):
            assert {action for _, action in run()[len(told) :]} == {"corrected"}


def test_overflow_is_told_from_a_fault():
    layer = nn.Linear(8, 16).half()
    with torch.no_grad():
        layer.weight[3] = 6e4
    with guard_(layer, 1) as guards:
        assert layer(torch.ones(1, 8).half())[0, 3] == float("inf")
        assert [e.kind for e in guards.events] == ["overflow"]


def test_a_layer_that_cancels_its_inputs_gives_no_false_alarm():
    layer = nn.Linear(512, 16, bias=False)
    with torch.no_grad():
        layer.weight[:, 256:] = -layer.weight[:, :256]
    half = torch.randn(500, 256, generator=torch.Generator().manual_seed(0))
    x = torch.cat([half, half + 1e-6], 1)
    with guard_(layer, 1) as guards:
        layer(x)
        assert guards.events == ()
        assert guards.screened > 0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(96, 96), (2, 9, 96)),
        (lambda: nn.Conv2d(64, 64, 3, padding=1), (2, 64, 5, 5)),
        (lambda: nn.MultiheadAttention(96, 4, batch_first=True), (2, 9, 96)),
    ],
    ids=["linear", "convolution", "attention"],
)
def test_equal_weights_and_an_outlier_give_no_false_alarm(layer, shape):
    """Every sum rounds in one direction, as often as the order in which it is made makes it do so;
    and that order depends on the number of samples.
    """
    made, generator = layer().eval(), torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.ones_(parameter)
    with guard_(made) as guards, torch.no_grad():
        for _ in range(30):
            x = torch.full(shape, float(torch.rand((), generator=generator)))
            x.view(-1)[torch.randint(x.numel(), (), generator=generator)] *= 1e4
            made(*[x] * (3 if isinstance(made, nn.MultiheadAttention) else 1))
            assert guards.events == ()
        assert guards.screened > 0


def test_large_outliers_give_no_false_alarm():
    layer = nn.Linear(256, 64)
    with torch.no_grad():
        layer.weight[3] *= 1e3
    x = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 1e3
    for k in (1, 8):
        with guard_(layer, k) as guards:
            layer(x)
            assert guards.events == ()


def test_coverage_names_what_is_not_covered(model):
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Quantized(nn.Module):  # as the layers of torch.ao.nn.quantized: the weight is a method
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def weight(self):
            return torch.quantize_per_tensor(torch.ones(16, 4), 0.1, 0, torch.qint8)

    model.append(Scaled(32, 32))
    model.append(nn.Linear(32, 3))
    model.append(parametrizations.weight_norm(nn.Linear(3, 32)))
    model.append(nn.Linear(32, 32).to(torch.float8_e4m3fn))
    model.append(nn.LazyLinear(4))
    model.append(nn.Linear(4, 16, device="meta"))
    model.append(nn.Linear(4, 16))
    model[9].weight = nn.Parameter(model[9].weight.detach().to_sparse())
    model.append(nn.Linear(4, 16))
    model[10].weight = nn.Parameter(torch.ones(16, 4, dtype=torch.int8), requires_grad=False)
    model.append(Quantized())
    with guard_(model, 4, impose=True) as guards:
        found = {c.layer: (c.cover, c.reason) for c in guards.coverage()}
        assert found["3"][0] == "uncovered"
        assert "forward of its own" in found["3"][1]
        assert found["4"] == ("uncovered", "has 3 outputs for 4 checks: take a smaller k")
        assert found["5"][0] == "kept"
        assert "other parameters" in found["5"][1]
        assert "float8" in found["6"][1]
        assert "no shape" in found["7"][1]
        assert "no values" in found["8"][1]
        assert "sparse" in found["9"][1]
        assert "int8" in found["10"][1]
        assert found["11"] == ("uncovered", "no rule for this type, or a forward of its own")
        model[2] = nn.Linear(64, 32)
        assert "put here after" in {c.layer: c.reason for c in guards.coverage()}["2"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_inputs_or_outputs_run_as_before():
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 16), nn.Linear(16, 8))
    nn.init.normal_(model[1].bias)
    x = torch.ones(2, 3, 8)
    right = model(x)
    with guard_(model, 4) as guards:
        assert torch.equal(model(x), right)
        assert ["no elements" in found.reason for found in guards.coverage()] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"k": 64}, "no layer that can be guarded"),
        ({"k": 40, "only": ["2"]}, "2: k=40 checks"),
        ({"only": ["1"]}, "1: cannot be guarded"),
        ({"only": ["7"]}, "no module matches '7'"),
        ({"impose": "7"}, "no module matches '7'"),
        ({"policy": "ignore"}, "policy must be"),
        ({"every": 0}, "every must be"),
        ({"blocks": 0}, "blocks must be"),
    ],
)
def test_misuse(model, options, message):
    with pytest.raises(GuardError, match=message):
        guard_(model, **options)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("argument", ["only", "impose"])
def test_what_is_no_pattern_is_refused(model, argument):
    with pytest.raises(SpecError, match=f"{argument} must be a shell pattern or a list of them"):
        guard_(model, **{argument: 5})
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("answer", ["raise", "record"])
def test_where_nothing_is_computed_again_no_weights_are_repaired(answer):
    with pytest.raises(GuardError, match=f"policy '{answer}' nothing is computed again"):
        Policy(answer, on_weights=print)
    assert Policy(answer) != Policy()


def test_what_repairs_weights_is_a_function():
    with pytest.raises(SpecError, match="on_weights must be a function of a GuardEvent, not a str"):
        Policy(on_weights="repair")


def test_a_model_is_guarded_once(model):
    with guard_(model, only=["0"]):
        with pytest.raises(GuardError, match="0: is guarded already"):
            guard_(model)
        guard_(model, only=["2"]).remove()
    guard_(model).remove()


def test_a_depthwise_convolution_cannot_be_imposed_on_but_kept():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
    with pytest.raises(GuardError, match="0: cannot be imposed"):
        guard_(model, impose=["0"])
    with guard_(model, impose=True) as guards:
        [cover] = guards.coverage()
        assert cover.cover == "kept"
        assert "group" in cover.reason


def test_weights_made_in_inference_mode_are_imposed_on(x):
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(40, 16))
    with guard_(model, impose=True) as guards, torch.no_grad():
        assert guards.coverage()[0].cover == "imposed"
        model(x)
        guards.project_()
        model(x)
    assert not guards.events


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("kind", ["expanded", "read only"])
def test_memory_that_cannot_be_written_to_is_not_imposed_on(kind, x, tmp_path):
    (tmp_path / "weights").write_bytes(torch.randn(16, 40).numpy().tobytes())
    with (tmp_path / "weights").open("rb") as file:
        page = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    weight, reason = {
        "expanded": (torch.ones(1, 40).expand(16, 40), "its weight has elements that share memory"),
        "read only": (torch.frombuffer(page, dtype=torch.float32).view(16, 40), "can only be read"),
    }[kind]
    model = nn.Sequential(nn.Linear(40, 16))
    with guard_(model, impose=True) as guards:
        model[0].weight.data = weight
        with pytest.raises(GuardError, match=f"0: .*{reason}"):
            guards.project_()
    with pytest.raises(GuardError, match=f"0: cannot be imposed on: .*{reason}"):
        guard_(model, impose=["0"])
    with guard_(model, impose=True) as guards, torch.no_grad():
        [cover] = guards.coverage()
        assert (cover.cover, reason in cover.reason) == ("kept", True)
        model(x)
    assert not guards.events


def set_output(index, value):
    def hook(module, args, y):
        with torch.no_grad():
            y[index] = value

    return hook
