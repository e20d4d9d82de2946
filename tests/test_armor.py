"""Armored bytes: what is promised to survive does, and nothing wrong is ever returned."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import reedsolo
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parimend.armor import VERSION, armor, armored_length, unarmor
from parimend.errors import SealError
from parimend.reedsolomon import parity_of, repair_

GOLDEN = json.loads((Path(__file__).parent / "golden" / "armor.json").read_text())
PREFIX = 24
# Around the lengths of one and two blocks, and a few blocks more.
LENGTHS = st.sampled_from([1, 2, 31, 222, 223, 224, 445, 446, 447, 700])


def blocks_of(length):
    return -(-length // 223)


def damaged(data, positions, rng):
    """Every byte at ``positions`` changed."""
    out = bytearray(data)
    for i in positions:
        out[i] ^= int(rng.integers(1, 256))
    return bytes(out)


class TestIntact:
    @given(st.binary(max_size=1000))
    @example(b"")
    @example(b"\0")
    @example(b"\0" * 446)
    def test_comes_back_as_it_was(self, payload):
        assert unarmor(armor(payload), "x") == (payload, False)

    @pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(len(case["payload"]) // 2))
    def test_the_format_stays_as_it_is(self, case):
        payload, armored = bytes.fromhex(case["payload"]), bytes.fromhex(case["armored"])
        assert armor(payload) == armored
        assert unarmor(armored, "x") == (payload, False)

    @given(st.integers(0, 1000))
    def test_length_is_known_from_the_prefix(self, length):
        data = armor(bytes(length))
        assert len(data) == 2 * PREFIX + length + 32 * blocks_of(length)
        assert armored_length(data[:28]) == len(data)
        assert armored_length(data[1:]) is None
        assert armored_length(b"") is None


class TestDamage:
    @settings(max_examples=30)
    @given(LENGTHS, st.floats(0, 1), st.integers(0, 2**32))
    @example(223, 0.0, 0)
    @example(446, 1.0, 0)
    def test_any_burst_of_16_bytes_a_block(self, length, place, seed):
        rng = np.random.default_rng(seed)
        payload = rng.bytes(length)
        data = armor(payload)
        burst = 16 * blocks_of(length)
        start = round(place * (len(data) - burst))
        assert unarmor(damaged(data, range(start, start + burst), rng), "x") == (payload, True)

    @pytest.mark.parametrize("length", [1, 224])
    def test_bursts_across_every_boundary(self, length, rng):
        payload = rng.bytes(length)
        data = armor(payload)
        burst = 16 * blocks_of(length)
        for edge in (PREFIX, PREFIX + length, len(data) - PREFIX):
            for start in (edge - burst, edge - burst // 2, edge - 1, edge):
                hit = range(max(start, 0), min(start + burst, len(data)))
                assert unarmor(damaged(data, hit, rng), "x") == (payload, True)

    def test_scattered_bytes_16_in_every_block_and_one_prefix(self, rng):
        payload = rng.bytes(500)
        data = armor(payload)
        for prefix in (range(PREFIX), range(len(data) - PREFIX, len(data))):
            hit = [
                PREFIX + b + 3 * int(k)
                for b in range(3)
                for k in rng.choice((len(data) - 2 * PREFIX) // 3 - 1, 16, replace=False)
            ]
            assert unarmor(damaged(data, [*hit, *prefix], rng), "x") == (payload, True)

    @given(st.integers(0, 80))
    def test_every_single_byte(self, at):
        data = armor(b"x")
        hit = damaged(data, [at], np.random.default_rng(at))
        assert unarmor(hit, "x") == (b"x", True)

    def test_the_empty_payload_survives_one_prefix(self, rng):
        data = armor(b"")
        for hit in (range(PREFIX), range(PREFIX, 2 * PREFIX)):
            assert unarmor(damaged(data, hit, rng), "x") == (b"", True)

    @given(
        st.lists(st.integers(0, 15), max_size=6),
        st.lists(st.integers(0, 15), max_size=6),
        st.permutations(range(16, 24)),
        st.integers(1, 4),
    )
    def test_damage_of_both_ends(self, front, back, order, split):
        """As long as half of the checksums is left in either, and both look like prefixes."""
        data = armor(b"payload" * 60)
        # Four are wrong in both, the others in one each but the last.
        places = [
            *{*front, *order[:4], *order[4 : 4 + split]},
            *(len(data) - PREFIX + i for i in {*back, *order[:4], *order[4 + split :]}),
        ]
        hit = damaged(data, [*places, 100], np.random.default_rng(len(front)))
        assert unarmor(hit, "x") == (b"payload" * 60, True)

    def test_nothing_is_proven_by_less_than_half_of_the_checksums(self, rng):
        data = armor(b"payload" * 60)
        places = [at + i for at in (0, len(data) - PREFIX) for i in range(16, 21)]
        with pytest.raises(SealError, match="file: the seal is damaged beyond repair"):
            unarmor(damaged(data, places, rng), "file")

    def test_ends_of_which_nothing_is_left_make_it_foreign(self, rng):
        data = armor(b"payload" * 60)
        ends = [*range(PREFIX), *range(len(data) - PREFIX, len(data))]
        with pytest.raises(SealError, match=r"file: this is no seal of Parimend, or both its ends"):
            unarmor(damaged(data, ends, rng), "file")

    def test_too_much(self, rng):
        data = armor(rng.bytes(700))
        with pytest.raises(SealError, match="file: the seal is damaged beyond repair"):
            unarmor(damaged(data, range(100, 300), rng), "file")


class TestLength:
    def test_a_missing_end_is_damage(self, rng):
        payload = rng.bytes(447)
        data = armor(payload)
        for missing in (1, 20, PREFIX, PREFIX + 1, PREFIX + 48):
            assert unarmor(data[:-missing], "x") == (payload, True)

    def test_what_follows_is_cut_off(self, rng):
        payload = rng.bytes(447)
        assert unarmor(armor(payload) + b"tail", "x") == (payload, True)

    @pytest.mark.parametrize("kept", [0, 10, 24, 28, 100, 590])
    def test_cut_short(self, kept, rng):
        data = armor(rng.bytes(600))
        with pytest.raises(
            SealError, match=r"file: (the seal has \d+ bytes instead of 744|.*ends)"
        ):
            unarmor(data[:kept], "file")

    def test_a_missing_beginning(self, rng):
        data = armor(rng.bytes(600))
        with pytest.raises(SealError, match="743 bytes instead of 744"):
            unarmor(data[1:], "file")


class TestForeign:
    @pytest.mark.parametrize("data", [b"", b"PARIMEND", b"\0" * 100, b"PARIMEND" * 20])
    def test_is_refused(self, data):
        with pytest.raises(SealError, match=r"file: (this is no seal|.* beyond repair)"):
            unarmor(data, "file")

    def test_a_newer_version(self):
        head = struct.pack("<8sHHII", b"PARIMEND", VERSION + 1, 0, 0, 0)
        head += struct.pack("<I", zlib.crc32(head))
        with pytest.raises(SealError, match=r"file: .* version 2, newer than 1: install a newer"):
            unarmor(head + head, "file")

    def test_another_magic(self):
        head = struct.pack("<8sHHII", b"PARIWORM", 1, 0, 0, 0)
        head += struct.pack("<I", zlib.crc32(head))
        with pytest.raises(SealError, match="no seal"):
            unarmor(head + head, "file")

    def test_lengths_that_are_not_there_cost_nothing(self):
        head = struct.pack("<8sHHII", b"PARIMEND", 1, 0, 2**32 - 1, 0)
        head += struct.pack("<I", zlib.crc32(head))
        with pytest.raises(SealError, match="48 bytes instead of"):
            unarmor(head + head, "file")


@settings(max_examples=300)
@given(st.sampled_from([0, 1, 60, 300]), st.integers(0, 2**32), st.data())
def test_nothing_wrong_is_ever_returned(length, seed, data):
    rng = np.random.default_rng(seed)
    payload = rng.bytes(length)
    hit = bytearray(armor(payload))
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["scatter", "zeros", "cut", "insert", "delete", "swap"]))
        at, width = int(rng.integers(len(hit) + 1)), int(rng.integers(1, 60))
        if kind == "scatter" and hit:
            hit = bytearray(damaged(bytes(hit), rng.integers(len(hit), size=width), rng))
        elif kind == "zeros":
            hit[at : at + width] = bytes(len(hit[at : at + width]))
        elif kind == "cut":
            del hit[-width:]
        elif kind == "insert":
            hit[at:at] = rng.bytes(width)
        elif kind == "delete":
            del hit[at : at + width]
        else:
            hit = hit[at:] + hit[:at]
    try:
        found, _ = unarmor(bytes(hit), "x")
    except SealError:
        return
    assert found == payload


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 20))
def test_blocks_are_decoded_as_by_a_decoder_of_one_block(length, seed, most):
    """All at once, with up to ``most`` wrong bytes in each, against the reedsolo package."""
    rng = np.random.default_rng(seed)
    payload = rng.bytes(length)
    blocks = blocks_of(length)
    body = bytearray(armor(payload)[PREFIX:-PREFIX])
    for b in range(blocks):
        places = np.arange(b, len(body), blocks)
        for i in rng.choice(places, min(int(rng.integers(most + 1)), places.size), replace=False):
            body[i] ^= int(rng.integers(1, 256))
    received = bytearray(body[:length])
    solved = repair_(received, np.frombuffer(body[length:], np.uint8) ^ parity_of(received))
    codec, expected = reedsolo.RSCodec(32, fcr=1), bytearray(length)
    try:
        for b in range(blocks):
            expected[b::blocks] = codec.decode(body[b::blocks])[0]
    except reedsolo.ReedSolomonError:
        assert not solved
    else:
        assert solved
        assert received == expected
