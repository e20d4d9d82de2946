"""The networks of the atlas of motifs: small, and described by one record each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parimend.datasets import DataSet

Shape = tuple[int, int, int]
"""Channels, height, width of a picture."""
ACTIVATIONS = {"relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Net:
    """A network, how it is trained, and how it is used.

    Attributes:
        family: ``mlp``; ``conv``: 3 x 3 convolutions; ``tokens``: blocks over rows of pixels.
        depth: hidden layers, convolutions or blocks.
        width: of each.
        residual: whether layers add to what they read.
        norm: none, batch, layer or rms, before the activation.
        act: a name of `ACTIVATIONS`.
        pool: max or average, of ``conv``.
        mixer: attention or perceptron, of ``tokens``.
        dropout: probability.
        sam: sharpness-aware minimization.
        decay: of the weights, decoupled (AdamW).
        code: whether all weights are trained inside a code.
        clip: what is kept within the range of the intact network: none, ``outputs`` of
            activations, or ``weights``.
        dtype: in which the weights are stored.
    """

    family: str = "mlp"
    depth: int = 3
    width: int = 48
    residual: bool = False
    norm: str = "none"
    act: str = "relu"
    pool: str = "max"
    mixer: str = "attention"
    dropout: float = 0.0
    sam: bool = False
    decay: float = 0.0
    code: bool = False
    clip: str = "none"
    dtype: str = "float32"

    def as_trained(self) -> Net:
        """Without what makes no difference to training."""
        return replace(self, clip="none", dtype="float32")


class RmsNorm(nn.Module):
    """Each row divided by its root mean square, times a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


def _norm(net: Net, width: int, pictures: bool) -> list[nn.Module]:
    if net.norm == "none":
        return []
    if net.norm == "batch":
        return [nn.BatchNorm2d(width) if pictures else nn.BatchNorm1d(width)]
    if pictures:
        return [nn.GroupNorm(1, width)]
    return [{"layer": nn.LayerNorm, "rms": RmsNorm}[net.norm](width)]


class Residual(nn.Module):
    """Adds what some layers compute to what they read."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _layer(net: Net, product: nn.Module, width: int, same: bool) -> nn.Module:
    """One hidden layer; residual only if it is as wide as what it reads."""
    parts = [product, *_norm(net, width, isinstance(product, nn.Conv2d)), ACTIVATIONS[net.act]()]
    if net.dropout:
        parts.append(nn.Dropout(net.dropout))
    return Residual(*parts) if net.residual and same else nn.Sequential(*parts)


class Attention(nn.Module):
    """Softmax attention between tokens, four heads."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        return self.write(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Across(nn.Module):
    """A perceptron between tokens, the same for every channel (MLP-Mixer, arXiv 2105.01601)."""

    def __init__(self, net: Net, tokens: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(tokens, 2 * tokens), nn.Linear(2 * tokens, tokens)
        self.act = ACTIVATIONS[net.act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.act(self.inner(x.transpose(1, 2)))).transpose(1, 2)


class Rows(nn.Module):
    """A picture as tokens: one for each row of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class Mean(nn.Module):
    """Over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Places(nn.Module):
    """Adds to every token what stands for its place."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.place


def network(net: Net, shape: Shape) -> nn.Module:
    """The network for pictures of this shape, float32 (N, C, H, W); gives ten logits."""
    return {"mlp": _mlp, "conv": _conv, "tokens": _tokens}[net.family](net, shape)


def _mlp(net: Net, shape: Shape) -> nn.Module:
    inputs, layers = math.prod(shape), list[nn.Module]([nn.Flatten()])
    for i in range(net.depth):
        product = nn.Linear(net.width if i else inputs, net.width)
        layers.append(_layer(net, product, net.width, same=i > 0))
    return nn.Sequential(*layers, nn.Linear(net.width, 10))


def _conv(net: Net, shape: Shape) -> nn.Module:
    kind = {
        "max": (nn.MaxPool2d, nn.AdaptiveMaxPool2d),
        "average": (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    }
    halve, whole = kind[net.pool]
    layers = list[nn.Module]()
    halvings = round(math.log2(shape[1] / 4))
    for i in range(net.depth):
        product = nn.Conv2d(net.width if i else shape[0], net.width, 3, padding=1)
        layers.append(_layer(net, product, net.width, same=i > 0))
        if i < halvings:
            layers.append(halve(2))
    return nn.Sequential(*layers, whole(1), nn.Flatten(), nn.Linear(net.width, 10))


def _tokens(net: Net, shape: Shape) -> nn.Module:
    tokens, width = shape[1], net.width
    blocks = list[nn.Module]()
    for _ in range(net.depth):
        mixer = Attention(width) if net.mixer == "attention" else Across(net, tokens)
        inner = [nn.Linear(width, 2 * width), ACTIVATIONS[net.act](), nn.Linear(2 * width, width)]
        blocks += [Residual(nn.LayerNorm(width), mixer), Residual(nn.LayerNorm(width), *inner)]
    embedded = [Rows(), nn.Linear(shape[0] * shape[2], width), Places(tokens, width)]
    return nn.Sequential(*embedded, *blocks, nn.LayerNorm(width), Mean(), nn.Linear(width, 10))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def fitted(net: Net, like: Net, shape: Shape) -> Net:
    """The network, as wide as makes its number of parameters the nearest to another one's."""
    with torch.device("meta"):  # they are only counted
        wanted = parameters(network(like, shape))

        def off(width: int) -> int:
            return abs(parameters(network(replace(net, width=width), shape)) - wanted)

        return replace(net, width=min(range(4, 2 * like.width + 1), key=off))


def picture_shape(data: DataSet) -> Shape:
    x = data.train_x
    if x.ndim == 4:
        return tuple(x.shape[1:])  # type: ignore[return-value]
    side = math.isqrt(x.shape[1])
    return 1, side, side
