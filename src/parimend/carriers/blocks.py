"""Which blocks of a word are not as they were; see `parimend.codes.blocks`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parimend.carriers.summing import joined, reads
from parimend.codes.blocks import DIGEST, BlockSums
from parimend.seal import SealedWord
from parimend.stores.file import FileTensors


def differing(word: SealedWord, tensors: FileTensors) -> NDArray[np.int64]:
    """The numbers of the blocks whose digests are not as sealed, read once.

    Args:
        word: one that was sealed with digests.
        tensors: where it is now. What is missing at the end of the file counts as zeros, and takes
            no time.
    """
    blocks = BlockSums(word.code)
    for pieces, start in reads(word.word):
        if all(tensors.missing(piece) == piece.nbytes for piece in pieces):
            continue
        blocks.add(joined(pieces, [tensors.read(piece) for piece in pieces]), start)
    sealed = np.frombuffer(word.blocks, np.uint8).reshape(-1, DIGEST)
    return np.flatnonzero((blocks.digests != sealed).any(axis=1))
