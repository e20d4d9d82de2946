"""The recipes, on data that are made up or ship with a dependency."""

import contextlib
import json
import pickle
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Runs a recipe in this process: recipe(name, *arguments)."""
    monkeypatch.syspath_prepend(str(RECIPES))
    threads = torch.get_num_threads()

    def run(name, *arguments):
        module = import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module.main()
        return module

    yield run
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:the constraint moved")
def test_mnist_fnn_keeps_a_record_of_every_run(recipe, tmp_path, capsys):
    options = ("--data", "digits", "--seeds", 1, "--epochs", 2, "--out", tmp_path, "--batchnorm")
    recipe("mnist_fnn", *options, "--errors", 50, "--every", 4, "--sam")
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [r["constraint"] for r in records] == ["none", "head", "all"]
    assert all(r["accuracy"] > 60 for r in records)
    assert all(abs(r["accuracy_folded"] - r["accuracy"]) < 10 for r in records[1:])
    assert "difference to none" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "summary.png").stat().st_size > 1000
    recipe("mnist_fnn", *options, "--errors", 50, "--every", 4, "--sam")
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 3  # nothing was done again


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = draw.integers(10, size=10_000)
        pictures = np.broadcast_to(draw.integers(256, size=3072, dtype=np.uint8), (10_000, 3072))
        (folder / name).write_bytes(pickle.dumps({"data": pictures, "labels": labels.tolist()}))
    return tmp_path


def test_cifar10_wrn_resumes_at_the_very_step(recipe, cifar, tmp_path, monkeypatch, capsys):
    options = ("--root", cifar, "--out", tmp_path / "runs", "--depth", 10, "--width", 1)
    options += ("--sizes", "8x2", "--pictures", 96, "--batch", 32, "--constraint", "head")
    options += ("--errors", 20, "--every", 2, "--dropout", 0.2, "--device", "cpu", "--no-amp")
    monkeypatch.setattr(import_module("cifar10_wrn"), "accuracy", lambda *_: 10.0)

    def result(name):
        return (tmp_path / "runs" / name / "model.safetensors").read_bytes()

    module = recipe("cifar10_wrn", *options, "--name", "whole")

    class AfterFourSteps(module.Interrupted):
        calls = 0

        @property
        def now(self):
            type(self).calls += 1
            return self.calls > 6  # it is asked twice a step

        @now.setter
        def now(self, value):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(module, "Interrupted", AfterFourSteps)
        recipe("cifar10_wrn", *options, "--name", "cut")
    assert "the same command goes on from there" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "cut" / "result.json").exists()
    recipe("cifar10_wrn", *options, "--name", "cut")
    assert result("cut") == result("whole")
    with pytest.raises(SystemExit, match="is of a run with other options"):
        recipe("cifar10_wrn", *options, "--name", "cut", "--lr", 0.3)


def test_a_widened_network_computes_the_same(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    from cifar10_wrn import WideResNet, widen_

    torch.manual_seed(0)
    narrow, wide = WideResNet(10, 2).eval(), WideResNet(10, 4).eval()
    for module in narrow.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    widen_(wide, narrow, noise=1.0, seed=0)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(wide(x), narrow(x), rtol=1e-3, atol=1e-4)
    assert not torch.equal(wide.head.weight[:, :128], wide.head.weight[:, 128:])


def test_the_hardest_pictures_are_those_of_the_highest_loss(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    from cifar10_wrn import hardest_of

    x = torch.arange(8.0).view(8, 1, 1, 1) - 4
    y = torch.ones(8, dtype=torch.int64)

    def judge(pictures):  # the larger the picture, the surer of class 1
        return torch.stack([torch.zeros(len(pictures)), pictures.flatten()], 1)

    hard, labels = hardest_of(x, y, judge, 0.5)
    assert sorted(hard.flatten().tolist()) == [-4, -3, -2, -1]
    assert len(labels) == 4
    assert len(hardest_of(x, y, judge, 0.01)[0]) == 1


def test_cifar10_wrn_widens_a_finished_run(recipe, cifar, tmp_path, monkeypatch, capsys):
    options = ("--root", cifar, "--out", tmp_path, "--depth", 10, "--sizes", "8x1")
    options += ("--pictures", 64, "--batch", 32, "--device", "cpu", "--no-amp")
    monkeypatch.setattr(import_module("cifar10_wrn"), "accuracy", lambda *_: 10.0)
    recipe("cifar10_wrn", *options, "--width", 2, "--name", "narrow")
    options += ("--width", 4, "--name", "wide", "--hardest", 0.5)
    with pytest.raises(SystemExit):
        recipe("cifar10_wrn", *options)
    assert "--hardest needs the narrower network" in capsys.readouterr().err
    recipe("cifar10_wrn", *options, "--widen", tmp_path / "narrow")
    result = json.loads((tmp_path / "wide" / "result.json").read_text())
    assert result["width"] == 4
    assert result["widened_from"]["width"] == 2


def test_cifar10_wrn_is_compiled_if_it_is_to_be(recipe, cifar, tmp_path, monkeypatch, capsys):
    options = ("--root", cifar, "--out", tmp_path, "--depth", 10, "--width", 1, "--sizes", "8x1")
    options += ("--pictures", 64, "--batch", 32, "--device", "cpu", "--no-amp", "--errors", 20)
    monkeypatch.setattr(import_module("cifar10_wrn"), "accuracy", lambda *_: 10.0)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    recipe("cifar10_wrn", *options, "--name", "eager")
    assert not compiled
    recipe("cifar10_wrn", *options, "--name", "compiled", "--compile")
    assert [type(each).__name__ for each in compiled] == ["WideResNet"]


def test_the_defaults_are_those_of_the_record(recipe, monkeypatch):
    module, given = import_module("cifar10_wrn"), []
    monkeypatch.setattr(module, "train", lambda args, _: given.append(args))
    recipe("cifar10_wrn", "--root", ".")
    with safe_open(RECIPES / "cifar10_head.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["run"])["result"]["recipe"]
    assert {name: str(getattr(given[0], name)) for name in record} == record


def test_recipes_name_what_is_missing(recipe, tmp_path):
    with pytest.raises(SystemExit, match=r"--root: .* holds no CIFAR-10: name the folder of cifar"):
        recipe("cifar10_wrn", "--root", tmp_path, "--out", tmp_path)
    for name in ("mnist_fnn", "motifs", "picture"):
        with pytest.raises(SystemExit, match=r"--root: .* name the folder of the IDX files"):
            recipe(name, "--data", "mnist", "--root", tmp_path, "--out", tmp_path)
        with pytest.raises(SystemExit, match="--root: mnist is read from its files"):
            recipe(name, "--data", "mnist", "--out", tmp_path)


def test_cifar10_head_repairs_what_it_breaks(recipe, monkeypatch, capsys):
    monkeypatch.setattr(import_module("cifar10_head"), "L1_KINDS", ("noise", "nonfinite"))
    recipe("cifar10_head", "--trials", 2, "--l1-trials", 1)
    printed = capsys.readouterr().out
    assert printed.startswith("WideResNet-22-8, 17,158,106 parameters, 95.18 %")
    assert printed.count("2 of 2") == 12  # kinds of damage
    assert printed.count("1 of 1") >= 2  # what L1 does with 1,024 checks


def test_motifs_go_on_where_they_were(recipe, tmp_path, capsys):
    options = ("--epochs", 1, "--draws", 2, "--pairs", "bounds", "precision", "--out", tmp_path)
    module = recipe("motifs", *options, "--seeds", 1)
    path = tmp_path / "runs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 5  # two pairs of bounds, two of precision, one network in all of them
    assert len(list((tmp_path / "models").iterdir())) == 1  # which was trained once
    assert all(record.keys() > set(module.MEASURES) for record in records)
    recipe("motifs", *options, "--seeds", 2)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[:5]] == records
    assert len(lines) == 10
    summary = (tmp_path / "summary.md").read_text()
    assert "| bounds | none → weights clipped | 8,314 → 8,314 |" in summary
    assert len(summary.splitlines()) == 6
    rows = (tmp_path / "atlas.csv").read_text().splitlines()
    assert len(rows) == len(summary.splitlines()) - 1
    assert rows[0].startswith('motif,pair,accuracy of a,"accuracy, points"')
    assert (tmp_path / "atlas.html").read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit, match="take some of activation, bounds"):
        recipe("motifs", *options[:4], "--pairs", "colour")


def test_the_picture_of_the_readme(recipe, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from parimend.demo import Network

    monkeypatch.syspath_prepend(str(RECIPES))
    module = import_module("picture")
    monkeypatch.setattr(module, "COUNTS", (1, 400))
    torch.manual_seed(0)
    save_file(Network(64).state_dict(), tmp_path / "network.safetensors")  # as if it were trained
    options = ("--out", tmp_path, "--trials", 2, "--picture", tmp_path / "it.svg")
    recipe("picture", *options)
    sheet = module.pictured(module.measured("digits", None, tmp_path, 2, 1))
    places = zip(*map(sheet.values, ("protection", "flipped bits")), strict=True)
    shares = [cell.value for cell in sheet.values("bit for bit as before")]
    found = dict(zip(places, shares, strict=True))
    assert found["Parimend for 210 words, 2.51 kB", 1] == 100.0
    assert found["Parimend for 210 words, 2.51 kB", 400] == 0.0
    assert found["Parimend for 1,000 words, 9.96 kB", 400] == 100.0
    assert found["unprotected", 1] == 0.0
    text = (tmp_path / "it.svg").read_text()
    assert "bit for bit as before, %" in text
    assert "SECDED (72,64), 19.2 kB" in text


def test_pairs_of_motifs_are_of_equal_size(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    from motif_networks import network, parameters
    from motifs import pairs

    for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32)):
        found = pairs(shape)
        assert len(found) == len({(pair.motif, pair.name) for pair in found}) >= 12
        for pair in found:
            a, b = (network(net, shape) for net in (pair.a, pair.b))
            assert parameters(b) == pytest.approx(parameters(a), rel=0.08), pair
            x = torch.rand(4, *shape)
            assert a.eval()(x).shape == b.eval()(x).shape == (4, 10)


def test_differences_of_motifs(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    from motif_pairs import difference

    found = difference("changed", [1.0, 2.0, 3.0], [2.0, 3.1, 3.9], intervals=1)
    assert (found.value, found.stars) == (pytest.approx(1.0), 2)
    half = 4.302652729911275 * 0.1 / 3**0.5  # t of two degrees of freedom
    assert (found.low, found.high) == (pytest.approx(1 - half), pytest.approx(1 + half))
    assert difference("changed", [1.0, 2.0, 3.0], [2.0, 3.1, 3.9], intervals=1000).stars == 1
    ratio = difference("gain", [1.0, 2.0], [2.0, 4.0], intervals=1)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert difference("changed", [1.0, 2.0], [1.0, 2.0], intervals=1).stars == 0


def test_practice_without_plotly_or_pictures_for_training(
    practice, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "plotly", None)
    options = (
        "wrn",
        *practice,
        "--pictures",
        8,
        "--out",
        tmp_path,
        "--pairs",
        "place",
        "precision",
    )
    module = recipe("motifs_practice", *options, "--draws", 1)
    path = tmp_path / "runs.jsonl"
    first = path.read_text()
    assert len(first.splitlines()) == 7  # float32, two other dtypes, four parts
    recipe("motifs_practice", *options, "--draws", 2)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text().startswith(first)  # nothing was done again
    assert [record["draw"] for record in records] == [0] * 7 + [1] * 7
    assert all(record.keys() > set(module.MEASURES) for record in records)
    assert not (tmp_path / "atlas.html").exists()
    summary = (tmp_path / "summary.md").read_text()
    assert summary.splitlines()[0].endswith("| loss at 1e-7 | loss at 1e-6 | loss at 1e-5 |")
    assert "| place | convolutions → normalization | 76,720 → 960 | " in summary
    assert "; +0.0 | " in summary  # accuracy without faults: no interval where nothing varies
    with pytest.raises(SystemExit):
        recipe("motifs_practice", *options, "--draws", 0)
    assert "argument --draws: '0': give a number, 1 or more" in capsys.readouterr().err
    weights = practice[0].read_bytes()
    practice[0].write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))  # another network
    recipe("motifs_practice", *options, "--draws", 1)
    assert len(path.read_text().splitlines()) == 21
    with pytest.raises(SystemExit, match="40 are there, and as many again give the bounds"):
        recipe("motifs_practice", *options, "--pictures", 21)
    with pytest.raises(SystemExit, match=r"is no network of cifar10_wrn.py: .*blocks.0.conv1"):
        recipe("motifs_practice", "wrn", RECIPES / "cifar10_head.safetensors", practice[1])


@pytest.fixture
def practice(tmp_path, monkeypatch):
    """Weights of a small network, and a folder of 40 test pictures alone."""
    from safetensors.torch import save_file

    monkeypatch.syspath_prepend(str(RECIPES))
    torch.manual_seed(0)
    state = import_module("cifar10_wrn").WideResNet(10, 1).state_dict()
    short = {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}
    save_file(short, tmp_path / "weights.safetensors")
    draw = np.random.default_rng(0)
    pictures = draw.integers(256, size=(40, 3072), dtype=np.uint8)
    batch = {"data": pictures, "labels": draw.integers(10, size=40).tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    return tmp_path / "weights.safetensors", tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_in_a_row_are_struck_as_tensors_are(practice, dtype):
    from motifs_practice import Bench
    from practice_networks import wrn

    from parimend.dtypes import of_torch
    from parimend.experiment import Faults
    from parimend.faults import Words
    from parimend.words.bits import byte_view

    task = wrn(*practice, pictures=4)
    kept = {n: t.to(getattr(torch, dtype)) for n, t in task.model.state_dict().items() if t.dim()}
    bench = Bench(task, "cpu")
    row, known = bench.row(dtype), of_torch(getattr(torch, dtype))
    bench.row_in_use.copy_(row.values)
    for name, value in bench.model.state_dict().items():
        if name in kept:
            assert torch.equal(value, kept[name].float())
    only, clipped = task.parts["convolutions"], {}
    places, values = row.struck(only, 1e-3, 7, clipped=False)
    bench.row_in_use[places] = values
    words = [Words(n, byte_view(t, n).view(known.unsigned), known.name) for n, t in kept.items()]
    before = {name: t.clone() for name, t in kept.items()}
    count = round(1e-3 * known.bits * sum(map(len, words)))
    assert len(values) == count
    Faults("bitflip", count).draw(words, 7, only=only).apply_(words)
    for name, value in bench.model.state_dict().items():
        if name in kept:
            torch.testing.assert_close(value, kept[name].float(), rtol=0, atol=0, equal_nan=True)
            clipped[name] = kept[name].float().nan_to_num(0.0)
            clipped[name] = clipped[name].clamp(*(float(e) for e in before[name].aminmax()))
    places, values = row.struck(only, 1e-3, 7, clipped=True)
    bench.row_in_use[places] = values
    for name, value in clipped.items():
        assert torch.equal(bench.model.state_dict()[name], value)


def test_bounds_of_practice_hold_where_they_are_said(practice):
    from motifs_practice import Bench, Variant
    from practice_networks import wrn

    bench = Bench(wrn(*practice, pictures=4), "cpu")
    with torch.no_grad():
        bench.model.conv.weight[0] = 1e30
        bench.model.conv.weight[1] = torch.nan

    def outside(*bounds):
        """Layers whose outputs leave the range that they have without faults, and NaN."""
        seen = {}
        with bench.bounded(bounds), contextlib.ExitStack() as stack:
            for name, module in bench.layers().items():
                hook = module.register_forward_hook(
                    lambda m, a, y, name=name: seen.update({name: y})
                )
                stack.callback(hook.remove)
            bench.score()
        assert seen.keys() == bench.ranges.keys()
        ends = bench.ranges
        wrong = {n for n, y in seen.items() if not ((ends[n][0] <= y) & (y <= ends[n][1])).all()}
        return wrong, {n for n, y in seen.items() if not y.isfinite().all()}

    assert {"conv", "blocks.0.norm1", "head"} <= outside()[1]
    assert "conv" in outside("activations")[1]
    assert not any("norm" in name for name in outside("activations")[0])
    assert outside("layers") == (set(), set())
    assert "conv" in outside("finite")[0]
    assert not outside("finite")[1]
    bench.measured(Variant("float16", ("weights",)), 3)
    assert torch.equal(bench.row_in_use, bench.row("float16").values)  # all was put back


def test_practice_with_sentences(recipe, tmp_path, capsys):
    options = ("minilm", "--sentences", 6, "--draws", 1, "--out", tmp_path, "--pairs", "place")
    recipe("motifs_practice", *options)
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [record["accuracy"] for record in records] == [100.0] * 6
    parts = {record["variant"]["part"]: record for record in records}
    assert parts["embeddings"]["parameters"] == 384 * (30522 + 512 + 2)
    assert parts["normalization"]["loss at 1e-05"] == 100.0  # most of their words are struck
    assert "| place | attention → perceptron | 3,548,160 → 7,089,408 | " in capsys.readouterr().out


def test_traced_models_are_what_propagate_takes(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import traced

    import parimend as pm
    from parimend.experiment import Faults

    model, inputs, nearest = traced.minilm()
    with torch.no_grad():
        likes = dict(enumerate(nearest(model(**inputs)).tolist()))
    assert (likes[0], likes[9], likes[3], likes[13]) == (9, 0, 13, 3)  # dogs, and shares
    layer, faults = "encoder.layer.4.output.dense", Faults("random", 1)
    found = pm.propagation.trace(
        model, inputs, faults, seeds=range(2), only=layer, answer=nearest
    ).struck[0]
    assert {"encoder.layer.5.output.LayerNorm", "pooler.dense"} <= {
        each.layer for each in found.passages
    }
    model, inputs = traced.mlp("16")
    assert model(inputs).argmax(1).unique().numel() == 10
