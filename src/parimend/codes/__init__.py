"""Which words are valid: parity-check codes, rebuilt from small specs."""

from parimend.codes.base import Code, RealCode, from_spec
from parimend.codes.budget import sums_for
from parimend.codes.certificate import Certificate
from parimend.codes.gaussian import Gaussian
from parimend.codes.hashed import Hashed
from parimend.codes.lowbits import LowBits
from parimend.codes.modular import Modular
from parimend.codes.power import PowerSums
from parimend.codes.promise import Chance, Promise
from parimend.codes.screened import Screened
from parimend.codes.sparse import Sparse
from parimend.codes.sums import SumsCode, restore

__all__ = [
    "Certificate",
    "Chance",
    "Code",
    "Gaussian",
    "Hashed",
    "LowBits",
    "Modular",
    "PowerSums",
    "Promise",
    "RealCode",
    "Screened",
    "Sparse",
    "SumsCode",
    "from_spec",
    "restore",
    "sums_for",
]
