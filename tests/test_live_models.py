"""Whatever a user calls a model: checkpoints, quantized and complex ones, and several threads."""

import re
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import prune

import parimend as pm
from parimend.errors import MismatchError, WordError
from parimend.outcomes import Verdict
from parimend.scrub import Scrubber
from parimend.stores.extent import extent_of
from parimend.stores.naming import named_tensors
from tests.stores.test_naming import Flattened, Opaque


def checkpoint():
    torch.manual_seed(0)
    model = torch.nn.Linear(40, 30)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 40)).square().sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best": torch.tensor(71.2),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def test_everything_in_a_checkpoint_is_protected():
    state = checkpoint()
    seal = pm.protect_(state, errors=5)
    assert seal.covered == 1 + 3 * 1230 + 2
    moment = state["optimizer"]["state"][0]["exp_avg"]
    before = moment.clone()
    moment[2, 3] = float("inf")
    assert [change.tensor for change in pm.check(state, seal).changes] == [
        "optimizer.state.0.exp_avg"
    ]
    assert [event.kind for event in Scrubber(state, seal).sweep()] == ["repaired"]
    assert torch.equal(moment, before)
    state["model"]["weight"].zero_()
    assert pm.repair_(state, seal).verdict is Verdict.UNCORRECTABLE
    assert pm.check(state, pm.refresh(state, seal)).verdict is Verdict.CLEAN
    [word] = pm.plan(state, errors=5).words
    assert word.elements == seal.covered
    with pytest.raises(MismatchError, match=r"protects best, which is not there"):
        pm.check(state["model"], seal)


def test_a_seal_that_leaves_most_of_a_model_out_says_so():
    model = torch.nn.Linear(4, 3)
    model.register_buffer("table", torch.zeros(100))
    message = r"^60 of 460 bytes are protected: .* buffers=True takes in \(table\)$"
    with pytest.warns(UserWarning, match=message):
        pm.protect_(model, errors=2)
    with pytest.warns(UserWarning, match=message):
        pm.plan({"student": model}["student"], errors=2)
    for asked in ({"buffers": True}, {"only": ["weight"]}):
        pm.protect_(model, errors=2, **asked)
    model.register_buffer("table", torch.zeros(10))
    pm.protect_(model, errors=2)


def test_what_is_left_out_is_counted_once():
    model = torch.nn.Linear(4, 3)
    table = torch.zeros(14)
    for name in "abcd":
        model.register_buffer(name, table.view(7, 2))
    model.register_buffer("sparse", torch.eye(100).to_sparse())
    pm.protect_(model, errors=2)  # 60 bytes, beside 56 under four names
    pm.protect_(model, errors=2, buffers=True, only=["!sparse"])


class Packed(torch.nn.Module):
    """A layer that saves what it has neither as a parameter nor as a buffer."""

    def __init__(self, size):
        super().__init__()
        self.packed = torch.zeros(size)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "packed"] = (self.packed.clone(), "and no tensor")


def test_a_seal_that_leaves_most_of_a_model_out_as_it_is_hidden_says_so():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), Packed(100), Packed(100))
    message = r"^60 of 860 bytes .* are in attributes .* \(1.packed.0, 2.packed.0\)$"
    for buffers in (False, True):
        with pytest.warns(UserWarning, match=message):
            pm.protect_(model, errors=2, buffers=buffers)
    pm.protect_(model, errors=2, only=["0.*"])
    pm.protect_(torch.nn.Sequential(model[0], Packed(10)), errors=2)
    model.register_buffer("table", torch.zeros(10))
    message = r"buffers, which buffers=True takes in \(table\), or in attributes .* \(1"
    with pytest.warns(UserWarning, match=message):
        pm.plan(model, errors=2)


def test_the_tensors_that_a_quantized_weight_is_made_of():
    layer = torch.nn.Linear(64, 32)
    data = torch.randint(-100, 100, (32, 64), dtype=torch.int8)
    weight = Flattened(data, torch.rand(32))
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    seal = pm.protect_(layer, errors=5)
    assert seal.covered == 32 * 64 + 32 + 32
    before = data.clone()
    data[3, 4:6] = 99
    repair = pm.repair_(layer, seal)
    assert repair.verdict is Verdict.CORRECTED
    assert {change.tensor for change in repair.changes} == {"weight.data_"}
    assert torch.equal(data, before)


@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_nothing_is_changed_where_a_weight_hides_its_memory(carrier):
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 8))
    inner = torch.ones(8, 32, dtype=torch.int8)
    model[1].weight = torch.nn.Parameter(Opaque(inner, torch.ones(8)), requires_grad=False)
    before = model[0].weight.clone()
    for act in (pm.protect_, pm.plan):
        with pytest.raises(WordError, match=r"^1\.weight is a Opaque, which hides its memory"):
            act(model, 5, carrier)
    assert torch.equal(model[0].weight, before)
    seal = pm.protect_(model, 5, only=["0.*"])
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_a_plan_needs_no_memory():
    with torch.device("meta"):
        model = torch.nn.Linear(40, 30)
    assert pm.plan(model, errors=5) == pm.plan(torch.nn.Linear(40, 30), errors=5)
    with pytest.raises(WordError, match="weight is on the meta device"):
        pm.protect_(model, errors=5)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights(dtype):
    tensors = {"w": torch.randn(30, 20, dtype=dtype)}
    seal = pm.protect_(tensors, errors=8)
    before = tensors["w"].clone()
    tensors["w"][3, 4] = complex(float("nan"), -0.0)
    assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
    assert torch.equal(tensors["w"], before)
    for carrier in ("real", "lowbits"):
        with pytest.raises(WordError, match=r"w.* C(64|128)"):
            pm.protect_(tensors, 5, carrier)


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_weights_that_are_not_finite_are_counted(carrier):
    tensors = {"w": torch.randn(100, 40)}
    tensors["w"][7, 3:5] = float("nan")
    message = r"w: 2 of 4000 elements are not finite \(first \[7, 3\]\): .* carrier='sidecar'"
    with pytest.raises(WordError, match=message):
        pm.protect_(tensors, 5, carrier)


@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_threads_that_repair_one_model_at_once(carrier):
    torch.manual_seed(0)
    model = torch.nn.Linear(200, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seal = pm.protect_(model, 40, carrier)
    good = model.weight.detach().clone()
    scrubber = Scrubber(model, seal)
    together = threading.Barrier(4)
    verdicts, kinds = [], []

    def repair():
        together.wait()
        verdicts.append(pm.repair_(model, seal).verdict)

    def check():
        together.wait()
        verdicts.append(pm.check(model, seal).verdict)

    def sweep():
        together.wait()
        kinds.extend(event.kind for event in scrubber.sweep())

    for _ in range(6):
        with torch.no_grad():
            model.weight.view(-1)[torch.randperm(20_000)[:30]] = float("nan")
        threads = [threading.Thread(target=each) for each in (repair, repair, check, sweep)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.equal(model.weight, good)
    assert len(verdicts) == 18
    assert Verdict.UNCORRECTABLE not in verdicts
    assert "uncorrectable" not in kinds
    assert verdicts.count(Verdict.CORRECTED) + kinds.count("repaired") >= 6


def test_rows_that_a_model_shortens_itself_are_told():
    torch.manual_seed(0)
    layer = nn.Embedding(400, 16, max_norm=2.0)
    with pytest.warns(UserWarning, match="400 rows of 0.weight are longer than the max_") as said:
        pm.protect_(nn.Sequential(layer), 3)
    layer.weight.data.renorm_(2, 0, 2)  # to the last place, where some are shortened again
    with pytest.warns(UserWarning, match="rows of 0.weight are longer than the max_norm"):
        pm.protect_(nn.Sequential(layer), 3)
    [advised] = re.findall(r"renorm_\(2, 0, ([0-9.]+)\)", str(said[0].message))
    layer.weight.data.renorm_(2, 0, float(advised))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seal = pm.protect_(nn.Sequential(layer), 3)
    layer(torch.arange(400))
    assert pm.check(nn.Sequential(layer), seal).ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn])
def test_rows_of_any_dtype_are_told(dtype):
    with pytest.warns(UserWarning, match="40 rows of weight are longer than the max_norm"):
        pm.protect_(nn.Embedding(40, 16, max_norm=0.01).to(dtype), 3)


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_rows_that_a_carrier_makes_too_long_are_told(carrier):
    torch.manual_seed(0)
    layer = nn.Embedding(400, 16, max_norm=2.0)
    layer.weight.data.renorm_(2, 0, 1.999999)
    with pytest.warns(UserWarning, match="rows that are moved into a code do not stay below it"):
        pm.protect_(layer, 3, carrier)


def test_padding_that_is_moved_is_told():
    torch.manual_seed(0)
    layer = nn.Embedding(100, 16, padding_idx=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pm.protect_(layer, 3, "lowbits")
    layer.weight.data[7] = 0.0
    with pytest.warns(UserWarning, match="the padding of weight was all zeros"):
        pm.protect_(layer, 3, "real")
    assert layer.weight[7].any()


class Holding(nn.Module):
    """A layer of 12 elements, and whatever else."""

    def __init__(self, **attributes):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (torch.randn(1000), "w"),
        ([torch.randn(10), torch.randn(10)], "w.0, w.1"),
        ({"a": (torch.randn(20), None)}, "w.a.0"),
        ([nn.Parameter(torch.randn(20))], "w.0"),
    ],
)
def test_weights_that_are_plain_attributes_are_told(value, names):
    message = rf"neither parameters nor buffers \({names}\)$"
    for model in (Holding(w=value), Holding(w=value, again=value)):
        with pytest.warns(UserWarning, match=message):
            pm.protect_(model, 3)
    with pytest.warns(UserWarning, match=message.replace("(w", "(0.w").replace(", w", ", 0.w")):
        pm.protect_(nn.Sequential(Holding(w=value)), 3)
    pm.protect_(Holding(w=value), 3, only=["layer.*"])  # asked for


def test_attributes_that_hold_no_weights_of_their_own_are_not_told():
    weight = nn.Parameter(torch.randn(99))
    loop = [torch.empty(0), torch.eye(99).to_sparse(), torch.empty(99, device="meta")]
    loop.append(loop)
    model = Holding(names=["a"], cache={}, views=[weight, weight.data[50:]], loop=loop)
    model.register_parameter("weight", weight)
    model.small = torch.ones(3)
    pm.protect_(model, 3)


def test_views_that_a_module_keeps_do_not_stand_in_the_way():
    """torch does not tell where they come from once an optimizer has changed the weights."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.randn(30, 8))
    model.parts = model.weight.chunk(3)
    with torch.no_grad():
        model.weight.mul_(0.5)
    seal = pm.protect_(model, 5)
    assert pm.check(model, seal).ok


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_weights_that_are_computed_from_parameters_are_not_told(change):
    layer = nn.Linear(30, 30)
    change(layer)
    with torch.no_grad():
        layer.eval()(torch.ones(1, 30))
    assert extent_of(layer, named_tensors(layer)).packed == {}
    lstm = nn.utils.weight_norm(nn.LSTM(4, 5), "weight_hh_l0")
    with torch.no_grad():
        lstm(torch.ones(2, 3, 4))
    assert extent_of(lstm, named_tensors(lstm)).packed == {}


def wrapped(part):
    return checkpoint_wrapper(torch.compile(part, backend="eager"))


@pytest.mark.parametrize("later", [True, False])
def test_a_seal_fits_before_and_after_parts_are_wrapped(later):
    model = torch.nn.Sequential(torch.nn.Linear(8, 9), torch.nn.Linear(9, 3))
    plain, outer = model[0], wrapped(model[0])
    model[0] = plain if later else outer
    seal = pm.protect_(model, errors=3)
    model[0] = outer if later else plain
    assert pm.check(model, seal).verdict == "clean"
    with torch.no_grad():
        plain.weight[2, 3] += 1
    with pm.Scrubber(model, seal) as scrubber:
        assert not scrubber.unwatched
        assert scrubber.sweep() or scrubber.counters.repairs
    assert pm.check(model, seal).verdict == "clean"
    model[0] = torch.nn.ReLU()
    with pytest.raises(MismatchError, match="weight"):
        pm.check(model, seal)
