"""Networks, data and metrics of a spec: called by name, loaded, and known by their contents."""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from parimend.campaign.spec import Source
from parimend.errors import CampaignError, ParimendError, SpecError
from parimend.words.bits import byte_view

Model = torch.nn.Module | Mapping[str, torch.Tensor]


def function(text: str, base: Path, where: str) -> Callable[..., Any]:
    """What ``module:function`` names; the folder ``base`` is looked into, too.

    Raises:
        SpecError: if there is no such module or function, or another module of that name is loaded.
    """
    module_name, _, name = text.partition(":")
    if str(base) not in sys.path:
        sys.path.append(str(base))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError(f"{where}: {text} cannot be imported from {base}: {error}") from None
    beside = base.joinpath(*module_name.split(".")).with_suffix(".py")
    found = getattr(module, "__file__", None)
    if beside.exists() and found and Path(found).resolve() != beside.resolve():
        raise SpecError(f"{where}: {beside} is hidden by {found}: give it another name")
    try:
        called: Callable[..., Any] = getattr(module, name)
    except AttributeError:
        raise SpecError(f"{where}: {found} has no {name}") from None
    return called


def load(source: Source, base: Path, name: str) -> Model:
    """The network that a spec names, on the CPU, in evaluation mode.

    Raises:
        SpecError: if what builds it is not there.
        CampaignError: if it cannot be loaded; names the network.
    """
    where = f"[networks.{name}]"
    build = function(source.build, base, where) if source.build else None
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
        self.function = function(text, base, "metric")

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
        if not math.isfinite(score):
            raise CampaignError(
                f"the metric {self.text} gives {score}: a score must be a finite number also for a "
                "damaged network; give a share, or bound it"
            )
        return score


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
