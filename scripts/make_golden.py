"""Write the golden files of `tests/golden` for codes, peeling, armored bytes and sidecars.

    python scripts/make_golden.py

Nothing of Parimend is imported: codes are rebuilt in plain Python from their description, damage
and syndromes are plain integers, and armored bytes come from the reedsolo package. So the files do
not follow the code that they test, and running this again changes none of them.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from math import gcd
from pathlib import Path
from typing import Any

import reedsolo

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
MODULUS = 1 << 64
PRIME = 2**32 + 24577
_PHI = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The finalizer of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % MODULUS
    x = (x ^ x >> 27) * 0x94D049BB133111EB % MODULUS
    return x ^ x >> 31


def word(key: int, i: int) -> int:
    """Output i of SplitMix64 seeded with ``key``."""
    return mix((key + (i + 1) * _PHI) % MODULUS)


def stream_key(seed: int, tag: int) -> int:
    """The key of stream ``tag`` of a seed."""
    for t in (1, tag):
        seed = mix((seed + (t + 1) * _PHI) % MODULUS)
    return seed


def below(x: int, bound: int) -> int:
    """The upper half of ``x``, scaled to 0 .. bound - 1."""
    return (x >> 32) * bound >> 32


Column = list[tuple[int, int]]


def sparse_columns(spec: dict[str, Any]) -> tuple[list[Column], list[int]]:
    """The columns of a sparse code of version 1, as (row, coefficient), and the order of them."""
    n, m, own = spec["n"], spec["m"], spec["own"]
    imposed = max(m - spec["free"], 0)
    (light, _), *heavy = spec["weights"]
    degrees = [d for d, parts in heavy for _ in range(n * parts // 1000)]
    degrees = [light] * (n - len(degrees)) + degrees

    # Supports, each choice of a row taking the emptier of two.
    key, counter = stream_key(spec["seed"], 1), 0
    load, supports, seen = [0] * m, [], set()
    for i, degree in enumerate(degrees):
        owner = [i // own] if i // own < imposed else []
        low = owner[0] + 1 if owner else 0
        tries = 0
        while True:
            rows = list(owner)
            while len(rows) < degree:
                k, other = (low + below(word(key, counter + c), m - low) for c in (0, 1))
                counter += 2
                if tries < 8 and load[other] < load[k]:
                    k = other
                if k not in rows:
                    rows.append(k)
            if tuple(sorted(rows)) not in seen:
                break
            tries += 1
        seen.add(tuple(sorted(rows)))
        supports.append(sorted(rows))
        for k in rows:
            load[k] += 1

    # Columns change places.
    key = stream_key(spec["seed"], 2)
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = below(word(key, i), i + 1)
        order[i], order[j] = order[j], order[i]
    placed: list[list[int]] = [[]] * n
    for i, support in enumerate(supports):
        placed[order[i]] = support

    # Coefficients: odd, of full length, random sign.
    key, at = stream_key(spec["seed"], 3), 0
    size = 1 << (spec["coefficient_bits"] - 1)
    columns: list[Column] = []
    for support in placed:
        column = []
        for row in support:
            bits = word(key, at)
            at += 1
            magnitude = size | bits % size | 1
            column.append((row, -magnitude if bits >> 63 else magnitude))
        columns.append(column)

    # The first two that a check owns become coprime.
    for j in range(imposed):
        first, second = order[j * own], order[j * own + 1]
        row, a = columns[first][0]
        while gcd(a, columns[second][0][1]) != 1:
            grown = abs(a) + 2 if abs(a) + 2 < 2 * size else size + 1
            a = grown if a > 0 else -grown
        columns[first][0] = (row, a)
    return columns, order


def signed(x: int) -> int:
    """The int64 with the bits of x modulo 2^64."""
    return (x + MODULUS // 2) % MODULUS - MODULUS // 2


def spec(n: int, m: int, **fields: Any) -> dict[str, Any]:
    """A full spec of a sparse code."""
    default = {
        "seed": 0,
        "version": 1,
        "weights": [[2, 500], [3, 500]],
        "own": 8,
        "free": 16,
        "word_bits": 18,
        "coefficient_bits": 44,
    }
    return {"family": "sparse", "n": n, "m": m, **default, **fields}


SPECS = [
    spec(5120, 173, own=12),
    spec(600, 64, seed=2**64 - 1, weights=[[3, 920], [16, 80]]),
    spec(300, 24, seed=7, weights=[[3, 1000]], free=12, word_bits=8, coefficient_bits=20),
    spec(90, 20, seed=5, weights=[[2, 700], [3, 200], [5, 100]], own=3, free=9),
    # Supports run short, the last check owns all there are, and coefficients share factors.
    spec(119, 19, seed=3, weights=[[2, 1000]], own=7, free=7, word_bits=4, coefficient_bits=6),
    spec(119, 19, seed=6, weights=[[2, 1000]], own=7, free=7, word_bits=4, coefficient_bits=6),
    spec(40, 20, free=20, weights=[[2, 500], [4, 500]]),
    spec(
        2000,
        130,
        family="lowbits",
        weights=[[3, 920], [16, 80]],
        word_bits=32,
        coefficient_bits=63,
    ),
]


def sparse() -> list[dict[str, Any]]:
    """Structures of sparse codes."""
    cases = []
    for case in SPECS:
        columns, order = sparse_columns(case)
        data = b"".join(struct.pack("<iq", *entry) for column in columns for entry in column)
        degrees = struct.pack(f"<{case['n']}i", *map(len, columns))
        imposed = max(case["m"] - case["free"], 0)
        cases.append(
            {
                "spec": case,
                "first": columns[0],
                "owned": order[: case["own"]] if imposed else [],
                "sha256": hashlib.sha256(degrees + data).hexdigest(),
            }
        )
    return cases


def peeling() -> list[dict[str, Any]]:
    """Damage, some of it erased, and the syndrome that it leaves."""
    cases = []
    for number, (case, errors, erased) in enumerate(
        [
            (SPECS[0], 210, 0),
            (SPECS[0], 150, 100),
            (SPECS[1], 25, 10),
            (SPECS[2], 9, 4),
            (SPECS[-1], 60, 10),
        ]
    ):
        columns, _ = sparse_columns(case)
        limit = 1 << case["word_bits"]
        damage: dict[int, int] = {}
        at = 0
        while len(damage) < errors:
            bits = word(number, at)
            at += 1
            damage[below(bits, case["n"])] = bits % (2 * limit - 1) - limit + 1 or 1
        syndrome = [0] * case["m"]
        for i, value in damage.items():
            for row, coefficient in columns[i]:
                syndrome[row] += coefficient * value
        cases.append(
            {
                "spec": case,
                "syndrome": [signed(s) for s in syndrome],
                "erasures": sorted(list(damage)[:erased]),
                "damage": sorted(damage.items()),
            }
        )
    return cases


def armored(payload: bytes) -> bytes:
    """A payload in armor."""
    codec = reedsolo.RSCodec(32, fcr=1, prim=0x11D, generator=2)
    blocks = -(-len(payload) // 223)
    body = bytearray(len(payload) + 32 * blocks)
    for b in range(blocks):
        body[b::blocks] = codec.encode(payload[b::blocks])
    prefix = struct.pack("<8sHHII", b"PARIMEND", 1, 0, len(payload), zlib.crc32(payload))
    prefix += struct.pack("<I", zlib.crc32(prefix))
    return prefix + bytes(body) + prefix


def armor() -> list[dict[str, str]]:
    """Payloads and what they look like in armor."""
    payloads = [
        bytes(word(length, i) % 256 for i in range(length)) for length in (0, 1, 13, 223, 224, 700)
    ]
    return [{"payload": p.hex(), "armored": armored(p).hex()} for p in payloads]


def modular_sums(spec: dict[str, Any], words: dict[int, int]) -> list[int]:
    """The sums of a modular code of version 1 or 2."""
    bands, size = spec["bands"], spec["m"] // spec["bands"]
    key, prime = stream_key(spec["seed"], 1), {1: (1 << 32) + 15, 2: PRIME}[spec["version"]]
    sums = [[0] * spec["m"], [0] * spec["m"]]
    for i, value in words.items():
        group, lane = divmod(i, 16)
        a = group + 1
        a = (a ^ a >> 16) * 0x7FEB352D % (1 << 32)
        a = (a ^ a >> 15) * 0x846CA68B % (1 << 32)
        a ^= a >> 16
        for band in range(bands):
            h = word(key, group * ((bands + 1) // 2) + band // 2)
            start = below((h << 32) % MODULUS if band % 2 else h, size)
            bucket = band * size + (start + lane) % size
            sums[0][bucket] = (sums[0][bucket] + value) % prime
            sums[1][bucket] = (sums[1][bucket] + a * value) % prime
    return sums[0] + sums[1]


def packed(flat: list[int]) -> bytes:
    """Residues of 33 bits."""
    top = sum((value >> 32) << i for i, value in enumerate(flat))
    low = b"".join(struct.pack("<I", value % (1 << 32)) for value in flat)
    return low + top.to_bytes(-(-len(flat) // 8), "little")


def power_sums(n: int, m: int, seed: int, words: dict[int, int]) -> list[int]:
    """Power sums of version 1 of the words that are not zero."""
    exponent = stream_key(seed, 1) % (PRIME - 1)
    while gcd(exponent, PRIME - 1) != 1:
        exponent += 1
    g = pow(3, exponent, PRIME)
    rows = next(
        size for size in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if size >= m
    )
    turn = pow(g, (PRIME - 1) // rows, PRIME)
    sums = [0] * m
    for i, value in words.items():
        (tile, place), lanes = divmod(i, 8 * rows), 8
        row, lane = divmod(place, lanes)
        x = pow(g, -(lanes * tile + lane), PRIME) * pow(turn, row, PRIME) % PRIME
        drawn = word(stream_key(seed, 2), i % (lanes * rows)) % (PRIME - 1) + 1
        term = value * drawn * x % PRIME
        for j in range(m):
            sums[j] = (sums[j] + term) % PRIME
            term = term * x % PRIME
    return sums


def checks_of(spec: dict[str, Any], words: dict[int, int]) -> bytes:
    """The packed sums of a code on sums: version 1 or, of modular codes, 2."""
    n, m, seed = spec["n"], spec["m"], spec["seed"]
    if spec["family"] == "modular":
        return packed(modular_sums(spec, words))
    if spec["family"] == "power":
        return packed(power_sums(n, m, seed, words))
    first = spec["first"]
    few = power_sums(n, first, stream_key(seed, 1), words)
    if spec["family"] == "screened":
        return packed(few + power_sums(n, m - first, seed, words))
    buckets = {"m": (m - first) // 2, "seed": seed, "version": 2, "bands": spec["bands"]}
    return packed(few + modular_sums(buckets, words))


def power_spec(n: int, m: int, seed: int, first: int = 0) -> dict[str, Any]:
    """A full spec of a power code or, with some sums for checks alone, of a screened one."""
    family = {"family": "screened", "first": first} if first else {"family": "power"}
    return {**family, "n": n, "m": m, "seed": seed, "version": 1}


def modular_spec(n: int, buckets: int, seed: int, bands: int, first: int = 0) -> dict[str, Any]:
    """A full spec of a modular code of version 2 or, with power sums, of a hashed one."""
    fields = {"n": n, "seed": seed, "bands": bands}
    if first:
        return {
            "family": "hashed",
            **fields,
            "m": first + 2 * buckets,
            "version": 1,
            "first": first,
        }
    return {"family": "modular", **fields, "m": buckets, "version": 2}


def power() -> list[dict[str, Any]]:
    """A few words in long codes, and their power sums."""
    return sums_with(
        [
            power_spec(17_200_000, 2, 0),
            power_spec(100, 8, 5),
            power_spec(2**32 - 2**20, 16, 2**64 - 1),
            power_spec(300_000, 424, 0, 4),
            power_spec(4_100_000_000, 2004, 7, 4),
            power_spec(50, 24, 3, 4),
        ]
    )


def hashed() -> list[dict[str, Any]]:
    """A few words in long codes, and their hashed sums, some with power sums beside them."""
    return sums_with(
        [
            modular_spec(300_000, 96, 0, 4),
            modular_spec(2**36 - 16, 150, 2**64 - 1, 3),
            modular_spec(300_000, 100, 5, 4, 8),
            modular_spec(4_100_000_000, 95, 2**64 - 1, 5, 8),
            modular_spec(50, 32, 3, 2, 4),
        ]
    )


def sums_with(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few words in codes on sums, and their sums."""
    cases = []
    for number, spec in enumerate(specs):
        n, words = spec["n"], {}
        for k in range(40):
            bits = word(number, k)
            words[bits % n] = mix(bits) % 2**32
        words[0] = words[n - 1] = 2**32 - 1
        checks = checks_of(spec, words).hex()
        cases.append({"spec": spec, "words": sorted(words.items()), "checks": checks})
    return cases


def files() -> list[dict[str, str]]:
    """Files of named formats with sidecars of power sums, as `sidecar` has them of modular sums."""
    return files_with([power_spec(0, 8, 7), power_spec(0, 24, 7, 4)], named=True)


def hashed_files() -> list[dict[str, str]]:
    """The same with hashed sums modulo the prime of the power sums, and with both."""
    return files_with([modular_spec(0, 64, 7, 4), modular_spec(0, 64, 7, 4, 8)], named=True)


def sidecar() -> list[dict[str, str]]:
    """Files and their sidecars, of before formats had names."""
    return files_with([{"family": "modular", "m": 64, "seed": 7, "version": 1, "bands": 4}])


def files_with(codes: list[dict[str, Any]], named: bool = False) -> list[dict[str, str]]:
    """A safetensors file, one of its tensors, and bytes, with sidecars of some codes."""
    floats = struct.pack("<40f", *(i / 7 for i in range(40)))
    tensors = {
        "w": {"dtype": "F32", "shape": [8, 5], "data_offsets": [0, 160]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [160, 163]},
    }
    text = json.dumps(tensors, separators=(",", ":")).encode()
    header = struct.pack("<Q", len(text)) + text
    cases = []
    for given in codes:
        for head, data, pieces, parts in (
            (header, floats + b"abc", [floats, b"abc"], [[0, 1]]),
            (header, floats + b"abc", [floats[40:]], [[0, 10, 30, 0]]),
            (b"", b"any other file", [b"any other file"], [[0, 0]]),
        ):
            padded = b"".join(piece.ljust(-(-len(piece) // 64) * 64, b"\0") for piece in pieces)
            words = list(struct.unpack(f"<{len(padded) // 4}I", padded))
            code = {**given, "n": len(words)}
            sums = checks_of(code, dict(enumerate(words)))
            digest = hashlib.sha256(b"".join(pieces)).hexdigest()
            frame = head or (struct.pack("<Q", len(data)) if named else b"")
            format_name = ("safetensors" if head else "raw") if named else "header"
            seal = {
                "version": 1,
                "carrier": "sidecar",
                "errors": 2,
                "words": [{"code": code, "parts": parts, "sha256": digest, "checks": len(sums)}],
                "notes": {},
                "blobs": {format_name: len(frame)},
            }
            if not head and not named:
                seal["tensors"] = [["bytes", "U8", [len(data)]]]
            encoded = json.dumps(seal, sort_keys=True, separators=(",", ":")).encode()
            payload = struct.pack("<I", len(encoded)) + encoded + sums + frame
            cases.append({"file": (head + data).hex(), "sidecar": armored(payload).hex()})
    return cases


def main() -> None:
    """Write all files."""
    GOLDEN.mkdir(exist_ok=True)
    for make in (sparse, peeling, armor, power, hashed, sidecar, files, hashed_files):
        cases = ",\n".join(json.dumps(case, separators=(",", ":")) for case in make())
        (GOLDEN / f"{make.__name__}.json").write_text(f"[\n{cases}\n]\n")


if __name__ == "__main__":
    main()
