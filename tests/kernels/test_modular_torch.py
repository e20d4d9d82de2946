"""Sums where the weights are: the same as on the CPU, and nothing else leaves the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parimend as pm
from parimend.codes import Hashed, Modular
from parimend.errors import SpecError, WordError
from parimend.kernels import modular_torch as device
from parimend.outcomes import Verdict
from parimend.scrub import Scrubber
from parimend.stores.model import ModelTensors
from parimend.words.bits import byte_view, words_of
from tests.elsewhere import Distant

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]


@pytest.fixture
def brought():
    """How many bytes left the device since the last call."""

    def count():
        bytes_, Distant.brought = Distant.brought, 0
        return bytes_

    count()
    return count


def patterns(dtype, count, seed):
    """Random bit patterns, NaN among them."""
    data = np.random.default_rng(seed).integers(0, 256, (count + 1) * 16, dtype=np.uint8)
    data[::3] = 255
    if dtype is torch.bool:
        data &= 1
    return torch.from_numpy(data).view(dtype)[:count]


@given(
    st.sampled_from(DTYPES),
    st.integers(1, 700),
    st.integers(0, 2**26),
    st.integers(1, 40),
    st.integers(0, 2**64 - 1),
    st.sampled_from([1, 2]),
)
def test_they_are_those_of_the_code(dtype, count, group, errors, seed, version):
    elements = patterns(dtype, count, seed)
    words = words_of(byte_view(elements))
    code = replace(Modular.for_errors(16 * group + len(words), errors, seed), version=version)
    expected = code.accumulate(code.zeros(), words, 16 * group)
    for x in (elements, Distant(elements)):
        found = device.sums_of(code, code.bands, [(x, 16 * group)])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bands", range(2, 9))
def test_any_number_of_bands_and_the_last_group(bands):
    code = Modular(n=device.GROUP * ((1 << 32) - 1), m=17 * bands, seed=3, bands=bands)
    words = np.full(32, 0xFFFFFFFF, np.uint32)
    start = code.n - 32
    elements = torch.from_numpy(words.view(np.int32))
    expected = code.accumulate(code.zeros(), words, start)
    found = device.sums_of(code, bands, [(elements, start)])
    np.testing.assert_array_equal(found, expected)
    few = device.sums_of(code, bands - 1, [(elements, start)])
    np.testing.assert_array_equal(few, expected[:, : bands - 1])


@pytest.mark.parametrize("version", [1, 2])
def test_many_groups_at_once(version):
    code = replace(Modular.for_errors(3_000_000, 3), version=version)
    words = np.random.default_rng(0).integers(1 << 31, 1 << 32, 3_000_000, dtype=np.uint32)
    found = device.sums_of(code, code.bands, [(torch.from_numpy(words.view(np.int32)), 0)])
    np.testing.assert_array_equal(found, code.syndrome(words))


def test_views_that_are_computed_when_read():
    z = torch.randn(9, dtype=torch.complex64)
    code = Modular.for_errors(18, 2)
    for view in (z.conj(), z.imag.neg(), torch._neg_view(z)):
        expected = code.accumulate(code.zeros(), words_of(byte_view(view)))
        found = device.sums_of(code, code.bands, [(view, 0)])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("few", [False, True])
def test_those_with_power_sums_beside_them(few):
    words = np.random.default_rng(0).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    code = Hashed.for_errors(60_000, 1001)
    sums = code.zeros(few)
    code.accumulate_resident(sums, [(Distant(torch.from_numpy(words.view(np.int32))), 160)])
    np.testing.assert_array_equal(sums, code.accumulate(code.zeros(few), words, 160))


def test_nothing_has_no_sums():
    code = Modular.for_errors(100, 3)
    assert not device.sums_of(code, code.bands, [(torch.empty(0), 0)]).any()


@pytest.mark.parametrize("start", [-16, 8, 96])
def test_they_must_be_words_of_the_code(start):
    code = Modular.for_errors(100, 3)
    with pytest.raises(SpecError, match=rf"10 words from {start}: the start must be a multiple"):
        device.sums_of(code, code.bands, [(torch.zeros(10), start)])


def state():
    torch.manual_seed(0)
    return {
        "weight": torch.randn(300, 200),
        "turned": torch.randn(30, 20).T,
        "half": torch.randn(7).bfloat16(),
        "scale": torch.tensor(0.5),
        "none": torch.empty(0, 3),
    }


def test_a_model_elsewhere_is_checked_there(brought):
    here = state()
    seal = pm.protect_(here, errors=10)
    there = {name: Distant(tensor) for name, tensor in here.items()}
    assert pm.protect_(there, errors=10).to_bytes() == seal.to_bytes()
    assert brought() >= 240_000  # SHA-256 is computed here
    assert pm.check(there, seal).verdict is Verdict.CLEAN
    assert 0 < brought() < 20_000  # sums of 64 bits; the weights stay
    here["weight"][3, 5] = float("nan")
    [change] = pm.check(there, seal).changes
    assert (change.tensor, change.index) == ("weight", (3, 5))


def test_a_scrubber_stays_there(brought):
    here = state()
    seal = pm.protect_(here, errors=10)
    scrubber = Scrubber({name: Distant(tensor) for name, tensor in here.items()}, seal)
    assert scrubber.sweep() == []
    assert 0 < brought() < 20_000
    size = sum(tensor.numel() * tensor.element_size() for tensor in here.values())
    assert scrubber.counters.bytes_read == size


def test_what_has_no_plain_memory_is_still_refused():
    for tensor in (torch.empty(3, device="meta"), torch.eye(3).to_sparse()):
        tensors = ModelTensors({"w": tensor})
        assert tensors.resident(tensors.whole()[0]) is None
        with pytest.raises(WordError):
            tensors.read(tensors.whole()[0])
