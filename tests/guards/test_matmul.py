"""Products by functions: what their sums see, and what is done again."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from parimend.errors import ComputationError
from parimend.guards import guard_, matmul, repeat
from parimend.guards.matmul import Operands, operands
from parimend.upsets import Upset, upset_


class Experts(nn.Module):
    """A layer, and products that are none."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(12, 12)
        self.weight = nn.Parameter(torch.randn(3, 12, 20))
        self.bias = nn.Parameter(torch.randn(20))
        self.function = function

    def forward(self, x):
        return self.function(self, self.first(x))


SUMMED = {
    "matmul": lambda m, x: torch.matmul(x, m.weight[0]),
    "an operator": lambda m, x: x @ m.weight[0],
    "of the other": lambda m, x: m.weight[0].__rmatmul__(x),
    "one for all": lambda m, x: x[None, None] @ m.weight,
    "one row": lambda m, x: x[0] @ m.weight[0],
    "a vector": lambda m, x: m.weight[0].mT @ x[0],
    "mm": lambda m, x: torch.mm(x, m.weight[0]),
    "a method": lambda m, x: x.mm(m.weight[0]),
    "bmm": lambda m, x: x.expand(3, -1, -1).bmm(m.weight),
    "linear": lambda m, x: F.linear(x, m.weight[1].mT, m.bias),
    "linear, more axes": lambda m, x: F.linear(x[None, None], m.weight[1].mT),
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.weight[2]),
    "addmm, beta": lambda m, x: torch.addmm(m.bias, x, m.weight[2], beta=0.5, alpha=-2.0),
    "addmm, beta 0": lambda m, x: torch.addmm(torch.full((20,), torch.nan), x, m.weight[2], beta=0),
    "addmm, a column": lambda m, x: torch.addmm(x[:, :1], x, m.weight[2]),
    "baddbmm": lambda m, x: torch.baddbmm(m.bias, x.expand(3, -1, -1), m.weight),
}
TWICE = {
    "in place": lambda m, x: torch.zeros(5, 20).addmm_(x, m.weight[0]),
    "einsum": lambda m, x: torch.einsum("ij,jk->ik", x, m.weight[0]),
    "attention": lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "embedding": lambda m, x: F.embedding(torch.arange(5), m.weight[0]),
}


class Strike(TorchDispatchMode):
    """Makes some of the products with 20 columns wrong, by their numbers."""

    def __init__(self, *numbers, by=0.01, row=0, dtype=torch.float32):
        super().__init__()
        self.numbers, self.by, self.row, self.dtype, self.seen = numbers, by, row, dtype, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        y = operation(*args, **(kwargs or {}))
        multiplies = "mm" in str(operation) or "mv" in str(operation)
        if multiplies and y.shape[-1] == 20 and y.dtype is self.dtype:
            if self.seen in self.numbers:
                y.view(-1, 20)[self.row, 7] += self.by
            self.seen += 1
        return y


@pytest.fixture
def x():
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def done(monkeypatch):
    """How often sums were looked at, and results compared."""
    done = {"sums": 0, "compared": 0}

    def counted(name, function):
        def count(*args):
            done[name] += 1
            return function(*args)

        return count

    monkeypatch.setattr(Operands, "suspicious", counted("sums", Operands.suspicious))
    monkeypatch.setattr(Operands, "exact", counted("compared", Operands.exact))
    monkeypatch.setattr(repeat, "_same", counted("compared", repeat._same))
    return done


@pytest.mark.parametrize("name", [*SUMMED, *TWICE])
def test_healthy_products_stay_as_they_are(name, x, done):
    model = Experts({**SUMMED, **TWICE}[name])
    with torch.no_grad():
        right = model(x)
        with guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
        assert guards.events == ()
    # The layer's own product has its guard. Others are done again only if they have no sums.
    assert done["sums"] == (name in SUMMED)
    assert bool(done["compared"]) == (name in TWICE)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", SUMMED)
def test_a_wrong_product_is_computed_again(name, grad, x):
    model = Experts(SUMMED[name])
    with torch.set_grad_enabled(grad):
        right = model(x)
        with guard_(model, activations=True) as guards, Strike(0) as strike:
            found = model(x)
        assert strike.seen == 2
        assert torch.equal(found, right)
        [event] = guards.events
        assert (event.kind, event.layer) == ("recomputed", "")
        assert event.function in matmul.FUNCTIONS
        assert str(event).startswith(f"{event.function} in the model, call 0: sample (")
        if grad:
            wanted, got = (
                torch.autograd.grad(y.square().sum(), [*model.parameters()], allow_unused=True)
                for y in (right, found)
            )
            assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True) if a is not None)


def test_a_wrong_sum_does_not_count(x, done):
    """The check itself may compute wrongly: then what it stops is found to be right."""

    class WrongSum(Strike):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            y = operation(*args, **(kwargs or {}))
            if "sum" in str(operation) and (first := not self.seen):
                y += first
                self.seen += 1
            return y

    model = Experts(SUMMED["matmul"])
    with torch.no_grad(), guard_(model, activations=True) as guards:
        right = model(x)
        with WrongSum():
            assert torch.equal(model(x), right)
        assert guards.events == ()
    assert done == {"sums": 2, "compared": 1}


@pytest.mark.filterwarnings("ignore:.*outputs are wrong")
@pytest.mark.parametrize(
    ("policy", "numbers", "kind"),
    [
        ("record", (0,), "recorded"),
        ("correct", (0,), "recomputed"),
        ("correct", (0, 1), "suspect"),  # wrong in the same way every time
    ],
)
def test_policies(policy, numbers, kind, x):
    model = Experts(SUMMED["bmm"])
    with torch.no_grad():
        right = model(x)
        with guard_(model, activations=True, policy=policy) as guards, Strike(*numbers):
            found = model(x)
    [event] = guards.events
    assert event.kind == kind
    assert event.magnitude == pytest.approx(0.01 / float(right.square().mean().sqrt()), rel=0.01)
    assert torch.equal(found, right) == (kind == "recomputed")


def test_raising(x):
    model = Experts(SUMMED["linear"])
    with torch.no_grad(), guard_(model, activations=True, policy="raise"), Strike(0):
        with pytest.raises(ComputationError, match=r"wrong outputs: .*run it again"):
            model(x)
        model(x)


GROUPED = getattr(F, "grouped_mm", None) or torch._grouped_mm
ENDS = torch.tensor([2, 2, 4], dtype=torch.int32)


def grouped(model, x):
    y = GROUPED(x, model.weight, offs=ENDS)
    y[4:] = 0.0  # which belongs to no expert: it was anything
    return y


def test_rows_of_experts(x, done):
    model = Experts(grouped)
    with torch.no_grad():
        right = model(x)
        for at, group in ((0, 0), (3, 2)):
            y = model.first(x)[at] @ model.weight[group]
            torch.testing.assert_close(right[at], y)
        with guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
            assert (done["sums"], guards.events) == (1, ())
            with Strike(0):
                assert torch.equal(model(x), right)
            [event] = guards.events
            assert (event.kind, event.sample, event.channels) == ("recomputed", (0,), (7,))
            with Strike(0, row=4):
                assert torch.equal(model(x), right)
            assert len(guards.events) == 1


@pytest.mark.parametrize("function", [SUMMED["matmul"], grouped])
def test_a_default_device_is_not_that_of_the_model(function, x):
    matmul._threshold.cache_clear()
    model = Experts(function)
    with torch.no_grad():
        right = model(x)
        with torch.device("meta"), guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
            assert guards.events == ()
            with Strike(0):
                assert torch.equal(model(x), right)
        assert [e.kind for e in guards.events] == ["recomputed"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("cast", [False, True])
def test_other_arithmetics(dtype, cast, x, done):
    model = Experts(SUMMED["baddbmm"])
    if cast:
        context = torch.autocast("cpu", dtype, enabled=dtype is not torch.float64)
    else:
        context, model, x = nullcontext(), model.to(dtype), x.to(dtype)
    with torch.no_grad(), context:
        right = model(x)
        with guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
            assert (guards.events, done["compared"]) == ((), 0)
            with Strike(0, by=2.0, dtype=right.dtype):
                assert torch.equal(model(x), right)
        assert [e.kind for e in guards.events] == ["recomputed"]


@settings(max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 80)] * 3),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    of_a=st.sampled_from(["normal", "relu", "softmax", "wide", "equal"]),
    of_b=st.sampled_from(["normal", "relu", "softmax", "wide", "equal"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    seed=st.integers(0, 99),
)
def test_rounding_explains_what_rounding_does(sizes, batch, of_a, of_b, dtype, seed):
    m, k, n = sizes
    torch.manual_seed(seed)

    def drawn(kind, *shape):
        x = torch.randn(*shape)
        return {
            "normal": x,
            "relu": x.relu(),
            "softmax": (4.0 * x).softmax(-1),
            "wide": x * 10.0 ** torch.randint(-2, 2, shape),
            "equal": x[..., :1].expand(shape),
        }[kind].to(dtype)

    a, b = drawn(of_a, *batch, m, k), drawn(of_b, *batch, k, n)
    y, order = a @ b, torch.randperm(k)
    product = Operands(a, b)
    assert product.is_near(y)
    assert product.is_near(a[..., order] @ b[..., order, :])
    if of_b == "normal" and n > 8:  # healthy sums are looked at no further
        assert not product.suspicious(y)
    wrong = y.clone()
    size = 0.3 * n**0.5 if dtype.itemsize == 2 else 0.01 * n**0.5
    norm = product._multiplied(y, torch.square).sum().sqrt()
    wrong[..., m // 2, n // 2] += (size * norm + y.abs().max() + 0.1).to(dtype)
    assert product.suspicious(wrong)
    assert not product.is_near(wrong)
    assert not product.is_possible(wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_that_is_added_apart_is_one_more_rounding(dtype, x):
    torch.manual_seed(0)
    x = x.abs().expand(3, 5, 12).mT.contiguous().mT
    args = [t.to(dtype) for t in (x, torch.rand(20, 12), torch.rand(20))]
    product, y = operands("linear", args, {}), F.linear(*args)
    assert not product.suspicious(y)
    assert product.is_possible(y)
    assert not Operands(args[0], args[1].mT, args[2]).is_possible(y)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.mm(m.weight[0].mT.to_sparse(), x.mT),
        lambda m, x: F.linear(x, m.weight[0].mT.to_sparse_csr()),
        lambda m, x: torch.mm(x.bfloat16(), m.weight[0].bfloat16()).float(),
        lambda m, x: torch.matmul(x[0], x[1]) + x,
    ],
    ids=["sparse", "compressed", "narrow", "a dot product"],
)
def test_other_tensors_are_multiplied_as_ever(function, x):
    model = Experts(function)
    with torch.no_grad():
        right = model(x)
        with guard_(model, activations=True) as guards:
            assert torch.equal(model(x), right)
    assert guards.events == ()


def test_what_is_no_number_is_what_it_is():
    a, b = torch.tensor([[1e20, 1.0], [torch.nan, 1.0], [2.0, 1.0]]), torch.ones(2, 9)
    b[0, 3] = 1e20
    y = a @ b
    assert y.isinf().any()
    assert Operands(a, b).is_near(y)
    y[2, 0] = torch.nan
    assert Operands(a, b).suspicious(y)
    assert not Operands(a, b).is_possible(y)


def test_partial_sums_that_are_too_large_make_any_number():
    a, b = torch.tensor([[1e20, 1e20, 1.0]]), torch.ones(3, 9)
    b[:2, 3] = torch.tensor([1e20, -1e20])
    for wrong in (torch.nan, torch.inf, -torch.inf):
        y = a @ b
        y[0, 3] = wrong  # as the order of the terms may have it
        assert Operands(a, b).suspicious(y)
        assert Operands(a, b).is_possible(y)
        y[0, 4] = wrong
        assert not Operands(a, b).is_possible(y)


def test_what_draws_or_changes_its_weight_is_done_once(done):
    weight = nn.Parameter(torch.full((4, 8), 10.0))
    model = Experts(
        lambda m, x: (
            F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5)
            + F.embedding(torch.tensor([1]), weight, max_norm=1.0).sum()
        )
    )
    with torch.no_grad(), guard_(model, activations=True) as guards:
        model(torch.randn(5, 12))
    assert guards.events == ()
    assert done["compared"] == 2  # the sum, and the addition
    assert weight[1].norm() <= 1.0


def test_an_embedding_is_done_twice():
    model, tokens = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8)), torch.arange(9)
    with guard_(model, activations=True) as guards, torch.no_grad():
        assert [c.cover for c in guards.coverage()] == ["repeated", "kept"]
        right = model(tokens)
        with upset_(model, Upset("offset"), operations=["embedding"], every=3) as upsets:
            while not upsets.struck:
                assert torch.equal(model(tokens), right)
        assert {(e.kind, e.layer) for e in guards.events} == {("recomputed", "0")}
    model[0] = nn.Embedding(9, 8, max_norm=1.0)
    with guard_(model, activations=True) as guards:
        assert guards.coverage()[0].reason == "changes its weight (max_norm)"


def test_attention_goes_another_way_without_gradients(done):
    bias = nn.Parameter(torch.randn(1, 5, 5))
    model = Experts(lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None], bias))
    with guard_(model, activations=True) as guards, torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(5, 12))
        assert (guards.events, done["compared"]) == ((), 0)
        with torch.no_grad():
            model(torch.randn(5, 12))
        assert (guards.events, done["compared"]) == ((), 1)


def test_conversions_are_done_twice_if_they_convert(x, done):
    model = Experts(lambda m, x: x.float().to(torch.float64).type(torch.float32).to("cpu"))
    with torch.no_grad(), guard_(model, activations=True) as guards:
        right = model(x)
        assert (done["compared"], guards.events) == (2, ())
        with upset_(model, Upset("offset"), operations=["_to_copy"], every=5) as upsets:
            while not upsets.struck:
                assert torch.equal(model(x), right)
        assert {e.kind for e in guards.events} == {"recomputed"}
