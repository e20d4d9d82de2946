"""Files that can be checked and repaired: `protect_file`, `check_file`, `repair_file`.

Nothing here loads torch.
"""

from parimend.files.checking import check_all, check_file
from parimend.files.members import known_members, seals_of
from parimend.files.protecting import Protected, protect_all, protect_file
from parimend.files.repairing import repair_all, repair_file
from parimend.files.sealing import Protection
from parimend.files.seals import sidecar_of
from parimend.files.targets import targets

__all__ = [
    "Protected",
    "Protection",
    "check_all",
    "check_file",
    "known_members",
    "protect_all",
    "protect_file",
    "repair_all",
    "repair_file",
    "seals_of",
    "sidecar_of",
    "targets",
]
