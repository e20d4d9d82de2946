"""Operations that are done twice: modules, functions, operators."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from parimend.errors import ComputationError, GuardError
from parimend.guards import guard_, repeat
from parimend.upsets import Upset, upset_

LARGEST = torch.finfo(torch.float32).max


class Residual(nn.Module):
    """What is no product: by modules, functions and operators, in place or not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.active = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm(self.conv(x)) + x
        y += 0.5 * x
        y = 1.0 / (1.5 - (self.active(y) - 0.1).neg().exp())
        y = F.max_pool2d(F.leaky_relu(y, 0.1, True), 2)
        return F.layer_norm(torch.sigmoid(y), y.shape[1:]).flatten(1).softmax(1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("operation", "every", "layer"),
    [
        ("add", 5, ""),  # of two tensors
        ("add", 3, ""),  # in place
        ("relu", 3, "active"),  # in place, by a module
        ("sub", 3, ""),
        ("rsub", 3, ""),
        ("reciprocal", 3, ""),
        ("mul", 3, ""),
        ("leaky_relu", 3, ""),  # in place
        ("sigmoid", 3, ""),
        ("native_layer_norm", 3, ""),
        ("_softmax", 3, ""),
    ],
)
def test_every_operation_is_seen_and_corrected(model, x, operation, every, layer, grad):
    with torch.set_grad_enabled(grad), guard_(model, activations=True) as guards:
        right = model(x)
        assert guards.events == ()
        upset = Upset("offset", size=1e-6)  # far below what a threshold could see
        # Everything is done twice, so an odd number strikes the first time that it is done.
        with upset_(model, upset, operations=[operation], every=every) as upsets:
            while not upsets.struck:
                assert torch.equal(model(x), right)
        assert upsets.struck[0] == (operation, every - 1)
        assert {(e.layer, e.kind) for e in guards.events} == {(layer, "recomputed")}


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.subtract(x, 3.0),
        lambda x: torch.rsub(x, 3.0),
        lambda x: torch.multiply(x, 3.0),
        lambda x: torch.divide(x, 3.0),
        lambda x: torch.true_divide(x, 3.0),
        lambda x: torch.special.softmax(x, 1),
        lambda x: torch.special.log_softmax(x, 1),
        torch.special.expit,
        lambda x: torch.maximum(x, x),
        lambda x: x.clamp_min(0.0),
        lambda x: x.exp2(),
        lambda x: torch.norm(x, dim=1),
        lambda x: x.max(),
        lambda x: x.amax(1),
        lambda x: x.std(1),
    ],
)
def test_operations_by_other_names_are_seen(model, x, compute, monkeypatch):
    model.forward = compute
    right = model(x)
    repeated = []
    same = repeat._same
    monkeypatch.setattr(repeat, "_same", lambda *pair: repeated.append(pair) or same(*pair))
    with guard_(model, activations=True) as guards:
        assert torch.equal(model(x), right)
        assert guards.events == ()
    assert len(repeated) == 1


@pytest.mark.parametrize("operation", [torch.sigmoid_, lambda x: F.silu(x, inplace=True)])
def test_what_is_changed_in_place_may_lie_apart_in_memory(model, x, operation):
    # Code for such memory rounds differently.
    model.forward = operation
    with guard_(model, activations=True) as guards, torch.no_grad():
        model(torch.randn(64, 130)[:, ::2])
        model(torch.randn(64, 133)[:, 3:130])
        assert guards.events == ()


def test_the_input_of_an_operation_in_place_is_kept(model, x):
    copy = x.clone()
    with guard_(model, activations=True):
        model(x)
    assert torch.equal(x, copy)


def test_gradients_are_those_without_guards(model, x):
    def gradient():
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    right = gradient()
    with guard_(model, activations=True) as guards:
        for operation in ("sigmoid", "relu"):
            with upset_(model, Upset("offset"), operations=[operation], every=3):
                for _ in range(2):
                    for a, b in zip(gradient(), right, strict=True):
                        torch.testing.assert_close(a, b)
        assert {e.layer for e in guards.events} == {"", "active"}


def test_policies(model, x):
    right = model(x)
    upset = Upset("offset", size=0.5)
    with guard_(model, activations=True, policy="record") as guards, torch.no_grad():
        with upset_(model, upset, operations=["sigmoid"]):
            assert not torch.equal(model(x), right)
        assert {e.kind for e in guards.events} == {"recorded"}
    with guard_(model, activations=True, policy="raise") as guards, torch.no_grad():
        with (
            upset_(model, upset, operations=["sigmoid"]),
            pytest.raises(ComputationError, match="run it again"),
        ):
            model(x)
        assert {e.kind for e in guards.events} == {"raised"}
        torch.testing.assert_close(model(x), right)  # and nothing is left behind
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_an_operation_that_is_wrong_every_time_is_suspect(model, x):
    with guard_(model, activations=True) as guards, torch.no_grad():
        with upset_(model, Upset("offset"), operations=["sigmoid"]):
            model(x)
        assert {e.kind for e in guards.events} == {"suspect"}


@pytest.mark.parametrize("operation", ["sigmoid", "relu"])
def test_a_right_result_does_not_count_where_activations_are_checkpointed(model, x, operation):
    def gradient():
        model.zero_grad()
        checkpoint(model.forward, x, use_reentrant=False).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    right = gradient()
    whole = nn.Sequential(model)
    whole.forward = lambda x: checkpoint(model, x, use_reentrant=False)
    with guard_(whole, activations=True) as guards:
        model.zero_grad()
        with upset_(model, Upset("offset"), operations=[operation], every=3) as upsets:
            while not upsets.struck:
                y = whole(x)
        y.square().sum().backward()
        assert {e.kind for e in guards.events} == {"recomputed"}
    for p, wanted in zip(model.parameters(), right, strict=True):
        torch.testing.assert_close(p.grad, wanted)


def test_statistics_are_not_updated_twice(model, x):
    model.train()
    with guard_(model, activations=True):
        model(x)
    assert model.norm.num_batches_tracked == 1
    twin = Residual()
    twin.load_state_dict(model.state_dict())
    twin.norm.reset_running_stats()
    twin.conv.load_state_dict(model.conv.state_dict())
    twin.train()(x)
    assert torch.equal(twin.norm.running_mean, model.norm.running_mean)


def test_nan_equals_itself(model, x):
    x[1] = float("nan")
    with guard_(model, activations=True) as guards:
        model(x)
        assert {e.kind for e in guards.events} == {"input"}


class Once(nn.Module):
    """A product, and one operation on what comes out."""

    def __init__(self, operation):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.operation = operation

    def forward(self, x):
        return self.operation(self.linear(x))


def squared(y):
    y *= y
    return y


@pytest.mark.parametrize(
    "operation",
    [
        squared,
        lambda y: y.mul_(y),
        lambda y: y.sub_(other=y),
        lambda y: y.add_(y.view_as(y)),
        lambda y: y.add_(y.flip(0)),
        lambda y: (y[1:].mul_(y[1:].view(-1, 8)), y)[1],
        lambda y: torch.relu_(input=y),
        lambda y: F.relu(input=y, inplace=True),
    ],
)
def test_an_operand_that_is_changed_may_be_there_twice_or_by_name(operation):
    torch.manual_seed(0)
    model, x = Once(operation), torch.randn(4, 8)
    with torch.no_grad():
        right = model(x)
        with guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
        assert guards.events == ()


def test_in_place_within_transformations():
    def plus(y):
        z = y * 2.0
        z += y
        return z

    model, x = Once(plus), torch.randn(4, 8)
    right = torch.func.vmap(model)(x)
    with guard_(model, activations=True) as guards:
        assert torch.equal(torch.func.vmap(model)(x), right)
    assert guards.events == ()


@pytest.mark.parametrize("name", ["linear", "add", "relu"])
def test_operators_of_others_are_done_once(name):
    with torch.library._scoped_library("of_others", "DEF") as library:
        library.define(f"{name}(Tensor x, Tensor(a!) y) -> Tensor")
        library.impl(name, lambda x, y: x @ y.add_(1.0), "CPU")
        operator, y = getattr(torch.ops.of_others, name), torch.zeros(8, 5)
        model, x = Once(lambda x: operator(x, y)), torch.randn(4, 8)
        with torch.no_grad(), guard_(model, activations=True) as guards:
            assert torch.equal(model(x), model.linear(x) @ torch.ones(8, 5))
        assert guards.events == ()
        assert torch.equal(y, torch.ones(8, 5))


def test_an_operand_there_twice_is_seen_and_corrected():
    model, x = Once(lambda y: y.mul_(y)), torch.randn(4, 8)
    with torch.no_grad(), guard_(model, activations=True) as guards:
        right = model(x)
        with upset_(model, Upset("offset", size=1e-6), operations=["mul"], every=3) as upsets:
            while not upsets.struck:
                assert torch.equal(model(x), right)
        assert {e.kind for e in guards.events} == {"recomputed"}


@pytest.mark.parametrize(
    ("operation", "name", "wrong"),
    [
        (lambda y: F.relu(y - 10.0), "relu", torch.nan),
        (lambda y: F.hardtanh(y + torch.inf, 0.0, LARGEST), "hardtanh", torch.inf),
    ],
    ids=["NaN for zero", "infinity for the largest number"],
)
def test_what_is_no_finite_number_is_seen(operation, name, wrong):
    model, x = Once(operation), torch.ones(4, 8)
    with torch.no_grad(), guard_(model, activations=True) as guards:
        right = model(x)
        with upset_(model, Upset("stuck", size=wrong), operations=[name], every=3) as upsets:
            while not upsets.struck:
                assert torch.equal(model(x), right)
        assert {e.kind for e in guards.events} == {"recomputed"}


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
def test_one_forward_in_so_many_and_threads(model, x):
    with guard_(model, activations=True, every=2) as guards, torch.no_grad():
        with upset_(model, Upset("offset", size=1e-6), operations=["sigmoid"]):
            for _ in range(4):
                model(x)
        assert {e.where for e in guards.events} == {0, 2}
    right, wrong = model(x), []
    with guard_(model, activations=True) as guards:

        def run():
            for _ in range(5):
                wrong.append(not torch.equal(model(x), right))

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert guards.events == ()
    assert wrong == [False] * 15


def test_a_compiled_graph_does_nothing_twice(model, x):
    right = model(x)
    with guard_(model, activations=True) as guards:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), right)
        assert guards.events == ()


def test_a_part_that_is_compiled_on_its_own_stays_whole(model, x):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    whole = nn.Sequential(nn.Conv2d(3, 3, 1), model).eval()
    right = whole(x)
    model.compile(backend=backend, fullgraph=True)
    with guard_(whole, activations=True) as guards, torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(whole(x), right)
        assert guards.events == ()
    assert len(graphs) == 1


def test_coverage_and_misuse(model):
    with guard_(model, activations=True) as guards:
        cover = {c.layer: c.cover for c in guards.coverage()}
        assert cover == {"conv": "kept", "norm": "repeated", "active": "repeated"}
        with pytest.raises(GuardError, match="guarded already"):
            guard_(model, activations=True)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    pool = nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2, return_indices=True))
    with guard_(pool, activations=True) as guards:
        assert guards.coverage()[1].reason == "returns indices too"
    with pytest.raises(GuardError, match="no layer that can be guarded"):
        guard_(nn.GRU(3, 4), activations=True)
    guard_(nn.ReLU(), activations=True).remove()
