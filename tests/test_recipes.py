"""The recipes, on data that are made up or ship with a dependency."""

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


def test_cifar10_wrn_names_what_is_missing(recipe, tmp_path):
    with pytest.raises(SystemExit, match=r"--root: .* holds no CIFAR-10: name the folder of cifar"):
        recipe("cifar10_wrn", "--root", tmp_path, "--out", tmp_path)


def test_cifar10_head_repairs_what_it_breaks(recipe, monkeypatch, capsys):
    monkeypatch.setattr(import_module("cifar10_head"), "L1_KINDS", ("noise", "nonfinite"))
    recipe("cifar10_head", "--trials", 2, "--l1-trials", 1)
    printed = capsys.readouterr().out
    assert printed.startswith("WideResNet-22-8, 17,158,106 parameters, 95.18 %")
    assert printed.count("2 of 2") == 12  # kinds of damage
    assert printed.count("1 of 1") >= 2  # what L1 does with 1,024 checks


def test_motifs_go_on_where_they_were(recipe, tmp_path, capsys):
    options = ("--epochs", 2, "--draws", 3, "--pairs", "bounds", "precision", "--out", tmp_path)
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
    assert "| bounds | none -> weights clipped | 8,314 -> 8,314 |" in summary
    assert len(summary.splitlines()) == 6
    rows = (tmp_path / "atlas.csv").read_text().splitlines()
    assert len(rows) == len(summary.splitlines()) - 1
    assert rows[0].startswith('motif,pair,accuracy of a,"accuracy, points"')
    assert (tmp_path / "atlas.html").read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit):
        recipe("motifs", *options[:4], "--pairs", "colour")
    assert "take some of activation, bounds" in capsys.readouterr().err


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
    from motifs import difference

    found = difference("changed", [1.0, 2.0, 3.0], [2.0, 3.1, 3.9], intervals=1)
    assert (found.value, found.stars) == (pytest.approx(1.0), 2)
    half = 4.302652729911275 * 0.1 / 3**0.5  # t of two degrees of freedom
    assert (found.low, found.high) == (pytest.approx(1 - half), pytest.approx(1 + half))
    assert difference("changed", [1.0, 2.0, 3.0], [2.0, 3.1, 3.9], intervals=1000).stars == 1
    ratio = difference("gain", [1.0, 2.0], [2.0, 4.0], intervals=1)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert difference("changed", [1.0, 2.0], [1.0, 2.0], intervals=1).stars == 0


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
