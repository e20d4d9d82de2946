"""Grids: exact both ways, and damage that leaves the grid is seen."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from parimend.errors import WordError
from parimend.words.grid import FLOAT_BITS, GRID_DTYPES, Grid, choose_grid

NUMPY = {"F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2"}


@st.composite
def float_grids(draw, dtype=None):
    """(grid, dtype): every grid that `choose_grid` may choose for float weights."""
    dtype = dtype or draw(st.sampled_from(["F32", "F64"]))
    bits = draw(st.integers(4, 24 if dtype == "F32" else 32))
    return Grid(bits, draw(st.integers(bits - 126, 127 - bits))), np.dtype(NUMPY[dtype])


def some_integers(grid, rng):
    """The extremes, everything small, and random integers of a grid."""
    top = grid.limit - 1
    return np.unique(
        np.concatenate(
            [
                np.arange(-min(top, 300), min(top, 300) + 1),
                [-top, 1 - top, top - 1, top],
                rng.integers(-top, top, 300, endpoint=True),
                np.minimum(1 << np.arange(grid.bits), top),
            ]
        )
    )


class TestRoundTrip:
    @given(float_grids(), st.integers(0, 1000))
    def test_floats(self, drawn, seed):
        grid, dtype = drawn
        integers = some_integers(grid, np.random.default_rng(seed))
        values = grid.write(integers, dtype)
        assert values.dtype == dtype
        assert [float(v) / grid.step for v in values] == integers.tolist()
        assert not np.signbit(values[integers == 0]).any()
        back, erased = grid.read(values)
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, integers)
        assert not erased.any()

    @pytest.mark.parametrize(("dtype", "bits"), [("i1", 8), ("i1", 5), ("i2", 16), ("i2", 9)])
    def test_every_integer(self, dtype, bits):
        info = np.iinfo(dtype)
        values = np.arange(info.min, info.max + 1).astype(dtype)
        grid = Grid(bits, 0)
        integers, erased = grid.read(values)
        np.testing.assert_array_equal(erased, np.abs(values.astype(int)) >= grid.limit)
        np.testing.assert_array_equal(
            grid.write(integers[~erased], np.dtype(dtype)), values[~erased]
        )
        assert not integers[erased].any()

    def test_keeps_shapes_and_takes_read_only_and_strided_values(self):
        values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, :, ::2]
        values.flags.writeable = False
        integers, erased = Grid(18, 0).read(values)
        assert integers.shape == erased.shape == (2, 3, 2)
        np.testing.assert_array_equal(integers, values)

    def test_empty(self):
        integers, erased = Grid(18, 0).read(np.empty((0, 3), np.float32))
        assert integers.shape == erased.shape == (0, 3)

    @given(float_grids())
    def test_contains_is_what_is_read(self, drawn):
        grid, _ = drawn
        edge = np.array([-grid.limit, 1 - grid.limit, 0, grid.limit - 1, grid.limit])
        assert grid.contains(edge).tolist() == [False, True, True, True, False]


class TestDamage:
    @given(float_grids("F32"), st.integers(0, 1000))
    def test_every_bit_flip_stays_on_the_grid_or_is_erased(self, drawn, seed):
        grid, dtype = drawn
        values = grid.write(some_integers(grid, np.random.default_rng(seed))[::20], dtype)
        flipped = values.view(np.uint32)[:, None] ^ (np.uint32(1) << np.arange(32, dtype="u4"))
        flipped = flipped.view(np.float32)
        integers, erased = grid.read(flipped)
        # What is not erased reads as exactly the value that is there, and writes it back.
        kept = ~erased
        np.testing.assert_array_equal(
            grid.write(integers[kept], dtype).view(np.uint32), flipped[kept].view(np.uint32)
        )
        assert (np.abs(integers) < grid.limit).all()
        # And what is erased could not be read so.
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = flipped[erased].astype(np.float64) / grid.step
            good = (np.abs(scaled) < grid.limit) & (scaled == np.rint(scaled))
        assert (flipped[erased][good].view(np.uint32) == 0x80000000).all()

    @given(st.integers(0, 2**32 - 1), float_grids("F32"))
    def test_any_pattern_is_read_as_it_is_or_erased(self, pattern, drawn):
        grid, dtype = drawn
        value = np.array([pattern], np.uint32).view(np.float32)
        integers, erased = grid.read(value)
        if erased[0]:
            assert integers[0] == 0
        else:
            assert grid.write(integers, dtype).view(np.uint32)[0] == pattern

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_what_no_weight_can_be(self, dtype):
        tiny = np.finfo(dtype).smallest_subnormal
        bad = [np.nan, -np.nan, np.inf, -np.inf, -0.0, tiny, -tiny, 1e-9, 2.0**17, -(2.0**17),
               np.finfo(dtype).max, 0.5]  # fmt: skip
        integers, erased = Grid(18, 0).read(np.array(bad, dtype))
        assert erased.all()
        assert not integers.any()

    def test_subnormals_are_erased_where_they_are_flushed_to_zero(self):
        values = np.array([1e-40, -1e-40, 0.0, 1.0], np.float32)
        torch.set_flush_denormal(True)
        try:
            erased = Grid(18, 0).read(values)[1]
        finally:
            torch.set_flush_denormal(False)
        assert erased.tolist() == [True, True, False, False]

    def test_signaling_nans_are_erased(self):
        patterns = np.array([0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF], np.uint32)
        assert Grid(18, -20).read(patterns.view(np.float32))[1].all()

    def test_the_lowest_integer_is_erased(self):
        # Two's complement has it, the grid has not: words are symmetric.
        assert Grid(8, 0).read(np.array([-128, -127], np.int8))[1].tolist() == [True, False]
        assert Grid(16, 0).read(np.array([-32768], np.int16))[1].tolist() == [True]


class TestChoice:
    @given(
        st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20),
        st.integers(4, 24),
        st.floats(-60, 0),
    )
    def test_is_the_finest_step_with_a_16th_to_spare(self, values, bits, scale):
        values = (np.array(values) * 2.0**scale).astype(np.float32)
        largest = float(np.abs(values).max())
        assume(largest > 1e-20)
        grid = choose_grid(values, "F32", "w", bits)
        assert grid.bits == bits
        room = grid.limit * 15 / 16
        assert largest / grid.step < room <= 2 * largest / grid.step

    @given(st.floats(1e-20, 1e30))
    def test_scales_with_the_weights(self, scale):
        weights = np.array([0.3, -1.0, 0.0]) * scale
        one, twice = (choose_grid(w, "F64", "w") for w in (weights, 2 * weights))
        assert twice.exponent == one.exponent + 1

    def test_defaults(self):
        w = np.array([0.2, -0.11], np.float32)
        assert choose_grid(w, "F32", "w") == Grid(FLOAT_BITS, -19)
        assert choose_grid(w.astype(np.float64), "F64", "w").bits == FLOAT_BITS
        assert choose_grid(np.array([3], np.int8), "I8", "w") == Grid(8, 0)
        assert choose_grid(np.array([3], np.int16), "I16", "w") == Grid(16, 0)

    def test_bits_of_integers_are_at_most_those_of_the_type(self):
        assert choose_grid(np.array([3], np.int8), "I8", "w", 18) == Grid(8, 0)
        assert choose_grid(np.array([3], np.int16), "I16", "w", 12) == Grid(12, 0)
        assert choose_grid(np.array([-128, 127], np.int8), "I8", "w") == Grid(8, 0)

    @pytest.mark.parametrize("values", [[], [0.0, 0.0], [-0.0]])
    def test_zeros_have_a_grid_too(self, values):
        grid = choose_grid(np.array(values, np.float32), "F32", "w")
        assert grid.bits == FLOAT_BITS
        assert grid.read(np.zeros(3, np.float32))[1].sum() == 0

    @given(st.floats(1e-20, 1e30), st.integers(4, 24))
    def test_every_value_of_the_grid_is_a_normal_float32(self, largest, bits):
        grid = choose_grid(np.array([largest], np.float32), "F32", "w", bits)
        edge = grid.write(np.array([1, grid.limit - 1]), np.dtype(np.float32))
        assert edge[0] >= np.finfo(np.float32).smallest_normal
        assert np.isfinite(edge[1])

    @pytest.mark.parametrize(
        ("values", "dtype", "bits", "message"),
        [
            ([1.0], "F16", None, f"F16 weights have no fixed-point grid; the real carrier holds "
             f"{', '.join(GRID_DTYPES)}: leave it out with only='!fc.weight'"),
            ([1.0], "BF16", 8, "BF16 weights have no fixed-point grid"),
            ([1.0], "F32", 25, "a F32 grid has 4 to 24 bits, not 25"),
            ([1.0], "F32", 3, "a F32 grid has 4 to 24 bits, not 3"),
            ([1.0], "F64", 33, "a F64 grid has 4 to 32 bits, not 33"),
            ([1], "I8", 3, "a I8 grid has 4 to 8 bits, not 3"),
            ([-9, 8], "I8", 4, "integers as large as 9 are beyond a grid of 4 bits: take more"),
            ([-129], "I16", 8, "integers as large as 129 are beyond a grid of 8 bits"),
            ([[1.0, 2.0], [np.nan, 0.0]], "F32", None, "1 of 4 elements are not finite (first [1"),
            ([1.0, -np.inf], "F32", None, "1 of 2 elements are not finite (first [1])"),
            ([3e38], "F32", None, "weights as large as 3e+38 have no grid of 18 bits"),
            ([1e-40], "F32", None, "weights as large as 9.99995e-41 have no grid of 18 bits"),
            ([1e300], "F64", None, "weights as large as 1e+300 have no grid"),
            ([1e-300], "F64", None, "weights as large as 1e-300 have no grid"),
            ([5e-324], "F64", None, "weights as large as 4.94066e-324 have no grid"),
            ([1.7e308], "F64", None, "weights as large as 1.7e+308 have no grid"),
        ],
    )  # fmt: skip
    def test_refusals_name_the_tensor(self, values, dtype, bits, message):
        values = np.array(values, NUMPY.get(dtype, "f4"))
        with pytest.raises(WordError, match=re.escape(f"fc.weight: {message}")):
            choose_grid(values, dtype, "fc.weight", bits)
