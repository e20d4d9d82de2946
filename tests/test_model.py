import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import parimend as pm
from parimend.errors import MismatchError, SealError, SpecError, WordError
from parimend.faults import FaultError, draw
from parimend.outcomes import Verdict

CARRIERS = ["sidecar", "real", "lowbits"]


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40), torch.nn.ReLU(), torch.nn.Linear(40, 10)
    )


def arrays(model):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def bits(model):
    return {name: t.clone().numpy().tobytes() for name, t in model.state_dict().items()}


@pytest.fixture(params=CARRIERS)
def carrier(request):
    return request.param


def protected(carrier, errors=12, seed=0, **options):
    model = network(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a toy network has few weights
        return model, pm.protect_(model, errors, carrier, **options)


@given(
    carrier=st.sampled_from(CARRIERS),
    kind=st.sampled_from(
        ["noise", "random", "bitflip", "multiflip", "stuck", "zero", "burst", "lines", "sign"]
    ),
    seed=st.integers(0, 50),
)
@settings(max_examples=60)
def test_damage_within_the_budget_is_repaired_bit_for_bit(carrier, kind, seed):
    model, seal = protected(carrier)
    before = bits(model)
    damage = draw(kind, arrays(model), 12, seed)
    damage.apply_(arrays(model))
    found = pm.check(model, seal)
    assert found.verdict is Verdict.CORRECTABLE
    assert {(c.tensor, int(np.ravel_multi_index(c.index, model.state_dict()[c.tensor].shape)))
            for c in found.changes} == {(f.tensor, f.index) for f in damage}  # fmt: skip
    repair = pm.repair_(model, seal)
    assert repair.verdict is Verdict.CORRECTED
    assert repair.changes == found.changes
    assert bits(model) == before
    assert pm.check(model, seal).verdict is Verdict.CLEAN


@given(carrier=st.sampled_from(CARRIERS), seed=st.integers(0, 200))
@settings(max_examples=40)
def test_too_much_damage_is_named_and_left_as_found(carrier, seed):
    model, seal = protected(carrier)
    draw("random", arrays(model), 700, seed).apply_(arrays(model))
    damaged = bits(model)
    repair = pm.repair_(model, seal)
    assert repair.verdict is Verdict.UNCORRECTABLE
    assert repair.changes == ()
    assert repair.words[0].unexplained > 0
    assert repair.words[0].reason
    assert bits(model) == damaged


def test_clean(carrier):
    model, seal = protected(carrier)
    found = pm.check(model, seal)
    assert found.verdict is Verdict.CLEAN
    assert found.elements == sum(p.numel() for p in model.parameters())


def test_a_seal_survives_as_bytes_and_as_a_file(carrier, tmp_path):
    model, seal = protected(carrier)
    seal.save(tmp_path / "seal")
    again = pm.Seal.load(tmp_path / "seal")
    assert again.to_bytes() == seal.to_bytes()
    draw("bitflip", arrays(model), 5, 0).apply_(arrays(model))
    assert pm.repair_(model, again).verdict is Verdict.CORRECTED


def test_a_damaged_seal_repairs_itself_or_is_refused(carrier, tmp_path):
    _, seal = protected(carrier)
    data = bytearray(seal.to_bytes())
    data[40:50] = bytes(10)
    assert pm.Seal.from_bytes(bytes(data)).to_bytes() == seal.to_bytes()
    data[: len(data) // 2] = bytes(len(data) // 2)
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises(SealError, match="broken"):
        pm.Seal.load(tmp_path / "broken")


def test_sidecar_changes_nothing():
    model = network()
    before = bits(model)
    pm.protect_(model, 12)
    assert bits(model) == before


def test_lowbits_hardly_changes_anything():
    model, reference = network(), network()
    pm.protect_(model, 12, "lowbits")
    x = torch.randn(8, 30)
    assert torch.allclose(model.eval()(x), reference.eval()(x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_sidecar_holds_any_dtype(dtype):
    tensors = {"w": (torch.randn(50, 20) * 50).to(dtype), "empty": torch.zeros(0, dtype=dtype)}
    seal = pm.protect_(tensors, 4)
    before = tensors["w"].clone()
    tensors["w"][3, :2] = 77
    repair = pm.repair_(tensors, seal)
    assert repair.verdict is Verdict.CORRECTED
    assert torch.equal(tensors["w"], before)
    assert repair.changes[0].index == (3, 0)
    assert repair.changes[0].value(repair.changes[0].received) == 77


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.int16])
def test_real_holds_other_dtypes_on_a_grid(dtype):
    torch.manual_seed(0)
    tensors = {"w": (torch.randn(60, 50) * 30).to(dtype)}
    seal = pm.protect_(tensors, 10, "real")
    before = tensors["w"].clone()
    tensors["w"].view(-1)[torch.randperm(3000)[:10]] = 99
    assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
    assert torch.equal(tensors["w"], before)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_integers_stay_in_their_range(dtype, share, tmp_path, rng):
    """They have no other step than one, and many are at the ends: they are moved a little."""
    ends = torch.iinfo(dtype)
    tensors = {}
    for name, shape in {"a": (90, 50), "b": (60, 10, 5), "c": (40,)}.items():
        weights = np.clip(rng.normal(size=shape) * ends.max / 3, ends.min, ends.max)
        extremes = rng.choice([ends.min, ends.max], shape)
        weights = np.where(rng.random(shape) < share, extremes, weights)
        tensors[name] = torch.from_numpy(weights).to(dtype)
    before = copy.deepcopy(tensors)
    seal = pm.protect_(tensors, 5, "real")
    moved = torch.cat([(tensors[n].double() - before[n].double()).flatten() for n in tensors])
    size = torch.cat([before[name].double().flatten() for name in tensors]).norm()
    assert seal.notes["moved"] == [pytest.approx(float(moved.norm() / size), rel=0.01)]
    assert seal.notes["moved"][0] < 0.2
    seal.save(tmp_path / "w.parimend")
    seal = pm.Seal.load(tmp_path / "w.parimend")
    good = copy.deepcopy(tensors)
    for bit in range(8):  # of five words of 32 bits, of which the lowest integer is one result
        for place in rng.choice(4500 // 4, 5, replace=False) * 4:
            tensors["a"].view(torch.uint8).view(-1)[place] ^= 1 << bit
        assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
        assert all(torch.equal(tensors[name], good[name]) for name in tensors)
    assert min(int(tensor.min()) for tensor in tensors.values()) > ends.min


def test_integers_of_fewer_bits_stay_in_their_range(rng):
    weights = torch.from_numpy(rng.integers(-8, 8, (100, 200))).to(torch.int8)
    tensors = {"w": weights.clone()}
    pm.protect_(tensors, 10, pm.Real(bits=4))
    assert int(tensors["w"].abs().max()) == 7
    assert (tensors["w"] - weights).abs().float().mean() < 1
    with pytest.raises(WordError, match="w: integers as large as 16 are beyond a grid of 4 bits"):
        pm.protect_({"w": weights * 2}, 10, pm.Real(bits=4))


def test_integers_that_leave_no_room_are_refused_and_left_alone(rng):
    tensors = {name: torch.full((75,), 7, dtype=torch.int8) for name in ("a", "b")}
    before = copy.deepcopy(tensors)
    with pytest.raises(WordError, match=r"a \.\. b: 53 checks .* take more weights in one"):
        pm.protect_(tensors, 5, pm.Real(bits=4))
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_memory_formats_and_tied_weights(carrier):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"conv": torch.nn.Conv2d(16, 32, 3), "head": torch.nn.Linear(50, 30)}
    ).to(memory_format=torch.channels_last)
    model["tied"] = torch.nn.Linear(50, 30, bias=False)
    model["tied"].weight = model["head"].weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seal = pm.protect_(model, 8, carrier)
    assert seal.covered == 16 * 32 * 9 + 32 + 1500 + 30
    before = bits(model)
    with torch.no_grad():
        model["conv"].weight[3, 2, 1, 0] = 7.0
        model["tied"].weight[5, 5] = float("inf")
    repair = pm.repair_(model, seal)
    assert [c.index for c in repair.changes] == [(3, 2, 1, 0), (5, 5)]
    assert bits(model) == before


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_layouts(carrier, per):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tensors = {"a": torch.randn(60, 40), "b": torch.randn(50, 30)}
        seal = pm.protect_(tensors, 6, carrier, per=per)
    assert len(seal.words) == {"model": 1, "tensor": 2}[per]
    # The budget holds in every word.
    before = copy.deepcopy(tensors)
    tensors["a"][0, :3] = 9.0
    tensors["b"][0, : 3 if per == "model" else 6] = 9.0
    assert pm.repair_(tensors, seal).verdict is Verdict.CORRECTED
    assert all(torch.equal(tensors[k], before[k]) for k in tensors)


def test_one_word_per_output_row():
    layer = torch.nn.Linear(600, 3)
    seal = pm.protect_(layer, 4, "real", per="row")
    assert [word.code.n for word in seal.words] == [601, 601, 601]
    with torch.no_grad():
        layer.weight[:, :4] = 0.5
    assert pm.repair_(layer, seal).verdict is Verdict.CORRECTED


def test_one_bad_word_does_not_spoil_the_others():
    tensors = {"a": torch.randn(60, 40), "b": torch.randn(50, 30)}
    seal = pm.protect_(tensors, 6, per="tensor")
    before = copy.deepcopy(tensors)
    tensors["a"][...] = 0.0
    tensors["b"][2, 2] = 0.0
    repair = pm.repair_(tensors, seal)
    assert [word.verdict for word in repair.words] == [Verdict.UNCORRECTABLE, Verdict.CORRECTED]
    assert repair.verdict is Verdict.UNCORRECTABLE
    assert torch.equal(tensors["b"], before["b"])
    assert not tensors["a"].any()


def test_only_and_buffers():
    model = network()
    assert pm.protect_(model, 3, only=["3.*"]).covered == 410
    assert pm.protect_(model, 3, buffers=True).covered == 40 * 30 + 40 + 80 + 410 + 81


def test_plan_says_what_protect_does():
    model = network()
    [word] = pm.plan(model, 12, "real").words
    seal = pm.protect_(model, 12, "real")
    assert (word.checks, word.elements) == (seal.words[0].code.m, seal.covered)
    assert 0.5 * word.moved < seal.notes["moved"][0] < 2 * word.moved
    [word] = pm.plan(model, 12).words
    assert word.seal_bytes < 1500
    assert word.moved == 0


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_all_tensors_that_a_carrier_cannot_hold_are_told_at_once(carrier):
    weights = {f"{i}.half": torch.ones(40, 30, dtype=torch.float16) for i in range(5)}
    weights |= {"ids": torch.arange(9), "fine": torch.randn(40, 30)}
    with pytest.raises(WordError, match=r"0\.half, 1\.half, 2\.half and 3 more are F16, I64, but"):
        pm.protect_(weights, 5, carrier)
    with pytest.raises(WordError, match=r"ids is I64, .* leave it out with only='!ids'"):
        pm.protect_(weights, 5, carrier, only="!*.half")
    assert pm.protect_(weights, 5, carrier, only=["!*.half", "!ids"]).words


def test_zeros_are_hardly_moved():
    seal = pm.protect_({"w": torch.zeros(50, 40)}, 5, "lowbits")
    assert seal.notes["moved"][0] < 1


def test_a_large_move_is_announced():
    with pytest.warns(UserWarning, match=r"0\.weight .. 3\.bias: the constraint moved"):
        pm.protect_(network(), 60, pm.Real(rows=300))


def test_too_few_weights():
    with pytest.raises(SpecError, match=r"bias: .*weights are too few to repair 210 errors, \d+"):
        pm.protect_(torch.nn.Linear(1, 500), 210, "real", only=["bias"])


def test_nothing_is_written_if_a_tensor_cannot_be_protected(carrier):
    tensors = {"a": torch.randn(100, 40), "b": torch.randn(100, 40)}
    tensors["b"][7, 3] = float("nan")
    before = copy.deepcopy(tensors)
    if carrier == "sidecar":
        pm.protect_(tensors, 5, carrier)  # bits are bits
    else:
        message = r"b: 1 of 4000 elements are not finite \(first \[7, 3\]\)"
        with pytest.raises(WordError, match=message):
            pm.protect_(tensors, 5, carrier, per="tensor")
    assert torch.equal(tensors["a"], before["a"])


@pytest.mark.parametrize("carrier", ["real", "lowbits"])
def test_dtypes_that_a_carrier_cannot_hold(carrier):
    with pytest.raises(WordError, match=r"half.*F16.*sidecar"):
        pm.protect_({"half": torch.zeros(2000, dtype=torch.float16)}, 5, carrier)


def test_a_seal_for_another_model():
    seal = pm.protect_(network(), 5)
    with pytest.raises(MismatchError, match=r"0\.weight is F32 \[20, 30\].*F32 \[40, 30\]"):
        pm.check({**network().state_dict(), "0.weight": torch.zeros(20, 30)}, seal)
    with pytest.raises(MismatchError, match=r"protects 0\.bias, which is not there"):
        pm.check({"0.weight": torch.zeros(40, 30)}, seal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"carrier": "paper"}, "unknown carrier 'paper'"),
        ({"errors": 0}, "at least (1|one)"),
        ({"only": ["nothing.*"]}, r"no tensor matches 'nothing.\*'; there are 0.weight"),
        ({"bits": 16}, r"give it to that, as in carrier=Real\(bits=18\)"),
        ({"per": "page"}, "per must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_misuse_is_one_clear_error(arguments, message):
    with pytest.raises((SpecError, WordError), match=message):
        pm.protect_(network(), **{"errors": 5, **arguments})
    with pytest.raises(FaultError):
        draw("paper cut", arrays(network()), 1, 0)


def test_calibration_moves_weights_where_it_shows_least():
    torch.manual_seed(0)
    # Inputs in a few directions only: the others are free to be changed.
    inputs = torch.randn(1000, 8) @ torch.randn(8, 64)
    changes = {}
    for calibration in (None, inputs.split(100)):
        layer = torch.nn.Linear(64, 40)
        layer.load_state_dict({"weight": torch.linspace(-1, 1, 2560).sin().view(40, 64),
                               "bias": torch.zeros(40)})  # fmt: skip
        right = layer(inputs)
        seal = pm.protect_(layer, 60, pm.Real(rows=120, calibration=calibration))
        changes[calibration is None] = (layer(inputs) - right).square().mean().item()
        assert pm.check(layer, seal).verdict is Verdict.CLEAN
        before = bits(layer)
        draw("random", arrays(layer), 60, 0).apply_(arrays(layer))
        assert pm.repair_(layer, seal).verdict is Verdict.CORRECTED
        assert bits(layer) == before
    assert changes[False] < 0.01 * changes[True]


def test_calibration_measures_only_what_is_protected():
    model = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 40))
    model.add_module("idle", torch.nn.Linear(3, 2))
    model.forward = lambda x: model[2](model[1](model[0](x)))  # a warning would be an error
    seal = pm.protect_(model, 9, pm.Real(calibration=[torch.randn(500, 20)]), only=["2.*"])
    assert pm.check(model, seal).verdict is Verdict.CLEAN


def test_calibration_needs_a_module():
    carrier = pm.Real(calibration=[torch.zeros(1, 30)])
    with pytest.raises(SpecError, match="calibration is for a module"):
        pm.protect_(dict(network().state_dict()), 5, carrier)


@pytest.mark.parametrize("option", ["bits", "rows", "calibration", "colour"])
def test_an_option_that_is_a_carriers_own_is_given_to_the_carrier(option):
    with pytest.raises(SpecError, match=f"{option} is no option of every protection"):
        pm.protect_(network(), 5, **{option: 20})
    with pytest.raises(TypeError, match=option):
        pm.Sidecar(**{option: 20})


def test_a_seal_follows_changes_on_purpose():
    model = torch.nn.Linear(40, 30)
    old = pm.protect_(model, errors=5)
    with torch.no_grad():
        model.weight.add_(1.0)
    new = pm.refresh(model, old)
    assert [w.parts for w in new.words] == [w.parts for w in old.words]
    assert pm.check(model, new).verdict is Verdict.CLEAN
    assert pm.check(model, old).verdict is Verdict.UNCORRECTABLE
    with torch.no_grad():
        model.weight[3, 4] = 7.0
    assert pm.repair_(model, new).verdict is Verdict.CORRECTED
    with pytest.raises(MismatchError):
        pm.refresh(torch.nn.Linear(40, 31), old)
    with pytest.raises(SpecError, match="lives in the weights"):
        pm.refresh(model, pm.protect_(model, errors=5, carrier="lowbits"))


@pytest.mark.parametrize("scrubs", [False, True])
def test_a_backward_pass_goes_on_over_what_was_repaired_meanwhile(scrubs):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 80), torch.nn.ReLU(), torch.nn.Linear(80, 10))
    x = torch.randn(4, 30)
    seal = pm.protect_(model, 5)
    [expected] = torch.autograd.grad(model(x).sum(), model[0].weight)
    loss = model(x).sum()
    model[2].weight.data[3, :4] = 7.0
    repair = pm.Scrubber(model, seal).sweep if scrubs else partial(pm.repair_, model, seal)
    assert repair()
    [gradient] = torch.autograd.grad(loss, model[0].weight)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("bit", [0, 31, 40, 63])
@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_a_seal_that_is_damaged_in_memory(per, digest, bit):
    """It is told, and keeps no other word from being repaired."""
    tensors = {f"t{i}": torch.full((2, 9), float(i)) for i in range(4)}
    seal = pm.protect_(tensors, 2, pm.Sidecar(digest=digest), per=per)
    right = {name: tensor.clone() for name, tensor in tensors.items()}
    seal.words[1].target.reshape(-1)[1] ^= np.uint64(1 << bit)
    damaged = seal.words[1].parts[0].name
    last = seal.words[-1].parts[0].name
    tensors[last][-1, 4] = 7.0
    report = pm.repair_(tensors, seal)
    [bad] = [word for word in report.words if not word.verdict.ok]
    assert bad.name.startswith(damaged)
    if digest or bit > 32:
        assert bad.reason == "its sums in the seal are damaged: load the seal again"
        assert not report.files[0].note
    else:
        assert "more damage" in bad.reason
    assert report.words[-1].verdict == "corrected"
    assert all(torch.equal(tensor, right[name]) for name, tensor in tensors.items())
