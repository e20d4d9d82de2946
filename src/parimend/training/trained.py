"""The parameters that are trained inside codes: which they are, and whether they still are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parimend.errors import MismatchError, SpecError
from parimend.stores.model import of_names, require_writable
from parimend.stores.naming import named_tensors, require_movable
from parimend.stores.spread import local
from parimend.training.hooks import parameters_of, require_ready


class Trained:
    """Parameters of a model that optimizers step.

    Args:
        model: the module that is trained.
        optimizers: those that step the parameters.
        only: patterns of names; all parameters by default.

    Attributes:
        parameters: by name.

    Raises:
        SpecError: if a parameter has no values yet, is frozen or not the optimizers'; names it.
        WordError: if moving one by a little makes it another one, or its memory can only be read;
            names it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        only: Sequence[str] | None,
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self.parameters: dict[str, torch.nn.Parameter] = named_tensors(model, only=only)
        require_ready(self.parameters)
        require_movable(model, self.parameters)
        require_writable({name: local(each) for name, each in self.parameters.items()})
        self._require_trainable()
        self._kinds = {name: (each.dtype, each.shape) for name, each in self.parameters.items()}

    def _require_trainable(self) -> None:
        stepped = self._stepped_ids()
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                raise SpecError(
                    f"{name} is frozen: leave it out with only=..., or protect it with "
                    "protect_(carrier='real')"
                )
            if id(parameter) not in stepped:
                raise SpecError(
                    f"the optimizer does not step {name}: give the optimizer all constrained "
                    "parameters, or leave it out with only=..."
                )

    def _stepped_ids(self) -> set[int]:
        return {id(parameter) for parameter in parameters_of(self._optimizers)}

    def require_same(self, stepped: bool = True) -> None:
        """Check that they are still those of the model.

        Args:
            stepped: and of the optimizers.

        Raises:
            MismatchError: names the first that is not.
        """
        ids = self._stepped_ids() if stepped else None
        now = self._in(self._model)
        for name, parameter in self.parameters.items():
            if now.get(name) is not parameter:
                what = "was replaced"
            elif ids is not None and id(parameter) not in ids:
                what = "was taken out of the optimizer"
            elif parameter.dtype != self._kinds[name][0]:
                what = f"has become {parameter.dtype}"
            elif parameter.shape != (shape := self._kinds[name][1]):
                what = f"of shape {list(shape)} has become one of {list(parameter.shape)}"
            else:
                continue
            raise MismatchError(
                f"{name} {what} after constrain_: call remove(), and constrain_ again"
            )

    def same_in(self, copy: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The same parameters of a copy of the model.

        Raises:
            MismatchError: if it lacks one, or has one of another shape or dtype.
        """
        there = self._in(copy)
        for name, parameter in self.parameters.items():
            if name not in there:
                raise MismatchError(f"the copy has no {name}, which is constrained")
            if (found := there[name]).shape != (shape := self._kinds[name][1]):
                raise MismatchError(
                    f"{name} has shape {list(found.shape)} in the copy, but {list(shape)} in the "
                    "model that was trained"
                )
            if found.dtype != parameter.dtype:
                raise MismatchError(
                    f"{name} is {found.dtype} in the copy, but {parameter.dtype} in the model that "
                    f"was trained: seal copy.to({parameter.dtype})"
                )
        return there

    def _in(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What has their names in the model or a copy of it, as far as it is there."""
        every: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        return of_names(every, self.parameters)
