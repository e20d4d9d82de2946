"""Plans: what they say is what is done, and what an environment leaves of it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import parimend as pm
from parimend.carriers.exposure import exposed_of
from parimend.codes import Certificate
from parimend.decoders import certificate
from parimend.errors import SpecError, WordError
from parimend.risk.chance import risk

LEO = pm.Environment("mine", rate=4e-7, events=pm.Events.of({1: 0.99, 2: 0.01}))


@pytest.fixture
def file(tmp_path, rng):
    path = tmp_path / "m.safetensors"
    save_file({f"t{i}": rng.normal(size=(50, 40)).astype("f4") for i in range(5)}, path)
    return path


@pytest.mark.parametrize("per", ["model", "tensor", "row"])
def test_a_file_and_its_model_have_one_plan(file, per):
    from safetensors.torch import load_file

    there = pm.plan(file, 5, per=per)
    loaded = pm.plan(load_file(file), 5, per=per)
    assert [(w.name, w.checks, w.promise) for w in there.words] == [
        (w.name, w.checks, w.promise) for w in loaded.words
    ]
    made = pm.protect_file(file, 5, per=per)[0].seal
    assert [w.code for w in there.words] == [w.code for w in made.words]
    assert there.seal_bytes == sum(len(w.code.pack(w.target)) for w in made.words)


def test_a_plan_says_what_is_proven_and_what_is_measured():
    model = torch.nn.Linear(512, 40)
    sidecar, real = (pm.plan(model, 100, carrier) for carrier in ("sidecar", "real"))
    assert (sidecar.guaranteed, sidecar.measured) == (100, None)
    assert real.guaranteed < 100
    assert real.measured.errors == 100
    assert 0 < real.measured.probability <= 1e-3
    many = pm.plan(model, 5000)
    assert many.guaranteed < 5000
    assert many.measured.errors == 5000


def test_a_plan_changes_nothing(file, rng):
    model = torch.nn.Linear(512, 10)
    before = model.weight.clone()
    for carrier in ("sidecar", "real", "lowbits"):
        assert pm.plan(model, 5, carrier).seconds.protect > 0
    assert torch.equal(model.weight, before)
    data = file.read_bytes()
    pm.plan(file, 5, "lowbits")
    assert file.read_bytes() == data
    assert list(file.parent.iterdir()) == [file]


def test_the_risk_is_that_of_the_words(file):
    it = pm.plan(file, 3, service=pm.Service(LEO, 0.5, 2), per="tensor")
    assert it.risk == risk(exposed_of(it.words), LEO, 0.5, 2)
    assert it.risk.events == pytest.approx(LEO.rate * 8 * 5 * 8000 * 365.25)


@pytest.mark.parametrize("carrier", ["sidecar", "real"])
@pytest.mark.parametrize("interval", [None, 0.25])
def test_a_target_is_met_by_the_smallest_budget(carrier, interval):
    model = torch.nn.Linear(512, 40)
    it = pm.plan(model, carrier=carrier, service=pm.Service(LEO, interval, target=1e-2))
    if carrier == "real":  # a thousandth of what is not proven counts as lost
        assert not it.met
        return
    assert it.met
    assert it.risk.yearly <= 1e-2 * (1 + 1e-6)
    less = pm.plan(model, it.errors - 1, carrier, service=pm.Service(LEO, interval or 1.0))
    assert less.risk.yearly > 1e-2
    if interval is None:
        assert it.risk.interval >= 1.0


def test_a_given_budget_gets_the_longest_interval():
    model = torch.nn.Linear(512, 40)
    it = pm.plan(model, 8, service=pm.Service(LEO, target=1e-6))
    assert it.met
    later = pm.plan(model, 8, service=pm.Service(LEO, it.risk.interval * 1.02))
    assert it.risk.yearly <= 1e-6 < later.risk.yearly


def test_more_errors_than_words_leave_what_all_words_leave():
    model = torch.nn.Linear(512, 40)
    enough, more = (pm.plan(model, t, service=pm.Service(LEO)).risk for t in (30_000, 1 << 62))
    assert more == enough


def test_a_plan_is_carried_out(file):
    model = torch.nn.BatchNorm1d(600)
    it = pm.plan(model, service=pm.Service(LEO, target=1e-6), buffers=True)
    seal = pm.protect_(model, it)
    assert (seal.errors, seal.covered) == (it.errors, sum(word.elements for word in it.words))
    assert [word.code for word in seal.words] == [word.code for word in it.words]
    planned = pm.plan(file, 7, per="tensor")
    [made] = pm.protect_file(file, planned)
    assert [word.code for word in made.seal.words] == [word.code for word in planned.words]
    with pytest.raises(SpecError, match="give no carrier or option beside it"):
        pm.protect_(model, it, "real")


def test_what_cannot_be_met_says_why(file):
    rows = pm.Environment("rows", rate=1e-12, events=pm.Events.of({1: 0.5, 9000: 0.5}))
    it = pm.plan(file, 10, service=pm.Service(rows, target=1e-9))
    assert not it.met
    assert "single events of more than 10 words leave" in it.reason
    assert it.risk.large == pytest.approx(-math.expm1(-1e-12 * 8 * 40_000 * 0.5 * 365.25))
    it = pm.plan(file, service=pm.Service(rows, target=1e-9))
    assert it.reason.startswith("no budget up to 65,536")
    worn = pm.Environment("worn", rate=1e-15, hard_rate=1e-7)
    it = pm.plan(file, 10, service=pm.Service(worn, years=5, target=1e-9))
    assert "fail for good" in it.reason
    burning = pm.Environment("burning", rate=0.5)
    it = pm.plan(file, 4, service=pm.Service(burning, target=1e-9))
    assert "check" in it.reason


def test_reads_ask_for_rarer_checks():
    model = torch.nn.Linear(100, 50)
    disk = pm.plan(model, 100, service=pm.Service("disk", target=1e-8), measure=False)
    assert disk.met
    daily = pm.Service("disk", interval=1.0, target=1e-8)
    missed = pm.plan(model, 100, service=daily, measure=False)
    assert "check less often, as every read may strike" in missed.reason


def test_repairs_that_may_fail_ask_for_rarer_checks():
    """Of what is measured a thousandth is counted as lost: at every check at which there is any."""
    model, asked = {"w": torch.ones(400)}, pm.Service("leo", 1.0, target=1e-3)
    missed = pm.plan(model, 40, "lowbits", service=asked, measure=False)
    assert "check less often, as every repair may fail" in missed.reason
    seldom = pm.plan(model, 40, "lowbits", service=pm.Service("leo", target=1e-3), measure=False)
    assert seldom.met
    assert seldom.risk.interval > 1.0


def test_what_is_planned_can_be_protected(rng):
    """With four weights for a check to move, each would move too far, whatever these are."""
    short = {"w": torch.from_numpy(rng.normal(size=1500).astype("f4"))}
    for plan in (pm.plan, pm.protect_):
        with pytest.raises(SpecError, match="w: weights would move by 32768 units"):
            plan(short, 210, "lowbits")
    service = pm.Service("leo", 1.0, target=1e-3)
    largest = pm.plan(short, carrier="lowbits", service=service, measure=False)
    assert not largest.met
    assert pm.protect_(short, largest).errors == largest.errors < 210


def test_a_sector_that_a_disk_does_not_give_takes_half_of_a_budget():
    model = {"w": torch.empty((2000, 2000), device="meta")}
    daily = pm.Service("disk", interval=1.0, target=1e-6)
    it = pm.plan(model, service=daily, measure=False)
    assert it.met
    assert it.errors == it.guaranteed == 513
    missed = pm.plan(model, 512, service=daily, measure=False)
    assert missed.risk.large > 1e-6
    silent = dataclasses.replace(daily.environment, told=False)
    it = pm.plan(model, service=dataclasses.replace(daily, where=silent), measure=False)
    assert it.errors == 1025  # more than can be guaranteed
    assert it.guaranteed == 4


def test_budgets_that_are_no_power_of_two_are_found():
    rows = pm.Environment("rows", rate=1e-8, events=pm.Events.of({300: 1.0}))
    service = pm.Service(rows, interval=1.0, target=0.01)
    it = pm.plan(torch.nn.Linear(128, 10), carrier="real", service=service, measure=False)
    assert it.met
    assert it.errors == 300


def test_a_plan_that_cannot_be_met_has_a_budget_that_can_be():
    rows = pm.Environment("rows", rate=1e-8, events=pm.Events.of({300: 1.0}))
    service = pm.Service(rows, interval=1.0, target=0.01)
    it = pm.plan(torch.nn.Linear(35, 10), carrier="real", service=service, measure=False)
    assert not it.met
    assert it.reason.startswith(f"no budget up to {it.errors} errors meets it")


def test_what_is_to_be_guaranteed_is_the_smallest_budget():
    model, service = torch.nn.Linear(500, 200), pm.Service("leo", target=1e-6)
    it = pm.plan(model, service=service, guaranteed=300, measure=False)
    assert (it.met, it.errors, it.guaranteed) == (True, 300, 300)
    assert pm.plan(model, guaranteed=300, measure=False).errors == 300


@pytest.fixture
def certificates(monkeypatch):
    """Lets codes of so many checks have certificates; gives the checks of those that are asked."""

    def from_on(fewest):
        asked = []

        def certify(code, errors):
            asked.append(code.m)
            if code.m < fewest:
                raise SpecError("no certificate")
            return Certificate(code, errors, 3 << code.word_bits, ())

        monkeypatch.setattr(certificate, "certify", certify)
        return asked

    certificate.certified.cache_clear()
    yield from_on
    certificate.certified.cache_clear()


@pytest.mark.parametrize(("target", "met"), [(1e-3, True), (1e-12, False)])
def test_a_budget_is_searched_with_one_certificate(certificates, target, met):
    model, service = torch.nn.Linear(64, 10), pm.Service("leo", 1e-3, target=target)
    asked = certificates(0)
    it = pm.plan(model, None, "real", service=service, guaranteed=2, measure=False)
    assert it.met == met
    assert it.guaranteed == 2
    assert asked == [it.words[0].checks]


def test_where_the_smallest_budget_has_no_certificate_the_next_one_is_found(certificates):
    model, service = torch.nn.Linear(64, 10), pm.Service("leo", 1e-3, target=0.5)
    certificates(30)
    it = pm.plan(model, None, "real", service=service, guaranteed=2, measure=False)
    fewer = pm.plan(model, it.errors - 1, "real", measure=False)
    assert it.met
    assert fewer.words[0].checks < 30 <= it.words[0].checks


def test_where_no_budget_will_do_it_is_said_what_does():
    burning = pm.Environment("burning", rate=1e-2)
    model = torch.nn.Linear(500, 200)
    service = pm.Service(burning, target=1e-6)
    it = pm.plan(model, service=service, measure=False)
    assert it.reason.endswith("a year is left: check more often")
    often = pm.plan(model, 1000, service=service, measure=False)
    assert often.met
    assert often.risk.interval < 1.0


def test_what_is_said_to_help_helps():
    """More checks of a measured budget lose more, and rarer reads are not rare enough."""
    model = torch.nn.Linear(500, 200)

    def reason(errors, carrier, where, interval=None):
        service = pm.Service(where, interval, target=1e-6)
        it = pm.plan(model, errors, carrier, service=service, measure=False)
        assert not it.met
        return it.reason

    for interval in (None, 1.0, 1 / 24):
        why = reason(210, "real", "leo", interval)
        assert "damage within the budget is not repaired with a probability of up to 0.001" in why
        assert "take one that is guaranteed, of a sidecar with up to 1,000 errors" in why
        assert "often" not in why
    # The largest budgets are those for which nothing was measured: they say nothing.
    why = reason(None, "real", "leo")
    assert "damage within the budget is not repaired with a probability of up to 0.001" in why
    why = reason(2000, "sidecar", pm.Environment("x", read_rate=4e-10, events=pm.Events((1024,))))
    assert why.endswith("none for events of 1,024 words is guaranteed")
    disk = pm.Environment("disk", read_rate=1e-7, events=pm.Events.of({1: 1.0}))
    why = reason(4, "sidecar", disk)
    assert why.endswith("at no interval little enough: take a larger budget")
    assert "check more often" in reason(8, "sidecar", "leo", 30.0)


def test_a_budget_of_which_nothing_is_claimed_explains_nothing(tmp_path, capsys):
    from parimend.cli import main

    path = tmp_path / "lin.safetensors"
    save_file({"w": np.ones((10, 512), "f4"), "b": np.ones(10, "f4")}, path)
    asked = ["--carrier", "lowbits", "--environment", "leo", "--target", "1e-6"]
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(path), *asked])
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "within the budget is not repaired with a probability of up to 0.001" in said
    service = pm.Service("leo", target=1e-6)
    most = pm.plan(path, 600, "lowbits", service=service, measure=False)
    assert most.reason.endswith("nothing is proven or measured of so many errors in so few words")


def test_the_largest_guaranteed_budget_is_considered():
    model = {"w": torch.empty((2000, 2000), device="meta")}
    service = pm.Service(pm.Environment("x", rate=6e-6), target=1e-6)
    found = pm.plan(model, service=service)
    assert found.met
    assert 900 < found.errors == found.guaranteed <= 1000


def test_plans_are_carried_along_as_json(file):
    it = pm.plan(file, 5, service=pm.Service("leo", target=1e-6))
    record = json.loads(it.to_json())
    assert record["guaranteed"] == 5
    assert record["measured"] is None
    assert record["risk"]["unrepaired"] == it.risk.unrepaired
    assert record["where"]["source"].startswith("low Earth orbit")
    assert record["files"][0]["words"][0]["code"] == it.words[0].code.spec()


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ({"where": "mars"}, "unknown environment 'mars': there are sea-level-dram"),
        (
            {"where": pm.Environment("x", rate=1e-9, events=pm.Events.of({900: 1.0}))},
            "an event of 900 words is larger than all that is protected, 650 words",
        ),
        ({"where": "leo", "target": 0.0}, "between 0 and 1, not 0.0"),
        ({"where": "leo", "target": 1.5}, "between 0 and 1, not 1.5"),
        ({"where": "leo", "interval": 0.0}, "interval must be a number of days of at least 1e-06"),
        ({"where": "leo", "years": -1.0}, "years must be a number from 1e-06 to 1000000000"),
        (
            {"where": "leo", "interval": float("nan")},
            "interval must be a number of days of at least 1e-06",
        ),
    ],
)
def test_what_cannot_be_is_refused(service, says):
    with pytest.raises(SpecError, match=says):
        pm.plan(torch.nn.Linear(64, 10), service=pm.Service(**service))


def test_known_events_strike_what_there_is():
    """With figures of one's own beside them, too."""
    model = torch.nn.Linear(64, 10)
    known = pm.plan(model, 5, service="sea-level-dram", measure=False).risk
    same = dataclasses.replace(pm.risk.environment("sea-level-dram"), name="mine")
    assert pm.plan(model, 5, service=same, measure=False).risk == known


def test_nothing_to_protect_is_refused():
    with pytest.raises(WordError):
        pm.plan({}, 5)


class TestStake:
    """What damage does to answers, with calibration data."""

    def test_it_is_measured_on_copies(self, rng):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5)
        )
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        inputs = [torch.randn(100, 20) for _ in range(3)]
        it = pm.plan(model, 60, calibration=inputs).stake
        assert (it.intact, it.protected) == (1.0, 1.0)
        assert np.mean(it.damaged) < 0.9
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert it == pm.plan(model, 60, calibration=inputs).stake

    def test_a_metric_is_given_the_model_as_it_answers(self):
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Dropout(0.5)).train()
        modes = []
        pm.plan(model, 5, metric=lambda m: modes.append(m.training) or 1.0)
        assert set(modes) == {False}
        assert model[1].training

    def test_a_metric_of_ones_own(self):
        model = torch.nn.Linear(64, 32)
        it = pm.plan(model, 5, "lowbits", metric=lambda m: float(m.weight.isfinite().all())).stake
        assert (it.intact, it.protected) == (1.0, 1.0)

    def test_an_answer_that_is_no_number_is_another_one(self):
        class Counted(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(100))

            def forward(self, x):
                right = torch.zeros(len(x), 3)
                right[:, 0] = 1.0  # where the first NaN would be, too
                return right if (self.weight == 1).all() else right * torch.nan

        it = pm.plan(Counted().eval(), 5, calibration=[torch.ones(100, 1)], measure=False).stake
        assert (it.intact, it.protected, set(it.damaged)) == (1.0, 1.0, {0.0})

    @pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e5m2fnuz])
    def test_what_is_no_number_is_struck_too(self, dtype):
        model = torch.nn.Linear(64, 32)
        model.register_buffer("other", torch.ones(40).to(dtype))
        right = model.other.clone()

        def same(model):
            return float((model.other.view(torch.uint8) == right.view(torch.uint8)).all())

        it = pm.plan(model, 5000, buffers=True, metric=same, measure=False).stake
        assert (it.intact, it.protected, set(it.damaged)) == (1.0, 1.0, {0.0})

    def test_an_empty_parameter_is_at_no_stake(self):
        model = torch.nn.Linear(64, 32)
        without = pm.plan(model, 5, metric=lambda m: float(m.weight.detach().sum())).stake
        model.empty = torch.nn.Parameter(torch.zeros(0, 3))
        assert pm.plan(model, 5, metric=lambda m: float(m.weight.detach().sum())).stake == without

    def test_what_cannot_be_is_refused(self):
        model = torch.nn.Linear(20, 5)
        with pytest.raises(SpecError, match="30 calibration inputs are too few: give 100 or more"):
            pm.plan(model, 5, calibration=[torch.randn(30, 20)])
        with pytest.raises(SpecError, match="<lambda> gives nan: a score must be a finite number"):
            pm.plan(model, 5, metric=lambda model: math.nan)
        with pytest.raises(SpecError, match="<lambda> gives inf: a score must be a finite number"):
            pm.plan(model, 5, metric=lambda model: 10**400)
        with pytest.raises(SpecError, match="for a module, which can be run"):
            pm.plan(model.state_dict(), 5, calibration=[torch.randn(100, 20)])
