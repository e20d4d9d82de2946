"""Rows, banks and columns of memory: which words they strike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parimend.campaign.damage import damage_of
from parimend.campaign.task import Setting, Stratum
from parimend.errors import ImpossibleFaultError
from parimend.faults import FIELDS, KINDS, FaultError, draw, select

ROW = 2048
"""Words of 32 bits in a row of 8 KiB."""
SEEDS = st.integers(0, 2**64 - 1)
MODEL = {
    "a": np.zeros(ROW * 40 + 5, np.float32),
    "b": np.zeros(ROW * 2, np.float32),
    "c": np.zeros(ROW * 60, np.float16),  # 30 rows
}
FIRST = {"a": 0, "b": 41, "c": 43}


def rows_of(faults):
    """The row of every fault, and its place in it."""
    found = []
    for fault in faults:
        width = 2 * ROW if fault.tensor == "c" else ROW
        found.append((FIRST[fault.tensor] + fault.index // width, fault.index % width))
    return found


@given(SEEDS)
def test_a_row_is_one_row(seed):
    faults = draw("row", MODEL, 200, seed)
    assert len(faults) == 200
    assert len({row for row, _ in rows_of(faults)}) == 1


@given(SEEDS)
def test_a_bank_is_every_sixteenth_row(seed):
    faults = draw("bank", MODEL, 200, seed)
    rows = {row for row, _ in rows_of(faults)}
    assert len({row % 16 for row in rows}) == 1
    assert len(rows) > 1


@given(SEEDS, st.integers(1, 30))
def test_a_column_is_one_place_in_rows_that_follow_each_other(seed, count):
    faults = draw("column", MODEL, count, seed)
    rows = [row for row, _ in rows_of(faults)]
    assert rows == list(range(rows[0], rows[0] + count))
    assert len({place for _, place in rows_of(faults)}) == 1
    assert len(set(faults.names)) == 1


@given(SEEDS, st.integers(4, 20))
def test_rowhammer_strikes_a_row_in_each_of_four_banks(seed, count):
    faults = draw("rowhammer", MODEL, count, seed)
    rows = {row for row, _ in rows_of(faults)}
    assert len(faults) == count
    assert len(rows) == len({row % 16 for row in rows}) == 4
    flipped = [bin(fault.before ^ fault.after).count("1") for fault in faults]
    assert flipped == [1] * count


@pytest.mark.parametrize("kind", ["row", "bank", "column", "rowhammer"])
def test_the_same_seed_strikes_the_same_words(kind):
    assert draw(kind, MODEL, 12, 7) == draw(kind, MODEL, 12, 7)
    assert draw(kind, MODEL, 12, 7) != draw(kind, MODEL, 12, 8)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("column", [36735, 38783, 40831, 42879, 44927]),
        ("rowhammer", [5934, 13007, 30359, 36320, 36380]),
    ],
)
def test_recorded_lists_keep_their_meaning(kind, expected):
    """Golden values. Never change them: every stored campaign depends on them."""
    faults = draw(kind, {"a": MODEL["a"]}, 5, seed=2026)
    assert faults.index.tolist() == expected
    assert faults.after.tolist() == [1 << 14, 1 << 8, 1 << 30, 1 << 28, 1 << 19]


@pytest.mark.parametrize(
    ("kind", "count", "possible"),
    [
        ("row", 5000, ROW * 2),
        ("bank", 10**6, ROW * 5),
        ("column", 50, 41),
        ("rowhammer", 99_999, ROW * 2 * 4),
    ],
)
def test_what_does_not_fit_is_refused(kind, count, possible):
    with pytest.raises(ImpossibleFaultError, match=f"placement {kind}") as caught:
        draw(kind, MODEL, count, 0)
    assert possible <= caught.value.possible < count
    assert len(draw(kind, MODEL, caught.value.possible, 0)) == caught.value.possible


def test_words_that_cannot_be_changed_are_passed_over():
    words = {"w": np.zeros(ROW * 20, np.float32)}
    words["w"][ROW * 3 + 7] = 1.0
    for kind in ("row", "bank", "column", "rowhammer"):
        with pytest.raises(ImpossibleFaultError, match="can change only 1 of the 2 elements"):
            draw("zero", words, 2, 0, placement=kind)
        assert draw("zero", words, 1, 0, placement=kind).index.tolist() == [ROW * 3 + 7]


@given(SEEDS, st.sampled_from(["<f4", "<f2", "<i8"]))
def test_a_double_byte_is_two_bytes_side_by_side(seed, dtype):
    (fault,) = draw("doublebyte", {"w": np.zeros(50, dtype)}, 1, seed)
    changed = (fault.before ^ fault.after).to_bytes(8, "little")
    places = [place for place, byte in enumerate(changed) if byte]
    assert len(places) == 2
    assert places[1] == places[0] + 1
    with pytest.raises(FaultError, match="have one byte"):
        draw("doublebyte", {"w": np.zeros(50, np.int8)}, 1, seed)


@given(SEEDS, st.integers(0, 31), st.integers(0, 31))
def test_flips_can_be_kept_to_some_bits(seed, a, b):
    low, high = min(a, b), max(a, b)
    faults = draw("bitflip", MODEL, 20, seed, only="a", lowest=low, highest=high)
    bits = [(fault.before ^ fault.after).bit_length() - 1 for fault in faults]
    assert all(low <= bit <= high for bit in bits)
    with pytest.raises(FaultError, match="0 <= lowest <= highest < 16"):
        draw("bitflip", MODEL, 1, 0, only="c", highest=16)


@pytest.mark.parametrize("name", FIELDS)
def test_every_mode_of_the_field_can_be_drawn(name):
    field = FIELDS[name]
    assert field.kind in KINDS
    assert field.what
    damage = damage_of(Setting.of("f", {"kind": name}), Stratum())
    faults = damage.draw(select(MODEL), 3)
    assert len(faults) == field.count
    assert damage.stays == (name == "stuck-bit")
