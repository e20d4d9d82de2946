"""Which tensors faults in weights reach, and what is said where most weights are out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from parimend.errors import FaultError
from parimend.names import listed
from parimend.stores.extent import Extent, extent_beside, packed_in

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of batch normalization, which are no weights."""


def own(module: nn.Module, name: str, buffers: bool) -> dict[str, Tensor]:
    """A module's own tensors that faults strike, under the names that the model gives them; also
    those of which parametrizations make its weights.

    Example:
        >>> list(own(nn.BatchNorm1d(3), "0", False)), len(own(nn.BatchNorm1d(3), "0", True))
        (['0.weight', '0.bias'], 5)
        >>> list(own(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)), "0", False))
        ['0.bias', '0.parametrizations.weight.original0', '0.parametrizations.weight.original1']
    """
    found: dict[str, Tensor] = {}
    for within, part, recurse in _parts(module, name):
        found |= dict(part.named_parameters(within, recurse=recurse))
        if buffers:
            found |= dict(part.named_buffers(within, recurse=recurse))
    return found


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """What holds tensors of a module's own: its name, it, and whether what is in it counts."""
    yield name, module, False
    if is_parametrized(module):
        dot = "." if name else ""
        yield f"{name}{dot}parametrizations", module.get_submodule("parametrizations"), True


def has_buffers(module: nn.Module) -> bool:
    """Whether a module has buffers of its own in which there is something to strike."""
    parameters = own(module, "", False)
    return any(each.numel() for n, each in own(module, "", True).items() if n not in parameters)


def require_own(module: nn.Module, name: str, buffers: bool) -> dict[str, Tensor]:
    """`own`, of a module that has any.

    Raises:
        FaultError: if there is nothing to strike; says where weights are that are not its own.
    """
    found = own(module, name, buffers)
    if any(tensor.numel() for tensor in found.values()):
        return found
    others = extent_beside({}, own(module, name, not buffers), packed_in(module)).others
    but = f" but {others}" if others else ""
    raise FaultError(f"module {name!r} has no weights of its own{but}: name others with only=")


def note_of(model: nn.Module, layers: Iterable[str], buffers: bool, *, whole: bool) -> str:
    """What is to be said where most bytes of weights are left out.

    Args:
        model: that is traced.
        layers: names of the modules that are struck.
        buffers: whether these are struck, too.
        whole: whether all weights of the model count, and not only those of the layers.

    Returns:
        A sentence; empty where there is nothing to say.

    Example:
        >>> layer = nn.Linear(1, 2)
        >>> layer.register_buffer("table", Tensor(20))
        >>> note_of(nn.Sequential(layer), ["0"], False, whole=True)
        '16 of 96 bytes of weights can be struck: the others are buffers, which buffers=True...'
    """
    modules = dict(model.named_modules())

    def extent(names: Iterable[str]) -> Extent:
        taken, there = dict[str, Tensor](), dict[str, Tensor]()
        for name in names:
            taken |= own(modules[name], name, buffers)
            there |= own(modules[name], name, True)
        left = {n: t for n, t in there.items() if n.rpartition(".")[2] not in _STATISTICS}
        return extent_beside(taken, left, packed_in(model) if names is modules else {})

    found, of = extent(modules if whole else ()), "weights"
    if not found.is_small:
        # What a layer's bias does says nothing of its weights, however few these are.
        small = [name for name in layers if extent([name]).is_small]
        found, of = extent(small), f"the weights of {listed(small, most=3)}"
    if not found.is_small:
        return ""
    total = found.taken + found.left
    return f"{found.taken} of {total} bytes of {of} can be struck: the others are {found.others}"
