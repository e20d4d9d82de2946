"""What a protection is: something done to a network once, and a repair after damage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from parimend.errors import WordError
from parimend.experiment import Answer
from parimend.words.bits import byte_view

Tensors = Mapping[str, Any]
"""Tensors of torch by name."""
Words = NDArray[np.uint32]
"""Bit patterns."""
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Network:
    """What a protection is given.

    Attributes:
        model: a module or a state dict.
        tensors: what is to be protected, by name; they share the model's memory.
        run: runs the network on its data, for what watches it; None if it cannot be run.
    """

    model: Any
    tensors: Tensors
    run: Callable[[], float] | None = None


class Watch:
    """What a protection does while its network runs."""

    def seen(self) -> Answer:
        """What was found and done since this was asked for the last time."""
        return Answer.of(0)

    def remove(self) -> None:
        """The network runs unwatched from now on."""


@dataclass(frozen=True)
class Protection(ABC):
    """A protection; its fields are its options.

    A repair says ``corrected`` where the rule claims that all is as before, ``uncorrectable`` where
    it saw something that it cannot put back, whatever it did about it, and ``clean`` where it saw
    nothing. Whether that is true is seen by the experiment, not by the protection.
    """

    kind: ClassVar[str]
    """As specs write it."""
    source: ClassVar[str]
    """Where the rule is from."""
    runs: ClassVar[bool] = False
    """Whether it looks at what a network computes: it is for modules that can be run."""
    tells: ClassVar[bool] = False
    """Whether it finds what is wrong while the network runs: a run belongs to its repair then."""

    @abstractmethod
    def protect_(self, network: Network) -> Any:
        """Protect a network, and change it if the rule says so; gives what is kept beside it.

        Raises:
            WordError, SpecError: if it cannot be; names the tensor.
        """

    @abstractmethod
    def repair_(self, tensors: Tensors, kept: Any) -> Answer:
        """Look for damage, and do what the rule says about it."""

    def watch_(self, model: Any, kept: Any) -> Watch:
        """Watch an undamaged protected network from now on, wherever it runs."""
        return Watch()

    @contextmanager
    def watching(self, model: Any, kept: Any) -> Iterator[Watch]:
        """Watch a network for a while."""
        watch = self.watch_(model, kept)
        try:
            yield watch
        finally:
            watch.remove()

    def exposed(self, kept: Any) -> Mapping[str, Bytes]:
        """What is kept beside the weights, by name, as bytes that damage may reach."""
        return {}

    def nbytes(self, kept: Any) -> int:
        """Bytes that are kept beside the weights."""
        return sum(data.size for data in self.exposed(kept).values())

    def guaranteed(self, tensors: Tensors, kept: Any) -> int:
        """Any that many wrong words of 32 bits are repaired, always, wherever in these tensors they
        are: what is proven of the rule.
        """
        return 0


def float_words(tensors: Tensors, kind: str) -> dict[str, Words]:
    """The bit patterns of float32 tensors, which share their memory.

    Raises:
        WordError: if one is of another dtype; names it.
    """
    found = {}
    for name, tensor in tensors.items():
        if str(tensor.dtype) != "torch.float32":
            raise WordError(f"{kind} is a rule for float32, and {name} is {tensor.dtype}")
        found[name] = byte_view(tensor, name).view(np.uint32)
    return found
