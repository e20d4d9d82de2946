"""Files that can be checked and repaired: `protect_file`, `check_file`, `repair_file`.

Nothing here loads torch.
"""

from parimend.files.checking import check_file, repair_file
from parimend.files.protecting import Protection, plan_file, protect_file
from parimend.files.seals import find_seal, sidecar_of
from parimend.files.targets import targets

__all__ = [
    "Protection",
    "check_file",
    "find_seal",
    "plan_file",
    "protect_file",
    "repair_file",
    "sidecar_of",
    "targets",
]
