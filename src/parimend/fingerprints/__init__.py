"""Whether weights are the same in two places, without bringing them together."""

from parimend.fingerprints.record import Comparison, Difference, Fingerprint, Print
from parimend.fingerprints.take import fingerprint

__all__ = ["Comparison", "Difference", "Fingerprint", "Print", "fingerprint"]
