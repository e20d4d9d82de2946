"""Layers of every type that has a rule, and the shapes of inputs for them."""

from torch import nn

LAYERS = {
    "linear": (nn.Linear(24, 32), (5, 24)),
    "linear, three axes": (nn.Linear(24, 32), (2, 3, 24)),
    "linear, one sample": (nn.Linear(24, 32, bias=False), (24,)),
    "conv1d": (nn.Conv1d(6, 16, 3, padding=1), (3, 6, 20)),
    "conv2d": (nn.Conv2d(6, 16, 3, stride=2, padding="valid"), (3, 6, 9, 9)),
    "conv2d, same": (nn.Conv2d(6, 16, (3, 5), padding="same", dilation=2), (3, 6, 12, 12)),
    "conv2d, one sample": (nn.Conv2d(6, 16, 3), (6, 9, 9)),
    "conv2d, reflected": (nn.Conv2d(6, 16, 3, padding=2, padding_mode="reflect"), (3, 6, 9, 9)),
    "conv2d, groups": (nn.Conv2d(6, 32, 3, groups=2), (3, 6, 9, 9)),
    "conv3d": (nn.Conv3d(3, 16, 2), (2, 3, 4, 5, 6)),
    "transposed 1d": (nn.ConvTranspose1d(6, 16, 3, stride=2), (3, 6, 9)),
    "transposed 2d": (nn.ConvTranspose2d(6, 32, 3, 2, 1, 1, groups=2), (3, 6, 7, 7)),
    "transposed 3d": (nn.ConvTranspose3d(4, 16, 2, bias=False), (2, 4, 3, 3, 3)),
}
