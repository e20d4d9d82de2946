"""One file compared with its seal, and what can be said of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn

from parimend.carriers.base import require_match
from parimend.errors import FormatError, MismatchError
from parimend.files.blocks import damaged_blocks
from parimend.files.notes import LED_TO
from parimend.files.opening import Opened
from parimend.files.places import may_be_of, place_of
from parimend.files.seals import (
    Sealed,
    force_anew,
    is_found_by_content,
    is_led_elsewhere,
    sidecar_of,
)
from parimend.files.unreadable import said_of, unknown
from parimend.formats import layout_of
from parimend.outcomes import Change, FileOutcome, Verdict, WordOutcome, worst
from parimend.seal import Seal, SealedWord
from parimend.showing import command_word, counted
from parimend.stores.file import FileTensors
from parimend.words.bits import WORD
from parimend.words.layout import elements_in

Act = Callable[[Seal, FileTensors], FileOutcome]
_MANY = 32
"""Wrong elements from which on a file that was written after its seal may be another one."""
_BEHIND = "it lies behind the end of the file, which cannot be made whole"


def report_on(found: Opened, tensors: FileTensors, act: Act) -> FileOutcome:
    """What ``act``, `diagnose` or `repair_`, finds in an open file."""
    path, sealed = found.path, found.sealed
    try:
        require_match(sealed.seal, tensors)
    except MismatchError as error:  # which names the tensor
        raise MismatchError(f"{path}: {error}") from None
    outcome = _examine(sealed.seal, tensors, act)
    missing, surplus = max(tensors.size - tensors.found, 0), max(tensors.found - tensors.size, 0)
    has_end = not (missing or surplus)
    is_whole = has_end and tensors.has_header and outcome.verdict is Verdict.CLEAN
    if not is_whole and is_led_elsewhere(sealed, path):
        _refuse_what_is_led_to(sealed, path)
    if is_of_another(sealed, outcome, tensors, path):
        how, remedy = "renamed and damaged", "give it that name"
        if may_be_of(sealed, path):
            how, remedy = "damaged", f"move the seal to {sidecar_of(path)}"
        raise MismatchError(
            f"{sealed.path or path} has the seal of {place_of(sealed, path)}, and much of {path} "
            "is not what that was: it is the seal of another file (put its own there), or this "
            f"is that file, {how} (then {remedy} to repair it)"
        )
    is_ours = is_proven(outcome)
    if not is_ours and not (has_end and tensors.has_header):
        _refuse_another_file(sealed, found.file, path)
    end = _frame(has_end, is_ours and _knows_end(sealed.seal, tensors, outcome))
    # Where a file is cut for good, its header is what is left of it.
    is_cut = end is Verdict.UNCORRECTABLE
    header = _frame(
        tensors.has_header_until(tensors.found) if is_cut else tensors.has_header, is_ours
    )
    damage = damaged_blocks(sealed.seal, tensors, outcome)
    if is_cut:
        outcome = _without_tail(sealed.seal, tensors, outcome)
    problem = "" if damage.is_elsewhere_intact else _saved_anew(sealed, outcome, tensors, path)
    if left := unknown(sealed.seal.words, tensors, tensors.size):
        problem = said_of(left)
    return replace(
        outcome,
        path=str(path),
        elements=sum(part.count for part in sealed.layout.parts),
        seal=Verdict.CLEAN if sealed.is_intact else Verdict.CORRECTABLE,
        header=header,
        frame=worst(header, end),
        missing=missing,
        surplus=surplus,
        ranges=damage.ranges,
        unreadable=tuple(tensors.unreadable_bytes),
        problem=problem,
    )


def _refuse_what_is_led_to(sealed: Sealed, path: Path) -> NoReturn:
    file = Path(os.path.realpath(path))
    led = sealed.seal.notes.get(LED_TO)
    *_, last = led if isinstance(led, list) and led else [led]
    was = f"while it led to {last}" if led else f"of {place_of(sealed, path)}, not of that file"
    raise MismatchError(
        f"{path} leads to {file}, and its seal {sealed.path} was made {was}, which is something "
        f"else: let it lead there again; or seal what is there now: {force_anew(sealed, path)}; "
        f"or, if {file} is what was sealed, damaged, move the seal to {sidecar_of(file)}"
    )


def _frame(is_right: bool, is_known: bool) -> Verdict:
    wrong = Verdict.CORRECTABLE if is_known else Verdict.UNCORRECTABLE
    return Verdict.CLEAN if is_right else wrong


def is_proven(outcome: FileOutcome) -> bool:
    """Whether a word shows that the seal belongs to the file."""
    good = (Verdict.CLEAN, Verdict.CORRECTABLE, Verdict.CORRECTED)
    return not outcome.words or any(word.verdict in good for word in outcome.words)


def is_of_another(sealed: Sealed, outcome: FileOutcome, tensors: FileTensors, path: Path) -> bool:
    """Whether a file is probably not that of a seal, though its budget is enough to make it that.

    Of small files everything may be made anew, whatever they are. So where the seal has another
    name, or was found by what is in the file, and more than a quarter of the bytes that are there
    would be changed, this is another file: every model has one of some names. So it is where the
    name is another one and that is so of the header alone. A file whose seal lies beside it, and
    has its name, is repaired however damaged it is.

    Args:
        sealed: the seal.
        outcome: of comparing the file with it.
        tensors: of the file.
        path: of the file.
    """
    is_named = may_be_of(sealed, path)
    if (is_named and not is_found_by_content(sealed)) or not is_proven(outcome):
        return False
    pairs = zip(sealed.seal.words, outcome.words, strict=True)
    known = [pair for pair in pairs if pair[1].verdict is not Verdict.UNCORRECTABLE]
    parts = [part for word, _ in known for part in word.parts]
    gone = sum(map(tensors.missing, parts))
    wrong = sum(_wrong_bytes(found.changes) for _, found in known) - gone
    there = sum(part.nbytes for part in parts) - gone
    asked = [(wrong, there)]
    if not (is_named and there):
        asked.append(tensors.header_damage())
    return any(4 * bad > all_ for bad, all_ in asked)


def _wrong_bytes(changes: Iterable[Change]) -> int:
    pairs = (zip(each.received, each.original, strict=True) for each in changes)
    return sum(old != new for old, new in chain.from_iterable(pairs))


def _gone(words: Iterable[SealedWord], tensors: FileTensors) -> int:
    """Elements of words that are missing at the end of a file."""
    if tensors.found >= tensors.size:
        return 0
    parts = (part for word in words for part in word.parts)
    return sum(-(-tensors.missing(part) // part.itemsize) for part in parts)


def _saved_anew(sealed: Sealed, outcome: FileOutcome, tensors: FileTensors, path: Path) -> str:
    """Says so if a file was probably saved anew after it was protected, and not damaged.

    Then no check holds, or of a small file, all of which a budget may be enough for, hardly an
    element is what it was; and the file is newer than its seal: damage does not change its time.
    """
    words = list(zip(sealed.seal.words, outcome.words, strict=True))
    if not sealed.path or not words:
        return ""
    wrong = sum(len(found.changes) for found in outcome.words) - _gone(sealed.seal.words, tensors)
    is_beside = sealed.path.parent == path.parent
    at = command_word(path) + ("" if is_beside else f" --seal-dir {command_word(sealed.path)}")
    if all(10 * found.unexplained >= 9 * word.code.m for word, found in words):
        shown = "no check holds"
        lost = f"fetch it again: parimend repair {at} --in-place --from OTHER does"
    elif (
        wrong >= _MANY
        and 4 * wrong > 3 * sum(found.elements for found in outcome.words)
        # Areas that were lost are filled with one value; missing elements read as zeros.
        and len({change.received for change in outcome.changes}) > 2
    ):
        shown = f"{wrong:,} elements are not what they were"
        out = command_word(path.with_name(f"repaired-{path.name}"))
        lost = f"get back what was: parimend repair {at} -o {out}"
    else:
        return ""
    written, taken = tensors.written, sealed.path.stat().st_mtime
    if written <= taken:
        return ""
    return (
        f"it was written after its seal ({_day(written)}, the seal {_day(taken)}), and {shown}: "
        "probably saved anew after it was protected, or another file was put in its place. If that "
        f"was not meant, {lost}; if it was, seal what is there now: {force_anew(sealed, path)}"
    )


def _day(seconds: float) -> str:
    """A time of a file for people; of a damaged inode it may be one that no calendar has.

    >>> _day(1e12)
    '1,000,000,000,000 seconds after 1970'
    """
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:,.0f} seconds after 1970"


def _refuse_another_file(sealed: Sealed, file: BinaryIO, path: Path) -> None:
    """A file that is whole, has other tensors and no word as sealed is another file."""
    try:
        layout = layout_of(file, path)
    except FormatError:
        return
    can_tell = layout.format.strict and sealed.layout.format.strict
    if sealed.path and can_tell and layout.entries != sealed.layout.entries:
        raise MismatchError(
            f"{sealed.path} was not made for {path}, which is a whole file with other tensors or "
            "other contents: it was probably saved anew after it was protected (then seal what is "
            f"there now: {force_anew(sealed, path)}), or this is the sidecar of another file (then "
            "put its own in its place)"
        )


def _examine(seal: Seal, tensors: FileTensors, act: Act) -> FileOutcome:
    """Check or repair the words that are there; those of which too much is missing are lost."""
    lost = {word: reason for word in seal.words if (reason := _lost_of(word, seal.errors, tensors))}
    there = tuple(word for word in seal.words if word not in lost)
    found = act(replace(seal, words=there), tensors)
    outcomes = dict(zip(there, found.words, strict=True))
    for word, why in lost.items():
        elements = word.word.elements
        outcomes[word] = WordOutcome(word.name, Verdict.UNCORRECTABLE, elements, reason=why)
    words = tuple(outcomes[word] for word in seal.words)
    return replace(found, words=words, covered=seal.covered)


def is_truncated(seal: Seal, tensors: FileTensors) -> bool:
    """Whether more is missing at the end of the file than can be repaired."""
    lost = any(_lost_of(word, seal.errors, tensors) for word in seal.words)
    return lost or unprotected_loss(seal, tensors) > 0


def _without_tail(seal: Seal, tensors: FileTensors, outcome: FileOutcome) -> FileOutcome:
    """Where a file is cut for good, what is known of words behind the cut has no place in it."""
    words = [
        replace(found, verdict=Verdict.UNCORRECTABLE, changes=(), reason=_BEHIND)
        # Zeros that are missing are none that are wrong, and are missing all the same.
        if found.verdict is not Verdict.UNCORRECTABLE and any(map(tensors.is_cut, word.parts))
        else found
        for word, found in zip(seal.words, outcome.words, strict=True)
    ]
    return replace(outcome, words=tuple(words))


def _knows_end(seal: Seal, tensors: FileTensors, outcome: FileOutcome) -> bool:
    """Whether a wrong length can be put right: nothing that lies before the end is unknown."""
    if any(word.verdict is Verdict.UNCORRECTABLE for word in outcome.words):
        return False
    if tensors.found <= tensors.size:
        return not unprotected_loss(seal, tensors)
    # Bytes may have come in anywhere in tensors that are not protected.
    last = next((part for part in reversed(tensors.whole()) if part.count), None)
    if last is None:
        return tensors.has_header  # which says so: what follows it belongs to nothing
    parts = (part for word in seal.words for part in word.parts if part.name == last.name)
    return elements_in(parts) == last.count


def unprotected_loss(seal: Seal, tensors: FileTensors) -> int:
    """Bytes missing at the end of the file that belong to no word, so that nobody knows them.

    Where words have some bits of an element, as many of its bytes as these bits are.
    """
    if tensors.found >= tensors.size:
        return 0
    missing = Fraction(sum(tensors.missing(part) for part in tensors.whole()))
    for part in (part for word in seal.words for part in word.parts):
        missing -= Fraction(tensors.missing(part) * part.bits, 8 * part.itemsize)
    return math.ceil(missing)


def _lost_of(word: SealedWord, errors: int, tensors: FileTensors) -> str:
    """Why more of a word is missing at the end of the file than can be repaired, or nothing.

    Whatever a seal says of errors, every code has its limit. So the work and the memory that a file
    takes are bounded by what is there, also if seal and header claim more.
    """
    budget = min(errors, word.code.most_bytes(word.word) // WORD)
    if word.code.erasures:  # it is known where they are
        budget = min(2 * errors, word.code.m - 1)
    gone = [(part, missing) for part in word.parts if (missing := tensors.missing(part))]
    missing = sum(count for _, count in gone)
    if -(-missing // WORD) <= budget:
        return ""
    part, count = gone[0]
    kept = part.count - -(-count // part.itemsize)
    where = f"{list(part.index(kept))} of " if kept else ""
    others = f" and {counted(len(gone) - 1, 'more tensor')}" if len(gone) > 1 else ""
    return (
        f"the file is truncated: {missing:,} bytes of it are missing, from {where}{part.name} on"
        f"{others}; {budget:,} words of {WORD} bytes could be repaired"
    )
