"""What guards are measured against: layers that check or restrict their outputs in other ways.

What is measured is their time: nobody does anything about their alarms.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

PRODUCTS = (nn.Linear, nn.modules.conv._ConvNd)


class Checksum(nn.Module):
    """Classic ABFT: one more output, the sum of the others, compared on the scale of |x|."""

    more = 1

    def __init__(self, layer):
        super().__init__()
        self.layer = copy.deepcopy(layer)
        for name, values in layer.named_parameters(recurse=False):
            sums = values.new_zeros(self.more, *values.shape[1:])
            with torch.no_grad():
                sums[0] = values.float().sum(0)
                setattr(self.layer, name, nn.Parameter(torch.cat([values, sums])))
        largest = layer.weight.detach().float().norm(dim=1).max()
        eps = torch.finfo(layer.weight.dtype).eps
        self.scale = float(eps * layer.weight.shape[0] ** 0.5 * largest)
        self.axis = -1 if isinstance(layer, nn.Linear) else 1
        alarm = torch.zeros((), dtype=torch.bool, device=layer.weight.device)
        self.register_buffer("alarm", alarm)

    def limit(self, x, y):
        return self.scale * x.norm()

    def forward(self, x):
        y = self.layer(x)
        n = y.shape[self.axis] - self.more
        y, check = y.narrow(self.axis, 0, n), y.narrow(self.axis, n, 1)
        off = (y.sum(self.axis, keepdim=True, dtype=torch.float32) - check).abs()
        self.alarm |= ~(off <= self.limit(x, y)).all()
        return y


class WideChecksum(Checksum):
    """For tensor cores, of linear layers: filled up to eight outputs, on the scale of every |y|."""

    more = 8

    def limit(self, x, y):
        return 1e-2 * y.float().square().sum(1, keepdim=True)


class Twice(nn.Module):
    """Runs a layer twice and compares."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def compare(self, y, again):
        if not torch.equal(y, again):
            raise RuntimeError("the two differ")

    def forward(self, x):
        y = self.layer(x)
        self.compare(y, self.layer(x))
        return y


class TwiceUnread(Twice):
    """For GPUs: nobody waits for what comes out."""

    def __init__(self, layer):
        super().__init__(layer)
        device = next(layer.parameters()).device
        self.register_buffer("alarm", torch.zeros((), dtype=torch.bool, device=device))

    def compare(self, y, again):
        self.alarm |= (y != again).any()


class Clamp(nn.Module):
    """Range restriction: outputs are clamped to what calibration has seen."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.range = [-10.0, 10.0]

    def forward(self, x):
        return self.layer(x).clamp(*self.range)


def calibrated(model, x):
    """A copy of a model, every product clamped to the range that its outputs have for ``x``."""
    model = replaced(model, Clamp)
    clamps = [m for m in model.modules() if isinstance(m, Clamp)]
    for clamp in clamps:
        clamp.range = [-torch.inf, torch.inf]
        clamp.layer.register_forward_hook(
            lambda _, args, y, clamp=clamp: setattr(clamp, "seen", [float(y.min()), float(y.max())])
        )
    model(x)
    for clamp in clamps:
        clamp.range = clamp.seen
        clamp.layer._forward_hooks.clear()
    return model


def shared(model):
    """A copy that shares the parameters: where weights lie in memory can cost 10 %."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def replaced(model, wrapper):
    """A copy of a model, every product in a wrapper."""
    if isinstance(model, PRODUCTS):
        return wrapper(shared(model))
    model = shared(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, PRODUCTS):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, wrapper(module))
    return model
