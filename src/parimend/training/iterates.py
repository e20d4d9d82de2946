"""Second points of schedule-free optimizers, kept inside codes as the weights are.

Such an optimizer trains weights y and keeps a point z beside them; what its ``eval()`` puts into
the model is on the line through both (Defazio et al., The Road Less Scheduled, 2024). That is
inside a code where y and z are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from parimend.carriers import Chosen
from parimend.stores.shards import Shards
from parimend.training.projection import Projection


class Iterates:
    """The second points of some parameters, if there are any.

    Args:
        parameters: by name.
        words: what is to be kept inside which code.
        optimizers: of the parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        words: Sequence[Chosen],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self._parameters, self._words = parameters, words
        # As other libraries tell them: they are put into a mode, as a model is.
        self._optimizers = [each for each in optimizers if hasattr(each, "eval")]
        self._points: dict[str, torch.Tensor] = {}

    def project_(self) -> bool:
        """Move them to the nearest ones inside the codes; collective if they are sharded.

        Returns:
            Whether all are inside, so whatever the optimizer makes of them is.
        """
        points = self._find() if self._optimizers else {}
        if len(points) < len(self._parameters):
            return not self._optimizers
        if any(point is not self._points.get(name) for name, point in points.items()):
            self._points = points  # made in the first step, or loaded
            self._projection = Projection(points, self._words, Shards(points))
        checks = self._projection.checks()
        finite = all(np.isfinite(each).all() for each in checks)
        if finite:
            self._projection.project_(checks)
        return finite

    def _find(self) -> dict[str, torch.Tensor]:
        return {
            name: point
            for name, parameter in self._parameters.items()
            for optimizer in self._optimizers
            if (point := optimizer.state.get(parameter, {}).get("z")) is not None
            and point.dtype == parameter.dtype
        }
