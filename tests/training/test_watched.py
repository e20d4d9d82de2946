"""Words that are summed up again and again, in place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parimend.carriers import Request, Sidecar, choose, summing
from parimend.stores.model import ModelTensors
from parimend.training import watched
from parimend.training.watched import Watched

KINDS = {
    "floats": lambda n: torch.ones(n),
    "bytes": lambda n: torch.ones(n, dtype=torch.uint8),
    "not aligned": lambda n: torch.ones(n + 3, dtype=torch.uint8)[3:],
    "with gaps": lambda n: torch.ones(n, 2)[:, 0],
    "conjugated": lambda n: torch.ones(n, dtype=torch.complex64).conj(),
    "a scalar": lambda n: torch.tensor(float(n)),
}
tensors = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 400)), min_size=1)


@given(tensors, st.integers(0, 2**32), st.booleans())
def test_what_is_summed_up_is_what_is_there(kinds, where, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "_SMALL", 64)
        patch.setattr(summing, "_SHARE", 64 if threads else 1 << 21)
        held = {f"{i} {kind}": KINDS[kind](n) for i, (kind, n) in enumerate(kinds)}
        store = ModelTensors(held)
        [chosen] = choose(store, Request(2, Sidecar()))
        word = Watched(chosen, held)
        for _ in range(2):
            word.keep()
            assert not word.differs()
            now = summing.sums(chosen.code, chosen.word, store)
            np.testing.assert_array_equal(word.kept().target, now)
            tensor = held[list(held)[where % len(held)]]
            tensor.view(-1)[where % tensor.numel()] += 1
            assert word.differs()


def test_only_small_tensors_are_read_together():
    sizes = [1000, 1 << 20, 1000, 1001, 1 << 16, 1 << 16]
    store = ModelTensors({str(i): torch.ones(size) for i, size in enumerate(sizes)})
    [chosen] = choose(store, Request(2, Sidecar()))
    groups = [
        [int(part.name) for part in parts] for parts, _ in summing.reads(chosen.word, small=1 << 15)
    ]
    assert groups == [[0], [1], [2, 3], [4], [5]]
