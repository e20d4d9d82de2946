"""Syndrome to errors: decoders, prepared once for a code."""

from parimend.decoders.base import Decoder, Prepared, decoder
from parimend.decoders.buckets import Buckets

__all__ = ["Buckets", "Decoder", "Prepared", "decoder"]
