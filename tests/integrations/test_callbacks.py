"""Other people's training loops: short runs, and runs that were interrupted."""

import accelerate
import lightning
import pytest
import torch
from transformers import Trainer, TrainingArguments

import parimend as pm
from parimend.integrations import lightning as for_lightning
from parimend.integrations import transformers as for_transformers
from parimend.outcomes import Verdict

# What these packages warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = torch.nn.Linear(20, 60)
        self.head = torch.nn.Linear(60, 10)

    def forward(self, x, labels=None):
        logits = self.head(torch.relu(self.hidden(x)))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def training_step(self, batch, index):
        return self(*batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(160, 20, generator=draw)
    return x, torch.randint(0, 10, (160,), generator=draw)


OPTIONS = {"errors": 5, "only": ["head.*"], "every": 3}


def fit_quietly(model, epochs, callbacks, resume=None, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 16)
    trainer.fit(model, batches, ckpt_path=resume)


def test_lightning(tmp_path):
    def fit(name, epochs, resume=None):
        model = Net()
        callback = for_lightning.TrainInside(path=tmp_path / "seal", **OPTIONS)
        keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path / name, save_last=True)
        fit_quietly(model, epochs, [callback, keep], resume)
        return model, callback

    model, callback = fit("a", 2)
    assert callback.constraint.steps == 20
    assert max(callback.seal.notes["moved"]) < 0.02
    assert pm.check(model, pm.Seal.load(tmp_path / "seal")).verdict is Verdict.CLEAN
    fit("b", 1)
    resumed, callback = fit("b", 2, tmp_path / "b" / "last.ckpt")
    assert callback.constraint.steps == 20
    assert all(torch.equal(t, resumed.state_dict()[k]) for k, t in model.state_dict().items())


@pytest.mark.parametrize("last", [False, True])
def test_lightning_seals_the_weights_that_stay(tmp_path, last):
    model, callback = Net(), for_lightning.TrainInside(path=tmp_path / "seal", **OPTIONS)
    average = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9)
    callbacks = [average, callback] if last else [callback, average]
    fit_quietly(model, 1, callbacks, enable_checkpointing=False)
    assert pm.check(model, pm.Seal.load(tmp_path / "seal")).verdict is Verdict.CLEAN
    assert max(callback.seal.notes["moved"]) < 0.02


def trainer_for(model, folder, steps, callback, kind=Trainer, **options):
    x, y = data()
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    return kind(model, arguments, train_dataset=rows, callbacks=[callback])


def test_transformers(tmp_path):
    def fit(name, steps, resume=None):
        model = Net()
        callback = for_transformers.TrainInside(path=tmp_path / "seal", **OPTIONS)
        trainer = trainer_for(model, tmp_path / name, steps, callback, save_steps=10)
        trainer.train(resume_from_checkpoint=resume)
        return model, callback

    model, callback = fit("a", 20)
    assert callback.constraint.steps == 20
    assert max(callback.seal.notes["moved"]) < 0.02
    assert pm.check(model, pm.Seal.load(tmp_path / "seal")).verdict is Verdict.CLEAN
    resumed, callback = fit("b", 20, str(tmp_path / "a" / "checkpoint-10"))
    assert callback.constraint.steps == 20
    assert all(torch.equal(t, resumed.state_dict()[k]) for k, t in model.state_dict().items())


def test_accelerate(tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    constraint = pm.constrain_(model, optimizer, **OPTIONS)
    accelerator.register_for_checkpointing(constraint)

    def train():
        for x, y in zip(data()[0].split(16), data()[1].split(16), strict=True):
            with accelerator.accumulate(model):
                accelerator.backward(model(x, y)["loss"])
                optimizer.step()
                optimizer.zero_grad()

    train()
    assert constraint.steps == 10
    accelerator.save_state(tmp_path / "state")
    train()
    end = {name: t.clone() for name, t in model.state_dict().items()}
    accelerator.load_state(tmp_path / "state")
    assert constraint.steps == 10
    train()
    assert all(torch.equal(t, end[name]) for name, t in model.state_dict().items())
    assert pm.check(model, constraint.seal_()).verdict is Verdict.CLEAN
