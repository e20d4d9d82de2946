"""What is done about damage: one vocabulary for everything that loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from parimend.arguments import one_of
from parimend.atomic import PathLike
from parimend.errors import DamageError, SpecError
from parimend.files.remedies import remedy, repair_command
from parimend.outcomes import FileOutcome, Verdict
from parimend.warning import warn

if TYPE_CHECKING:
    import torch

OnDamage = Literal["raise", "repair", "warn"]
"""What to do about damage: raise `DamageError`; repair, of which the report tells or, where none is
returned, a warning, and raise if that is not possible; or warn and go on with what is there."""


def require_policy(on_damage: str) -> None:
    """Refuse what is no policy.

    Raises:
        SpecError: if it is none.
    """
    one_of(on_damage, "on_damage", get_args(OnDamage))


def require_device(device: str | torch.device) -> None:
    """Refuse a device that torch cannot use, before anything is read for it.

    Raises:
        SpecError: names it and says why.
    """
    if str(device) == "cpu":  # files without tensors of torch are loaded without torch
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise SpecError(f"device {str(device)!r} cannot be used here: {reason}") from None


def tell(
    files: Sequence[FileOutcome], on_damage: OnDamage, seal_dir: PathLike | None = None
) -> None:
    """Say what is the matter with files that are not right, all in one sentence.

    Args:
        files: what was found in them.
        on_damage: the policy.
        seal_dir: where the seals are, if not beside the files.

    Raises:
        DamageError: unless the policy is to warn.
    """
    text = "; ".join(_said_of(file, seal_dir) for file in files)
    if text and on_damage != "warn":
        raise DamageError(text, files)
    if text:
        warn(text)


def tell_repaired(
    files: Iterable[FileOutcome], seal_dir: PathLike | None = None, *, in_place: bool = False
) -> None:
    """Warn, in one sentence, of files that were damaged though what is loaded of them is right.

    Args:
        files: what was found in them; those that were clean are passed over.
        seal_dir: where the seals are, if not beside the files.
        in_place: whether the files were repaired, too.
    """
    told = []
    for file in files:
        if file.verdict is Verdict.CLEAN:
            continue
        if _is_as_sealed(file):
            state, left = "itself is right", "the seal"
        elif in_place:
            state, left = "was damaged, and is repaired", ""
        else:
            state, left = "is damaged, what is loaded is not", "the file, too"
        said = f"{file.path} {state}: {file.said}"
        mend = f"; repair {left}: {repair_command(file, seal_dir)}"
        told.append(said if in_place else said + mend)
    if told:
        warn("; ".join(told))


def _is_as_sealed(file: FileOutcome) -> bool:
    """Whether nothing but its seal is, or was, damaged."""
    found = {file.frame, *(word.verdict for word in file.words)}
    clean = found == {Verdict.CLEAN}
    return clean and file.seal is not Verdict.CLEAN and not (file.unreadable or file.problem)


def _said_of(file: FileOutcome, seal_dir: PathLike | None) -> str:
    state = "not known to be right" if file.verdict is Verdict.UNKNOWN else "damaged"
    said = f"{file.path} is {state}: {file.said}"
    return f"{said}; {what}" if (what := remedy(file, seal_dir)) else said
