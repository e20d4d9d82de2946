"""Every protection does what its source says, and no more."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parimend.campaign.protections import PROTECTIONS, Network, protection_of
from parimend.campaign.protections.secded import byte_rows, checks, columns, put_back
from parimend.campaign.task import Setting
from parimend.errors import SpecError, WordError
from parimend.outcomes import Verdict

OPTIONS = {
    "sidecar": {"errors": 4},
    "real": {"errors": 4},
    "lowbits": {"errors": 4},
    "par2": {"blocks": 50},
}
KINDS = [
    pytest.param(kind, marks=pytest.mark.par2) if kind == "par2" else kind for kind in PROTECTIONS
]


def test_par2_is_a_program(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SpecError, match="par2 is not installed: install the package par2"):
        protected("par2")
    with pytest.raises(SpecError, match="1 to 100 per cent of redundancy, not 50 and 0"):
        protected("par2", redundancy=0)


@pytest.mark.par2
def test_par2_brings_back_as_many_blocks_as_it_has_recovery_blocks():
    rule, _, tensors, bits, kept = protected("par2", blocks=50, redundancy=10)
    before = snapshot(bits)
    assert rule.nbytes(kept) == sum(map(len, kept.values()))
    for block in range(5):  # of 29 words
        bits["0.weight"][29 * block] ^= np.uint32(1 << 30)
    assert rule.repair_(tensors, kept) == (Verdict.CORRECTED, 5)
    assert same(bits, before)
    for block in range(6):
        bits["0.weight"][29 * block] ^= np.uint32(1 << 30)
    damaged = snapshot(bits)
    assert rule.repair_(tensors, kept) == (Verdict.UNCORRECTABLE, 0)
    assert same(bits, damaged)


def protected(kind, *, seed=0, **options):
    """A small network under a protection: tensors, their bits, what is kept, and the rule."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 7))
    tensors = {name: each.detach() for name, each in model.named_parameters()}
    rule = protection_of(Setting.of("p", {"kind": kind, **OPTIONS.get(kind, {}), **options}))
    inputs = torch.randn(50, 40)
    kept = rule.protect_(Network(model, tensors, lambda: float(model(inputs).detach().sum())))
    bits = {name: each.numpy().reshape(-1).view(np.uint32) for name, each in tensors.items()}
    return rule, model, tensors, bits, kept


def snapshot(bits):
    return {name: data.copy() for name, data in bits.items()}


def same(bits, before):
    return all(np.array_equal(bits[name], before[name]) for name in bits)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_where_nothing_is_wrong(kind):
    rule, model, tensors, bits, kept = protected(kind)
    before = snapshot(bits)
    assert rule.repair_(tensors, kept) == (Verdict.CLEAN, 0)
    with rule.watching(model, kept) as watch, torch.no_grad():
        model(torch.randn(9, 40))
        assert watch.seen() == (Verdict.CLEAN, 0)
    assert same(bits, before)
    assert rule.nbytes(kept) >= 0
    assert rule.source


@pytest.mark.parametrize(
    "kind",
    [
        *("secded", "copies", "reload", "sidecar", "real", "lowbits"),
        pytest.param("par2", marks=pytest.mark.par2),
    ],
)
@pytest.mark.parametrize("bit", [0, 22, 23, 30, 31])
def test_one_flipped_bit_is_put_back(kind, bit):
    rule, _, tensors, bits, kept = protected(kind)
    before = snapshot(bits)
    bits["2.weight"][100] ^= np.uint32(1 << bit)
    assert rule.repair_(tensors, kept).verdict is Verdict.CORRECTED
    assert same(bits, before)


def test_secded_has_the_columns_of_a_code_that_corrects_one_and_detects_two():
    every = [*columns(), *(1 << bit for bit in range(8))]
    assert len(set(every)) == 72
    assert all(column.bit_count() % 2 for column in every)
    # A plain oracle: the checks of a row are the sum of the columns of its bits.
    rows = np.random.default_rng(0).integers(0, 256, (50, 8)).astype(np.uint8)
    bits = np.unpackbits(rows, axis=1, bitorder="little")
    expected = [np.bitwise_xor.reduce(np.array(columns())[row == 1], initial=0) for row in bits]
    assert checks(rows).tolist() == expected


@given(st.sets(st.integers(0, 63), min_size=2, max_size=2))
def test_secded_detects_any_two_bits_of_a_word_and_leaves_them(pair):
    rule, _, tensors, bits, kept = protected("secded")
    for bit in pair:
        bits["0.weight"][10 + bit // 32] ^= np.uint32(1 << bit % 32)
    damaged = snapshot(bits)
    assert rule.repair_(tensors, kept) == (Verdict.UNCORRECTABLE, 1)
    assert same(bits, damaged)


def test_secded_takes_three_bits_for_one():
    rule, _, tensors, bits, kept = protected("secded")
    before = snapshot(bits)
    known = set(columns())
    triples = combinations(range(64), 3)
    three = next(t for t in triples if np.bitwise_xor.reduce([columns()[i] for i in t]) in known)
    for bit in three:
        bits["0.weight"][10 + bit // 32] ^= np.uint32(1 << bit % 32)
    assert rule.repair_(tensors, kept) == (Verdict.CORRECTED, 1)
    assert not same(bits, before)
    assert rule.nbytes(kept) * 8 == 4 * (1200 + 30 + 210 + 8)  # 12.5 %, of whole words of 64 bits


def test_cep_clears_the_triple_that_does_not_fit():
    rule, _, tensors, bits, kept = protected("cep")
    before = snapshot(bits)
    word = before["0.weight"][5]
    for c in range(8):  # a plain oracle of the rule
        triple = int(word) >> (8 + 3 * c) & 0b111
        assert int(word) >> c & 1 == triple.bit_count() % 2
    bits["0.weight"][5] ^= np.uint32(1 << 30)
    assert rule.repair_(tensors, kept) == (Verdict.UNCORRECTABLE, 1)
    assert bits["0.weight"][5] == word & ~np.uint32(0b111 << 29 | 1 << 7)
    bits["0.weight"][5] = before["0.weight"][5]
    assert same(bits, before)
    bits["0.weight"][5] ^= np.uint32(0b11 << 29)  # two of a triple are not seen
    assert rule.repair_(tensors, kept).verdict is Verdict.CLEAN


def test_cep_moves_weights_by_less_than_a_part_in_32768():
    torch.manual_seed(0)
    plain = torch.nn.Linear(40, 30).weight.detach()
    _, _, tensors, _, _ = protected("cep")
    moved = (tensors["0.weight"] - plain).abs() / plain.abs()
    assert 0 < float(moved.max()) < 2**-15


def test_mset_lets_three_bits_vote():
    rule, _, tensors, bits, kept = protected("mset")
    before = snapshot(bits)
    words = bits["0.weight"]
    assert (words >> 30 & 1 == words & 1).all()
    assert (words >> 30 & 1 == words >> 1 & 1).all()
    for bit in (30, 1, 0):
        words[3] ^= np.uint32(1 << bit)
        assert rule.repair_(tensors, kept) == (Verdict.CORRECTED, 1)
        assert same(bits, before)
    words[3] ^= np.uint32(1 << 30 | 1)  # two against one
    assert rule.repair_(tensors, kept).verdict is Verdict.CORRECTED
    assert words[3] == before["0.weight"][3] ^ np.uint32(1 << 30 | 0b11)
    words[3] = before["0.weight"][3] ^ np.uint32(1 << 29)  # no other bit is looked at
    assert rule.repair_(tensors, kept).verdict is Verdict.CLEAN


@pytest.mark.parametrize("group", [1, 8, 50])
def test_radar_zeroes_the_group_of_a_flipped_highest_bit(group):
    rule, _, tensors, bits, kept = protected("radar", group=group)
    before = snapshot(bits)
    bits["0.weight"][700] ^= np.uint32(1 << 30)
    assert rule.repair_(tensors, kept) == (Verdict.UNCORRECTABLE, 1)
    groups = -(-1200 // group)
    members = np.arange(1200) % groups == 700 % groups
    assert members.sum() == group
    assert (bits["0.weight"][members] == 0).all()
    assert np.array_equal(bits["0.weight"][~members], before["0.weight"][~members])
    assert len(kept["0.weight"]) == -(-groups // 4)  # two bits each
    bits["0.weight"][:] = before["0.weight"]
    bits["0.weight"][700] ^= np.uint32(1 << 31)  # the sign is not in the sum
    assert rule.repair_(tensors, kept).verdict is Verdict.CLEAN


def test_ranger_keeps_activations_in_their_range():
    rule, model, tensors, bits, kept = protected("ranger")
    torch.manual_seed(1)
    inputs = torch.randn(20, 40)
    hidden = torch.relu(model[0](inputs))
    low, high = kept["1"].tolist()
    assert low == 0.0 < high
    assert rule.nbytes(kept) == 8
    rule.watch_(model, kept)
    assert torch.equal(model[1](model[0](inputs)), hidden.clamp(0.0, high))
    bits["0.weight"][5] ^= np.uint32(1 << 30)
    assert float(model[1](model[0](inputs)).detach().max()) <= high
    bits["0.weight"][5] = np.array([np.nan], np.float32).view(np.uint32)[0]
    assert bool(torch.isfinite(model(inputs)).all())
    assert rule.repair_(tensors, kept).verdict is Verdict.CLEAN
    with pytest.raises(SpecError, match="ranger finds no activations"):
        rule.protect_(Network(torch.nn.Linear(2, 2), {}, lambda: 0.0))
    with pytest.raises(SpecError, match="ranger has to see the network run"):
        rule.protect_(Network(model, tensors, None))


@given(st.sets(st.integers(0, 31), min_size=1), st.integers(0, 1199))
def test_copies_and_reload_put_back_anything(flipped, place):
    for kind in ("copies", "reload"):
        rule, _, tensors, bits, kept = protected(kind)
        before = snapshot(bits)
        bits["0.weight"][place] ^= np.uint32(sum(1 << bit for bit in flipped))
        assert rule.repair_(tensors, kept).verdict is Verdict.CORRECTED
        assert same(bits, before)


def test_a_carrier_beyond_its_budget_says_so():
    rule, _, tensors, bits, kept = protected("sidecar")
    bits["0.weight"][:50] ^= np.uint32(7)
    damaged = snapshot(bits)
    assert rule.repair_(tensors, kept).verdict is Verdict.UNCORRECTABLE
    assert same(bits, damaged)


def test_what_is_guaranteed_is_so_wherever_damage_is():
    for options, words in (({}, 4), ({"per": "tensor"}, 4), ({"only": ["0.*"]}, 0)):
        rule, _, tensors, _, kept = protected("sidecar", **options)
        assert rule.guaranteed(tensors, kept) == words


def test_rows_of_bytes_go_back_where_they_were():
    tensors = {"a": torch.arange(7.0), "b": torch.arange(3, dtype=torch.int16)}
    rows = byte_rows(tensors)
    assert {name: each.shape for name, each in rows.items()} == {"a": (4, 8), "b": (1, 8)}
    for each in rows.values():
        each[:] = 1
    put_back(tensors, rows)
    assert tensors["b"].tolist() == [257] * 3


@pytest.mark.parametrize("kind", ["cep", "mset", "radar"])
def test_rules_for_float32_say_so(kind):
    rule = protection_of(Setting.of("p", {"kind": kind}))
    with pytest.raises(WordError, match=rf"{kind} is a rule for float32, and w is torch.int8"):
        rule.protect_(Network(None, {"w": torch.zeros(3, dtype=torch.int8)}))


def test_unknown_kinds_and_options_name_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'secded'"):
        protection_of(Setting.of("p", {"kind": "secdet"}))
    with pytest.raises(SpecError, match="unknown key 'error'; did you mean 'errors'"):
        protection_of(Setting.of("p", {"kind": "sidecar", "error": 3}))
    with pytest.raises(SpecError, match="errors is missing"):
        protection_of(Setting.of("p", {"kind": "sidecar"}))
    with pytest.raises(SpecError, match="a group has one weight or more"):
        protection_of(Setting.of("p", {"kind": "radar", "group": 0}))
