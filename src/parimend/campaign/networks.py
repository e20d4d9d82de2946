"""Networks, data and metrics of a spec: called by name, loaded, and known by their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from parimend.campaign.facts import Reach
from parimend.campaign.filed import tensors_of
from parimend.campaign.spec import Source
from parimend.errors import CampaignError, ParimendError, SpecError, WordError
from parimend.functions import function_of, score_of
from parimend.names import listed
from parimend.stores.aliasing import added_bytes
from parimend.stores.alone import Model, state_of
from parimend.stores.extent import extent_of, packed_in
from parimend.stores.naming import leaves, named_tensors, require_plain
from parimend.words.bits import byte_view

_WITHOUT_BUILD = " (without build it is given the tensors of the file by name, and no module)"


def load(source: Source, base: Path, name: str) -> Model:
    """The network that a spec names, on the CPU, in evaluation mode.

    Raises:
        SpecError: if what builds it is not there, or it has a tensor without plain memory, which
            nobody could compare or put back; names it.
        CampaignError: if it cannot be loaded; names the network.
    """
    where = f"[networks.{name}]"
    build = function_of(source.build, base, where) if source.build else None
    try:
        model = _load(source, base, build)
        if isinstance(model, torch.nn.Module):
            model = model.cpu().eval()
            _lay_out_(model, where)
    except ParimendError:
        raise
    except (Exception, SystemExit) as error:  # whatever a recipe that is not ours may raise
        raise CampaignError(f"{where}: cannot be loaded: {said_of(error)}") from error
    if build and not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise CampaignError(f"{where}: {source.build} gives a {kind}, not a torch.nn.Module")
    try:
        for each, tensor in state_of(model).items():
            require_plain(each, tensor)
    except WordError as error:
        raise SpecError(f"{where}: {error}") from None
    return model


def _lay_out_(model: torch.nn.Module, where: str) -> None:
    """Put the elements of every tensor in a row, so that they can be struck where they are.

    Raises:
        SpecError: if that takes apart what shares memory; names the tensors.
    """
    named = {name: value for name, (_, value) in leaves(model).items()}
    plain = {n: v for n, v in named.items() if v.layout is torch.strided and not v.is_nested}
    others = [name for name, tensor in plain.items() if not tensor.is_contiguous()]
    before = sum(added_bytes(plain).values())
    for name in others:
        plain[name].data = plain[name].data.contiguous()
    if sum(added_bytes(plain).values()) > before:
        raise SpecError(
            f"{where}: {listed(others, most=3)} lies in the memory of another tensor, in another "
            "order: a fault there strikes both; let the forward compute it, as by weight.t()"
        )


def _load(source: Source, base: Path, build: Callable[..., Any] | None) -> Any:
    if source.folder:
        from transformers import AutoModel

        return AutoModel.from_pretrained(base / source.folder)
    model = build(**source.arguments) if build else None
    if source.file:
        tensors = tensors_of(base / source.file)
        if model is None:
            return tensors
        model.load_state_dict(tensors)
    return model


def struck(model: Model, buffers: bool | None = None) -> dict[str, torch.Tensor]:
    """What is struck and protected: what `parimend.protect_` takes in.

    Args:
        model: as `load` gives it.
        buffers: of the network's `Source`.

    Raises:
        WordError: if there is nothing, or a tensor cannot be protected; names it.
    """
    named = named_tensors(model, buffers=bool(buffers))
    return {name: tensor.detach() for name, tensor in named.items()}


def reach_of(model: Model, source: Source, name: str) -> Reach:
    """How much of a network is struck and protected.

    Raises:
        SpecError: if it is less than half, and the spec does not say that it is to be so.
    """
    where, packed = f"[networks.{name}]", packed_in(model)
    try:
        taken = {} if packed and not leaves(model) else struck(model, source.buffers)
    except WordError as error:
        raise SpecError(f"{where}: {error}") from None
    extent, hidden = extent_of(model, taken), sum(packed.values())
    if hidden > extent.taken:
        raise SpecError(
            f"{where}: most of its bytes are in attributes that are neither parameters nor "
            f"buffers, where nothing is struck ({listed(packed, most=3)}), as quantize_dynamic has "
            "them: keep the weights in parameters or buffers, or strike the file that is deployed "
            "(file = ...; see docs/campaigns.md)"
        )
    if source.buffers is None and extent.is_small:
        buffers = extent.left - hidden
        raise SpecError(
            f"{where}: {buffers:,} of {extent.taken + extent.left:,} bytes are in buffers "
            f"({listed(extent.buffers, most=3)}): say buffers = true, and they are struck and "
            "protected, or buffers = false, and they are neither"
        )
    return Reach(name, extent.taken, extent.left - hidden, hidden)


def weights_hash(model: Model) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, its first 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(byte_view(tensor, name).data)
    return digest.hexdigest()[:32]


class Metric:
    """How a network is scored: a module, or the tensors of a file by name.

    Args:
        text: ``module:function``.
        base: the folder of the spec.
        data: that the function is given after the network; None: it is given the network alone.
    """

    def __init__(self, text: str, base: Path, data: Any) -> None:
        self.text, self.data = text, data
        self.function = function_of(text, base, "metric")

    def __call__(self, model: Model) -> float:
        """The score.

        Raises:
            CampaignError: if the metric fails, or gives no finite number.
        """
        with torch.no_grad():
            try:
                given = (model,) if self.data is None else (model, self.data)
                score = float(self.function(*given))
            except (Exception, SystemExit) as error:
                hint = "" if isinstance(model, torch.nn.Module) else _WITHOUT_BUILD
                said = f"the metric {self.text} fails: {said_of(error)}{hint}"
                raise CampaignError(said) from error
        try:
            return score_of(score, f"the metric {self.text}")
        except SpecError as error:
            raise CampaignError(str(error)) from None


def said_of(error: BaseException) -> str:
    """What was raised, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
