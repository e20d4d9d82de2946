"""Syndrome to errors: decoders, prepared once for a code."""

from parimend.decoders.agreement import Agreement
from parimend.decoders.amp import AMP
from parimend.decoders.base import Decoder, Prepared, decoder_for, prepared
from parimend.decoders.buckets import Buckets
from parimend.decoders.certificate import (
    certified,
    certify,
    require_certifiable,
    verify_certificate,
)
from parimend.decoders.greedy import OMP
from parimend.decoders.hashed import HashedSums
from parimend.decoders.l1 import L1
from parimend.decoders.peeling import Peeling
from parimend.decoders.reed_solomon import ReedSolomon
from parimend.decoders.screened import ScreenedSums

__all__ = [
    "AMP",
    "L1",
    "OMP",
    "Agreement",
    "Buckets",
    "Decoder",
    "HashedSums",
    "Peeling",
    "Prepared",
    "ReedSolomon",
    "ScreenedSums",
    "certified",
    "certify",
    "decoder_for",
    "prepared",
    "require_certifiable",
    "verify_certificate",
]
