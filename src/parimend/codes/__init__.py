"""Which words are valid: parity-check codes, rebuilt from small specs."""

from parimend.codes.base import Code, RealCode, from_spec
from parimend.codes.gaussian import Gaussian
from parimend.codes.lowbits import LowBits
from parimend.codes.modular import Modular
from parimend.codes.power import PowerSums
from parimend.codes.sparse import Sparse

__all__ = ["Code", "Gaussian", "LowBits", "Modular", "PowerSums", "RealCode", "Sparse", "from_spec"]
