"""Checkpoints that are protected when they are saved, and verified when a run resumes."""

import functools
import os
import shutil

import lightning
import pytest
import torch
import transformers

import parimend as pm
from parimend.errors import DamageError, SpecError
from parimend.integrations.lightning import ProtectedCheckpoints
from parimend.integrations.transformers import ProtectCheckpoints
from tests.files.conftest import flip
from tests.integrations.test_callbacks import Net, data

# What these packages warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def same(a, b):
    return all(torch.equal(t, b[name]) for name, t in a.items())


def fit_lightning(folder, epochs, resume=None, on_damage="raise", last=True):
    model = Net()
    keep = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, save_last=last, every_n_epochs=1, filename="{epoch}"
    )
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[keep],
        plugins=[ProtectedCheckpoints(errors=50, on_damage=on_damage)],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 16)
    trainer.fit(model, batches, ckpt_path=resume)
    return model.state_dict()


def test_lightning_resumes_from_what_was_verified(tmp_path, rng):
    fit = functools.partial(fit_lightning, tmp_path / "kept")
    expected = fit(3)
    kept = sorted(os.listdir(tmp_path / "kept"))
    assert kept == [
        *("epoch=2.ckpt", "epoch=2.ckpt.parimend", "last.ckpt", "last.ckpt.parimend"),
    ]
    shutil.rmtree(tmp_path / "kept")
    fit(2)
    flip(tmp_path / "kept" / "last.ckpt", rng, 40, start=0)
    with pytest.raises(DamageError):
        fit(3, tmp_path / "kept" / "last.ckpt")
    assert same(fit(3, tmp_path / "kept" / "last.ckpt", "repair"), expected)


@pytest.mark.parametrize("before", [True, "link"])
def test_lightning_resumes_from_what_a_link_leads_to(tmp_path, rng, before):
    """A seal that was made for the name alone is of another checkpoint."""
    kept, last = tmp_path / "kept", tmp_path / "kept" / "last.ckpt"
    expected = fit_lightning(tmp_path / "whole", 4)
    fit_lightning(kept, 1, last=before)
    fit_lightning(kept, 3, last, last="link")
    assert last.is_symlink()
    assert pm.verify(last).ok
    assert pm.verify(kept).ok
    content = last.read_bytes()
    flip(last.resolve(), rng, 40, start=0)
    with pytest.raises(DamageError):
        fit_lightning(kept, 4, last)
    fit_lightning(kept, 3, last, "repair", last="link")
    assert last.read_bytes() == content
    assert same(fit_lightning(kept, 4, last), expected)


def test_lightning_with_addresses(tmp_path, monkeypatch):
    """What is not on this machine is not saved to it under another name."""
    monkeypatch.chdir(tmp_path)
    plugin = ProtectedCheckpoints(errors=3)
    for address in ("memory://bucket/run/a.ckpt", "s3://bucket/a.ckpt", "simplecache::s3://b/a"):
        for use in (functools.partial(plugin.save_checkpoint, {}), plugin.load_checkpoint):
            with pytest.raises(SpecError, match=f"{address} is on no file system of this machine"):
                use(address)
        with pytest.raises(SpecError, match="on no file system"):
            plugin.remove_checkpoint(address)
    with pytest.raises(SpecError, match=r"memory://bucket/run/epoch=0\.ckpt is on no file system"):
        fit_lightning("memory://bucket/run", 1)
    assert os.listdir(tmp_path) == []
    path = f"file://{tmp_path}/kept/a.ckpt"
    plugin.save_checkpoint({"epoch": 1}, path)
    assert plugin.load_checkpoint(path) == {"epoch": 1}
    assert sorted(os.listdir(tmp_path / "kept")) == ["a.ckpt", "a.ckpt.parimend"]
    plugin.remove_checkpoint(path)
    assert os.listdir(tmp_path / "kept") == []


def test_trainer_resumes_from_what_was_verified(tmp_path, rng):
    x, y = data()

    def fit(steps, resume=None):
        model = Net()
        arguments = transformers.TrainingArguments(
            output_dir=tmp_path / "run",
            max_steps=steps,
            per_device_train_batch_size=16,
            save_steps=5,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
        trainer = transformers.Trainer(
            model, arguments, train_dataset=rows, callbacks=[ProtectCheckpoints(errors=50)]
        )
        trainer.train(resume_from_checkpoint=resume)
        return model.state_dict()

    expected = fit(10)
    checkpoint = tmp_path / "run" / "checkpoint-5"
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
        flip(checkpoint / name, rng, 3, start=0)
    with pytest.raises(DamageError, match=r"model\.safetensors.*optimizer\.pt.*trainer_state"):
        pm.verify(checkpoint)
    pm.verify(checkpoint, "repair")
    assert same(fit(10, str(checkpoint)), expected)


def test_bad_policies():
    with pytest.raises(SpecError, match="on_damage must be"):
        ProtectedCheckpoints(errors=3, on_damage="ignore")
    with pytest.raises(SpecError, match="storage_options"):
        ProtectedCheckpoints(errors=3).save_checkpoint({}, "last.ckpt", storage_options={"key": 1})
    with pytest.raises(SpecError, match="errors must be a whole number"):
        ProtectCheckpoints(errors=3.5)
