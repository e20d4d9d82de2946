"""Damage that strikes what a protection keeps as densely as the weights."""

import numpy as np
import pytest
import torch

from parimend.campaign.damage import damage_of
from parimend.campaign.protections import Network, protection_of
from parimend.campaign.spec import Spec
from parimend.campaign.subject import Struck, Subject
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import SpecError
from parimend.experiment import bit_patterns
from parimend.faults import Words
from tests.campaign.conftest import tables

FLIPS = {"kind": "bitflip", "rate": 1e-3}
ALL = {**FLIPS, "strikes": "everything"}


def words(name, count):
    return [Words(name, np.zeros(count, np.uint8), "U8")]


@pytest.mark.parametrize(
    ("fault", "mean"),
    [
        (ALL, 4.0),
        ({"kind": "bitflip", "count": 16, "strikes": "everything"}, 4.0),
        # One event in a hundred strikes two words of 32 bits, and so eight bytes.
        ({"kind": "leo", "days": 1e-3 / 4.04e-7, "strikes": "everything"}, 4.3),
    ],
    ids=["rate", "count", "environment"],
)
def test_what_is_kept_is_struck_in_proportion_to_its_size(fault, mean):
    damage = damage_of(Setting.of("f", fault), Stratum())
    weights, kept = words("w", 2000), words("k", 500)
    found = [damage.draw_beside(kept, weights, seed) for seed in range(300)]
    # 4,000 bits at 1e-3 each, as 16 of 16,000 are, and as come in so many days.
    assert np.mean([len(faults) for faults in found]) == pytest.approx(mean, abs=0.45)
    assert len({faults.seed for faults in found}) == 300
    assert damage.draw_beside([], weights, 0) is None


def test_the_weights_meet_the_same_damage_whatever_is_kept():
    plain = damage_of(Setting.of("f", FLIPS), Stratum())
    both = damage_of(Setting.of("f", ALL), Stratum())
    weights, kept = words("w", 2000), words("w", 2000)
    assert list(both.draw(weights, 7)) == list(plain.draw(weights, 7))
    assert plain.draw_beside(kept, weights, 7) is None
    assert list(both.draw_beside(kept, weights, 7)) != list(both.draw(weights, 7))


def subject(kind, **options):
    torch.manual_seed(0)
    model = {"w": torch.randn(40, 50), "b": torch.randn(40)}
    intact = {name: each.clone() for name, each in model.items()}
    rule = protection_of(Setting.of("p", {"kind": kind, **options}))
    return Subject(model, intact, rule, rule.protect_(Network(model, model)))


def outcomes(kind, fault, trials=40, **options):
    made = subject(kind, **options)
    before = [each.bits.copy() for each in made.beside]
    setting = Setting.of("p", {"kind": kind, **options})
    task = Task("n", "0", "", setting, Setting.of("f", fault), Stratum(), 0, 0, trials)
    row = made.work(task)
    made.restore_()
    for words_, was in zip(made.beside, before, strict=True):
        assert np.array_equal(words_.bits, was)
    assert all(np.array_equal(made.live[name], made.intact[name]) for name in made.live)
    return row.outcomes


def test_two_copies_that_are_wrong_outvote_the_right_one():
    assert outcomes("copies", {**FLIPS, "rate": 0.015}, trials=3) == "rrr"
    assert "x" in outcomes("copies", {**ALL, "rate": 0.015}, trials=3)


def test_secded_knows_a_wrong_check_bit_and_loses_the_word_if_there_is_another():
    made = subject("secded")
    made.kept["w"][7] ^= 4
    assert made.repair_(Struck()) == ("clean", 0)
    made.live["w"][8 * 7] ^= 1
    assert made.repair_(Struck()) == ("uncorrectable", 1)


def test_a_wrong_checksum_is_not_believed_after_a_reload():
    made = subject("reload")
    made.kept.digests["w"][3] ^= 1
    assert made.repair_(Struck()).verdict.value == "uncorrectable"
    assert made.same(Struck())


def test_a_seal_repairs_itself_and_says_so_if_it_cannot():
    made = subject("sidecar", errors=4)
    (seal,) = made.beside
    seal.bits[10] ^= 255
    made.live["w"][5] ^= 64
    assert made.repair_(Struck()).verdict.value == "corrected"
    assert made.same(Struck())
    seal.bits[:] = 0
    made.live["w"][5] ^= 64
    assert made.repair_(Struck()).verdict.value == "uncorrectable"


def test_radar_keeps_two_bits_a_group():
    made = subject("radar", group=10)
    assert sum(len(each) for each in made.beside) == 200 // 4 + 4 // 4
    assert bit_patterns(made.tensors)
    made.kept["w"][0] ^= 0b11000000  # the first group
    assert made.repair_(Struck()) == ("uncorrectable", 1)
    assert (made.model["w"].reshape(-1)[::200] == 0).all()


def test_what_cannot_be_struck_so_is_refused():
    with pytest.raises(SpecError, match=r"strikes is 'weights' or 'everything', not 'all'"):
        Spec.of(tables(faults={"f": {**FLIPS, "strikes": "all"}}))
    with pytest.raises(SpecError, match="strikes is for scattered faults and environments"):
        Spec.of(tables(faults={"f": {**ALL, "placement": "lines"}}))
