"""Some bits of elements of any size, also of those that only a senseless seal masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parimend.dtypes import DTYPES, named
from parimend.stores.base import masked
from parimend.words.layout import Part

WHOLE = [name for name, dtype in DTYPES.items() if dtype.bits % 8 == 0]  # bytes


@pytest.mark.parametrize("dtype", [*WHOLE, "Q4_0", "Q8_0", "Q6_K"])
@settings(max_examples=20)
@given(st.integers(1, 5), st.data())
def test_masks_are_those_of_integers(dtype, count, data):
    size = named(dtype).itemsize
    mask = data.draw(st.integers(1, (1 << 8 * size) - 1))
    elements = data.draw(
        st.lists(st.binary(min_size=size, max_size=size), min_size=count, max_size=count)
    )
    part = Part("w", dtype, (count,), 0, count, mask=mask)
    expected = b"".join(
        (int.from_bytes(each, "little") & mask).to_bytes(size, "little") for each in elements
    )
    assert masked(np.frombuffer(b"".join(elements), np.uint8), part).tobytes() == expected
