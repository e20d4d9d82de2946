"""Sums over many tensors of all sizes, and what one band of them tells."""

import hashlib
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parimend.carriers import Chosen, Sidecar, summing
from parimend.codes import Hashed, Modular, Screened
from parimend.outcomes import Verdict
from parimend.stores.model import ModelTensors
from parimend.words.bits import words_of
from parimend.words.layout import Word, padded_words

DTYPES = (torch.float32, torch.bfloat16, torch.uint8, torch.float64)


def tensors_of(sizes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ModelTensors(
        {
            f"t{i}": torch.randint(0, 256, (8 * size,), generator=draw, dtype=torch.uint8)
            .view(DTYPES[i % 4])
            .narrow(0, 0, size)
            for i, size in enumerate(sizes)
        }
    )


@pytest.mark.parametrize("chunk", [64, 256, 1 << 22])
@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=8), seed=st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_parts_are_read_does_not_matter(monkeypatch, chunk, sizes, seed):
    sizes = [*sizes, 1]
    tensors = tensors_of(sizes, seed)
    word = Word(tuple(part for part in tensors.whole() if part.count))
    code = Modular.for_errors(word.padded, 3, seed)
    expected, at = code.zeros(), 0
    for part in word:
        code.accumulate(expected, words_of(tensors.read(part)), at)
        at += padded_words(part)
    with monkeypatch.context() as patch:
        patch.setattr("parimend.stores.base.CHUNK", chunk)
        patch.setattr(summing, "CHUNK", chunk)
        patch.setattr(summing, "JOINED", chunk)
        reads = list(summing.reads(word))
        assert all(padded_words(*pieces) * 4 <= chunk for pieces, _ in reads)
        np.testing.assert_array_equal(summing.sums(code, word, tensors), expected)
        few = summing.sums(code, word, tensors, few=True)
        np.testing.assert_array_equal(few, code.few(expected))
        [sealed] = Sidecar().seal_([Chosen(code, word)], tensors).words
    np.testing.assert_array_equal(sealed.target, expected)
    assert sealed.sha256 == hashlib.sha256(b"".join(map(bytes, map(tensors.read, word)))).digest()


@pytest.mark.parametrize("raised", [OSError, KeyboardInterrupt])
def test_after_a_failure_the_rest_is_not_read(monkeypatch, raised):
    monkeypatch.setattr("parimend.stores.base.CHUNK", 1 << 12)
    monkeypatch.setattr(summing, "CHUNK", 1 << 12)
    monkeypatch.setattr(summing, "_VIEWED", 1 << 12)
    monkeypatch.setattr(summing, "_SHARE", 1 << 10)
    monkeypatch.setattr(summing, "JOINED", 1 << 12)
    monkeypatch.setattr(summing, "cores", lambda: 2)
    tensors, reads, read = tensors_of([1 << 20]), summing.reads, ModelTensors.read
    word, asked, waited, closed = Word(tensors.whole()), [], [], Event()

    def told(*given, **options):
        try:
            yield from reads(*given, **options)
        finally:
            closed.set()

    def fails_once(part):
        asked.append(part)
        if len(asked) == 1:
            raise raised
        waited.append(closed.wait(60))
        return read(tensors, part)

    monkeypatch.setattr(summing, "reads", told)
    monkeypatch.setattr(tensors, "read", fails_once)
    with pytest.raises(raised):
        summing.sums(Modular.for_errors(word.padded, 3), word, tensors)
    assert all(waited)
    assert len(asked) <= 2 < len(list(reads(word)))


def test_small_tensors_are_read_together():
    tensors = tensors_of([100] * 50)
    [(pieces, start)] = summing.reads(Word(tuple(tensors.whole())))
    assert (len(pieces), start) == (50, 0)


CODES = [Modular(1024, 64), Modular(1024, 64, version=2), Screened(1024, 24), Hashed(1024, 136)]


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_damage_is_found_with_every_code_on_sums(code):
    tensors = tensors_of([40, 300, 7, 90], seed=1)
    parts = tuple(tensors.whole())
    word = Word(parts)
    [sealed] = Sidecar().seal_([Chosen(replace(code, n=word.padded), word)], tensors).words
    assert Sidecar().find(sealed, tensors).verdict is Verdict.CLEAN
    before = [tensors.read(part).copy() for part in parts]
    for part in parts:
        tensors.read(part)[3] ^= 0x90
    found = Sidecar().find(sealed, tensors)
    assert found.verdict is Verdict.CORRECTABLE
    assert [element[0] for element in found.elements] == [0, 1, 2, 3]
    for number, start, received, original in found.elements:
        size = parts[number].itemsize
        at = slice(start * size, (start + 1) * size)
        assert tensors.read(parts[number])[at].tobytes() == received
        assert before[number][at].tobytes() == original


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40))
def test_one_band_tells_what_all_of_them_tell(seed, count):
    tensors = tensors_of([40, 300, 7, 90], seed=1)
    parts = tuple(tensors.whole())
    code, word = Modular.for_errors(padded_words(*parts), 40), Word(parts)
    before = summing.sums(code, word, tensors)
    draw = np.random.default_rng(seed)
    for _ in range(count):
        part = parts[draw.integers(4)]
        byte = tensors.read(part)[draw.integers(part.count)]
        tensors.read(part)[draw.integers(part.count)] = byte ^ draw.integers(256)
    now, few = (summing.sums(code, word, tensors, few) for few in (False, True))
    assert np.array_equal(few, code.few(before)) is np.array_equal(now, before)
