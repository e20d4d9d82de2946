"""Networks, data and metrics of a spec: called by name, loaded, and known by their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from parimend.campaign.spec import Source
from parimend.errors import CampaignError, ParimendError, SpecError
from parimend.functions import function_of, score_of
from parimend.words.bits import byte_view

Model = torch.nn.Module | Mapping[str, torch.Tensor]


def load(source: Source, base: Path, name: str) -> Model:
    """The network that a spec names, on the CPU, in evaluation mode.

    Raises:
        SpecError: if what builds it is not there.
        CampaignError: if it cannot be loaded; names the network.
    """
    where = f"[networks.{name}]"
    build = function_of(source.build, base, where) if source.build else None
    try:
        model = _load(source, base, build)
    except ParimendError:
        raise
    except Exception as error:
        raise CampaignError(f"{where}: cannot be loaded: {_said(error)}") from error
    if not isinstance(model, torch.nn.Module | Mapping):
        kind = type(model).__name__
        raise CampaignError(f"{where}: {source.build} gives a {kind}, not a torch.nn.Module")
    if isinstance(model, torch.nn.Module):
        model = model.cpu().eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
    return model


def _load(source: Source, base: Path, build: Callable[..., Any] | None) -> Any:
    if source.folder:
        from transformers import AutoModel

        return AutoModel.from_pretrained(base / source.folder)
    model = build(**source.arguments) if build else None
    if source.file:
        from safetensors.torch import load_file

        tensors = load_file(base / source.file)
        if model is None:
            return tensors
        model.load_state_dict(tensors)
    return model


def parameters(model: Model) -> dict[str, torch.Tensor]:
    """What is protected and struck: the parameters of a module, or all tensors of a state dict."""
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else model.items()
    return {name: tensor.detach() for name, tensor in named}


def state_of(model: Model) -> dict[str, torch.Tensor]:
    """All tensors that make a network what it is, buffers too."""
    return dict(model.state_dict() if isinstance(model, torch.nn.Module) else model)


def weights_hash(model: Model) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, its first 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(byte_view(tensor, name).data)
    return digest.hexdigest()[:32]


class Metric:
    """How a network is scored.

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
            except Exception as error:
                raise CampaignError(f"the metric {self.text} fails: {_said(error)}") from error
        try:
            return score_of(score, f"the metric {self.text}")
        except SpecError as error:
            raise CampaignError(str(error)) from None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
