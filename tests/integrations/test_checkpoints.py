"""Checkpoints that are protected when they are saved, and verified when a run resumes."""

import functools
import os
import shutil

import accelerate
import lightning
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint
import transformers

import parimend as pm
from parimend.errors import DamageError, MismatchError, SpecError
from parimend.integrations.lightning import ProtectedCheckpoints
from parimend.integrations.transformers import ProtectCheckpoints
from tests.files.conftest import flip
from tests.integrations.test_callbacks import Net, fit_quietly, trainer_for

# What these packages warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def same(a, b):
    return all(torch.equal(t, b[name]) for name, t in a.items())


def fit_lightning(folder, epochs, resume=None, on_damage="raise", last=True):
    model = Net()
    keep = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, save_last=last, every_n_epochs=1, filename="{epoch}"
    )
    plugins = [ProtectedCheckpoints(errors=50, on_damage=on_damage)]
    fit_quietly(model, epochs, [keep], resume, plugins=plugins)
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


def fit_trainer(folder, steps, resume=None, kind=transformers.Trainer, **options):
    model, callback = Net(), ProtectCheckpoints(errors=50)
    options = {"save_steps": 5, "logging_steps": 2} | options
    trainer = trainer_for(model, folder, steps, callback, kind, **options)
    trainer.train(resume_from_checkpoint=resume)
    return model.state_dict()


def test_trainer_resumes_from_what_was_verified(tmp_path, rng):
    fit = functools.partial(fit_trainer, tmp_path / "run")
    expected = fit(10)
    checkpoint = tmp_path / "run" / "checkpoint-5"
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
        flip(checkpoint / name, rng, 3, start=0)
    with pytest.raises(DamageError, match=r"model\.safetensors.*optimizer\.pt.*trainer_state"):
        pm.verify(checkpoint)
    pm.verify(checkpoint, "repair")
    assert same(fit(10, str(checkpoint)), expected)


class Trial(transformers.Trainer):
    """Saves where a search for hyperparameters does."""

    def _get_output_dir(self, trial):
        return os.path.join(self.args.output_dir, "run-0")


def test_trials_save_into_folders_of_their_own(tmp_path, rng):
    """What an earlier run saved elsewhere is as it was, damage included."""
    fit_trainer(tmp_path, 5)
    earlier = tmp_path / "checkpoint-5"
    flip(earlier / "model.safetensors", rng, 3, start=0)
    fit_trainer(tmp_path, 5, kind=Trial)
    assert pm.verify(tmp_path / "run-0" / "checkpoint-5").ok
    with pytest.raises(DamageError, match=r"model\.safetensors is damaged"):
        pm.verify(earlier)
    fit_trainer(tmp_path, 5)
    assert pm.verify(earlier).ok
    (earlier / "trainer_state.json").unlink()
    (tmp_path / "run-0" / "checkpoint-5" / "trainer_state.json").unlink()
    state = transformers.TrainerState(global_step=5)
    arguments = transformers.TrainingArguments(output_dir=tmp_path, use_cpu=True)
    with pytest.raises(MismatchError, match=r"no checkpoint-5 in .* has the state of the Trainer"):
        ProtectCheckpoints(errors=3).on_save(arguments, state, None)


def test_what_lies_in_a_checkpoint_and_was_not_saved_now_keeps_its_seal(tmp_path, rng):
    """Who sealed it as it is now would seal its damage."""
    fit_trainer(tmp_path, 5)
    checkpoint = tmp_path / "checkpoint-5"
    left = checkpoint / "optimizer.pt"
    saved = left.stat().st_mtime_ns
    flip(left, rng, 3, start=0)
    os.utime(left, ns=(saved, saved))  # which damage does not change
    with pytest.warns(UserWarning, match=r"optimizer\.pt of this checkpoint is not protected: "):
        fit_trainer(tmp_path, 5, save_only_model=True)
    with pytest.raises(DamageError, match=r"optimizer\.pt is damaged"):
        pm.verify(checkpoint)
    assert pm.verify(checkpoint, "repair").ok


class InFolders(transformers.Trainer):
    """Saves as SentenceTransformerTrainer does, and FSDP with state in shards."""

    def _save(self, output_dir=None, state_dict=None):
        dense = os.path.join(output_dir, "2_Dense")
        os.makedirs(dense)
        safetensors.torch.save_file(self.model.state_dict(), os.path.join(dense, "m.safetensors"))
        shards = os.path.join(output_dir, "pytorch_model_fsdp_0")
        torch.distributed.checkpoint.save(self.model.state_dict(), checkpoint_id=shards)


def test_folders_of_a_checkpoint_are_protected_too(tmp_path, rng):
    fit_trainer(tmp_path, 5, kind=InFolders)
    checkpoint = tmp_path / "checkpoint-5"
    shard, *_ = checkpoint.rglob("*.distcp")
    for path in (checkpoint / "2_Dense" / "m.safetensors", shard, shard.parent / ".metadata"):
        before = path.read_bytes()
        flip(path, rng, 3, start=0)
        assert pm.verify(checkpoint, on_damage="repair").verdict.value == "corrected"
        assert path.read_bytes() == before
        path.unlink()
        with pytest.raises(DamageError, match="missing: "):
            pm.verify(checkpoint)
        path.write_bytes(before)


def test_the_files_of_other_processes_are_waited_for(tmp_path, monkeypatch):
    """Each writes its own, as the states of random numbers, and the first one seals them."""
    late = tmp_path / "checkpoint-5" / "rng_state_1.pth"
    wait = accelerate.PartialState.wait_for_everyone

    def everyone(self):
        if late.parent.exists():
            late.write_bytes(bytes(99))
        wait(self)

    monkeypatch.setattr(accelerate.PartialState, "wait_for_everyone", everyone)
    fit_trainer(tmp_path, 5)
    assert pm.verify(late).ok


def test_bad_policies():
    with pytest.raises(SpecError, match="on_damage must be"):
        ProtectedCheckpoints(errors=3, on_damage="ignore")
    with pytest.raises(SpecError, match="storage_options"):
        ProtectedCheckpoints(errors=3).save_checkpoint({}, "last.ckpt", storage_options={"key": 1})
    with pytest.raises(SpecError, match="errors must be a whole number"):
        ProtectCheckpoints(errors=3.5)
