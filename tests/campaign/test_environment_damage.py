"""What environments do to a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.campaign.bits import merged
from parimend.campaign.damage import Damage, damage_of
from parimend.campaign.environment_damage import EnvironmentDamage
from parimend.campaign.task import Setting, Stratum
from parimend.errors import FaultError
from parimend.experiment import Faults
from parimend.faults import draw, select
from parimend.risk import Environment, Events

MODEL = {"a": np.zeros(4000, np.float32), "b": np.zeros(1000, np.float32)}
BITS = 32 * 5000


def test_events_come_at_their_rate_and_with_their_sizes():
    where = Environment("here", rate=5.0 / BITS, events=Events.of("1:0.75,4:0.25"))
    damage = EnvironmentDamage(where, days=2.0)
    lists = [damage.draw(select(MODEL), seed) for seed in range(200)]
    # Ten events on average, each of 1.75 words.
    assert np.mean([len(each) for each in lists]) == pytest.approx(17.5, abs=1.0)
    one_bit = [bin(fault.before ^ fault.after).count("1") == 1 for each in lists for fault in each]
    assert np.mean(one_bit) == pytest.approx(0.75 / 1.75, abs=0.03)
    assert damage.draw(select(MODEL), 3) == lists[3] != lists[4]
    only = EnvironmentDamage(where, days=2.0, only=("b",)).draw(select(MODEL), 3)
    assert only.names in ((), ("b",))


def test_nothing_comes_where_nothing_happens():
    damage = damage_of(Setting.of("f", {"kind": "leo", "days": 0}), Stratum())
    faults = damage.draw(select(MODEL), 0)
    assert len(faults) == 0
    faults.apply_(MODEL)


def test_events_go_on_from_one_tensor_to_the_next():
    """Memory knows no tensors: so many words are wrong whatever they are of."""
    where = Environment("here", rate=3.0 / BITS, events=Events.of({300: 1.0}))
    small = {f"{i:02d}": np.zeros(50, np.float32) for i in range(100)}
    counts = [
        np.mean([len(EnvironmentDamage(where, 1.0).draw(words, seed)) for seed in range(200)])
        for words in (select(MODEL), select(small))
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)
    words = select(small)
    [struck] = {
        len(draws)
        for seed in range(300)
        if len(draws := EnvironmentDamage(where, 0.01).draw(words, seed))
    }
    assert struck == 300


@pytest.mark.parametrize(("dtype", "struck"), [("u1", 400), ("f2", 200), ("f4", 100), ("f8", 50)])
def test_an_event_is_as_large_in_words_of_every_width(dtype, struck):
    where = Environment("here", rate=1e-6, events=Events.of({100: 1.0}))
    model = select({"a": np.zeros(3000, dtype), "b": np.zeros(3000, dtype)})
    counts = {len(EnvironmentDamage(where, 1.0).draw(model, seed)) for seed in range(200)}
    assert counts & set(range(1, struck + 1)) == {struck}


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4"])
def test_an_event_strikes_whole_words_in_a_row(dtype):
    """As many as it is said to, so that a budget of as many is enough for it."""
    per = 4 // np.dtype(dtype).itemsize
    model = select({name: np.zeros(150 * per, dtype) for name in "ab"})
    where = Environment("here", rate=0.1 / (32 * 300), events=Events.of({100: 1.0}))
    lists = [EnvironmentDamage(where, 1.0).draw(model, seed) for seed in range(400)]
    alone = [faults for faults in lists if len(faults) == 100 * per]
    assert {faults.names for faults in alone} == {("a",), ("b",), ("a", "b")}
    for faults in alone:
        before = np.array([150 * "ab".index(name) for name in faults.names])
        words = before[faults.tensor] + faults.index // per
        assert words.tolist() == np.repeat(np.arange(100) + words[0], per).tolist()


@pytest.mark.parametrize("dtype", ["u1", "f2"])
def test_a_word_that_the_end_of_a_tensor_fills_in_part_is_one_of_them(dtype):
    per = 4 // np.dtype(dtype).itemsize
    model = select({str(number): np.zeros(per + 1, dtype) for number in range(50)})
    where = Environment("here", rate=2e-6, events=Events.of({3: 1.0}))
    lists = [EnvironmentDamage(where, 1.0).draw(model, seed) for seed in range(2000)]
    struck = {len(set(zip(each.tensor, each.index // per, strict=True))) for each in lists}
    assert struck == {0, 3}


def test_an_event_is_no_longer_than_the_network():
    where = Environment("here", rate=3.0 / BITS, events=Events.of({9999: 1.0}))
    assert {len(EnvironmentDamage(where, 1.0).draw(select(MODEL), seed)) for seed in range(9)} <= {
        0,
        5000,
    }


MIXED = {"bytes": np.zeros(20_000, np.uint8), "floats": np.zeros(20_000, np.float32)}


@pytest.mark.parametrize(("sizes", "share"), [("1:1", 0.25), ("3:1", 1.0)])
def test_events_strike_bits_and_not_words(sizes, share):
    """A byte has a quarter of the bits of a float32, is struck a quarter as often, and of a run
    there are four times as many.
    """
    where = Environment("here", rate=1e-3, events=Events.of(sizes))
    lists = [EnvironmentDamage(where, 0.5).draw(select(MIXED), seed) for seed in range(4)]
    counts = [sum(fault.tensor == name for faults in lists for fault in faults) for name in MIXED]
    assert counts[0] / counts[1] == pytest.approx(share, rel=0.15)


@pytest.mark.parametrize("kind", ["bitflip", "random"])
def test_a_rate_is_that_of_every_bit_whatever_word_it_is_in(kind):
    model = select({**MIXED, "empty": np.zeros(0, np.float64)})
    lists = [Damage(Faults(kind, 0), rate=1e-3).draw(model, seed) for seed in range(10)]
    for name, bits in (("bytes", 160_000), ("floats", 640_000)):
        counts = [sum(fault.tensor == name for fault in faults) for faults in lists]
        assert np.mean(counts) == pytest.approx(1e-3 * bits, rel=0.1)
    lists[0].apply_(model)
    lists[0].revert_(model)


def test_a_rate_is_that_of_the_bits_that_may_be_struck():
    model = select({"w": np.zeros(10_000, np.float32)})
    damage = Damage(Faults("bitflip", 0, options={"lowest": 23, "highest": 30}), rate=1e-3)
    counts = [len(damage.draw(model, seed)) for seed in range(50)]
    assert np.mean(counts) == pytest.approx(80, rel=0.1)  # of 80,000 bits


@pytest.mark.parametrize("ends", [{"highest": 10**400}, {"lowest": -(10**400)}, {"highest": 32}])
def test_bits_that_there_are_not_are_refused_at_a_rate_too(ends):
    model = select({"w": np.zeros(100, np.float32)})
    with pytest.raises(FaultError, match=r"do not fit F32; take 0 <= lowest <= highest < 32"):
        Damage(Faults("bitflip", 0, options=ends), rate=1e-3).draw(model, 0)


def test_more_events_than_can_be_drawn_are_refused():
    where = Environment("here", rate=1.0 / BITS, events=Events.of({1: 1.0}))
    with pytest.raises(FaultError, match=r"in 2e\+06 days 2e\+06 events are expected.*fewer days"):
        EnvironmentDamage(where, 2e6).draw(select(MODEL), 0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**32)), max_size=4))
def test_merged_faults_do_what_they_do_one_after_the_other(parts):
    model = {"a": np.arange(50, dtype=np.float32), "b": np.arange(20, dtype=np.float32)}
    lists = [draw("multiflip", model, count, seed) for count, seed in parts]
    expected = {name: array.view(np.uint32).copy() for name, array in model.items()}
    for faults in lists:
        for fault in faults:
            expected[fault.tensor][fault.index] ^= np.uint32(fault.before ^ fault.after)
    merged(lists, 0, "here", "events").apply_(model)
    assert all(np.array_equal(model[name].view(np.uint32), expected[name]) for name in model)


def test_a_rate_at_which_words_would_be_struck_twice_is_refused():
    model = select({"w": np.zeros(10_000, np.float32)})
    assert len(Damage(Faults("bitflip", 0), rate=0.01).draw(model, 0)) == pytest.approx(
        3200, rel=0.1
    )
    said = r"1\.6 faults for every element of w.*a rate of 0\.016 here"
    with pytest.raises(FaultError, match=said):
        Damage(Faults("bitflip", 0), rate=0.05).draw(model, 0)
