"""Taking fingerprints: of models in one piece, of models over processes, of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from parimend.arguments import path_of, require
from parimend.atomic import PathLike
from parimend.errors import SpecError
from parimend.fingerprints.files import found_in_files
from parimend.fingerprints.models import found_in, tensors_of
from parimend.fingerprints.record import Fingerprint
from parimend.names import select

if TYPE_CHECKING:
    from parimend.model import Model

Names = Mapping[str, str] | Callable[[str], str]
"""What tensors are called: others by their names, or a function of these."""


def fingerprint(
    of: Model | PathLike,
    *,
    only: str | Sequence[str] | None = None,
    names: Names | None = None,
) -> Fingerprint:
    """A few sums of every tensor of a model or a file, to compare it with another one.

    It is the same for a model in one piece, for one whose parameters are sharded (FSDP2, tensor
    parallelism: every `DTensor` that is split along whole dimensions, or replicated), and for a
    file. Nothing is gathered: of sharded parameters four numbers a tensor go through one
    all-reduce for each way in which they are split; all processes have to call this together, and
    all get the same, but for replicas: there every process tells of its own.

    Two tensors that differ in up to four words of 32 bits have different sums, always; if they
    differ in more, by accident, they have the same ones with a probability of about 2^-128. Bits
    are compared: weights that were converted to another dtype differ. Who wants to deceive can
    choose weights with the same sums: against that, sign digests (`parimend.receipt`).

    Of archives of torch and numpy it is what their libraries load that is compared, one file after
    the other in memory: tensors and arrays, however their storages lie. Other formats are read in
    pieces. A file in which no tensors are found is a tensor of its bytes; what is no tensor, such
    as numbers and texts beside some, is not compared.

    Args:
        of: a module (its parameters and buffers, as in its state dict), a state dict or a nested
            checkpoint; or the path of a file, of an index or of a folder with shards, of any
            format and protected or not.
        only: shell patterns of the names to take.
        names: what tensors are to be called in the fingerprint, where two places name them
            differently. Where tensors are fused in one place, give views of the parts, which copy
            nothing: ``fingerprint({"q": qkv[:64], "k": qkv[64:128], "v": qkv[128:]})``.

    Returns:
        The fingerprint: see `Fingerprint.compare`.

    Raises:
        WordError: if a tensor has no plain bytes (quantized, sparse), or is sharded in another
            way, or nothing is selected; names it.
        SpecError: if ``names`` calls two tensors the same, or one something else than a text.
        FormatError: if a file is not what its format promises, or its library does not load it
            (torch with ``weights_only=True``, numpy without pickles), or two files have one tensor.
        MismatchError: if a folder has several indices.
        OSError: if a file cannot be read.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_model
        >>> model = torch.nn.Linear(64, 32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/model.safetensors")
        ...     fingerprint(f"{folder}/model.safetensors") == fingerprint(model)
        True
    """
    if isinstance(of, str | os.PathLike):
        found = found_in_files(path_of(of), only)
    else:
        tensors = tensors_of(of)
        found = found_in({name: tensors[name] for name in select(tensors, only)})
    if names is None:
        return found
    called = _called(found.tensors, names)
    return Fingerprint(
        {called[name]: each for name, each in found.tensors.items()},
        {called[name]: called[first] for name, first in found.tied.items()},
    )


def _called(tensors: Iterable[str], names: Names) -> dict[str, str]:
    """The new name of every tensor."""
    if not callable(names):
        require(names, "names", "other names by names, or a function of them", Mapping)
    rename = names if callable(names) else lambda name: names.get(name, name)
    called = {name: rename(name) for name in tensors}
    for name, new in called.items():
        require(new, f"the new name of {name}", "a text", str)
    first: dict[str, str] = {}
    for name, new in called.items():
        if other := first.get(new):
            raise SpecError(f"names calls both {other} and {name} {new}: give them different names")
        first[new] = name
    return called
