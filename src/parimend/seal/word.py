"""Sealed words, and how the text of a seal lists them; see `parimend.seal.seal`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from parimend.codes import Certificate, Code, Promise, from_spec
from parimend.codes.blocks import digests_size
from parimend.codes.certificate import promised
from parimend.errors import SealError, SpecError
from parimend.outcomes import Proof
from parimend.showing import brief
from parimend.words.layout import Part, Word


@dataclass(frozen=True, eq=False, repr=False)
class CheckedWord:
    """A word and what its checks were.

    Attributes:
        code: the code it belongs to.
        word: the elements it is made of.
        target: `Code.syndrome_shape`: its syndrome when it was right.
    """

    code: Code
    word: Word
    target: NDArray[Any]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of the word."""
        return self.word.parts

    @property
    def name(self) -> str:
        """For messages; see `Word.name`."""
        return self.word.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {brief(self.name)}, {brief(repr(self.code))}>"


@dataclass(frozen=True, eq=False, repr=False)
class SealedWord(CheckedWord):
    """One protected word.

    Attributes:
        sha256: SHA-256 of the protected bytes, the parts one after the other; empty if nobody took
            it, or if it shall not be compared: then the sums of the code prove what the bytes are.
        certificate: of the code, if a guarantee was asked for that takes one.
        blocks: the digests of its blocks (`parimend.codes.blocks`), if they were taken; they say
            where it is wrong when too much is.
    """

    sha256: bytes
    certificate: Certificate | None = None
    blocks: bytes = b""

    @property
    def proof(self) -> Proof:
        """What proves that the bytes are those that were sealed."""
        return "sha256" if self.sha256 else "sums"

    def promise(self, errors: int) -> Promise:
        """What is promised of the word; ``errors`` is `Seal.errors`."""
        return promised(self.code, self.word, errors, self.certificate)

    def verify_certificate(self) -> None:
        """Prove what the certificate states again, from the code alone; takes some seconds.

        Raises:
            SealError: if there is none, or it is not that of the code; names the word.
        """
        from parimend.decoders import verify_certificate  # a seal is read without them

        if self.certificate is None:
            raise SealError(
                f"{self.name} has no certificate: protect it with guaranteed=... to have one"
            )
        try:
            verify_certificate(self.certificate)
        except SpecError as error:
            raise SealError(f"{self.name}: its certificate does not verify: {error}") from None


def entry_of(word: SealedWord, number: Mapping[str, int], checks: int) -> dict[str, Any]:
    """A word as the text lists it."""
    entry = {
        "code": word.code.spec(),
        "parts": _runs(word.parts, number),
        "sha256": word.sha256.hex(),
        "checks": checks,
    }
    if word.certificate:
        entry["certificate"] = word.certificate.facts
    if word.blocks:
        entry["blocks"] = len(word.blocks)
    return entry


def word_of(
    entry: Mapping[str, Any],
    data: memoryview,
    blocks: memoryview,
    tensors: Sequence[Part],
    room: dict[int, int],
    codes: dict[str, Code],
) -> SealedWord:
    """One word, from its checks and the digests of its blocks, if there are any; ``room`` is how
    many bits of every tensor are in no word yet, ``codes`` are those of other words, which share
    what is derived from them.
    """
    parts: list[Part] = []
    for run in entry["parts"]:
        for i, part in _parts(run, tensors):
            left = room.get(i, tensors[i].count * tensors[i].bits) - part.count * part.bits
            # Otherwise a few bytes could name all tensors over and over.
            if left < 0 or not part.count:
                raise SealError("its words overlap, or have empty parts")
            room[i] = left
            parts.append(part)
    if not parts:
        raise SealError("one of its words is empty")
    spec, word = repr(entry["code"]), Word(tuple(parts))
    if spec not in codes:
        codes[spec] = from_spec(entry["code"])
    code = codes[spec]
    if not code.fits(word):
        raise SealError(f"its {code.family} code for {code.n} words does not fit its tensors")
    target, digest = code.unpack(data), _sha256(entry)
    if not (digest or code.proves):
        raise SealError(f"one of its words has no SHA-256, which its {code.family} code needs")
    if blocks and (len(blocks) != digests_size(code) or not digest or word.masked):
        raise SealError(f"it has {len(blocks)} bytes of digests of blocks, which do not fit a word")
    return SealedWord(code, word, target, digest, _certificate(entry, code, word), bytes(blocks))


def _sha256(entry: Mapping[str, Any]) -> bytes:
    digest = bytes.fromhex(entry["sha256"])
    if digest and len(digest) != hashlib.sha256().digest_size:
        raise SealError("one of its SHA-256 sums has the wrong length")
    return digest


def _certificate(entry: Mapping[str, Any], code: Code, word: Word) -> Certificate | None:
    if "certificate" not in entry:
        return None
    try:
        return Certificate.of(code, entry["certificate"])
    except SpecError as error:
        raise SealError(f"{word.name}: its certificate does not fit its code: {error}") from None


def _runs(parts: Sequence[Part], number: Mapping[str, int]) -> list[list[int]]:
    """Parts by the numbers of their tensors, neighbouring whole tensors together."""
    runs: list[list[int]] = []
    for part in parts:
        i, mask = number[part.name], [part.mask] if part.mask else []
        if part.start or part.exponent or part.count != math.prod(part.shape):
            runs.append([i, part.start, part.count, part.exponent, *mask])
        elif runs and runs[-1][1:] == [i - 1, *mask]:
            runs[-1][1] = i
        else:
            runs.append([i, i, *mask])
    return runs


def _parts(run: Sequence[int], tensors: Sequence[Part]) -> Iterator[tuple[int, Part]]:
    """The inverse of `_runs`, for one of them; with the numbers of the tensors."""
    if any(type(x) is not int for x in run):
        raise SealError("its parts must be whole numbers")
    if len(run) in (2, 3):
        first, last, *mask = run
        if not 0 <= first <= last < len(tensors):
            raise SealError(f"its tensors {first} to {last} are not among its {len(tensors)}")
        for i in range(first, last + 1):
            yield i, _of_bits(tensors[i], mask)
        return
    i, start, count, exponent, *mask = run
    if not 0 <= i < len(tensors) or not 0 <= start <= start + count <= tensors[i].count:
        raise SealError(f"its part {list(run)} does not fit its tensors")
    of = tensors[i]
    part = Part(of.name, of.dtype, of.shape, start, count, exponent)
    yield i, _of_bits(part, mask)


def _of_bits(part: Part, mask: Sequence[int]) -> Part:
    """A part, of only some bits if a mask says which."""
    if not mask:
        return part
    (bits,) = mask
    if not 0 < bits < (1 << 8 * part.itemsize) - 1:
        raise SealError(f"its mask {bits:#x} is not one of some bits of {part.name}")
    return replace(part, mask=bits)
