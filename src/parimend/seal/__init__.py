"""The record of what was done: codes, words, what their checks were, SHA-256."""

from parimend.seal.seal import (
    CARRIERS,
    MAX_BYTES,
    MOST_ERRORS,
    CarrierName,
    Seal,
    Unsealed,
    read_unsealed,
    unsealed,
)
from parimend.seal.word import CheckedWord, SealedWord

__all__ = [
    "CARRIERS",
    "MAX_BYTES",
    "MOST_ERRORS",
    "CarrierName",
    "CheckedWord",
    "Seal",
    "SealedWord",
    "Unsealed",
    "read_unsealed",
    "unsealed",
]
