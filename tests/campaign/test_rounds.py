"""Rounds: when a campaign stops, and how strata share its trials."""

import numpy as np
import pytest

from parimend.campaign import Row, Spec, Statistics, Stratum
from parimend.campaign.damage import damage_of
from parimend.campaign.estimates import mean, probability, sequence
from parimend.campaign.facts import Fact, Prepared
from parimend.campaign.preparing import strata_of
from parimend.campaign.rounds import batches, flat, units
from parimend.campaign.spec import Strata
from parimend.campaign.task import Setting
from parimend.errors import SpecError
from parimend.faults import select

LAYERS = (Stratum(("a",), None, 0.9), Stratum(("b",), None, 0.1))


WHOLE = (Stratum(),)


def unit_of(strata=WHOLE, protections=("none",), **stop):
    """A unit of a campaign without a network."""
    spec = Spec.of(
        {
            "networks": {"n": {"file": "model"}},
            "protections": {name: {"kind": "none"} for name in protections},
            "faults": {"flip": {"kind": "bitflip", "count": 1}},
            "strata": {"layers": len(strata) > 1},
            "stop": stop,
            "block": 10,
        }
    )
    facts = tuple(Fact("n", name, "w", None, None, 0, 0.0) for name in protections)
    (unit,) = units(spec, Prepared(facts, {"n": tuple(strata)}))
    return unit


def played(unit, chances, seed=0):
    """Do a campaign whose trials end silently with a given probability in each stratum."""
    rng, done = np.random.default_rng(seed), Statistics()
    while missing := unit.advance(done)[1]:
        for task in missing:
            chance = chances[task.stratum.tensors]
            count = task.stop - task.start
            letters = "".join(np.where(rng.random(count) < chance, "s", "r"))
            done.add_(Row(task, letters, (0,) * count, (), (0.0,) * count))
    history, missing = unit.advance(done)
    assert missing == []
    return history, done


def test_a_fixed_number_is_one_round():
    unit = unit_of(trials=95)
    history, done = played(unit, {(): 0.5})
    assert history == [{Stratum(): range(95)}]
    assert [row.task.stop for row in done.sorted()] == [*range(10, 91, 10), 95]


def test_trials_end_when_every_interval_is_narrow_enough():
    unit = unit_of(protections=("p", "q"), trials=10_000, width=0.1, first=50)
    history, done = played(unit, {(): 0.05})
    for protection in unit.spec.protections:
        low, high = unit.interval(protection, history, done)
        assert high - low <= 0.1
    wider = [unit.interval(p, history[:-1], done) for p in unit.spec.protections]
    assert max(high - low for low, high in wider) > 0.1
    assert 200 < history[-1][Stratum()].stop < 2000
    assert played(unit_of(trials=300, width=0.01), {(): 0.5})[0][-1][Stratum()].stop == 300


def test_what_is_done_does_not_depend_on_the_order_of_the_results():
    unit = unit_of(LAYERS, trials=400)
    chances = {("a",): 0.01, ("b",): 0.5}
    history, done = played(unit, chances)
    backwards = Statistics(reversed(done.sorted()))
    assert unit.advance(backwards)[0] == history
    part = Statistics(done.sorted()[::2])
    missing = {task.key for task in unit.advance(part)[1]}
    assert missing
    assert missing <= set(done.rows) - set(part.rows)


def test_strata_get_trials_by_weight_and_spread():
    unit = unit_of(LAYERS, trials=4000, first=400)
    history, _ = played(unit, {("a",): 0.0, ("b",): 0.5})
    first, last = history[0], history[-1]
    sizes = [{each.tensors[0]: len(numbers) for each, numbers in r.items()} for r in (first, last)]
    assert sum(sizes[0].values()) == 400
    assert sizes[0]["a"] == 50 + 270  # an eighth each, and the rest by weight
    # Nothing is seen in a, so that b gets most of it, though it weighs a tenth.
    assert sizes[1]["b"] > 2 * sizes[1]["a"] > 0
    assert sum(len(numbers) for r in history for numbers in r.values()) == 4000


def test_strata_of_one_campaign_are_the_same_for_all_protections():
    unit = unit_of(LAYERS, protections=("p", "q"), trials=600)
    _, done = played(unit, {("a",): 0.1, ("b",): 0.5})
    tasks = [row.task for row in done.sorted()]
    p, q = ([(t.stratum, t.start, t.stop) for t in tasks if t.protection.name == n] for n in "pq")
    assert p == q


def test_batches_weigh_the_strata():
    unit = unit_of(LAYERS, trials=400, first=100)
    history, done = played(unit, {("a",): 0.2, ("b",): 0.7}, seed=4)
    (protection,) = unit.spec.protections
    rows = unit.rows(protection, history, done)
    found = batches(rows, unit.event)
    assert len(found) == sum(min(len(n) for n in each.values()) for each in history)
    # Where a round is dealt out evenly, the mean of its batches is the weighted mean of its strata.
    expected = sum(each.weight * np.mean(flat(part, unit.event)) for each, part in rows.items())
    assert np.mean(found) == pytest.approx(expected, abs=0.03)


def test_what_came_in_every_trial_has_a_share_of_one_however_weights_are_rounded():
    weights = {"a": 0.7, "b": 0.2, "c": 0.1}
    assert sum(weights.values()) < 1.0
    unit = unit_of([Stratum((name,), None, x) for name, x in weights.items()], trials=60, first=30)
    history, done = played(unit, {(name,): 1.0 for name in weights})
    rows = unit.rows(unit.spec.protections[0], history, done)
    estimates = [
        probability([rows], unit.event, 0.95, True),
        mean([rows], unit.event, 0.95),
        sequence(rows, unit.event, 0.95),
    ]
    assert [(each.value, each.high) for each in estimates] == [(1.0, 1.0)] * 3


@pytest.mark.long
def test_the_sequence_of_a_stratified_campaign_covers_the_truth():
    chances = {("a",): 0.02, ("b",): 0.5}
    truth, missed = 0.9 * 0.02 + 0.1 * 0.5, 0
    for seed in range(60):
        unit = unit_of(LAYERS, trials=3000, width=0.12)
        history, done = played(unit, chances, seed)
        (protection,) = unit.spec.protections
        low, high = unit.interval(protection, history, done)
        assert high - low <= 0.12
        missed += not low <= truth <= high
    assert missed <= 3


def test_strata_of_a_network_weigh_one_together():
    words = select({"w": np.zeros(300, np.float32), "b": np.zeros(100, np.float32)})
    assert strata_of(Strata(), words) == (Stratum(),)
    pairs = ((0, 22), (23, 30), (31, 31))
    found = strata_of(Strata(layers=True, bits=pairs), words)
    assert len(found) == 6
    assert sum(each.weight for each in found) == pytest.approx(1.0)
    by_name = {each.name: each.weight for each in found}
    assert by_name["w[23:30]"] == pytest.approx(0.75 * 8 / 32)
    assert strata_of(Strata(layers=True), words)[0] == Stratum(("b",), None, 0.25)
    assert [each.name for each in strata_of(Strata(bits=pairs), words)] == [
        "[0:22]",
        "[23:30]",
        "[31:31]",
    ]
    with pytest.raises(SpecError, match="bits end at 31, and h has elements of 16 bits"):
        strata_of(Strata(bits=pairs), select({"h": np.zeros(3, np.float16)}))


def test_a_stratum_is_its_tensors_whatever_they_are_called():
    """As shell patterns these names stand for other tensors."""
    words = select({name: np.zeros(9, np.float32) for name in ("w[0]", "w0", "a*", "ab", "!a*")})
    flip = Setting.of("flip", {"kind": "bitflip", "count": 1})
    for stratum in strata_of(Strata(layers=True), words):
        drawn = [damage_of(flip, stratum).draw(words, seed) for seed in range(5)]
        assert {each.names for each in drawn} == {stratum.tensors}


def test_too_few_trials_for_the_strata_are_refused():
    with pytest.raises(SpecError, match="3 trials are too few for the 2 strata of n: take 4"):
        unit_of(LAYERS, trials=3)
