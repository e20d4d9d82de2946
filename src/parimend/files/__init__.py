"""Files that can be checked and repaired: `protect_file`, `check_file`, `repair_file`.

Nothing here loads torch.
"""

from parimend.files.checking import check_all, check_file
from parimend.files.members import known_members, seals_of
from parimend.files.protecting import Protected, protect_all, protect_file
from parimend.files.repairing import repair_all, repair_file
from parimend.files.sealing import Protection
from parimend.files.seals import SUFFIX, find_seal, sidecar_of
from parimend.files.targets import left_out, targets

__all__ = [
    "SUFFIX",
    "Protected",
    "Protection",
    "check_all",
    "check_file",
    "find_seal",
    "known_members",
    "left_out",
    "protect_all",
    "protect_file",
    "repair_all",
    "repair_file",
    "seals_of",
    "sidecar_of",
    "targets",
]
