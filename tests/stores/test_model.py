"""Pieces of tensors in memory, whatever their strides are."""

import platform
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import parimend as pm
from parimend.errors import WordError
from parimend.kernels.pieces_torch import bytes_of
from parimend.outcomes import Verdict
from parimend.stores import model as model_store
from parimend.stores.model import ModelTensors
from tests.elsewhere import Distant


@st.composite
def views(draw):
    """A tensor of any strides, and a piece of it."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    tensor = torch.arange(2.0 * max(int(np.prod(shape)), 1) * 3).reshape(*shape, 3, 2)
    tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
    cut = tuple(slice(None, None, draw(st.integers(1, 2))) for _ in tensor.shape)
    tensor = tensor[cut] if draw(st.booleans()) else tensor.select(0, 0)
    first = draw(st.integers(0, tensor.numel() - 1))
    return tensor, first, draw(st.integers(first + 1, tensor.numel()))


@given(views())
def test_pieces_have_the_bytes_of_their_elements(drawn):
    tensor, first, last = drawn
    right = tensor.contiguous().numpy().reshape(-1)[first:last].tobytes()
    store = ModelTensors({"w": tensor})
    piece = replace(store.whole()[0], start=first, count=last - first)
    assert store.read(piece).tobytes() == right
    elements = ModelTensors({"w": Distant(tensor)}).resident(piece)
    assert bytes_of(elements).inner.numpy().tobytes() == right


@given(views(), st.integers(0, 7))
def test_any_bit_of_a_truth_value_is_seen_and_put_back(drawn, bit):
    tensor, at, _ = drawn
    values = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.bool).fill_(True)
    cells = values.view(torch.uint8)
    seal = pm.protect_({"w": values}, errors=1)
    index = np.unravel_index(at, tensor.shape or (1,)) if tensor.dim() else ()
    cells[tuple(index)] ^= 1 << bit
    assert pm.check({"w": values}, seal).verdict == "correctable"
    assert pm.repair_({"w": values}, seal).verdict == "corrected"
    assert bool((cells == 1).all())


def test_reading_shares_the_memory_of_what_is_contiguous():
    tensor = torch.arange(12.0).reshape(3, 4)
    store = ModelTensors({"w": tensor})
    data = store.read(replace(store.whole()[0], start=5, count=2))
    tensor[1, 1] = -1.0
    assert data.view(np.float32).tolist() == [-1.0, 6.0]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_memory_that_can_only_be_read_is_not_written(tmp_path, recwarn):
    """Which would end the process."""
    np.arange(3000, dtype=np.float32).tofile(tmp_path / "w")
    mapped = torch.from_numpy(np.memmap(tmp_path / "w", np.float32, "r"))
    state = {"mapped": mapped, "own": torch.arange(9.0)}
    seal = pm.protect_(state, 5, per="tensor")
    np.memmap(tmp_path / "w", np.float32, "r+")[2000] = 7.0
    state["own"][3] = 7.0
    assert pm.check(state, seal).verdict is Verdict.CORRECTABLE
    with pytest.raises(WordError, match="mapped lies in memory that can only be read"):
        pm.repair_(state, seal)
    kinds = [event.kind for event in pm.Scrubber(state, seal).sweep()]
    assert kinds == ["unwatched", "repaired"]
    assert state["own"].tolist() == list(range(9))
    for carrier in ("real", "lowbits"):
        with pytest.raises(WordError, match="mapped lies in memory"):
            pm.protect_({"own": torch.randn(5000), "mapped": mapped}, 5, carrier)
    state["mapped"] = mapped.clone()
    assert pm.repair_(state, seal).verdict is Verdict.CORRECTED


CUT = """
import os, sys
import numpy as np
import torch
from safetensors.torch import load_file, save_file
import parimend as pm

os.chdir(sys.argv[1])
n = 1 << 18
w = torch.arange(float(n))
save_file({"w": w}, "safe")
torch.save({"w": w}, "torch")
for name in "raw", "shared", "strided":
    w.numpy().tofile(name)
strided = torch.from_file("strided", shared=False, size=n).reshape(512, 512).t()
models = {
    "safe": load_file("safe"),
    "torch": torch.load("torch", mmap=True),
    "raw": {"w": torch.from_numpy(np.memmap("raw", np.float32, "r+"))},
    "shared": {"w": torch.from_file("shared", shared=True, size=n)},
    "strided": {"w": strided},
}
for name, state in models.items():
    state["own"] = torch.arange(99.0)
    seal = pm.protect_(state, 5, per="tensor")
    os.truncate(name, os.path.getsize(name) // 2)
    for verb in pm.check, pm.repair_, lambda state, seal: pm.protect_(state, 5):
        try:
            print(name, verb(state, seal))
        except pm.errors.WordError as error:
            assert "w lies in memory that cannot be read any more" in str(error)
    state["own"][7] = -1.0
    kinds = sorted(event.kind for event in pm.Scrubber(state, seal).sweep())
    assert kinds == ["repaired", "unwatched"], kinds
print("alive")
"""


_LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


@pytest.mark.skipif(_LINUX < (5, 14), reason="older systems do not tell it")
def test_a_mapped_file_that_is_cut_short_ends_no_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CUT, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("of_numpy", [False, True])
def test_memory_is_looked_up_once_for_many_words(monkeypatch, of_numpy):
    """It takes milliseconds, and a model may have thousands of rows; that of PyTorch is known."""
    calls, read_only = [], model_store._read_only

    def counted(tensors):
        calls.append(tensors)
        return read_only(tensors)

    monkeypatch.setattr(model_store, "_read_only", counted)

    def ones():
        return torch.from_numpy(np.ones((8, 600), np.float32)) if of_numpy else torch.ones(8, 600)

    state = {"a": ones(), "b": ones()}
    store = ModelTensors(state)
    for part in store.whole():
        for start in range(0, part.count, 600):
            row = replace(part, start=start, count=600)
            store.write(row, None, np.zeros(row.nbytes, np.uint8))
    assert len(calls) == of_numpy
    assert not any(each.any() for each in state.values())
    state["a"].data = ones()  # elsewhere, so it is looked up anew
    store.write(store.whole()[0], np.array([3]), np.zeros((1, 4), np.uint8))
    assert len(calls) == 2 * of_numpy
    assert state["a"].sum() == 8 * 600 - 1


def under_vmap(call):
    torch.func.vmap(lambda _: call())(torch.ones(2))


def under_fake_tensors(call):
    with FakeTensorMode():
        call()


def under_a_trace(call):
    make_fx(lambda x: call() or x)(torch.ones(2))


@pytest.mark.parametrize("inside", [under_vmap, under_fake_tensors, under_a_trace])
def test_values_are_not_looked_at_where_there_may_be_none(inside):
    model = torch.nn.Linear(3, 2)
    seal = pm.protect_(model, 2)
    for call in (pm.check, pm.repair_, pm.refresh, lambda model, _: pm.protect_(model, 2)):
        with pytest.raises(WordError, match="has no values to look at inside"):
            inside(lambda call=call: call(model, seal))
    assert pm.check(model, seal).verdict is Verdict.CLEAN
