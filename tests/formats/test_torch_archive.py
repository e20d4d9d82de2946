"""Archives of torch, against torch; pickles are read and never run."""

import io
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import make_torch

from parimend import check_file, load_file, protect_file, repair_file, save_file
from parimend.errors import FormatError
from parimend.formats.pickled import UnreadableError, views
from parimend.outcomes import Verdict
from parimend.stores.naming import leaves
from tests.files.conftest import flip_bit
from tests.formats.conftest import parse


@pytest.fixture
def saved(tmp_path):
    """Saves something and gives its entries by their names."""

    def save(value, **options):
        torch.save(value, tmp_path / "model.pt", **options)
        return {entry.name: entry for entry in parse(tmp_path / "model.pt").entries}

    return save


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


def checkpoint():
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    more = defaultdict(list, {"ema": [torch.ones(3), (torch.ones(2), "x")], 7: torch.ones(1)})
    return {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "more": more}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_names_are_those_of_live_models(saved, protocol):
    value = checkpoint()
    found = saved(value, pickle_protocol=protocol)
    live = {name: leaf.value for name, leaf in leaves(value).items()}
    assert {name: entry.shape for name, entry in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in live.items()
    }


def test_a_whole_module_has_the_names_of_its_state(saved):
    network = Network()
    assert set(saved(network)) == set(network.state_dict())


def test_a_scripted_module_has_the_names_of_its_state(tmp_path):
    network = Network().eval()
    path = tmp_path / "model.pt"
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        torch.jit.trace(network, torch.ones(1, 3)).save(path)
    layout = parse(path)
    assert set(network.state_dict()) <= {entry.name for entry in layout.entries}
    original = path.read_bytes()
    protect_file(path, 3)
    damaged = bytearray(original)
    damaged[layout.entries[0].begin] ^= 1
    damaged[5] ^= 1
    path.write_bytes(damaged)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.complex128, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(saved, dtype):
    [entry] = saved({"w": torch.zeros(2, 3, dtype=dtype)}).values()
    assert (entry.name, entry.shape) == ("w", (2, 3))
    part = entry.part()
    assert (part.dtype, part.shape) == (entry.dtype, (2, 3))
    assert part.itemsize == dtype.itemsize


def test_storages_that_several_tensors_share(saved):
    table = torch.arange(24.0).reshape(4, 6)
    found = saved({"row": table[1], "part": table[:2], "all": table, "turned": table.t()})
    assert {name: entry.shape for name, entry in found.items()} == {"all": (4, 6)}
    found = saved({"row": table[1], "turned": table.t()})
    assert {name: entry.shape for name, entry in found.items()} == {"row": (24,)}
    with warnings.catch_warnings(action="ignore"):  # typed storages are deprecated
        found = saved({"typed": table.storage(), "bare": torch.ones(3).untyped_storage()})
    assert {name: (e.dtype, e.shape) for name, e in found.items()} == {
        "typed": ("F32", (24,)),
        "bare": ("U8", (12,)),
    }


def test_a_tensor_alone_and_one_of_another_type(saved):
    [entry] = saved(torch.ones(3)).values()
    assert (entry.name, entry.shape) == ("data/0", (3,))
    sparse = torch.eye(3).to_sparse()
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    found = saved({"sparse": sparse, "q": quantized, "p": torch.nn.Parameter(torch.ones(2))})
    assert {"q", "p"} < set(found)
    assert found["q"].dtype == "I8"
    assert all(name.startswith("sparse") for name in set(found) - {"q", "p"})


def replaced(path, name, content):
    """Put something else into a member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, content if each.endswith(name) else data)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_is_run(tmp_path, saved):
    mark = tmp_path / "mark"
    found = saved({"w": torch.ones(3), "evil": Evil(mark)})
    assert set(found) == {"w"}
    protect_file(tmp_path / "model.pt", 2)
    assert check_file(tmp_path / "model.pt").verdict is Verdict.CLEAN
    assert not mark.exists()
    with pytest.raises(FormatError, match=r"model\.pt cannot be loaded by torch.*mkdir"):
        load_file(tmp_path / "model.pt")
    assert not mark.exists()


def circle():
    value = []
    value.append(value)
    return pickle.dumps(value, 2)


def doubled(depth):
    """A tree of 2^depth leaves, of which every level is there once."""
    value = ()
    for _ in range(depth):
        value = (value, [value])
    return pickle.dumps(value, 2)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b".", b"\x80\x02.", b"(", b"t.", b"hello", b"\x80\x02}q\x00(u.", b"K\x01b."),
        *(circle(), doubled(200), b"]" * 15_000 + b"a" * 14_999 + b".", b"(" * 9000 + b"t" * 8999),
        pickle.dumps(np.float64(0.5)),
        b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.",
        b"\x80\x02X\x07\0\0\0storageQ.",
        b"I" + b"9" * 9000 + b"\n.",
        b"\x80\x02U\x01\xff.",
        b"\x8d" + b"\xff" * 8 + b"x.",
    ],
    ids=lambda content: str(len(content)),
)
def test_pickles_that_name_no_tensors(tmp_path, saved, content):
    """Then the names of the members are left."""
    saved({"w": torch.ones(3)})
    path = tmp_path / "model.pt"
    replaced(path, "data.pkl", content)
    [entry] = parse(path).entries
    assert (entry.name, entry.dtype, entry.shape) == ("data/0", "U8", (12,))
    protect_file(path, 2)
    assert check_file(path).verdict is Verdict.CLEAN


@given(st.binary(max_size=60))
def test_any_bytes_are_tensors_or_unreadable(content):
    with suppress(UnreadableError):
        assert list(views(content)) == []


def test_damaged_pickles_of_torch(saved, tmp_path, rng):
    saved(checkpoint())
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        content = archive.read("model/data.pkl")
    count = 0
    for at in rng.choice(len(content), 300, replace=False):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            count += len(list(views(bytes(damaged)))) > 0
        except UnreadableError:
            continue
    assert count > 30


def test_too_many_steps(saved, monkeypatch):
    monkeypatch.setattr("parimend.formats.pickled._MOST_STEPS", 20)
    [entry] = saved({"w": torch.ones(3)}).values()
    assert entry.name == "data/0"


def test_names_that_are_hard_to_print(saved):
    found = saved({"a\ud800b": torch.ones(1), 2: torch.ones(2), None: {"x" * 5000: torch.ones(3)}})
    assert sorted(found)[:2] == ["2", "a\\ud800b"]
    assert len(max(found, key=len)) == 1000


def test_names_that_collide(saved):
    found = saved({"a.b": torch.ones(1), "a": {"b": torch.ones(2)}, "data/0": torch.ones(3)})
    assert len(found) == 3
    assert {"a.b", "data/0"} < set(found)


def test_a_damaged_pickle_is_not_protected(saved, tmp_path):
    saved({"w": torch.ones(3)})
    path = tmp_path / "model.pt"
    flip_bit(path, path.read_bytes().index(b"FloatStorage"))
    with pytest.raises(FormatError, match=r"damaged: model/data\.pkl is not as it was written"):
        protect_file(path, 2)


def test_archives_without_checksums(tmp_path):
    path = tmp_path / "model.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(30)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    original = path.read_bytes()
    assert parse(path).entries[0][:3] == ("w", "F32", (30,))
    protect_file(path, 2)
    damaged = bytearray(original)
    damaged[original.index(b"FloatStorage")] ^= 1
    path.write_bytes(damaged)
    assert repair_file(path).verdict is Verdict.CORRECTED
    assert path.read_bytes() == original


def test_the_other_byte_order_is_bytes(saved, tmp_path):
    saved({"w": torch.ones(3), "b": torch.ones(2, dtype=torch.int8)})
    path = tmp_path / "model.pt"
    replaced(path, "byteorder", b"big")
    assert [part.dtype for part in parse(path).parts] == ["U8", "U8"]
    assert [entry.dtype for entry in parse(path).entries] == ["F32_BE", "I8_BE"]


def test_old_files_of_torch_are_bytes(saved):
    [entry] = saved({"w": torch.ones(3)}, _use_new_zipfile_serialization=False).values()
    assert entry.name == "bytes"


def test_saving_and_loading(tmp_path):
    path = tmp_path / "state.pt"
    state = OrderedDict(w=torch.arange(5.0), n=torch.tensor(3))
    save_file(state, path, errors=2)
    flip_bit(path, parse(path).entries[0].begin)
    [change] = check_file(path).changes
    assert (change.tensor, change.index) == ("w", (0,))
    with pytest.warns(UserWarning, match="is damaged, what is loaded is not"):
        loaded = load_file(path, on_damage="repair")
    assert list(loaded) == ["w", "n"]
    assert torch.equal(loaded["w"], state["w"])


def test_protecting_some_tensors(tmp_path, rng):
    path = make_torch(tmp_path, rng)
    [made] = protect_file(path, 2, only=["model.*"])
    assert [part.name for word in made.seal.words for part in word.parts] == [
        *("model.fc.weight", "model.fc.bias", "model.ids", "model.scale")
    ]
    assert check_file(path).verdict is Verdict.CLEAN


def test_what_torch_reads_is_what_was_saved(tmp_path, rng):
    path = make_torch(tmp_path, rng)
    before = torch.load(path, weights_only=True)
    protect_file(path, 5)
    content = bytearray(path.read_bytes())
    for entry in parse(path).entries[:5]:
        content[entry.begin] ^= 128
    content[-20:] = bytes(20)
    path.write_bytes(content)
    with pytest.raises((RuntimeError, OSError)):
        torch.load(path, weights_only=True)
    repair_file(path)
    after = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    assert torch.equal(before["model"]["fc.weight"], after["model"]["fc.weight"])
