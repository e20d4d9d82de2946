"""Certificates against brute force, and damage that is made to mislead."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.guarantees import Misleading
from parimend.codes import LowBits, PowerSums, Sparse
from parimend.codes.structure import Columns
from parimend.decoders import Peeling, certificate, certify, verify_certificate
from parimend.decoders.base import nothing
from parimend.decoders.peeling import PreparedPeeling
from parimend.errors import SpecError
from parimend.kernels import peeling_numba as kernels
from parimend.kernels.stopping_numba import closest_pair, stopping_sets
from parimend.outcomes import Verdict


def tiny(seed, m, coefficient_bits):
    return Sparse(
        30, m, seed, own=2, free=m // 2 + 2, word_bits=2, coefficient_bits=coefficient_bits
    )


def all_damage(code, most):
    """Every damage of at most ``most`` words: [(columns, (k, number of columns) values)]."""
    sizes = [x for x in range(1 - (1 << code.word_bits), 1 << code.word_bits) if x]
    for words in range(most + 1):
        values = np.array(list(itertools.product(sizes, repeat=words)), np.int64)
        for columns in itertools.combinations(range(code.n), words):
            yield columns, values


def twice_explained(code, most):
    """Whether two damages of at most ``most`` words have one syndrome."""
    # A product with random numbers tells syndromes apart; equal ones are compared.
    random = np.random.default_rng(0).integers(-(2**62), 2**62, code.m)
    H = code.dense()
    key = random @ H
    damages = list(all_damage(code, most))
    keys = np.concatenate([values @ key[list(columns)] for columns, values in damages])
    order = np.argsort(keys)
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    if not same.size:
        return False
    ends = np.cumsum([len(values) for _, values in damages])

    def syndrome(number):
        at = int(np.searchsorted(ends, number, "right"))
        columns, values = damages[at]
        return H[:, list(columns)] @ values[number - ends[at]]

    a, b = order[same[0]], order[same[0] + 1]
    np.testing.assert_array_equal(syndrome(a), syndrome(b))
    return True


def test_what_is_certified_has_one_explanation_each_by_brute_force(rng):
    refused, certified = 0, 0
    for m, coefficient_bits, seed in [(9, 3, 0), (9, 3, 1), (9, 20, 0), (10, 20, 1), (14, 16, 0)]:
        code = tiny(seed, m, coefficient_bits)
        if twice_explained(code, 3):
            with pytest.raises(SpecError):
                certify(code)
            refused += 1
            continue
        verify_certificate(certify(code))
        certified += 1
        prepared = Peeling().prepare(code)
        for _ in range(300):
            damage = np.zeros(code.n, np.int64)
            damage[rng.choice(code.n, 3, replace=False)] = rng.integers(-3, 4, 3)
            if not damage.any():
                continue
            decoding = prepared.decode(code.syndrome(damage))
            assert decoding.verdict is Verdict.CORRECTED
            np.testing.assert_array_equal(np.flatnonzero(damage), decoding.positions)
            np.testing.assert_array_equal(damage[decoding.positions], decoding.values)
    assert refused >= 2
    assert certified >= 3


def stopping_sets_of(rows, m, most):
    """The stopping sets of columns that are in these of m checks; none comes twice."""
    start, row = np.cumsum([0, *map(len, rows)]), np.concatenate(rows).astype(np.int32)
    for array in (start, row):  # as those of a code: loops are compiled once for both
        array.setflags(write=False)
    row_start, column, _ = kernels.by_rows(start, row, m)
    sets, ended = stopping_sets(start, row, row_start, column, most, 10**8)
    assert ended
    listed = [frozenset(i for i in columns.tolist() if i >= 0) for columns in sets]
    assert len(set(listed)) == len(listed)
    return set(listed)


def test_stopping_sets_against_brute_force():
    found = 0
    for seed in range(6):
        code = Sparse(18, 7, seed, own=2, free=4)
        touched = [code.column(i)[0].tolist() for i in range(code.n)]
        expected = set()
        for k in range(1, 6):
            for columns in itertools.combinations(range(code.n), k):
                rows = [c for i in columns for c in touched[i]]
                if all(rows.count(c) >= 3 for c in set(rows)):
                    expected.add(frozenset(columns))
        # Five columns cannot be two sets apart: each has four or more.
        assert stopping_sets_of(touched, code.m, 5) == expected
        found += len(expected)
    assert found


@pytest.mark.parametrize(("m", "weights"), [(8, (2, 3)), (8, (2, 2)), (12, (1, 4)), (40, (2, 3))])
def test_stopping_sets_of_many_columns_against_brute_force(rng, m, weights):
    """More columns in every check than are looked at one after the other."""
    n, most = 60, 4
    rows = [
        np.sort(rng.choice(m, k, replace=False)) for k in rng.integers(*weights, n, np.int64, True)
    ]
    rows[20:] = rows[:20] * 2
    H = np.zeros((n, m), np.int8)
    for i, touched in enumerate(rows):
        H[i, touched] = 1
    expected = set()
    for k in range(1, most + 1):
        chosen = np.array(list(itertools.combinations(range(n), k)))
        count = sum(H[column] for column in chosen.T)
        expected.update(map(frozenset, chosen[((count == 0) | (count >= 3)).all(1)].tolist()))
    assert stopping_sets_of(rows, m, most) == expected != set()


def test_stopping_sets_that_were_planted_are_found(rng):
    """Six columns of three checks each, all of which hold three of them."""
    n, m = 600, 60
    rows = [rng.choice(m, k, replace=False) for k in rng.integers(2, 3, n, endpoint=True)]
    planted = set()
    for columns in rng.permutation(n)[:300].reshape(-1, 6):
        checks = rng.choice(m, 6, replace=False)
        for i, column in enumerate(columns):
            rows[column] = checks[[i, (i + 1) % 6, (i + 3) % 6]]
        planted.add(frozenset(columns.tolist()))
    assert planted <= stopping_sets_of([*map(np.sort, rows)], m, 6)


def test_enumeration_gives_up_when_it_is_told_to():
    code = Sparse.for_errors(150, 3)
    start, row, _ = code.columns
    rows = kernels.by_rows(start, row, code.m)
    _, ended = stopping_sets(start, row, *rows[:2], 6, 1000)
    assert not ended


def test_closest_pair_against_brute_force():
    code = Sparse(n=60, m=12, own=2, free=8, word_bits=4, coefficient_bits=8)
    rows = kernels.by_rows(code.columns.start, code.columns.row, code.m)
    inverse = kernels.inverses(code.columns.row, rows[0], code.columns.coefficient)
    size, i, k = closest_pair(*rows, inverse, code.columns.coefficient)
    H = code.dense()
    ratios = [
        max(abs(a), abs(b)) // np.gcd(a, b)
        for check in H.tolist()
        for a, b in itertools.combinations([x for x in check if x], 2)
    ]
    assert size == min(ratios)
    assert min(ratios) in [max(abs(a), abs(b)) // np.gcd(a, b) for a, b in H[:, [i, k]] if a * b]


@pytest.fixture(scope="module")
def code():
    return Sparse.for_errors(5120, 210)


@pytest.fixture(scope="module")
def prepared(code):
    return Peeling().prepare(code)


class TestOfRealSize:
    @staticmethod
    def assert_repairs(prepared, damage, erasures=None):
        code = prepared.code
        word = np.zeros(code.n, np.int64)
        word[list(damage)] = list(damage.values())
        decoding = prepared.decode(code.syndrome(word), erasures)
        assert decoding.verdict is Verdict.CORRECTED, damage
        found = dict(zip(decoding.positions.tolist(), decoding.values.tolist(), strict=True))
        assert found == damage
        return decoding

    @pytest.mark.parametrize(
        ("n", "errors", "m", "sets"),
        [
            (1000, 40, 60, {4: 8, 5: 38, 6: 508}),
            (5120, 210, 320, {6: 49}),
            pytest.param(5120, 210, 173, {4: 8, 5: 11, 6: 1207}, marks=pytest.mark.long),
        ],
    )
    def test_any_three_are_proven(self, n, errors, m, sets):
        proof = certify(Sparse.for_errors(n, errors, m=m))
        assert proof.errors == 3
        assert dict(proof.sets) == sets
        assert proof.statement == (
            f"any 3 wrong words of {n:,} are repaired, always, with the {m} checks of seed 0"
        )

    @pytest.mark.parametrize("damage", [{2997: 94539, 4543: 159513}, {1527: -157631, 4150: 224483}])
    def test_a_wrong_path_of_the_rules_is_left_again(self, prepared, damage):
        decoding = self.assert_repairs(prepared, damage)
        assert decoding.steps["search"] == 1
        assert decoding.steps["alone"] == 1  # the rule that was misled
        for erased in damage:
            self.assert_repairs(prepared, damage, np.array([erased]))

    @pytest.mark.parametrize("rare", [3, pytest.param(20, marks=pytest.mark.long)])
    def test_made_to_mislead(self, code, prepared, rare):
        for damages, share in Misleading(code).kinds().values():
            # Those with a small share take long to find.
            for damage in itertools.islice(damages, 20 if share > 0.1 else rare):
                self.assert_repairs(prepared, damage)

    def test_triangles(self, code, prepared, rng):
        misleading = Misleading(code)
        edges = [checks for checks in misleading.by_checks if len(checks) == 2]
        after = {}
        for a, b in edges:
            after.setdefault(a, set()).add(b)
        triangles = [
            ((a, b), (b, c), (a, c)) for a, b in edges for c in after.get(b, ()) if c in after[a]
        ]
        for t in rng.choice(len(triangles), 100, replace=False):
            columns = [misleading.by_checks[checks] for checks in triangles[t]]
            sizes = rng.integers(1, 1 << 18, 3) * rng.choice([-1, 1], 3)
            self.assert_repairs(prepared, dict(zip(columns, sizes.tolist(), strict=True)))

    def test_erased_words_count(self, prepared, rng):
        for _ in range(50):
            columns = rng.choice(5120, 3, replace=False)
            sizes = rng.integers(1, 1 << 17, 3)
            damage = dict(zip(columns.tolist(), sizes.tolist(), strict=True))
            self.assert_repairs(prepared, damage, columns[: rng.integers(4)])

    def test_more_than_three_are_never_called_fewer(self, code, prepared, rng):
        """Few checks, many words: what the search may not take for few words."""
        misleading = Misleading(code)
        verdicts = set()
        for words in (4, 5, 6, 8):
            for damage in itertools.islice(misleading.crowded(words), 40):
                word = np.zeros(code.n, np.int64)
                word[list(damage)] = list(damage.values())
                decoding = prepared.decode(code.syndrome(word))
                verdicts.add(decoding.verdict)
                if decoding.verdict is Verdict.CORRECTED:
                    np.testing.assert_array_equal(np.flatnonzero(word), decoding.positions)
                    np.testing.assert_array_equal(word[decoding.positions], decoding.values)
        assert Verdict.CORRECTED in verdicts


def planted(code):
    """The code with other coefficients in one stopping set, and a z with H z = 0 there:
    (code, its columns, z).
    """
    start, row, coefficient = code.columns
    rows = kernels.by_rows(start, row, code.m)
    sets, _ = stopping_sets(start, row, *rows[:2], 6, 10**8)
    for columns in (s.tolist() for s in sets if s.min() >= 0):
        entries = [dict(zip(code.column(i)[0].tolist(), range(start[i], start[i + 1]), strict=True))
                   for i in columns]  # fmt: skip
        checks = sorted(set().union(*entries))
        for z in itertools.product((1, 2), repeat=6):
            held = [[k for k in range(6) if check in entries[k]] for check in checks]
            # Coefficients are odd: an even number of odd z_i in every check, and one to solve for.
            odd = [sum(z[k] % 2 for k in members) for members in held]
            if any(count % 2 or not count for count in odd):
                continue
            changed = coefficient.copy()
            for check, members in zip(checks, held, strict=True):
                last = next(k for k in members if z[k] == 1)
                rest = sum(changed[entries[k][check]] * z[k] for k in members if k != last)
                changed[entries[last][check]] = -rest
            changed.setflags(write=False)  # as those of a code: loops are compiled once for both
            code.__dict__["_structure"] = (Columns(start, row, changed), code.owned)
            return code, columns, z
    raise AssertionError("no set to plant in")


def test_two_explanations_are_none_and_refuse_a_certificate(monkeypatch):
    code, columns, z = planted(Sparse.for_errors(150, 3))
    damage = np.zeros(code.n, np.int64)
    damage[columns] = z
    assert not code.syndrome(damage).any()
    # What the rules find is one of the two; the search alone is asked.
    monkeypatch.setattr(
        PreparedPeeling, "_peel", lambda self, s, _: nothing(Verdict.UNCORRECTABLE, s)
    )
    prepared = Peeling().prepare(code)
    for three in itertools.combinations(range(6), 3):
        one = np.zeros(code.n, np.int64)
        one[[columns[k] for k in three]] = [1000 * z[k] for k in three]
        decoding = prepared.decode(code.syndrome(one))
        assert decoding.verdict is Verdict.UNCORRECTABLE
        assert decoding.steps["search"] == 1
        assert decoding.unexplained > 0
        # Two words of it stand alone.
        one[columns[three[0]]] = 0
        decoding = prepared.decode(code.syndrome(one))
        assert decoding.verdict is Verdict.CORRECTED
        np.testing.assert_array_equal(decoding.positions, np.flatnonzero(one))
    named = ", ".join(map(str, columns))
    with pytest.raises(SpecError, match=f"of 1 sets of columns may have two .*: {named}. Take"):
        certify(code)
    assert certify(code, 2).errors == 2  # six words are three and three


class TestRefusals:
    def test_names_the_columns_of_a_pair(self):
        with pytest.raises(SpecError, match=r"columns \d+ and \d+ may cancel in a check"):
            certify(Sparse.for_errors(5120, 210, word_bits=8))

    @pytest.mark.parametrize("errors", [0, 4, -1])
    def test_of_other_numbers(self, errors):
        with pytest.raises(SpecError, match="1 to 3"):
            certify(Sparse.for_errors(150, 3), errors)

    @pytest.mark.parametrize(
        "code",
        [
            LowBits.for_errors(2000, 20),
            PowerSums(100, 8),
            Sparse.for_errors(2000, 20, word_bits=30),
        ],
    )
    def test_of_codes_that_cannot_tell_two_words_apart(self, code):
        with pytest.raises(SpecError, match="in one check apart"):
            certify(code)

    def test_of_words_that_are_too_long(self):
        with pytest.raises(SpecError, match="too many pairs of the 60000 words"):
            certify(Sparse.for_errors(60_000, 210))

    def test_of_a_false_certificate(self):
        proof = certify(Sparse.for_errors(150, 3))
        verify_certificate(proof)
        for false in (replace(proof, pair=proof.pair + 1), replace(proof, sets=())):
            with pytest.raises(SpecError, match="not that of its code"):
                verify_certificate(false)
        with pytest.raises(SpecError):
            verify_certificate(replace(proof, code=Sparse.for_errors(5120, 210, word_bits=8)))


def test_too_many_stopping_sets_are_told_before_they_are_looked_at(monkeypatch):
    code = Sparse.for_errors(n=200, errors=3)
    number = sum(count for _, count in certify(code).sets)
    assert number > 1
    monkeypatch.setattr(certificate, "_excluded", None)
    with pytest.raises(SpecError, match=rf"{number} sets of columns .* take more checks"):
        certify(code, most=number - 1)
