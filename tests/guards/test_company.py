"""Guards among what else is done with models: nobody's work is disturbed, no alarm is false."""

import copy
import io
import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from parimend.errors import ComputationError, GuardError
from parimend.guards import guard_
from parimend.upsets import Upset, upset_


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()


@pytest.fixture
def x():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def pickled(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert b"parimend" not in buffer.getvalue()
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
def test_copies_have_no_guards_and_the_original_keeps_its_own(model, x, make):
    with guard_(model, 4, activations=True) as guards:
        model.guards = guards  # which stays behind, too
        other = make(model)
        assert other.guards is None
        for mine, copied in zip(model.modules(), other.modules(), strict=True):
            assert set(vars(copied)) <= set(vars(mine)) - {"forward", "__reduce_ex__"}
            assert not copied._forward_hooks
        with torch.no_grad():
            other[0].weight.mul_(1.01)
        other(x)
        assert guards.events == ()
        guard_(other, 4).remove()
        with upset_(model, Upset("offset"), only=["0"]):
            model(x)
        assert len(guards.events) == len(x)


def test_an_average_of_weights_has_no_guards(model, x):
    with guard_(model, 4) as guards:
        average = torch.optim.swa_utils.AveragedModel(model)
        with torch.no_grad():
            average.module[0].weight.mul_(1.01)
        average(x)
        assert guards.events == ()
        assert "forward" not in vars(model[0]._replicate_for_data_parallel())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_handles_end_in_any_order_and_others_wrappers_stay(x, order):
    layer, seen = nn.Linear(16, 32), []
    right = layer(x)
    handles = [guard_(layer, 4), upset_(layer, Upset("offset"), operations=["addmm"], every=99)]
    inner = layer.forward

    def doubled(x):
        seen.append(1)
        return 2 * inner(x)

    layer.forward = doubled
    handles.append(upset_(layer, Upset("offset"), operations=["mul"], every=99))
    torch.testing.assert_close(layer(x), 2 * right)
    for i in order:
        handles[i].remove()
        torch.testing.assert_close(layer(x), 2 * right)
    assert layer.forward is doubled
    assert len(seen) == 4
    assert not layer._forward_hooks


def test_a_wrapper_from_before_is_named_and_kept(model, x):
    model[0].forward = lambda x, inner=model[0].forward: 2 * inner(x)
    right = model(x)
    with guard_(model, 4) as guards:
        assert guards.coverage()[0].cover == "uncovered"
        assert torch.equal(model(x), right)
        assert guards.events == ()
    assert torch.equal(model(x), right)


def test_hooks_that_change_outputs_are_left_alone(model, x):
    model[0].register_forward_hook(lambda module, args, y: 2 * y)
    right = model(x)
    with upset_(model, Upset("offset"), only=["0"]), guard_(model, 4) as guards:
        torch.testing.assert_close(model(x), right)  # corrected, and then doubled
        assert len(guards.events) == len(x)


@pytest.mark.parametrize("where", ["all", "first"])
def test_hooks_that_are_called_before_are_left_alone(model, x, where):
    """They would be undone, as if what they change were wrong."""

    def double(module, inputs, output):
        return 2 * output if module is model[2] else None

    right = 2 * model(x)
    with guard_(model, 4) as guards:
        if where == "all":
            handle = register_module_forward_hook(double)
        else:
            handle = model[2].register_forward_hook(double, prepend=True)
        assert torch.equal(model(x), right)
        assert guards.events == ()
        handle.remove()
        with upset_(model, Upset("offset"), only=["2"]):
            torch.testing.assert_close(model(x), right / 2)
        assert guards.events
        handle = model[2].register_forward_hook(double, prepend=True)
        model[2].bias.data[3] = 7.0  # wrong weights
        with pytest.warns(UserWarning, match="2: outputs are wrong"):
            model(x)
        assert guards.events[-1].kind == "suspect"


@pytest.mark.parametrize("make", [guard_, upset_])
def test_an_interrupt_leaves_nothing_behind(make):
    class Interrupted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 32)

        def forward(self, x):
            raise KeyboardInterrupt

    model = Interrupted()
    handle = (
        guard_(model, activations=True)
        if make is guard_
        else upset_(model, Upset("offset"), operations=["addmm"])
    )
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(1, 16))
    assert torch._C._len_torch_function_stack() == 0
    assert torch._C._len_torch_dispatch_stack() == 0
    handle.remove()
    assert "forward" not in vars(model)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # in PyTorch's own jvp
@pytest.mark.parametrize("activations", [False, True])
def test_transformations_of_functions(model, x, activations):
    def all_of_them():
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        return (
            torch.func.vmap(model)(x),
            torch.func.jvp(model, (x,), (x,))[1],
            torch.func.jacrev(model)(x[0]),
            *torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(
                parameters
            ).values(),
        )

    right = all_of_them()
    with guard_(model, 4, activations=activations) as guards:
        torch.testing.assert_close(all_of_them(), right)
        assert guards.events == ()
        assert guards.passed == {"0": 4, "2": 4}


@pytest.mark.parametrize("detach", [False, True])
def test_parameters_that_are_lent_for_a_call(model, x, detach):
    other = copy.deepcopy(model)
    nn.init.normal_(other[0].weight)
    lent = {n: p.detach() if detach else p for n, p in other.named_parameters()}
    with guard_(model, 4, policy="raise") as guards:
        torch.testing.assert_close(torch.func.functional_call(model, lent, (x,)), other(x))
        model(x)
        assert guards.events == ()
        assert guards.passed == {"0": 1}  # the others are the same
        assert guards.coverage()[0].cover == "kept"


def test_exported_and_traced_models_run_without_guards(model, x):
    right = model(x)
    with guard_(model, 4, activations=True) as guards:
        exported = torch.export.export(model, (x,))
        assert "parimend" not in str(exported.graph)
        torch.testing.assert_close(exported.module()(x), right)
        traced = torch.fx.experimental.proxy_tensor.make_fx(model)(x)
        torch.testing.assert_close(traced(x), right)
        assert guards.events == ()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_that_are_computed_again(model, x, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(*model, nn.LayerNorm(8))

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    net = Checkpointed()
    with guard_(net, 4, activations=True) as guards:
        net(x.requires_grad_()).sum().backward()
        assert guards.events == ()
    assert model[0].weight.grad is not None


class Selective(nn.Module):
    """Keeps some results for its gradients, and computes the others again."""

    def __init__(self, model, *kept):
        super().__init__()
        self.model, self.kept = model, kept

    def inner(self, x):
        x = torch.sigmoid(self.model[0](x)) @ self.model[2].weight.mT
        return torch.sigmoid(self.model[0](torch.sigmoid(x @ self.model[2].weight[:, :16])))

    def forward(self, x):
        contexts = partial(create_selective_checkpoint_contexts, list(self.kept))
        return checkpoint(self.inner, x, use_reentrant=False, context_fn=contexts)


def gradients(net, x, strikes=None):
    net.zero_grad()
    with strikes or nullcontext():
        y = net(x)
    y.sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("kept", ["sigmoid", "mm", "addmm", "view"])
def test_results_that_are_kept_are_those_of_the_model(model, x, kept):
    net = Selective(model, getattr(torch.ops.aten, kept).default)
    right = gradients(net, x)
    with guard_(net, activations=True) as guards:
        torch.testing.assert_close(gradients(net, x), right)
        assert guards.events == ()


def test_a_call_in_so_many_may_be_one_that_is_repeated():
    conv, x = nn.Conv2d(3, 32, 3), torch.randn(1, 3, 6, 6)
    net = Selective(conv, torch.ops.aten.sigmoid.default)
    net.inner = lambda x: torch.sigmoid(conv(x)).exp()
    right = gradients(net, x)
    with guard_(net, every=3) as guards:
        for _ in range(4):
            torch.testing.assert_close(gradients(net, x), right)
        assert guards.events == ()


@pytest.mark.parametrize("operation", ["sigmoid", "mm", "addmm"])
def test_results_that_are_kept_are_the_right_ones(model, x, operation):
    net = Selective(model, getattr(torch.ops.aten, operation).default)
    right = gradients(net, x)
    with guard_(net, 3, activations=True) as guards:
        strikes = upset_(net, Upset("offset"), operations=[operation], every=2)
        torch.testing.assert_close(gradients(net, x, strikes), right)
        assert {e.kind for e in guards.events} <= {"recomputed", "corrected"}
        assert guards.events


def test_empty_and_nested_inputs():
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.zeros(0, 9, 32)
    padding = torch.zeros(0, 9, dtype=torch.bool)
    with guard_(attention, 4) as guards, torch.no_grad():
        y, weights = attention(x, x, x, key_padding_mask=padding)
        assert (y.shape, weights.shape) == ((0, 9, 32), (0, 9, 9))
        x = torch.nested.nested_tensor([torch.randn(3, 32), torch.randn(4, 32)])
        right = attention(x, x, x, need_weights=False)[0]
        assert [y.shape for y in right.unbind()] == [(3, 32), (4, 32)]
        assert guards.events == ()
        assert set(guards.passed.values()) == {1}
        with pytest.raises(RuntimeError, match="attn_mask"):
            attention(padding, padding, padding, is_causal=True)


@pytest.mark.parametrize("deferred", [False, True])
def test_compiled_for_nested_inputs(model, deferred):
    x = torch.nested.nested_tensor([torch.randn(n, 16) for n in (3, 5)], layout=torch.jagged)
    right = model(x)
    with guard_(model, 4, deferred=deferred) as guards, torch.no_grad():
        torch._dynamo.reset()
        y = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(y.values(), right.values())
        assert guards.events == ()
        assert guards.passed == {"0": 1, "2": 1}


def test_replaced_weights_are_not_checked_and_it_is_said(model, x):
    other = copy.deepcopy(model)
    nn.init.normal_(other[0].weight)
    with guard_(model, 4, policy="raise") as guards:
        model.load_state_dict(other.state_dict(), assign=True)
        for _ in range(2):
            torch.testing.assert_close(model(x), other(x))
        assert [(e.layer, e.kind) for e in guards.events] == [("0", "replaced")]
        assert guards.passed == {"0": 2}
        assert "replaced" in guards.coverage()[0].reason
        guards.project_()
        assert guards.coverage()[0].cover == "kept"
        with pytest.raises(ComputationError), upset_(model, Upset("offset"), only=["0"]):
            model(x)


def test_weights_computed_from_changed_ones_are_not_checked_and_it_is_said():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))
    with guard_(layer, 4) as guards:
        with torch.no_grad():
            layer.parametrizations.weight.original0.mul_(2.0)
        layer(torch.ones(16))
        assert guards.events == ()
        assert guards.passed == {"": 1}
        [found] = guards.coverage()
        assert found.cover == "uncovered"
        assert "call project_()" in found.reason
        guards.project_()
        layer(torch.ones(16))
        assert guards.passed == {"": 1}
        assert [found.cover for found in guards.coverage()] == ["kept"]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("outputs", [5, 7, 9, 16])
def test_a_layer_with_another_number_of_outputs_is_passed_by(model, x, outputs, compiled):
    """As after pruning, or with more classes."""
    torch._dynamo.reset()
    with guard_(model, 4, policy="raise") as guards, torch.no_grad():
        called = torch.compile(model, backend="eager") if compiled else model
        called(x)
        model[2].weight = nn.Parameter(torch.randn(outputs, 32))
        model[2].bias = nn.Parameter(torch.randn(outputs))
        for _ in range(2):
            expected = nn.functional.linear(model[1](model[0](x)), model[2].weight, model[2].bias)
            torch.testing.assert_close(called(x), expected)
        assert [(e.layer, e.kind) for e in guards.events] == [("2", "replaced")]
        assert guards.coverage()[2].cover == "uncovered"
        with pytest.raises(GuardError, match=rf"2: its weight has the shape \({outputs}, 32\)"):
            guards.project_()


@pytest.mark.parametrize("impose", [False, True])
def test_weights_that_cannot_be_guarded_are_not_taken_over(model, x, impose):
    with guard_(model, 4, impose=impose) as guards, torch.no_grad():
        good = model[2].weight.clone()
        model[0].weight.mul_(2.0)
        model[2].weight[3, 4] = float("nan")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(GuardError, match="2: its weights are not all finite"):
            guards.project_()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor.view(torch.int32), before[name].view(torch.int32))
        assert set(guards.floor) == {"0"}
        model[2].weight.copy_(good)
        guards.project_()
        model(x)
        assert guards.events == ()
        assert set(guards.floor) == {"0", "2"}


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_layers_of_every_precision_are_guarded_in_graphs(model, x, dtype, deferred):
    torch._dynamo.reset()
    model, x = model.to(dtype).eval(), x.to(dtype)
    with torch.no_grad(), guard_(model, 2, policy="record", deferred=deferred) as guards:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))
        assert guards.events == ()
        model[0].weight[0, 0] += 30.0
        compiled(x)
        assert {event.layer for event in guards.events} == {"0"}


def test_converted_weights_are_known_again(model, x):
    with guard_(model, 4, policy="raise") as guards:
        model.half().float()
        model(x)
        assert guards.events == ()
        assert guards.passed == {}
        with pytest.raises(ComputationError), upset_(model, Upset("offset"), only=["0"]):
            model(x)


class Foreign(torch.Tensor):
    """A type of its own, as weights that are quantized."""


def test_weights_of_other_types_are_named(model, x):
    with guard_(model, 4) as guards:
        changed = 1.1 * model[0].weight.detach()
        model[0].weight = nn.Parameter(changed.as_subclass(Foreign))
        model(x)
        assert guards.events == ()
        assert "Foreign" in guards.coverage()[0].reason
    with guard_(model, 4) as guards:
        assert "Foreign" in guards.coverage()[0].reason
    with pytest.raises(GuardError, match="Foreign"):
        guard_(model[0], 4)
    nn.init.constant_(model[2].weight, float("inf"))
    with pytest.raises(GuardError, match="not all finite"):
        guard_(model, 4)


def test_a_module_that_takes_over_hooks_is_left_alone(model, x):
    with guard_(model, 4) as guards:
        other = nn.Linear(16, 32)
        for hook in model[0]._forward_hooks.values():
            other.register_forward_hook(hook)
        model[0] = other
        model(x)
        assert guards.events == ()
        assert "put here after" in guards.coverage()[0].reason


def test_a_layer_that_is_used_twice(x):
    layer = nn.Linear(16, 16)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(torch.relu_(self.layer(x)))

    model = Twice()
    with guard_(model, 4, activations=True) as guards:
        model(x).sum().backward()
        assert guards.events == ()
        with upset_(model, Upset("offset"), only=["layer"]):
            model(x)
        assert {e.where for e in guards.events} == {2, 3}


@pytest.mark.parametrize("options", [{}, {"k": 4, "impose": True}, {"k": 4, "deferred": True}])
def test_a_default_device_is_not_that_of_the_model(options):
    # As `torch.set_default_device("cuda")` with a model that stays on the CPU.
    with torch.device("cpu"):
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(256, 32, bias=False))
        x = torch.randn(5, 3, 6, 6)
    with torch.no_grad(), torch.device("meta"), guard_(model, **options) as guards:
        right = model(x)
        assert guards.events == ()
        with upset_(model, Upset("bitflip", bits=8), seed=1):
            y = model(x)
        assert guards.events
    torch.testing.assert_close(y, right)
