"""Other people's training loops: short runs, and runs that were interrupted."""

import accelerate
import lightning
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import parimend as pm
from parimend.errors import FormatError, SpecError
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


def test_lightning_seals_a_run_that_had_ended_before_it_was_sealed(tmp_path):
    class Killed(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    first = Net()
    off = {"enable_checkpointing": False}
    fit_quietly(first, 2, [for_lightning.TrainInside(**OPTIONS), Killed()], **off)
    model, callback = Net(), for_lightning.TrainInside(path=tmp_path / "seal", **OPTIONS)
    callback.seal = object()  # of a run before it
    fit_quietly(model, 2, [callback], tmp_path / "last.ckpt", **off)
    assert callback.constraint.steps == 20
    assert pm.check(model, pm.Seal.load(tmp_path / "seal")).verdict is Verdict.CLEAN
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in first.state_dict().items())


def test_lightning_seals_what_is_not_trained_at_all():
    model, callback = Net(), for_lightning.TrainInside(**OPTIONS)
    fit_quietly(model, 0, [callback], enable_checkpointing=False)
    assert pm.check(model, callback.seal).verdict is Verdict.CLEAN


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_fabric(kind):
    model = Net()
    fabric = lightning.Fabric(accelerator="cpu")
    wrapped, steps = fabric.setup(model, kind(model.parameters(), lr=0.1))
    constraint = pm.constrain_(wrapped, steps, **OPTIONS | {"every": 1})

    def loss():
        steps.zero_grad()
        value = wrapped(*data())["loss"]
        fabric.backward(value)
        return value

    with pm.heal_(wrapped, steps) as healing:
        losses = [float(steps.step(loss)) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert constraint.residual() < 1e-6
    assert (constraint.steps, constraint.events) == (5, [])
    assert (healing.steps, healing.events) == (5, [])
    seal = constraint.seal_()
    assert {part.name for part in seal.words[0].parts} == {"head.weight", "head.bias"}
    assert pm.check(model, seal).ok
    assert pm.check(wrapped, seal).ok


class ByHand(Net):
    """Manual optimization, constrained and healed by what Lightning gives for its optimizer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def on_train_start(self):
        optimizer = self.optimizers()
        self.watching = pm.constrain_(self, optimizer, **OPTIONS), pm.heal_(self, optimizer)

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self(*batch)["loss"])
        optimizer.step()


def test_manual_optimization_of_lightning():
    model = ByHand()
    fit_quietly(model, 1, [], enable_checkpointing=False)
    constraint, healing = model.watching
    assert (constraint.steps, constraint.events) == (10, [])
    assert (healing.steps, healing.events) == (10, [])
    healing.remove()
    assert pm.check(model, constraint.seal_()).ok


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


def resumed(folder, callbacks, **options):
    """What ten steps end with, and what the second five of them do, resumed."""
    for saved in (None, str(folder / "checkpoint-5")):
        model, made = Net(), callbacks()
        trainer = trainer_for(model, folder, 10, made[0], save_steps=5, **options)
        for each in made[1:]:
            trainer.add_callback(each)
        trainer.train(resume_from_checkpoint=saved)
        yield model.state_dict(), made


def test_several_callbacks_of_a_trainer_resume_each_its_own(tmp_path):
    def callbacks():
        return [
            for_transformers.TrainInside(3, only=["hidden.*"], every=2),
            for_transformers.TrainInside(**OPTIONS),
        ]

    (first, _), (second, made) = resumed(tmp_path, callbacks)
    assert [each.constraint.steps for each in made] == [10, 10]
    assert all(torch.equal(each, second[name]) for name, each in first.items())


@pytest.mark.parametrize("more", [{"errors": np.int64(5)}, {"carrier": pm.Real(bits=20)}])
def test_arguments_of_any_kind_are_saved(tmp_path, more):
    options = OPTIONS | {"every": np.int64(3)} | more
    _, (_, [made]) = resumed(tmp_path, lambda: [for_transformers.TrainInside(**options)])
    assert made.constraint.steps == 10


def test_a_callback_that_is_new_when_a_trainer_resumes(tmp_path):
    trainer_for(Net(), tmp_path, 5, TrainerCallback(), save_steps=5).train()
    model, callback = Net(), for_transformers.TrainInside(**OPTIONS)
    trainer_for(Net(), tmp_path / "other", 4, callback).train()  # of which nothing is left
    trainer = trainer_for(model, tmp_path, 10, callback, save_steps=5)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.constraint.steps == 5
    assert pm.check(model, callback.seal).verdict is Verdict.CLEAN


class Failing(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("out of luck")


def test_what_an_exception_left_is_taken_off_when_training_begins_anew(tmp_path):
    model, callback = Net(), for_transformers.TrainInside(**OPTIONS)
    trainer = trainer_for(model, tmp_path, 4, callback)
    trainer.add_callback(Failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    trainer.remove_callback(Failing)
    trainer.train()
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    assert pm.check(model, callback.seal).verdict is Verdict.CLEAN


def test_a_fit_of_lightning_that_resumes_nothing_begins_anew(tmp_path):
    callback = for_lightning.TrainInside(**OPTIONS)
    keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    fit_quietly(Net(), 1, [callback, keep])
    fit_quietly(Net(), 2, [callback], tmp_path / "last.ckpt", enable_checkpointing=False)
    assert callback.constraint.steps == 20
    fit_quietly(Net(), 1, [callback], enable_checkpointing=False)
    assert callback.constraint.steps == 10


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


@pytest.mark.parametrize("kind", [for_lightning.TrainInside, for_transformers.TrainInside])
def test_where_no_seal_can_be_saved_is_told_before_the_training(tmp_path, kind):
    model = torch.nn.Linear(64, 40)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(SpecError, match="path must be the path of a file, not an int: 3"):
        kind(3, path=3)
    with pytest.raises(FormatError, match="is a folder: name a regular file"):
        kind(3, path=tmp_path)._begin(model, optimizer, None)
    path = tmp_path / "made" / "later" / "model.parimend"
    callback = kind(3, path=str(path))
    callback._begin(model, optimizer, None)
    callback._end(saves=False)
    assert not path.parent.exists()
    callback._end(saves=True)
    assert pm.check(model, pm.Seal.load(path)).ok


@pytest.mark.parametrize(
    "kind",
    [
        for_lightning.TrainInside,
        for_lightning.ProtectedCheckpoints,
        for_transformers.TrainInside,
        for_transformers.ProtectCheckpoints,
    ],
)
def test_a_budget_that_cannot_be_is_told_before_the_training(kind):
    for errors in (0, -1, 2.5, None):
        with pytest.raises(SpecError, match="errors must be "):
            kind(errors)
