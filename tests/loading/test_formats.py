"""Every format is loaded by its own library, from what was verified."""

import errno
import json
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import helper, numpy_helper
from safetensors import safe_open
from samples import SAMPLES, arrays, load

import parimend as pm
from parimend.errors import DamageError, FormatError, MismatchError, SealError, SpecError
from parimend.files import sidecar_of
from tests.files.conftest import flip_bit


def found(path, loaded):
    """What was loaded, in the form in which the samples are compared."""
    if path.suffix == ".gguf":
        return {tensor.name: tensor.data.tobytes() for tensor in loaded.tensors}
    if path.suffix == ".npy":
        return {"array": loaded.tobytes("A")}
    if path.suffix == ".npz":
        return {name: loaded[name].tobytes("A") for name in loaded.files if name != "objects"}
    if path.suffix == ".onnx":
        held = loaded.graph.initializer
        return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in held}
    return {name: tensor.numpy().tobytes() for name, tensor in loaded.items()}


def made(name, folder, rng):
    """A protected file of a format."""
    path = SAMPLES[name](folder, rng)
    path = path.with_name("model.onnx") if name == "onnx-data" else path
    pm.protect_file(path, errors=10)
    return path


OWN = ["gguf", "npy", "npz", "onnx", "onnx-data", "safetensors"]


@pytest.mark.parametrize("name", OWN)
def test_what_is_loaded(name, tmp_path, rng):
    path = made(name, tmp_path, rng)
    expected = load(path)
    assert found(path, pm.load_file(path)) == expected
    file = path.with_name("model.onnx_data") if name == "onnx-data" else path
    damaged = bytearray(file.read_bytes())
    for at in rng.choice(len(damaged), 8, replace=False):
        damaged[at] ^= 0x81
    file.write_bytes(damaged)
    with pytest.raises(DamageError, match=f"{file.name} is damaged"):
        pm.load_file(path)
    with pytest.warns(UserWarning, match="what is loaded is not"):
        loaded = pm.load_file(path, "repair")
    file.write_bytes(bytes(len(damaged)))  # reaches nobody
    assert found(path, loaded) == expected


def test_blocks_have_names(tmp_path, rng):
    tensors = pm.load_file(made("gguf", tmp_path, rng)).tensors
    kinds = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    assert kinds["Q4_0"] == "Q4_0"
    assert kinds["fc.weight"] == "F32"


def test_a_model_of_onnx_holds_all_of_its_tensors(tmp_path, rng):
    model = pm.load_file(made("onnx-data", tmp_path, rng))
    onnx.checker.check_model(model)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    values = [numpy_helper.to_array(a.t) for n in model.graph.node for a in n.attribute]
    assert [value.tolist() for value in values] == [[0, 1, 2, 3, 4]]
    with pytest.raises(FormatError, match="load the model that names it"):
        pm.load_file(tmp_path / "model.onnx_data")
    sidecar_of(tmp_path / "model.onnx_data").unlink()
    with pytest.raises(SealError, match="is not protected"):
        pm.load_file(tmp_path / "model.onnx")
    with pytest.warns(UserWarning, match=r"model\.onnx_data is not known .*is not protected"):
        assert pm.load_file(tmp_path / "model.onnx", "warn") == model


def test_a_tensor_without_elements_takes_nothing_of_what_follows_it(tmp_path):
    path = tmp_path / "model.onnx"
    arrays = {"w": np.ones((0, 3), np.float32), "b": np.ones(5, np.float32)}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph([], "graph", [], [], tensors))
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.data", size_threshold=0
    )
    pm.protect_file(path, errors=2)
    loaded = [numpy_helper.to_array(each) for each in pm.load_file(path).graph.initializer]
    assert [array.shape for array in loaded] == [(0, 3), (5,)]


def test_a_name_may_be_as_long_as_the_disk_lets_it(tmp_path, rng):
    path = made("gguf", tmp_path, rng)
    long = path.rename(tmp_path / ("模" * 83 + "a.gguf"))
    assert len(pm.load_file(long, seal_dir=sidecar_of(path)).tensors) > 1


@pytest.mark.parametrize("name", ["gguf", "npz", "onnx"])
def test_only_tensors_of_torch_have_a_device(name, tmp_path, rng):
    with pytest.raises(SpecError, match=f"of the format {name}.*leave device out"):
        pm.load_file(made(name, tmp_path, rng), device="meta")


def test_a_device(tmp_path, rng):
    path = made("safetensors", tmp_path, rng)
    assert {t.device.type for t in pm.load_file(path, device="meta").values()} == {"meta"}


@pytest.mark.parametrize("name", ["gguf", "onnx"])
def test_a_library_that_is_not_installed(name, tmp_path, rng, monkeypatch):
    path = made(name, tmp_path, rng)
    monkeypatch.setitem(sys.modules, name, None)
    told = rf"model\.{name} is loaded with the package {name}.* pip install 'parimend\[{name}\]'"
    with pytest.raises(FormatError, match=told):
        pm.load_file(path)


@pytest.fixture
def shards(tmp_path, rng):
    """A sharded checkpoint, and its tensors."""
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays(rng).items()}
    names = sorted(tensors)
    from safetensors.torch import save_file

    for number, some in enumerate((names[:2], names[2:]), 1):
        save_file({name: tensors[name] for name in some}, tmp_path / f"m-{number}.safetensors")
    listed = {name: f"m-{1 + (name in names[2:])}.safetensors" for name in names}
    index = {"metadata": {}, "weight_map": listed}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    pm.protect_file(tmp_path, errors=5)
    return tmp_path, tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def test_folders(shards, tmp_path):
    folder, tensors = shards
    assert same(pm.load_folder(folder), tensors)
    assert same(pm.load_folder(folder / "m.safetensors.index.json"), tensors)
    assert {t.device.type for t in pm.load_folder(folder, device="meta").values()} == {"meta"}
    for file in (folder / "m-1.safetensors", folder / "m.safetensors.index.json"):
        flip_bit(file)
        with pytest.raises(DamageError, match=f"{file} is damaged"):
            pm.load_folder(folder)
        with pytest.warns(UserWarning, match="what is loaded is not"):
            assert same(pm.load_folder(folder, "repair"), tensors)
    with pytest.warns(UserWarning, match=r"m-1\.safetensors is damaged"):
        pm.verify(folder, "warn")
    (folder / "m-2.safetensors").unlink()
    with pytest.raises(DamageError, match=r"m-1.* is damaged.*m-2.* is not known .*missing"):
        pm.load_folder(folder)


def test_shards_without_an_index(shards):
    folder, tensors = shards
    for file in (folder / "m.safetensors.index.json", *folder.glob("*.parimend")):
        file.unlink()
    pm.protect_file(folder, errors=5)
    assert same(pm.load_folder(folder), tensors)


@pytest.mark.parametrize("indexed", [True, False])
def test_what_is_there_is_loaded_with_a_warning(shards, indexed):
    folder, tensors = shards
    first, second, index = (
        folder / name for name in ("m-1.safetensors", "m-2.safetensors", "m.safetensors.index.json")
    )
    if not indexed:
        index.unlink()
        sidecar_of(index).unlink()
    for lost in ([index] if indexed else []) + [first]:
        sidecar_of(lost).unlink()
        with pytest.warns(
            UserWarning, match=rf"{lost} is not known .* (its seal is lost|is not protected)"
        ):
            assert same(pm.load_folder(folder, "warn"), tensors)
    sidecar_of(second).write_bytes(b"no seal")
    flip_bit(second)  # what is there, and not what was
    with pytest.warns(UserWarning, match=rf"{second} is not known .* seal"):
        assert pm.load_folder(folder, "warn").keys() == tensors.keys()
    first.write_bytes(b"no tensors")
    with safe_open(second, "pt") as file:
        names = {*file.keys()}
    with pytest.warns(UserWarning, match=rf"{first} is not known .*; nothing of it is loaded"):
        assert pm.load_folder(folder, "warn").keys() == names


def test_shards_of_torch(tmp_path):
    tensors = {name: torch.rand(9) for name in "ab"}
    for name, tensor in tensors.items():
        pm.save_file({name: tensor}, tmp_path / f"model-{name}.bin", errors=2)
    with pytest.raises(MismatchError, match=r"several archives, model-a\.bin, model-b\.bin"):
        pm.load_folder(tmp_path)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"model-{name}.bin" for name in "ab"}}))
    pm.protect_file(index, errors=2)
    assert same(pm.load_folder(tmp_path), tensors)
    (tmp_path / "model-b.bin").unlink()
    for file in (index, sidecar_of(index), sidecar_of(tmp_path / "model-b.bin")):
        file.unlink()
    pm.protect_file(tmp_path / "model-a.bin", errors=2, force=True)
    assert same(pm.load_folder(tmp_path), {"a": tensors["a"]})


@pytest.mark.parametrize("device", ["xla", "nowhere", 10**6])
def test_devices_that_cannot_be_used(shards, device):
    folder, _ = shards
    for act, path in ((pm.load_folder, folder), (pm.load_file, folder / "m-1.safetensors")):
        with pytest.raises(SpecError, match=rf"^device '{device}' cannot be used here: "):
            act(path, device=device)


def test_folders_that_cannot_be_loaded(shards, tmp_path):
    folder, tensors = shards
    with pytest.raises(SpecError, match=r"is a file: .* use load_file"):
        pm.load_folder(folder / "m-1.safetensors")
    for lost in ("nothing", "nothing/m.index.json"):
        with pytest.raises(FileNotFoundError):
            pm.load_folder(folder / lost)
    index = folder / "m.safetensors.index.json"
    text = json.loads(index.read_text())
    text["weight_map"]["more"] = "m-1.safetensors"
    index.write_text(json.dumps(text))
    pm.protect_file(index, errors=5, force=True)
    with pytest.raises(FormatError, match=r"m-1\.safetensors has no more, which the index says"):
        pm.load_folder(folder)
    with pytest.warns(UserWarning, match=r"m-1\.safetensors has no more, which the index says"):
        assert same(pm.load_folder(folder, "warn"), tensors)
    (folder / "n.safetensors.index.json").write_text(json.dumps(text))
    pm.protect_file(folder / "n.safetensors.index.json", errors=5, force=True)
    with pytest.raises(MismatchError, match=r"several indices, .*: name one of them"):
        pm.load_folder(folder)
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "a.npy", np.ones(9))
    pm.protect_file(other / "a.npy", errors=2)
    with pytest.raises(FormatError, match="no files of named tensors"):
        pm.load_folder(other)
    pm.save_file(torch.ones(3), other / "a.pt", errors=2)
    with pytest.raises(FormatError, match=r"a\.pt holds no tensors with names"):
        pm.load_folder(other)


def test_an_index_that_is_named_is_the_one_that_is_meant(shards):
    folder, tensors = shards
    named, other = (folder / f"{each}.safetensors.index.json" for each in "mn")
    text = json.loads(named.read_text())
    left_out, _ = text["weight_map"].popitem()
    other.write_text(json.dumps(text))
    pm.protect_file(folder, errors=5)
    assert same(pm.load_folder(named), tensors)
    assert pm.load_folder(other).keys() == tensors.keys() - {left_out}
    with pytest.raises(MismatchError, match=r"several indices, .*: name one of them"):
        pm.load_folder(folder)
    # Where it cannot be read, none takes its place.
    named.unlink()
    with pytest.warns(UserWarning, match="m.safetensors.index.json.*missing"):
        assert same(pm.load_folder(named, "warn"), tensors)
    with pytest.raises(FormatError, match=r"is a folder: name a regular file, or take load_folder"):
        pm.load_file(folder)
    with pytest.raises(SpecError, match=r"is an index, and has no tensors: load_folder loads"):
        pm.load_file(other)
    with pytest.raises(FileNotFoundError):
        pm.load_file(named)


def test_what_lies_below_is_verified_and_not_loaded(shards):
    folder, tensors = shards
    (folder / "unet").mkdir()
    pm.save_file({"w": torch.ones(9)}, folder / "unet" / "model.safetensors", errors=2)
    assert same(pm.load_folder(folder), tensors)
    flip_bit(folder / "unet" / "model.safetensors")
    with pytest.raises(DamageError, match=r"unet/model\.safetensors is damaged"):
        pm.load_folder(folder)


def test_seals_elsewhere(shards, tmp_path_factory):
    folder, tensors = shards
    for file in folder.glob("*.parimend"):
        file.unlink()
    seals = tmp_path_factory.mktemp("seals")
    pm.protect_file(folder, errors=5, seal_dir=seals)
    flip_bit(folder / "m-1.safetensors")
    with pytest.warns(UserWarning, match="what is loaded is not"):
        assert same(pm.load_folder(folder, "repair", seal_dir=seals), tensors)
    with pytest.warns(UserWarning, match="what is loaded is not"):
        loaded = pm.load_file(folder / "m-1.safetensors", "repair", seal_dir=seals)
    assert same(loaded, {name: tensors[name] for name in loaded})
    with pytest.raises(DamageError), pm.verified(folder, seal_dir=seals):
        pytest.fail("nothing is to be loaded")


def load_verified(path, **options):
    with pm.verified(path, **options):
        pass


@pytest.mark.parametrize(
    ("load", "options"),
    [
        (pm.verify, {}),
        (pm.load_file, {}),
        (pm.load_folder, {}),
        (load_verified, {}),
        (load_verified, {"at_once": True}),
        (load_verified, {"copy_to": tempfile.gettempdir()}),
    ],
)
def test_what_puts_damage_right_says_where_the_seals_are(tmp_path, load, options):
    seals, file = tmp_path / "seals", tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    pm.save_file({"w": torch.rand(9)}, file, errors=2)
    pm.protect_file(file, errors=2, seal_dir=seals)
    sidecar_of(file).unlink()
    flip_bit(file)
    with pytest.raises(DamageError) as damage:
        load(file.parent if load is pm.load_folder else file, seal_dir=seals, **options)
    assert f"parimend repair {file} --seal-dir {seals} --in-place" in str(damage.value)


@pytest.mark.parametrize("one", [False, True])
def test_the_seals_of_a_private_copy_are_private_too(tmp_path, one):
    """They may lie where nothing can be written, as the file itself."""
    seals, file = tmp_path / "seals", tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    pm.save_file(tensors := {"w": torch.rand(9)}, file, errors=2)
    [made] = pm.protect_file(file, errors=2, seal_dir=seals)
    sidecar_of(file).unlink()
    flip_bit(file)
    flip_bit(seal := Path(made.sidecar))
    before = file.read_bytes(), seal.read_bytes()
    told = pytest.warns(UserWarning, match=f"{file} is damaged, what is loaded is not: seal dam")
    where = seal if one else seals
    with told, pm.verified(file, "repair", copy_to=tmp_path, seal_dir=where) as copy:
        assert same(safetensors.torch.load_file(copy), tensors)
    assert before == (file.read_bytes(), seal.read_bytes())
    assert sorted(tmp_path.iterdir()) == [file.parent, seals]


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_told_of_a_private_copy_is_told_of_what_was_copied(shards, tmp_path_factory, apart):
    folder, _ = shards
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    options = {"seal_dir": elsewhere / "seals"} if apart else {}
    *_, last = pm.protect_file(folder, errors=5, force=True, **options)
    Path(last.sidecar).write_bytes(b"no seal")
    with pytest.raises(DamageError) as damage:
        pm.verified(folder, copy_to=elsewhere, **options).__enter__()
    assert f"{options.get('seal_dir', last.sidecar)}" in str(damage.value)
    assert "parimend-" not in str(damage.value)


def test_a_private_copy_for_which_there_is_no_room(tmp_path, monkeypatch):
    pm.save_file({"w": torch.rand(9)}, file := tmp_path / "a.safetensors", errors=2)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/parimend-"):
        pm.verified(file, copy_to=tmp_path).__enter__()
    assert sorted(tmp_path.iterdir()) == [file, sidecar_of(file)]


def test_another_file_is_told_of_by_its_own_name(tmp_path):
    for name in "ab":
        pm.save_file({name: torch.rand(9)}, tmp_path / f"{name}.safetensors", errors=2)
    sidecar_of(tmp_path / "a.safetensors").replace(sidecar_of(file := tmp_path / "b.safetensors"))
    with pytest.raises(MismatchError, match=f"was not made for {file},"):
        pm.verified(file, copy_to=tmp_path).__enter__()


def test_shards_below_that_an_index_lists(tmp_path):
    tensors = {name: torch.rand(9) for name in "ab"}
    pm.save_file({"a": tensors["a"]}, tmp_path / "a.safetensors", errors=2)
    (tmp_path / "more").mkdir()
    pm.save_file({"b": tensors["b"]}, tmp_path / "more" / "b.safetensors", errors=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "more/b.safetensors"}}))
    pm.protect_file(index, errors=2)
    assert same(pm.load_folder(tmp_path), tensors)
    assert same(pm.load_folder(index), tensors)


def test_a_tensor_in_two_files_without_an_index(tmp_path):
    for name in ("model.fp16.safetensors", "model.safetensors"):
        pm.save_file({"w": torch.rand(9)}, tmp_path / name, errors=2)
    with pytest.raises(MismatchError, match=r"model\.safetensors both have a tensor w"):
        pm.load_folder(tmp_path)


def of_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives it up
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("hello.bin", lambda path: path.write_bytes(b"hello world"), "KeyError: 101"),
        ("abc.bin", lambda path: path.write_bytes(b"abc"), "pop from empty list"),
        ("dots.bin", lambda path: path.write_bytes(b"." * 40), ""),
        ("tokenizer.json", lambda path: path.write_text("{}"), "Unsupported operand 123"),
        ("module.pt", lambda path: torch.save(torch.nn.Linear(2, 2), path), "Linear was not an"),
        ("array.pt", lambda path: torch.save(np.ones(3), path), "_reconstruct was not an allowed"),
        ("script.pt", of_script, "TorchScript archives"),
        ("array.pkl", lambda path: path.write_bytes(pickle.dumps(np.ones(9), 4)), ""),
        ("o.npy", lambda path: np.save(path, np.array([1, "a"], object), True), "Object arrays"),
    ],
)
def test_what_its_library_does_not_load(name, make, reason, tmp_path):
    """It is healthy, and said by name what it takes to load it."""
    path = tmp_path / name
    make(path)
    pm.protect_file(path, errors=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FormatError, match=rf"{name} cannot be loaded .*\(.*{reason}.*\): "):
            pm.load_file(path)


@pytest.mark.parametrize("name", ["gguf", "onnx"])
def test_libraries_that_fail(name, tmp_path, rng, monkeypatch):
    path = SAMPLES[name](tmp_path, rng)
    pm.protect_file(path, errors=2)

    def fail(*_):
        raise ValueError("99 is not a valid type")

    readers = {"gguf": (gguf, "GGUFReader"), "onnx": (onnx, "load_model_from_string")}
    monkeypatch.setattr(*readers[name], fail)
    with pytest.raises(FormatError, match=rf"{path} cannot .* {name} \(99 is not a valid type\)"):
        pm.load_file(path)
