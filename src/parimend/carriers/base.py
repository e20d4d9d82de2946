"""Sealed words compared with tensors: diagnosed, repaired, proven by SHA-256 or sums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice, zip_longest
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from parimend.arguments import one_of
from parimend.carriers.carrier import Carrier, carrier_of
from parimend.carriers.finding import Changes, Element, Finding, Place
from parimend.carriers.together import Clean, clean_by_sha256
from parimend.errors import MismatchError, SpecError, WordError
from parimend.outcomes import FileOutcome, Proof, Verdict, WordOutcome
from parimend.seal import CheckedWord, Seal, SealedWord
from parimend.stores.base import Tensors, subparts
from parimend.words.layout import Word

LOOKS = 4
"""How often a word is looked at whose bytes change while they are being decoded."""

NOT_HELD = "the memory does not hold what is written to it"
SEAL_DAMAGED = "its sums in the seal are damaged: load the seal again"
_CLEAN = Finding(Verdict.CLEAN)
_CHANGING = "it changes while it is being repaired"
_WRITTEN = 1 << 14  # elements that are put back together


def require_match(seal: Seal, tensors: Tensors) -> None:
    """Check that every sealed tensor is there with its shape and dtype, and that processes that
    look at them together have the same seal: otherwise each would wait for what no other one does.

    Raises:
        MismatchError: names the first tensor that is not, and both shapes.
        WordError: see `require_alike`.
    """
    if len(set(require_alike(tensors, seal))) > 1:
        raise MismatchError(
            "the seals that the processes have are not the same: one is damaged, or another one's; "
            "load the seal again in all of them"
        )
    present = {part.name: part for part in tensors.whole()}
    for word in seal.words:
        for part in word.parts:
            found = present.get(part.name)
            if found is None:
                raise MismatchError(
                    f"the seal protects {part.name}, which is not there: use the seal that was "
                    "made for this model"
                )
            if (found.shape, found.dtype) != (part.shape, part.dtype):
                remedy = "use the seal that belongs to this model"
                if found.shape == part.shape:
                    remedy += ", or, if it was converted, protect it anew"
                raise MismatchError(
                    f"{part.name} is {found.dtype} {list(found.shape)}, but the seal was made for "
                    f"{part.dtype} {list(part.shape)}: {remedy}"
                )


def require_alike(tensors: Tensors, seal: Seal | None = None) -> list[bytes]:
    """Check that processes that look at tensors together have the same ones, cut into shards as
    PyTorch cuts: otherwise one would wait for what no other one does.

    Returns:
        A digest of the seal that each process has.

    Raises:
        WordError: names the first tensor that differs, or is not cut so; in all processes.
    """
    if not tensors.spread.several:
        return []
    digest = b"" if seal is None else _digest(seal)
    mine = tensors.spread.described(), tensors.spread.badly_cut(), digest
    every, cut, digests = zip(*tensors.spread.gather([mine]), strict=True)
    for here in zip_longest(*every, fillvalue="nothing"):
        if len(unlike := sorted(set(here))) > 1:
            raise WordError(
                f"one process has {unlike[0]} where another one has {unlike[1]}: give all of them "
                "the same tensors; DTensor.from_local needs shape and stride of the whole where "
                "shards differ in size"
            )
    if wrong := max(cut):
        raise WordError(
            f"{wrong}: cut it so, as distribute_tensor does, and give DTensor.from_local shape and "
            "stride of the whole"
        )
    return list(digests)


def _digest(seal: Seal) -> bytes:
    """SHA-256 of all that is compared with tensors."""
    digest = hashlib.sha256()
    for word in seal.words:
        digest.update(repr((word.code.spec(), word.parts, word.sha256)).encode())
        digest.update(word.target.tobytes())
    return digest.digest()


def proven_by(word: SealedWord, tensors: Tensors, proof: Proof | None) -> SealedWord:
    """A word without its SHA-256 if sums are to prove it; see `diagnose`.

    Raises:
        SpecError: if it cannot be proven in the way that is asked for; names the word.
    """
    one_of(proof, "proof", ("sha256", "sums", None))
    if proof == "sha256" and not word.sha256:
        raise SpecError(f"{word.name} was sealed without SHA-256: take proof='sums'")
    if proof == "sums" and not word.code.proves:
        raise SpecError(
            f"the checks of {word.name} ({word.code.family}) are no proof: take proof='sha256'"
        )
    if proof is None and word.code.proves and all(map(tensors.is_elsewhere, word.parts)):
        proof = "sums"
    return replace(word, sha256=b"") if proof == "sums" and word.sha256 else word


def sha256_of(word: Word, tensors: Tensors, finding: Finding | None = None) -> bytes:
    """SHA-256 of the word's bytes, with the elements of ``finding`` replaced by the originals."""
    digest = hashlib.sha256()
    fixes = iter(finding.elements if finding else ())
    fix = next(fixes, None)
    for number, part in enumerate(word):
        size = part.itemsize
        for piece in subparts(part):
            data = tensors.read(piece)
            first = piece.start - part.start
            if fix and (number, first) <= fix[:2] < (number, first + piece.count):
                data = data.copy()
            while fix and fix[:2] < (number, first + piece.count):
                at = (fix[1] - first) * size
                data[at : at + size] = np.frombuffer(fix[3], np.uint8)
                fix = next(fixes, None)
            digest.update(data.data)
    return digest.digest()


def proof_of(word: SealedWord, tensors: Tensors) -> bytes:
    """What proves a word, as it is now: two that are equal are of equal bytes."""
    if word.sha256:
        return sha256_of(word.word, tensors)
    [now] = renewed([word], tensors)
    return now.target.tobytes()


def renewed(words: Sequence[SealedWord], tensors: Tensors) -> list[SealedWord]:
    """Words sealed anew, in the codes of before.

    Raises:
        SpecError: see `Carrier.renew`.
    """
    found = dict[int, SealedWord]()
    for carrier, numbers in _by_carrier(words):
        found.update(zip(numbers, carrier.renew([words[n] for n in numbers], tensors), strict=True))
    return [found[number] for number in range(len(words))]


def clean(words: Sequence[SealedWord], tensors: Tensors) -> Iterator[Clean]:
    """Which words are as sealed, as far as their carriers see that of many together."""
    for carrier, numbers in _by_carrier(words):
        for seen in carrier.clean([words[number] for number in numbers], tensors):
            yield {numbers[at]: is_clean for at, is_clean in seen.items()}


def _by_carrier(words: Sequence[SealedWord]) -> Iterator[tuple[Carrier, list[int]]]:
    """Carriers, and the numbers of the words that each reads."""
    families = dict[str, list[int]]()
    for number, word in enumerate(words):
        families.setdefault(word.code.family, []).append(number)
    for numbers in families.values():
        yield carrier_of(words[numbers[0]].code), numbers


def find(
    word: SealedWord, tensors: Tensors, looks: int = LOOKS, erased: Sequence[Place] = ()
) -> Finding:
    """Decode one word. What can be corrected is proven by the SHA-256 of the result.

    What cannot be is looked at again where it may just have been changing, ``looks`` times in all.
    Places ``erased`` are known to fail, which costs less than finding them; but they may all be
    right just now, so that what cannot be repaired with them is tried without.
    """

    def look() -> Finding:
        carrier = carrier_of(word.code)
        finding = proven(carrier.find(word, tensors, erased), word, tensors)
        if erased and finding.verdict is Verdict.UNCORRECTABLE:
            finding = proven(carrier.find(word, tensors), word, tensors)
        return finding

    finding = look()
    if tensors.live and finding.verdict is Verdict.UNCORRECTABLE:
        with tensors.lock:
            for _ in range(looks - 1):
                before, finding = finding, look()
                if finding == before or finding.verdict is not Verdict.UNCORRECTABLE:
                    break
    lost = finding.verdict is Verdict.UNCORRECTABLE
    # A seal in memory may be damaged as well; that of a file tells it when it is read.
    if lost and tensors.live and word.sha256 and sha256_of(word.word, tensors) == word.sha256:
        finding = look()  # it may have been repaired meanwhile
        if finding.verdict is Verdict.UNCORRECTABLE:
            finding = Finding(Verdict.UNCORRECTABLE, reason=SEAL_DAMAGED)
    return finding


Find = Callable[[SealedWord, Tensors], Finding]


class Search(NamedTuple):
    """How it is found out what is wrong in words.

    Attributes:
        find: decodes a word.
        clean: says of many which are clean, as far as that is seen of them together.
    """

    find: Find
    clean: Callable[[Sequence[SealedWord], Tensors], Iterable[Clean]] = lambda words, tensors: ()


def find_hashed(word: SealedWord, tensors: Tensors) -> Finding:
    """`find` for a word that SHA-256 alone, if it was sealed, may call clean: no sums are needed
    then, and no compiled loops.
    """
    if not word.sha256:
        return find(word, tensors)
    if sha256_of(word.word, tensors) == word.sha256:
        return Finding(Verdict.CLEAN)
    finding = find(word, tensors)
    if finding.verdict is Verdict.CLEAN:
        return Finding(
            Verdict.UNCORRECTABLE, reason="the SHA-256 is not as sealed, but the sums are"
        )
    return finding


BY_SUMS = Search(find, clean)
BY_SHA256 = Search(find_hashed, clean_by_sha256)


def proven(finding: Finding, word: SealedWord, tensors: Tensors) -> Finding:
    """The finding, if correcting it leads to the sealed SHA-256. Without one it is proven already,
    as what was found explains all sums, if nobody can have changed the word since they were taken;
    else it has to lead to the sums, too.
    """
    if finding.verdict is not Verdict.CORRECTABLE:
        return finding
    if word.sha256:
        if sha256_of(word.word, tensors, finding) != word.sha256:
            reason = "the SHA-256 of the result is not as sealed"
            return Finding(Verdict.UNCORRECTABLE, reason=reason)
    elif tensors.live and not (
        carrier_of(word.code).explains(finding, word, tensors)
        # The sums may have seen another value twice, in memory that gives one and then another.
        and all(is_in_place(word, each, tensors, received=True) for each in finding.elements)
    ):
        return Finding(Verdict.UNCORRECTABLE, reason="it changed while damage was located")
    return finding


def outcome_of(word: CheckedWord, finding: Finding, verdict: Verdict | None = None) -> WordOutcome:
    """A finding as a record; ``verdict`` is what is true after a repair."""
    return WordOutcome(
        name=word.name,
        verdict=verdict or finding.verdict,
        elements=word.word.elements,
        changes=Changes(word.parts, finding.elements) if finding.elements else (),
        unexplained=finding.unexplained,
        reason=finding.reason,
        proof=word.proof if finding.elements and isinstance(word, SealedWord) else "",
    )


def diagnose(
    seal: Seal,
    tensors: Tensors,
    search: Search = BY_SUMS,
    proof: Proof | None = None,
) -> FileOutcome:
    """Check every sealed word; nothing is changed.

    Args:
        seal: what was protected, and how.
        tensors: where they are now.
        search: decodes words, where that is not to be done in the usual way.
        proof: what proves that words are as sealed. By default their SHA-256, if there is one; but
            sums if all weights of a word are on other devices than the CPU, and its code `proves`.

    Raises:
        MismatchError: if the seal does not fit the tensors.
        SpecError: if a word cannot be proven in the way that is asked for; names it.
    """
    return _each(seal, tensors, search, lambda word: (search.find(word, tensors), None), proof)


def repair_(
    seal: Seal,
    tensors: Tensors,
    search: Search = BY_SUMS,
    proof: Proof | None = None,
) -> FileOutcome:
    """Check every sealed word and put back what is wrong and known; see `diagnose`.

    A word is written only after the result was proven to be what was sealed, and is read and proven
    again afterwards. What cannot be repaired is left as it was found.
    """
    return _each(
        seal, tensors, search, lambda word: _repair_word_(word, tensors, search.find), proof
    )


def _each(
    seal: Seal,
    tensors: Tensors,
    search: Search,
    look: Callable[[SealedWord], tuple[Finding, Verdict | None]],
    proof: Proof | None,
) -> FileOutcome:
    """What ``look`` says of every word that is not seen to be clean, with that for a SHA-256 alone
    which shall be compared.
    """
    require_match(seal, tensors)
    words = [proven_by(word, tensors, proof) for word in seal.words]
    found = dict[int, bool]()
    for seen in search.clean(words, tensors):
        found |= seen
    return FileOutcome(
        tuple(
            outcome_of(word, *((_CLEAN, None) if found.get(number) else look(word)))
            for number, word in enumerate(words)
        ),
        carrier=seal.carrier,
        errors=seal.errors,
        elements=seal.covered,
        covered=seal.covered,
    )


def _repair_word_(word: SealedWord, tensors: Tensors, find: Find) -> tuple[Finding, Verdict]:
    """Put one word right, or leave it as it was found.

    Where something else in the word changes meanwhile, it is looked at again.

    Returns:
        What was found, and what is true now.
    """
    written: list[Finding] = []
    with tensors.lock:
        for _ in range(LOOKS):
            finding = find(word, tensors)
            if finding.verdict is Verdict.CORRECTABLE:
                write_finding(word, finding, tensors)
                written.append(finding)
            elif finding.verdict is not Verdict.CLEAN or not written:
                break
            if _is_original(word, tensors):
                return _merged(written), Verdict.CORRECTED
            if any(not is_in_place(word, element, tensors) for element in written[-1].elements):
                finding = Finding(Verdict.UNCORRECTABLE, reason=NOT_HELD)
                break
            finding = Finding(Verdict.UNCORRECTABLE, reason=_CHANGING)
        for each in reversed(written):
            write_finding(word, each, tensors, back=True)
    return finding, finding.verdict


def _is_original(word: SealedWord, tensors: Tensors) -> bool:
    """Whether a word is as it was sealed, by all that proves it."""
    if word.sha256:
        return sha256_of(word.word, tensors) == word.sha256
    return carrier_of(word.code).find(word, tensors).verdict is Verdict.CLEAN


def _merged(findings: Sequence[Finding]) -> Finding:
    """Several repairs of a word as one: what was found first, and what is there now."""
    if len(findings) == 1:
        return findings[0]
    first = dict[tuple[int, int], bytes]()
    last = dict[tuple[int, int], bytes]()
    for number, offset, received, original in (e for f in findings for e in f.elements):
        first.setdefault((number, offset), received)
        last[number, offset] = original
    return Finding(Verdict.CORRECTABLE, [(*at, first[at], last[at]) for at in sorted(first)])


def is_in_place(
    word: CheckedWord, element: Element, tensors: Tensors, *, received: bool = False
) -> bool:
    """Whether the right bytes of an element are in their place; or those that were ``received``."""
    number, offset, before, original = element
    part = word.parts[number]
    now = tensors.read(replace(part, start=part.start + offset, count=1))
    return now.tobytes() == (before if received else original)


def write_finding(
    word: CheckedWord, finding: Finding, tensors: Tensors, *, back: bool = False
) -> None:
    """Put the right bytes of a finding into their places, or ``back`` those that were found."""
    which = itemgetter(2 if back else 3)
    for number, mine in groupby(finding.elements, key=itemgetter(0)):
        while some := list(islice(mine, _WRITTEN)):
            offsets = np.array([offset for _, offset, _, _ in some], np.int64)
            values = np.frombuffer(b"".join(map(which, some)), np.uint8)
            tensors.write(word.parts[number], offsets, values.reshape(len(some), -1))
