"""One fault."""

from __future__ import annotations

from dataclasses import dataclass

from parimend.faults.formats import format_of

__all__ = ["Fault"]


@dataclass(frozen=True)
class Fault:
    """One changed word.

    Attributes:
        tensor: name of the tensor.
        index: flat index of the word, in C order.
        before: bit pattern before the damage.
        after: bit pattern after it.
        dtype: safetensors name of the format of the word.

    >>> print(Fault("fc.bias", 7, 0x3E00, 0xBE00, "BF16"))
    fc.bias[7]: 3e00 -> be00
    """

    tensor: str
    index: int
    before: int
    after: int
    dtype: str

    def __str__(self) -> str:
        form = format_of(self.dtype)
        return f"{self.tensor}[{self.index}]: {form.hex(self.before)} -> {form.hex(self.after)}"
