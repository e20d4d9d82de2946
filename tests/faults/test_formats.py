"""Formats that numpy lacks, against their definition and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parimend.faults import FaultError
from parimend.faults.formats import FORMATS, Format, format_of

TORCH = {
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
}


@pytest.fixture(params=sorted(TORCH))
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def patterns(form: Format) -> np.ndarray:
    return np.arange(1 << form.width).astype(form.unsigned)


def test_decode_agrees_with_torch(form: Format) -> None:
    bits = patterns(form)
    theirs = torch.from_numpy(bits.copy()).view(TORCH[form.name]).to(torch.float64).numpy()
    np.testing.assert_array_equal(form.decode(bits), theirs)
    np.testing.assert_array_equal(np.signbit(form.decode(bits)), bits >> (form.width - 1) == 1)


def test_encode_undoes_decode(form: Format) -> None:
    bits = patterns(form)
    bits = bits[~np.isnan(form.decode(bits))]
    np.testing.assert_array_equal(form.encode(form.decode(bits)), bits)


def test_encode_rounds_to_nearest_even(form: Format) -> None:
    values = form.decode(patterns(form)[: 1 << (form.width - 1)])
    finite = np.flatnonzero(np.isfinite(values))
    low, high = values[finite[:-1]], values[finite[1:]]
    middle = (low + high) / 2
    for sign in (1.0, -1.0):
        encoded = [form.encode(sign * np.nextafter(middle, toward)) for toward in (low, high)]
        np.testing.assert_array_equal(form.decode(encoded[0]), sign * low)
        np.testing.assert_array_equal(form.decode(encoded[1]), sign * high)
        tie = form.encode(sign * middle)
        assert (tie % 2 == 0).all()
        assert np.isin(np.abs(form.decode(tie)), values[finite]).all()


def test_overflow_and_nan(form: Format) -> None:
    values = form.decode(patterns(form))
    top = values[np.isfinite(values)].max()
    beyond = form.decode(form.encode(np.array([2 * top, -2 * top, np.inf, np.nan])))
    if form.infinities:
        np.testing.assert_array_equal(beyond, [np.inf, -np.inf, np.inf, np.nan])
    else:
        assert np.isnan(beyond).all()


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.is_float])
def test_canonical_nonfinite_patterns(name: str) -> None:
    form = FORMATS[name]
    values = form.decode(np.array(form.nonfinite, dtype=form.unsigned))
    expected = [np.nan, np.inf, -np.inf] if form.infinities else [np.nan, np.nan]
    np.testing.assert_array_equal(values, expected)


def test_tiny_exponent_is_that_of_the_least_positive_value() -> None:
    for form in FORMATS.values():
        if form.is_float:
            one = np.array([1], dtype=form.unsigned)
            assert form.decode(one)[0] == 2.0**form.tiny_exponent


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(FaultError, match="unknown dtype 'C64': take one of F64, F32"):
        format_of("C64")
