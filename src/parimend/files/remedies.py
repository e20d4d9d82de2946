"""What to do about damage: the commands that mend it."""

from __future__ import annotations

from parimend.atomic import PathLike
from parimend.outcomes import FileOutcome, Verdict
from parimend.showing import command_word


def repair_command(file: FileOutcome, seal_dir: PathLike | None = None) -> str:
    """The command that repairs a file; see `remedy`.

    >>> repair_command(FileOutcome((), "model.bin"), "my seals")
    "parimend repair model.bin --seal-dir 'my seals' --in-place"
    """
    sealed = f" --seal-dir {command_word(seal_dir)}" if seal_dir else ""
    return f"parimend repair {command_word(file.path)}{sealed} --in-place"


def remedy(file: FileOutcome, seal_dir: PathLike | None = None) -> str:
    """What to do about a file, in words; nothing if it is right or its problem says that itself.

    Args:
        file: what was found in it.
        seal_dir: where the seals are, if not beside the files.

    Example:
        >>> remedy(FileOutcome((), "my model.bin", frame=Verdict.CORRECTABLE))
        "repair it: parimend repair 'my model.bin' --in-place"
    """
    repair = repair_command(file, seal_dir)
    if file.problem or file.verdict.ok:
        return ""
    if file.verdict is Verdict.CORRECTABLE:
        return f"repair it: {repair}"
    other = f", or only what is damaged: {repair} --from OTHER" if file.ranges else ""
    if file.can_be_improved and not file.unreadable:
        return (
            f"not all of it can be repaired: fetch it again{other}, or put back what is proven: "
            f"{repair} --partial"
        )
    return f"it cannot be repaired here: fetch it again{other}"
