"""What runs beside a network: checksums of products, guards; and upsets that they meet."""

import pytest
import torch

from parimend.campaign.computing import Computing
from parimend.campaign.damage import damage_of
from parimend.campaign.protections import Network, protection_of
from parimend.campaign.spec import Spec
from parimend.campaign.subject import Subject
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import CampaignError, SpecError
from parimend.outcomes import Verdict
from parimend.upsets import Upset, upset_
from tests.campaign.conftest import HERE, tables

KINDS = ["abft", "guards"]


class Net(torch.nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv2d(2, 12, 3, groups=2),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(12 * 16, 20),
        )


def watched(kind, dtype=torch.float32, **options):
    """A small network, its inputs, its watch, and the rule."""
    model, inputs = Net().eval().to(dtype), torch.randn(20, 2, 6, 6, dtype=dtype)
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    rule = protection_of(Setting.of("p", {"kind": kind, **options}))
    with torch.no_grad():
        kept = rule.protect_(Network(model, tensors, lambda: float(model(inputs).sum())))
    return model, inputs, rule.watch_(model, kept), rule, kept


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_computations_are_done_again(kind):
    upset = Upset("stuck", size=9.0)
    model, inputs, watch, _, _ = watched(kind)
    with torch.no_grad():
        right = model(inputs)
        with upset_(model, upset, seed=3) as upsets:
            answer = model(inputs)
        assert upsets.struck
        assert torch.allclose(answer, right, rtol=1e-5, atol=1e-5)
        found = watch.seen()
        assert found.verdict is Verdict.CORRECTED
        assert found.found >= 2
        assert watch.seen() == (Verdict.CLEAN, 0)  # told once
        watch.remove()
        with upset_(model, upset, seed=3):
            assert not torch.allclose(model(inputs), right, rtol=1e-2, atol=1e-2)
        assert watch.seen() == (Verdict.CLEAN, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_checksums_are_for_networks_of_any_precision(dtype):
    model, inputs, watch, _, _ = watched("abft", dtype)
    with torch.no_grad():
        model(inputs)
        assert watch.seen() == (Verdict.CLEAN, 0)
        with upset_(model, Upset("stuck", size=9.0), seed=3):
            model(inputs)
    assert watch.seen().verdict is Verdict.CORRECTED


@pytest.mark.filterwarnings("ignore:.*outputs are wrong, also when computed again")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "off"), [(0, 4.0), (3, 4.0), (3, torch.nan)])
def test_wrong_weights_are_noticed_and_stay(kind, layer, off):
    model, inputs, watch, _, _ = watched(kind)
    with torch.no_grad():
        model[layer].weight.reshape(-1)[5] += off
        model(inputs)
    assert watch.seen().verdict is Verdict.UNCORRECTABLE


def test_checksums_are_sums_of_outputs():
    model, _, _, rule, kept = watched("abft")
    dense = model[3].weight.detach().double().numpy().sum(0)
    assert kept["3"].rows.reshape(-1) == pytest.approx(dense, rel=1e-5)
    assert kept["3"].bias[0] == pytest.approx(float(model[3].bias.detach().sum()), rel=1e-5)
    assert 0 < kept["3"].limit[0] < 1e-3
    assert rule.nbytes(kept) == 4 * (12 * 16 + 2) + 4 * (2 * 9 + 2)


def test_guards_keep_products_or_nothing():
    *_, rule, kept = watched("guards", k=2)
    assert rule.nbytes(kept) == 4 * 2 * (12 * 16 + 1) + 4 * 2 * (2 * 9 + 1)
    *_, imposed, none = watched("guards", k=2, impose=True)
    assert imposed.nbytes(none) == 0
    model, _, _, both, kept = watched("guards", errors=4)
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    before = tensors["3.weight"].clone()
    tensors["3.weight"][1, 1] = 7.0
    assert both.repair_(tensors, kept).verdict is Verdict.CORRECTED
    assert torch.equal(tensors["3.weight"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_watches_has_to_see_the_network_run(kind):
    rule = protection_of(Setting.of("p", {"kind": kind}))
    with pytest.raises(SpecError, match="give a metric"):
        rule.protect_(Network(Net(), {}, None))
    if kind == "abft":
        with pytest.raises(SpecError, match="abft finds no linear layers"):
            rule.protect_(Network(torch.nn.ReLU(), {}, lambda: 0.0))


def upset(**options):
    return Setting.of("u", {"kind": "upset", "pattern": "stuck", "size": 5.0, **options})


def work(kind, fault, stop=6, **options):
    """The row of a task on the small network, scored by how its answers are spread."""
    model, inputs, watch, rule, kept = watched(kind, **options)
    watch.remove()
    intact = {name: each.clone() for name, each in model.state_dict().items()}
    right = model(inputs).argmax(1)

    def score(model):
        return float((model(inputs).argmax(1) == right).float().mean())

    subject = Subject(model, intact, rule, kept, score, 1.0)
    setting = Setting.of(kind, {"kind": kind, **options})
    return subject.work(Task("n", "0", "m:f", setting, fault, Stratum(), 0, 0, stop)), subject


def test_upsets_strike_a_run_and_end_with_it():
    row, subject = work("none", upset())
    assert set(row.outcomes) <= {"s", "m"}
    assert "s" in row.outcomes
    assert [score < 1.0 for score in row.scores] == [each == "s" for each in row.outcomes]
    assert subject.metric(subject.model) == 1.0
    again, _ = work("none", upset())
    assert row == again


@pytest.mark.parametrize("options", [{"every": 99}, {"operations": ["bmm"]}])
def test_a_run_in_which_nothing_was_struck_is_not_counted(options):
    with pytest.raises(CampaignError, match="n, none, u, trial 0: nothing was struck"):
        work("none", upset(**options))


def test_guards_and_checksums_put_upsets_right_and_a_sidecar_does_not_see_them():
    for kind in KINDS:
        row, _ = work(kind, upset())
        assert row.outcomes == "rrrrrr"
        assert set(row.scores) == {1.0}
    row, _ = work("sidecar", upset(), errors=4)
    assert "s" in row.outcomes
    weights = Setting.of("w", {"kind": "random", "count": 40})
    row, _ = work("abft", weights)
    assert row.outcomes == "dddddd"
    row, _ = work("guards", Setting.of("w", {"kind": "random", "count": 4}), errors=4)
    assert row.outcomes == "rrrrrr"


def test_an_entry_of_a_spec_gives_upsets():
    damage = damage_of(upset(only=["3"], every=2, count=3), Stratum())
    assert damage == Computing(Upset("stuck", count=3, size=5.0), ("3",), None, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"\[faults.u\]: say what happens to an output"),
        ({"pattern": "stucked"}, r"\[faults.u\]: unknown kind of upset 'stucked'"),
        ({"pattern": "tile", "sice": 3}, "unknown key 'sice'; did you mean 'size'"),
        ({"pattern": "bitflip", "count": 0}, "count must be at least 1, not 0"),
        ({"pattern": "bitflip", "size": "big"}, "size must be a number, not a str: 'big'"),
        ({"pattern": "bitflip", "only": "head"}, "only must be a list of names, not 'head'"),
    ],
)
def test_upsets_that_cannot_be_are_refused(given, message):
    with pytest.raises(SpecError, match=message):
        Spec.of(tables(faults={"u": {"kind": "upset", **given}}))


@pytest.mark.parametrize(
    "given",
    [
        {"protections": {"none": {}, "p": {"kind": "guards"}}},
        {"protections": {"none": {}, "p": {"kind": "abft"}}},
        {"protections": {"none": {}, "p": {"kind": "ranger"}}},
        {"faults": {"p": {"kind": "upset", "pattern": "bitflip"}}},
    ],
)
@pytest.mark.parametrize("source", [{"file": "w.safetensors"}, {"build": "no_recipe:network"}])
def test_what_is_computed_is_of_a_network_that_runs(given, source):
    """It is said before anything is loaded, and of all protections and faults alike."""
    message = r"\[(protections|faults).p\] on n: .* needs a build \(or folder\) and a metric"
    with pytest.raises(SpecError, match=message):
        Spec.of(tables(networks={"n": source}, **given))


def test_upsets_that_strike_nothing_are_refused(tmp_path):
    from parimend.campaign import run

    given = tables(faults={"u": {"kind": "upset", "pattern": "bitflip", "only": ["nowhere"]}})
    given["networks"]["digits"]["arguments"] = {"steps": 1}
    with pytest.raises(SpecError, match="on digits: no module matches 'nowhere'"):
        run(Spec.of(given, HERE), tmp_path, workers=1)
