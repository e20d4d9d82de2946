"""Damage, repair, compare, count: that every outcome is counted as what it is."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

import parimend as pm
from parimend.codes import Gaussian, Modular, Sparse
from parimend.decoders import L1
from parimend.errors import FaultError, SpecError
from parimend.experiment import (
    Answer,
    CodeTarget,
    Counts,
    DenseTarget,
    Faults,
    ModelTarget,
    Outcome,
    Rate,
    SumsTarget,
    Trial,
    bit_patterns,
    grid_of,
    on_grid,
    run,
    trial,
    wilson,
)
from parimend.outcomes import Verdict

NUMBERS = st.integers(0, 1000)
FLOATS = st.lists(st.floats(0, 100), max_size=4).map(lambda x: tuple(sorted(x)))
ROWS = st.builds(Counts, *[NUMBERS] * 5, *[FLOATS] * 3)


def everything(counts):
    return {name: getattr(counts, name) for name in Counts.__dataclass_fields__}


@given(ROWS, ROWS, ROWS)
def test_counts_add_up_in_any_order(a, b, c):
    assert everything(a + b) == everything(b + a)
    assert everything((a + b) + c) == everything(a + (b + c))
    assert everything(a + Counts()) == everything(a)
    assert (a + b).trials == a.trials + b.trials


def test_two_rows_are_equal_whatever_their_times():
    assert Counts(repaired=1, seconds=(0.1,)) == Counts(repaired=1, seconds=(0.2,))
    assert Counts(repaired=1, before=(10.0,)) != Counts(repaired=1, before=(20.0,))


def test_the_repr_of_many_trials_is_short():
    assert len(repr(Counts(repaired=10**6, seconds=(1.0,) * 10**6))) < 300


@pytest.mark.parametrize(
    ("verdict", "same", "outcome"),
    [
        (Verdict.CLEAN, True, Outcome.MASKED),
        (Verdict.BELOW_FLOOR, True, Outcome.MASKED),
        (Verdict.CORRECTED, True, Outcome.REPAIRED),
        (Verdict.UNCORRECTABLE, False, Outcome.DETECTED),
        (Verdict.UNCORRECTABLE, True, Outcome.DETECTED),  # a false alarm is none of the others
        (Verdict.CORRECTABLE, False, Outcome.DETECTED),
        (Verdict.CORRECTED, False, Outcome.MISCORRECTED),
        (Verdict.CLEAN, False, Outcome.SILENT),
        (Verdict.BELOW_FLOOR, False, Outcome.SILENT),
    ],
)
def test_every_trial_has_one_outcome(verdict, same, outcome):
    done = Trial(verdict, same, found=1, seconds=0.5)
    assert done.outcome is outcome
    counts = Counts.of([done, done])
    assert counts.trials == 2
    assert {o: counts.rate(o).count for o in Outcome} == dict.fromkeys(Outcome, 0) | {outcome: 2}
    assert counts.wrong == (2 if outcome in ("miscorrected", "silent") else 0)


def test_rates_have_intervals_and_bounds():
    counts = Counts(masked=1, repaired=89, detected=7, miscorrected=2, silent=1)
    rate = counts.rate(Outcome.MISCORRECTED, Outcome.SILENT)
    assert (rate.count, rate.trials, rate.share) == (3, 100, 0.03)
    low, high = rate.interval()
    # The Wilson interval: rates whose distance from 3 % is 1.96 of their own standard errors.
    for bound in (low, high):
        assert abs(bound - 0.03) == pytest.approx(1.959964 * (bound * (1 - bound) / 100) ** 0.5)
    assert (low, high) == wilson(0.03, 100)
    # The exact bound: so few of them would come in one of twenty experiments.
    assert binom.cdf(3, 100, rate.upper()) == pytest.approx(0.05)
    assert binom.cdf(3, 100, rate.upper(0.99)) == pytest.approx(0.01)
    assert Rate(0, 0).interval() == (0.0, 1.0)
    assert Rate(0, 0).upper() == 1.0
    assert Rate(5, 5).upper() == 1.0


@given(st.integers(1, 5000), st.floats(0.5, 0.999), st.data())
def test_intervals_are_those_of_scipy(trials, confidence, data):
    count = data.draw(st.integers(0, trials))
    low, high = Rate(count, trials).interval(confidence)
    theirs = binomtest(count, trials).proportion_ci(confidence, "wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0.0 <= low <= count / trials <= high <= 1.0


def test_one_may_want_to_be_as_sure_as_a_float_can_say():
    low, high = Rate(500, 1000).interval(1.0 - 2.0**-53)
    assert (low, high) == pytest.approx((0.3732, 0.6268), abs=1e-4)


class Byte:
    """A byte that damage flips a bit of; how it is repaired is given."""

    def __init__(self, repair_):
        self.repair_ = repair_

    def damaged(self, faults, seed):
        return [5 ^ (1 << seed % 8)] if faults else [5]

    def same(self, state):
        return state == [5]


def right(state):
    state[0] = 5
    return Answer(Verdict.CORRECTED, 1)


def wrong(state):
    state[0] ^= 6
    return Answer(Verdict.CORRECTED, 2)


def blind(state):
    return Answer(Verdict.CLEAN, 0)


def honest(state):
    return Answer(Verdict.UNCORRECTABLE, 0)


def test_repairs_of_every_sort_are_counted_as_what_they_are():
    assert run(Byte(right), True, range(8)) == Counts(repaired=8)
    assert run(Byte(wrong), True, range(8)) == Counts(miscorrected=8)
    assert run(Byte(blind), True, range(8)) == Counts(silent=8)
    assert run(Byte(honest), True, range(8)) == Counts(detected=8)
    assert run(Byte(blind), False, range(8)) == Counts(masked=8)


def test_scores_and_times_are_those_of_the_trials():
    ticks = itertools.count()
    counts = run(Byte(right), True, range(3), score=lambda x: x[0], clock=lambda: next(ticks))
    assert counts.before == (1, 4, 7)
    assert counts.after == (5, 5, 5)
    assert counts.seconds == (1, 1, 1)
    assert run(Byte(right), True, range(3)).before == ()


def code_target(rng, m=40):
    weights = rng.normal(0, 0.05, 600).astype(np.float32)
    return CodeTarget(Sparse.for_errors(600, 20, m=m), weights)


def sums_target(rng):
    return SumsTarget(Modular.for_errors(50_000, 4), rng.normal(size=50_000).astype(np.float32))


def dense_target(rng):
    code = Gaussian(400, 160)
    return DenseTarget(code, L1(), code.project(rng.normal(size=400)))


def test_what_is_out_of_range_is_known_to_be_wrong(rng):
    code = Gaussian(n=400, m=160, seed=0)
    intact = code.project(rng.normal(size=400)).astype(np.float32)
    target = DenseTarget(code, L1(), intact, tolerance=1e-5, limit=8.0)
    word = intact.copy()
    word[[3, 70, 200, 399]] = np.nan, np.inf, -3e38, 5.0
    state = target.received(word)
    assert state.erased.tolist() == [3, 70, 200]
    assert np.isfinite(state.syndrome).all()
    assert not target.same(state)
    assert target.repair_(state).verdict is Verdict.CORRECTED
    assert target.same(state)
    counts = run(target, Faults("nonfinite", 20), range(3))
    assert counts.repaired == 3


def model_target(rng, errors=6):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 10))
    return ModelTarget(model, pm.protect_(model, errors))


CASES = {
    "code": (code_target, Faults("bitflip", 15)),
    "sums": (sums_target, Faults("random", 4, "burst")),
    "dense": (dense_target, Faults("noise", 10)),
    "model": (model_target, Faults("zero", 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_targets_are_repaired_and_not_changed(rng, case):
    make, faults = CASES[case]
    target = make(rng)
    counts = run(target, faults, range(12))
    assert counts.wrong == 0
    assert counts.repaired > 8
    again = trial(target, faults, 3)
    assert (again.outcome, again.found) == (Outcome.REPAIRED, faults.count)


@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_the_order_of_the_seeds(rng, case):
    make, faults = CASES[case]
    target = make(rng)
    hard = Faults(faults.kind, 3 * faults.count, faults.placement)  # some fail
    seeds = list(range(10))
    whole = run(target, hard, seeds)
    assert run(target, hard, rng.permutation(seeds).tolist()) == whole
    assert run(target, hard, seeds[7:]) + run(target, hard, seeds[:7]) == whole
    one_by_one = {seed: trial(target, hard, seed).outcome for seed in reversed(seeds)}
    assert all(trial(target, hard, seed).outcome is one_by_one[seed] for seed in seeds)


def test_damage_beyond_a_code_is_detected(rng):
    assert run(model_target(rng), Faults("bitflip", 60), range(5)) == Counts(detected=5)
    assert run(sums_target(rng), Faults("bitflip", 400), range(5)) == Counts(detected=5)


def test_a_decoder_that_miscorrects_is_found_out(rng, monkeypatch):
    target = code_target(rng)
    decode = target.prepared.decode

    def off_by_one(*args):
        decoding = decode(*args)
        decoding.values[:1] += 1
        return decoding

    monkeypatch.setattr(target.prepared, "decode", off_by_one)
    assert run(target, Faults("replace", 5, options=on_grid(target.grid)), range(4)) == Counts(
        miscorrected=4
    )


@pytest.mark.parametrize("case", ["moved", "off by one"])
def test_sums_that_name_other_words_are_found_out(rng, monkeypatch, case):
    target = sums_target(rng)
    decode = target.prepared.decode

    def wrong(syndrome):
        decoding = decode(syndrome)
        which = decoding.positions if case == "moved" else decoding.values
        which[-1] += 1
        return decoding

    monkeypatch.setattr(target.prepared, "decode", wrong)
    assert run(target, Faults("bitflip", 3), range(4)) == Counts(miscorrected=4)


def test_silent_damage_is_counted_as_silent(rng):
    target = model_target(rng)
    target.seal = pm.protect_(target.intact, 6, only=["0.*"])  # does not see the other layer
    target.only = ["1.*"]
    assert run(target, Faults("sign", 3), range(4)) == Counts(silent=4)


def test_only_the_named_tensors_are_damaged(rng):
    target = model_target(rng)
    target.only = ["1.weight"]
    state = target.damaged(Faults("random", 5), 1)
    changed = [
        n
        for n, p in state.state_dict().items()
        if not torch.equal(p, target.intact.get_parameter(n))
    ]
    assert changed == ["1.weight"]


def test_buffers_and_the_sign_of_zero_count_as_bits():
    model = torch.nn.BatchNorm1d(3)
    target = ModelTarget(model, pm.protect_(model, 2, buffers=True))
    state = target.damaged(Faults("zero", 0), 0)
    assert target.same(state)
    state.running_mean[1] = -0.0
    assert not target.same(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes_that_numpy_lacks(dtype):
    tensors = {"w": torch.linspace(-1, 1, 600).to(dtype)}
    target = ModelTarget(tensors, pm.protect_(tensors, 3))
    assert run(target, Faults("bitflip", 3), range(4)) == Counts(repaired=4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.bool])
def test_dtypes_without_numbers_of_their_own_are_struck_byte_by_byte(dtype):
    tensors = {"head": torch.ones(300, dtype=dtype)}
    [words] = bit_patterns(tensors)
    assert (words.dtype, len(words)) == ("U8", tensors["head"].nbytes)
    target = ModelTarget(tensors, pm.protect_(tensors, 3))
    assert run(target, Faults("bitflip", 3), range(4)) == Counts(repaired=4)


def test_memory_that_no_flat_view_reaches_is_not_taken_for_damaged():
    model = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    target = ModelTarget(model, pm.protect_(model, 3))
    with pytest.raises(FaultError, match="cannot be changed in place"):
        target.damaged(Faults("bitflip", 3), 0)


def test_a_state_dict_is_a_model_too(rng):
    tensors = {"w": torch.from_numpy(rng.normal(0, 0.05, 3000).astype(np.float32))}
    target = ModelTarget(tensors, pm.protect_(tensors, 10, "lowbits"))
    assert run(target, Faults("nonfinite", 10), range(4)) == Counts(repaired=4)


def test_other_values_of_the_grid_are_the_hardest_damage():
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 10)
    seal = pm.protect_(model, 10, "real")
    faults = Faults("replace", 10, options=on_grid(grid_of(seal, "weight")))
    target = ModelTarget(model, seal, only=["weight"])
    part = next(part for part in seal.words[0].parts if part.name == "weight")
    damaged = target.damaged(faults, 0).weight / 2.0**part.exponent
    assert torch.equal(damaged, damaged.round())
    assert run(target, faults, range(5)).repaired == 5
    with pytest.raises(SpecError, match="does not protect tail"):
        grid_of(seal, "tail")


def test_arithmetic_that_is_not_exact_is_compared_with_a_tolerance(rng):
    target = dense_target(rng)
    state = target.damaged(Faults("noise", 10), 0)
    assert not target.same(state)
    target.repair_(state)
    assert 0.0 < target.error(state) < 1e-9
    target.tolerance = 0.0
    assert run(target, Faults("noise", 10), [0]) == Counts(miscorrected=1)
