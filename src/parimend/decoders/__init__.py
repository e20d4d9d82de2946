"""Syndrome to errors: decoders, prepared once for a code."""

from parimend.decoders.base import Decoder, Prepared, decoder

__all__ = ["Decoder", "Prepared", "decoder"]
