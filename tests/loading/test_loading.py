"""Protection where models are saved and loaded."""

import fcntl
import json
import math
import multiprocessing
import os
import pickle
import time
import warnings
from itertools import pairwise

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as plain_load
from safetensors.torch import save_file as plain_save
from torch.nn import UninitializedParameter

import parimend as pm
from parimend.atomic import in_turn
from parimend.dtypes import DTYPES
from parimend.errors import DamageError, FormatError, SealError, SpecError, WordError
from parimend.files import sidecar_of
from tests.files.conftest import damage, flip, flip_bit
from tests.stores.test_naming import Flattened


def state():
    torch.manual_seed(0)
    return {
        "fc.weight": torch.randn(30, 40),
        "fc.bias": torch.randn(30).bfloat16(),
        "f8": torch.randn(16).to(torch.float8_e4m3fn),
        "step": torch.tensor(3),
        "none": torch.empty(0, 2),
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape
        assert (a[name].view(-1).view(torch.uint8) == b[name].view(-1).view(torch.uint8)).all()


@pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
def test_round_trip(tmp_path, carrier):
    path = tmp_path / "model.safetensors"
    tensors = state() if carrier == "sidecar" else {"w": torch.randn(60, 70)}
    pm.save_file(tensors, path, 10, carrier, metadata={"author": "me"})
    same(pm.load_file(path), plain_load(path))
    if carrier == "sidecar":
        same(pm.load_file(path), tensors)
    pm.save_file(tensors, path, 10)  # over it
    same(pm.load_file(path), tensors)
    assert len(list(tmp_path.iterdir())) == 2


KNOWN = (
    "BOOL F4 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 "
    "C64 F64 I64 U64 F6_E2M3 F6_E3M2"
)


@pytest.mark.parametrize("dtype", KNOWN.split())
@pytest.mark.parametrize("shape", [(3, 8), (16,), (0, 4), (2, 0), (), (8, 3)])
def test_every_dtype_comes_back_as_the_library_gives_it(tmp_path, dtype, shape):
    count, bits = math.prod(shape), DTYPES[dtype].bits
    if count * bits % 8:
        shape, count = (8,), 8  # half a byte cannot be stored
    size = count * bits // 8
    entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"w": entry}).encode()
    path = tmp_path / "model.safetensors"
    data = bytes(i % 2 for i in range(size))  # also good for booleans
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    pm.protect_file(path, errors=3)
    try:
        expected = plain_load(path)
    except (SafetensorError, RuntimeError):
        with pytest.raises(WordError, match=f"w is {dtype}.* torch "):
            pm.load_file(path)
    else:
        same(pm.load_file(path), expected)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_views_that_are_read_differently_are_saved_as_they_are_read(tmp_path, name):
    values = torch.randn(5, 3, dtype=torch.complex64)
    views = {
        "conjugated": values.conj(),
        "negated": torch._neg_view(torch.randn(7)),
        "both": torch._neg_view(torch.randn(4, dtype=torch.complex64).conj()),
        "plain": values,
    }
    pm.save_file(views, tmp_path / name, errors=2)
    loaded = pm.load_file(tmp_path / name)
    assert all(torch.equal(loaded[each], view) for each, view in views.items())


def test_tensors_are_saved_however_they_lie(tmp_path):
    path = tmp_path / "model.safetensors"
    w, flat = torch.arange(24.0), torch.arange(40.0)
    values = torch.randn(6, dtype=torch.complex64)
    tensors = {
        "turned": w.view(4, 6).t(),
        "images": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "strided": torch.arange(9.0)[::2],
        "expanded": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        # Of one memory, and none of it twice.
        **{"a": flat[:10], "b": flat[10:20], "left": flat[20:].view(4, 5)[:, :2]},
        **{"right": flat[20:].view(4, 5)[:, 2:], "re": values.real, "im": values.imag},
        **{"none": torch.empty(0), "empty": flat[3:3]},
    }
    pm.save_file(tensors, path, errors=2)
    same(pm.load_file(path), {name: t.detach().contiguous() for name, t in tensors.items()})


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (lambda w: {"b": w, "a": w}, WordError, "b and a share memory.*clone"),
        (lambda w: {"a": w, "b": w.t()}, WordError, "a and b share memory"),
        (lambda w: {"row": w[1], "x": torch.ones(3), "all": w}, WordError, "all and row share"),
        (lambda w: {"a": w[:, :2], "b": w[:, 1:]}, WordError, "a and b share memory"),
        (lambda w: {"a": w, "bits": w.view(torch.int32)}, WordError, "a and bits share"),
        (lambda w: {"w": w.numpy()}, WordError, r"w is ndarray, .*from_numpy"),
        (lambda w: {"w": w, "epoch": 3}, WordError, "epoch is int, .*another name"),
        (lambda w: {"w": w, "inner": {"a": w}}, WordError, "inner is dict"),
        (lambda w: {"w": w.to_sparse()}, WordError, "w has no plain memory"),
        (lambda w: {"w": w.to("meta")}, WordError, "w has no plain memory"),
        (lambda w: {"w": Flattened(w, w)}, WordError, "w has no plain memory"),
        (lambda w: {"w": UninitializedParameter()}, WordError, "w has no plain memory"),
        (lambda w: {"w": w.to(torch.complex128)}, WordError, "w is C128, which safetensors"),
        (lambda w: {"__metadata__": w}, SpecError, "'__metadata__' cannot be the name"),
        (lambda w: {"w\udcff": w}, SpecError, r"'w\\udcff' cannot be the name"),
        (lambda w: {3: w}, SpecError, "texts as names"),
        (lambda w: [w], SpecError, "not list"),
        (lambda w: w, SpecError, "not Tensor"),
        (lambda w: torch.nn.Linear(2, 2), SpecError, r"state_dict\(\).*not Linear"),
    ],
)
def test_what_a_safetensors_file_cannot_hold(tmp_path, tensors, error, message):
    path = tmp_path / "model.safetensors"
    pm.save_file({"w": torch.ones(3)}, path, errors=2)
    with pytest.raises(error, match=message):
        pm.save_file(tensors(torch.arange(9.0).view(3, 3)), path, errors=2)
    same(pm.load_file(path), {"w": torch.ones(3)})
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, sidecar_of(path).name]


@pytest.mark.parametrize("metadata", [{"epoch": 3}, {"from": "\udcff.bin"}])
def test_metadata_are_texts(tmp_path, metadata):
    with pytest.raises(SpecError, match="metadata are texts by name"):
        pm.save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors", 2, metadata=metadata)


def test_pairs_of_four_bits_are_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    pairs = torch.arange(12, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(3, 4)
    pm.save_file({"w": pairs}, path, errors=2)
    damage(path, -3, b"\xff")
    with pytest.warns(UserWarning, match="what is loaded is not"):
        loaded = pm.load_file(path, "repair")["w"]
    assert (loaded.dtype, loaded.shape) == (pairs.dtype, pairs.shape)
    assert (loaded.view(torch.uint8) == pairs.view(torch.uint8)).all()
    with pytest.raises(WordError, match=r"one is one pair of 4-bit numbers, .*reshape\(1\)"):
        pm.save_file({"one": pairs[0, 0]}, path, errors=2)
    pm.save_file({"one": pairs[0, 0].reshape(1)}, path, errors=2)


def test_policies(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    pm.save_file(state(), path, errors=10)
    flip(path, rng, 5)
    damaged = path.read_bytes()
    with pytest.raises(
        DamageError, match=r"is damaged: 5 wrong elements, can be .*; repair it: parimend repair"
    ):
        pm.load_file(path)
    with pytest.raises(DamageError) as raised:
        pm.verify(path)
    [found] = pickle.loads(pickle.dumps(raised.value)).files
    assert (found.path, found.verdict, len(found.changes)) == (str(path), "correctable", 5)
    with pytest.warns(UserWarning, match="is damaged: 5 wrong elements"):
        pm.load_file(path, "warn")
    with pytest.warns(UserWarning, match="is damaged: 5 wrong elements"):
        pm.verify(path, "warn")
    with pytest.warns(UserWarning, match="what is loaded is not"):
        same(pm.load_file(path, "repair"), state())
    assert path.read_bytes() == damaged
    assert pm.verify(path, "repair").verdict.value == "corrected"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(pm.load_file(path, "warn"), state())
    with pytest.raises(SpecError, match="on_damage must be"):
        pm.load_file(path, "ignore")


def test_beyond_repair(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    pm.save_file(state(), path, errors=2)
    flip(path, rng, 300)
    for act in (pm.load_file, pm.verify):
        with pytest.raises(DamageError, match="uncorrectable"):
            act(path, "repair")


def test_a_file_of_which_nobody_knows_what_lies_where_is_not_loaded(tmp_path):
    """What is protected can be put back, but what is not has moved."""
    path = tmp_path / "model.safetensors"
    plain_save({"a": torch.arange(1000.0), "b": torch.arange(1000.0)}, path)
    pm.protect_file(path, errors=4, only=["a"])
    good = path.read_bytes()
    path.write_bytes(good[:-40] + b"more" + good[-40:])
    assert pm.repair_file(path).verdict is pm.Verdict.UNCORRECTABLE
    for policy in ("raise", "repair"):
        with pytest.raises(DamageError, match="4 bytes too many"):
            pm.load_file(path, on_damage=policy)
    path.write_bytes(good[:10] + b"x" + good[11:])
    with pytest.warns(UserWarning, match="what is loaded is not"):
        assert torch.equal(pm.load_file(path, on_damage="repair")["b"], torch.arange(1000.0))


def test_a_damaged_header_does_not_stop_loading(tmp_path):
    path = tmp_path / "model.safetensors"
    pm.save_file(state(), path, errors=2)
    damage(path, 0, b"\xff" * 30)
    with pytest.warns(UserWarning, match="what is loaded is not"):
        same(pm.load_file(path, "repair"), state())


def test_unprotected(tmp_path):
    path = tmp_path / "model.safetensors"
    pm.save_file(state(), path, errors=2)
    sidecar_of(path).unlink()
    with pytest.raises(SealError, match="is not protected"):
        pm.load_file(path)


def test_no_name_keeps_the_seal_of_what_was_there(tmp_path):
    """Links lead from one name to the next, and each of them may have a seal."""
    names = [tmp_path / f"{each}.safetensors" for each in ("end", "way", "link")]
    pm.save_file(state(), names[0], errors=2)
    for to, path in pairwise(names):
        path.symlink_to(to.name)
        pm.protect_file(path, errors=2)
    new = {"w": torch.ones(9)}
    pm.save_file(new, names[2], errors=2)
    same(pm.load_file(names[2]), new)
    assert [sidecar_of(path).exists() for path in names] == [False, False, True]


def test_checkpoints_with_an_optimizer(tmp_path, rng):
    model = torch.nn.Linear(50, 40)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 50)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.pt"
    pm.save_file(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3},
        path,
        errors=40,
    )
    flip(path, rng, 40, start=0)
    with pytest.raises(DamageError):
        pm.load_file(path)
    with pytest.warns(UserWarning, match="what is loaded is not"):
        loaded = pm.load_file(path, "repair")
    same(loaded["model"], model.state_dict())
    moments = loaded["optimizer"]["state"][0]
    assert (moments["exp_avg"] == optimizer.state_dict()["state"][0]["exp_avg"]).all()
    assert loaded["epoch"] == 3
    with pytest.raises(SpecError, match="metadata"):
        pm.save_file({}, path, 3, metadata={"a": "b"})


def test_a_seal_of_the_model_fits_its_file(tmp_path, rng):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(state(), path)
    original = path.read_bytes()
    pm.protect_(state(), errors=10).save(sidecar_of(path))
    flip(path, rng, 10)
    assert pm.repair_file(path).verdict.value == "corrected"
    assert path.read_bytes() == original


def test_a_file_that_its_seal_does_not_say_enough_of_is_to_be_fetched(tmp_path):
    path = tmp_path / "model.safetensors"
    plain_save(state(), path)
    pm.protect_(state(), errors=10).save(sidecar_of(path))
    whole = path.read_bytes()
    for content in (whole[:-1], b"", b"no header" + whole, b"\0" * len(whole)):
        path.write_bytes(content)
        for look in (pm.check_file, pm.repair_file, pm.load_file):
            with pytest.raises(FormatError, match=r"does not say what is around .*: fetch the"):
                look(path)
        assert path.read_bytes() == content


def test_the_file_of_a_seal_fits_its_model(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = state()
    pm.save_file(tensors, path, errors=10)
    seal = pm.Seal.load(sidecar_of(path))
    tensors["fc.weight"][3, 4] = float("nan")
    report = pm.repair_(tensors, seal)
    assert [change.index for change in report.changes] == [(3, 4)]
    same(tensors, state())


@pytest.mark.parametrize("suffix", ["gguf", "npz", "npy", "onnx"])
def test_other_formats_are_left_to_their_libraries(tmp_path, suffix):
    with pytest.raises(SpecError, match=f"promises a file of the format {suffix}"):
        pm.save_file({"w": torch.ones(3)}, tmp_path / f"model.{suffix}", errors=2)


def test_a_private_copy_of_a_file_with_the_seal_of_its_model(tmp_path):
    path = tmp_path / "model.safetensors"
    plain_save(state(), path)
    pm.protect_(state(), errors=10).save(tmp_path / "model.parimend")
    with pm.verified(path, copy_to=tmp_path) as copy:
        same(plain_load(copy), state())


def _repairs(path, meet, how, told):
    try:
        meet.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first one tells that it repaired them
            if how == "verify":
                pm.verify(path, on_damage="repair")
            else:
                with pm.verified(path, on_damage="repair") as place:
                    pm.check_file(place)
    except Exception as error:
        told.put(repr(error))
    else:
        told.put("")


@pytest.mark.parametrize(
    ("how", "whole", "others"),
    [
        pytest.param("verify", False, 2, marks=pytest.mark.long),
        ("verified", True, 1),
        pytest.param("verified", True, 2, marks=pytest.mark.long),
    ],
)
def test_processes_that_repair_the_same_files_wait_for_each_other(tmp_path, how, whole, others):
    for name in "abc":
        pm.save_file({name: torch.ones(200_000)}, tmp_path / f"{name}.safetensors", errors=5)
        broken = bytearray((tmp_path / f"{name}.safetensors").read_bytes())
        broken[-5] ^= 64
        (tmp_path / f"{name}.safetensors").write_bytes(broken)
    path = tmp_path if whole else tmp_path / "b.safetensors"
    context = multiprocessing.get_context("spawn")
    meet, told = context.Barrier(others + 1, timeout=120), context.Queue()
    processes = [
        context.Process(target=_repairs, args=(path, meet, how, told), daemon=True)
        for _ in range(others)
    ]
    for each in processes:
        each.start()
    _repairs(path, meet, how, told)  # this process is one of them
    assert [told.get(timeout=120) for _ in range(others + 1)] == [""] * (others + 1)
    for each in processes:
        each.join()
    assert pm.check_file(path).verdict.value == "clean"


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_a_process_that_was_forked_meanwhile_lets_others_repair(tmp_path):
    """As workers of a data loader are, which live on."""
    with in_turn(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
        child.start()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        child.kill()
        child.join()


@pytest.mark.parametrize("on_damage", ["raise", "repair"])
def test_an_index_that_is_lost_is_damage(tmp_path, on_damage):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        plain_save({name: torch.ones(9)}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: name for name in names}}))
    pm.protect_file(index, 3)
    index.unlink()
    with pytest.raises(DamageError, match="missing: it was protected together with the others"):
        pm.verify(index, on_damage)


def test_a_damaged_seal_is_not_called_damage_of_its_file(tmp_path):
    path = tmp_path / "model.safetensors"
    pm.save_file({"w": torch.arange(50.0)}, path, errors=5)
    sidecar = sidecar_of(path)
    flip_bit(sidecar, sidecar.stat().st_size // 2)
    told = r"model\.safetensors itself is right: seal damaged, can be restored; repair the seal: "
    with pytest.warns(UserWarning, match=told):
        pm.load_file(path, on_damage="repair")
