"""What a dtype is: against numpy, torch, safetensors and the definition of its format."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parimend.dtypes import DTYPES, SAFETENSORS, DType, named, of_torch
from parimend.errors import WordError
from parimend.faults import FaultError
from parimend.faults.words import FORMATS, format_of

IN_TORCH = [dtype for dtype in DTYPES.values() if dtype.torch_name]
FLOATS = [dtype for dtype in DTYPES.values() if dtype.is_float]
SMALL = [dtype for dtype in FLOATS if dtype.bits <= 16]
ROUNDED = [dtype for dtype in SMALL if dtype.name in FORMATS]


def each(dtypes: list[DType]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("dtype", dtypes, ids=lambda dtype: dtype.name)


def patterns(dtype: DType) -> npt.NDArray[np.unsignedinteger]:
    return np.arange(1 << dtype.bits).astype(dtype.unsigned)


@cache
def finite_values(name: str) -> npt.NDArray[np.float64]:
    values = DTYPES[name].decode(patterns(DTYPES[name]))
    return np.unique(values[np.isfinite(values)])


def infinities(dtype: DType) -> bool:
    return len(dtype.nonfinite) == 3


def test_a_dtype_is_a_frozen_record_under_its_own_name() -> None:
    assert all(dtype.name == name and named(name) is dtype for name, dtype in DTYPES.items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        DTYPES["F32"].bits = 16  # type: ignore[misc]


@each(list(DTYPES.values()))
def test_sizes_are_those_of_numpy(dtype: DType) -> None:
    size = dtype.numpy.itemsize
    assert dtype.numpy.newbyteorder("<") == dtype.numpy
    if dtype.packed:
        assert size == 1  # unpacked
        with pytest.raises(WordError, match=f"'{dtype.name}' cannot be cut into bytes"):
            dtype.itemsize  # noqa: B018
    else:
        assert dtype.itemsize == size == dtype.bits // 8
    if size <= 8:
        assert (dtype.unsigned.kind, dtype.unsigned.itemsize) == ("u", size)
    else:
        with pytest.raises(WordError, match=f"no integers are as wide as {dtype.name}"):
            dtype.unsigned  # noqa: B018


@each([dtype for dtype in DTYPES.values() if dtype.family in ("signed", "unsigned")])
def test_integers_have_the_range_of_their_bits(dtype: DType) -> None:
    info = ml_dtypes.iinfo(dtype.numpy)
    low = -dtype.sign_bit
    assert (info.min, info.max) == (low, low + (1 << dtype.bits) - 1)
    assert (dtype.mantissa, dtype.exponent, dtype.nonfinite) == (0, 0, ())
    assert (dtype.sign_bit > 0) == (dtype.family == "signed")


@each(IN_TORCH)
def test_torch_has_the_same_dtype(dtype: DType) -> None:
    theirs = dtype.torch_dtype()
    assert of_torch(theirs) is dtype
    assert theirs.itemsize == dtype.itemsize
    assert theirs.is_floating_point == dtype.is_float
    assert theirs.is_complex == (dtype.family == "complex")


def test_what_torch_does_not_have_is_named() -> None:
    with pytest.raises(WordError, match="w is F4, which this version of torch does not have"):
        DTYPES["F4"].torch_dtype("w")
    for dtype in (torch.qint8, torch.int4, torch.complex32):
        with pytest.raises(WordError, match=f"w is {dtype}, which has no plain bytes"):
            of_torch(dtype, "w")
    with pytest.raises(WordError, match="'F99' is not known"):
        named("F99")


def accepted(name: str, bits: int) -> bool:
    """Whether safetensors reads a file with eight zeros of this dtype."""
    header = {"w": {"dtype": name, "shape": [8], "data_offsets": [0, bits]}}
    text = json.dumps(header).encode()
    try:
        safetensors.deserialize(len(text).to_bytes(8, "little") + text + bytes(bits))
    except safetensors.SafetensorError:
        return False
    return True


def test_safetensors_knows_the_names_and_sizes() -> None:
    known = {name for name, dtype in DTYPES.items() if accepted(name, dtype.bits)}
    assert known == SAFETENSORS
    assert not any(accepted(name, DTYPES[name].bits + 8) for name in SAFETENSORS)


@each([dtype for dtype in IN_TORCH if dtype.is_float and dtype.bits <= 16])
def test_decode_agrees_with_torch(dtype: DType) -> None:
    bits = patterns(dtype)
    theirs = torch.from_numpy(bits.copy()).view(dtype.torch_dtype()).to(torch.float64).numpy()
    np.testing.assert_array_equal(dtype.decode(bits), theirs)


@each(SMALL)
def test_decode_agrees_with_the_definition(dtype: DType) -> None:
    """(-1)^s 2^(e - bias) (1 + m / 2^p), and 2^(1 - bias) m / 2^p where e = 0."""
    bits = patterns(dtype).astype(np.int64)
    magnitude = bits & (dtype.sign_bit - 1) if dtype.sign_bit else bits
    exponent, fraction = magnitude >> dtype.mantissa, magnitude & ((1 << dtype.mantissa) - 1)
    if dtype.mantissa:
        fraction += np.where(exponent > 0, 1 << dtype.mantissa, 0)
        exponent = np.maximum(exponent, 1) - 1 + dtype.tiny_exponent
    else:  # E8M0: powers of two, no zero
        fraction, exponent = np.ones_like(bits), exponent + dtype.tiny_exponent
    expected = np.ldexp(fraction.astype(np.float64), exponent)
    expected = np.where(bits & dtype.sign_bit, -expected, expected)
    values = dtype.decode(patterns(dtype))
    finite = np.isfinite(values)
    np.testing.assert_array_equal(values[finite], expected[finite])
    np.testing.assert_array_equal(np.signbit(values)[finite], (bits & dtype.sign_bit > 0)[finite])
    assert finite.any()
    assert np.isnan(values).any() == bool(dtype.nonfinite)


@each(SMALL)
def test_encode_undoes_decode(dtype: DType) -> None:
    bits = patterns(dtype)
    bits = bits[~np.isnan(dtype.decode(bits))]
    np.testing.assert_array_equal(dtype.encode(dtype.decode(bits)), bits)


@each(ROUNDED)
def test_nans_keep_their_signs(dtype: DType) -> None:
    bits = patterns(dtype)
    np.testing.assert_array_equal(np.signbit(dtype.decode(bits)), bits >> (dtype.bits - 1) == 1)
    nans = np.array([np.nan, -np.nan])
    canonical = dtype.nonfinite[0]
    assert dtype.encode(nans).tolist() == [canonical, canonical | dtype.sign_bit]


@each([dtype for dtype in SMALL if dtype.mantissa])
def test_encode_rounds_to_nearest_even(dtype: DType) -> None:
    values = dtype.decode(patterns(dtype)[: 1 << (dtype.bits - 1)])
    finite = np.flatnonzero(np.isfinite(values))
    low, high = values[finite[:-1]], values[finite[1:]]
    middle = (low + high) / 2
    for sign in (1.0, -1.0):
        encoded = [dtype.encode(sign * np.nextafter(middle, toward)) for toward in (low, high)]
        np.testing.assert_array_equal(dtype.decode(encoded[0]), sign * low)
        np.testing.assert_array_equal(dtype.decode(encoded[1]), sign * high)
        tie = dtype.encode(sign * middle)
        assert (tie % 2 == 0).all()
        assert np.isin(np.abs(dtype.decode(tie)), values[finite]).all()


@pytest.mark.parametrize("name", [dtype.name for dtype in ROUNDED])
@given(
    arrays(
        np.float64,
        st.integers(0, 20),
        elements=st.floats(allow_subnormal=True)
        | st.floats(-500, 500)
        | st.builds(lambda m, e: m * 2.0**e, st.integers(-(2**53), 2**53), st.integers(-190, 20)),
    )
)
def test_encode_finds_the_nearest_value(name: str, values: npt.NDArray[np.float64]) -> None:
    candidates = finite_values(name)
    values = values[np.abs(values) <= candidates[-1]]
    found = DTYPES[name].decode(DTYPES[name].encode(values))
    best = [np.abs(candidates - value).min() for value in values]
    np.testing.assert_array_equal(np.abs(found - values), best)


@each(ROUNDED)
def test_overflow_and_nan(dtype: DType) -> None:
    values = dtype.decode(patterns(dtype))
    top = values[np.isfinite(values)].max()
    beyond = dtype.decode(dtype.encode(np.array([2 * top, -2 * top, np.inf, np.nan])))
    if infinities(dtype):
        np.testing.assert_array_equal(beyond, [np.inf, -np.inf, np.inf, np.nan])
    else:
        assert np.isnan(beyond).all()


@each([dtype for dtype in FORMATS.values() if dtype.is_float and dtype.name != "F64"])
def test_overflow_begins_half_a_step_above_the_top(dtype: DType) -> None:
    overflow = dtype.nonfinite[1] if infinities(dtype) else dtype.nonfinite[0]
    below, top = dtype.decode(np.array([overflow - 2, overflow - 1], dtype.unsigned))
    limit = top + (top - below) / 2
    assert dtype.encode(np.array([np.nextafter(limit, 0)])).tolist() == [overflow - 1]
    assert dtype.encode(np.array([np.nextafter(limit, np.inf)])).tolist() == [overflow]


@each(FLOATS)
def test_canonical_nonfinite_patterns(dtype: DType) -> None:
    values = dtype.decode(np.array(dtype.nonfinite, dtype=dtype.unsigned))
    expected = [np.nan, np.inf, -np.inf] if infinities(dtype) else [np.nan] * len(values)
    np.testing.assert_array_equal(values, expected)
    if dtype.name in FORMATS:
        assert len(values) == (2 if dtype.name == "F8_E4M3" else 3)


@each([dtype for dtype in FLOATS if dtype.mantissa])
def test_tiny_exponent_is_that_of_the_least_positive_value(dtype: DType) -> None:
    one = np.array([1], dtype=dtype.unsigned)
    assert dtype.decode(one)[0] == 2.0**dtype.tiny_exponent


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(FaultError, match="unknown dtype 'C64': take one of F64, F32"):
        format_of("C64")
