"""What every decoder must do: subclass the contract, provide ``decoder`` and ``code``.

class TestMine(DecoderContract):
    easy, overload = 5, (30, 60)

    @pytest.fixture
    def decoder(self):
        return Mine()

    @pytest.fixture(params=[Sparse(n=200, m=60)])
    def code(self, request):
        return request.param
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from parimend.codes import Code, SumsCode
from parimend.decoders import Decoder, Prepared
from parimend.decoders.decoding import Decoding
from parimend.errors import SpecError
from parimend.outcomes import Verdict

Damage = tuple[NDArray[np.int64], NDArray[Any]]


class DecoderContract:
    """For every `Decoder`. The hooks fit codes over the integers and the reals."""

    easy: ClassVar[int]
    """So many wrong words are always corrected, and so many erasures."""
    overload: ClassVar[tuple[int, int]]
    """So many wrong words (from, to) are too many: nothing may be called corrected wrongly."""
    trials: ClassVar[int] = 20
    overload_trials: ClassVar[int] = 300

    def damage(self, code: Code, count: int, rng: np.random.Generator) -> Damage:
        """Hook: ``count`` wrong words. Default: standard normal, or integers of up to 24 bits."""
        positions = np.sort(rng.choice(code.n, count, replace=False)).astype(np.int64)
        if code.syndrome_dtype.kind == "f":
            return positions, rng.normal(size=count)
        values = rng.integers(1, 1 << 24, count, dtype=np.int64)
        return positions, values * rng.choice(np.array([-1, 1]), count)

    def syndrome(self, code: Code, damage: Damage) -> NDArray[Any]:
        """Hook: what the damage does to the syndrome. Default: sums of columns, no modulus."""
        total = np.zeros(code.syndrome_shape, code.syndrome_dtype)
        for i, value in zip(*damage, strict=True):
            rows, coefficients = code.column(int(i))
            total[rows] += (coefficients * value).astype(total.dtype)
        return total

    def same(self, code: Code, decoding: Decoding, damage: Damage) -> bool:
        """Hook: the decoding is the damage. Default: exactly, or to 1e-9 where it is in floats."""
        dtype = np.float64 if code.syndrome_dtype.kind == "f" else np.int64
        found, truth = np.zeros((2, code.n), dtype)
        found[decoding.positions] = decoding.values
        truth[damage[0]] = damage[1]
        if dtype is np.int64:
            return bool(np.array_equal(found, truth))
        return bool(np.abs(found - truth).max() <= 1e-9 * (1 + np.abs(truth).max()))

    def assert_well_formed(self, code: Code, decoding: Decoding) -> None:
        positions, values = decoding.positions, decoding.values
        assert positions.dtype == np.int64
        assert positions.shape == values.shape == (positions.size,)
        assert (np.diff(positions) > 0).all()
        assert ((0 <= positions) & (positions < code.n)).all()
        if decoding.verdict in (Verdict.CLEAN, Verdict.UNCORRECTABLE):
            assert positions.size == 0
        if decoding.verdict in (Verdict.CLEAN, Verdict.CORRECTED):
            assert decoding.unexplained == 0

    def test_nothing_wrong_is_clean(self, decoder: Decoder, code: Code) -> None:
        decoding = decoder.prepare(code).decode(np.zeros(code.syndrome_shape, code.syndrome_dtype))
        assert decoding.verdict is Verdict.CLEAN
        self.assert_well_formed(code, decoding)

    def test_corrects_few_errors(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        for seed in range(self.trials):
            rng = np.random.default_rng(seed)
            damage = self.damage(code, int(rng.integers(1, self.easy + 1)), rng)
            decoding = prepared.decode(self.syndrome(code, damage))
            self.assert_well_formed(code, decoding)
            assert decoding.verdict is Verdict.CORRECTED, seed
            assert self.same(code, decoding, damage), seed

    def test_corrects_erasures(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        for seed in range(self.trials):
            damage = self.damage(code, self.easy, np.random.default_rng(seed))
            decoding = prepared.decode(self.syndrome(code, damage), erasures=damage[0])
            self.assert_well_formed(code, decoding)
            assert decoding.verdict is Verdict.CORRECTED, seed
            assert self.same(code, decoding, damage), seed

    def test_corrects_errors_and_erasures(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        for seed in range(self.trials):
            rng = np.random.default_rng(seed)
            damage = self.damage(code, self.easy, rng)
            erasures = rng.permutation(damage[0])[: self.easy // 2]
            decoding = prepared.decode(self.syndrome(code, damage), erasures=erasures)
            self.assert_well_formed(code, decoding)
            assert decoding.verdict is Verdict.CORRECTED, seed
            assert self.same(code, decoding, damage), seed

    def test_erasures_may_be_sound(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        rng = np.random.default_rng(0)
        damage = self.damage(code, max(1, self.easy // 2), rng)
        sound = np.setdiff1d(np.arange(code.n), damage[0])[: self.easy // 2]
        decoding = prepared.decode(self.syndrome(code, damage), erasures=sound)
        assert decoding.verdict is Verdict.CORRECTED
        assert self.same(code, decoding, damage)

    @pytest.mark.parametrize("share", ["some", pytest.param("others", marks=pytest.mark.long)])
    def test_never_calls_a_wrong_answer_corrected(
        self, decoder: Decoder, code: Code, share: str
    ) -> None:
        prepared = decoder.prepare(code)
        failures, some = 0, self.overload_trials // 4
        for seed in range(some) if share == "some" else range(some, self.overload_trials):
            rng = np.random.default_rng(seed)
            damage = self.damage(code, int(rng.integers(*self.overload, endpoint=True)), rng)
            decoding = prepared.decode(self.syndrome(code, damage))
            self.assert_well_formed(code, decoding)
            assert decoding.verdict is not Verdict.CLEAN, seed
            if decoding.verdict is Verdict.CORRECTED:
                assert self.same(code, decoding, damage), seed
            failures += decoding.verdict is Verdict.UNCORRECTABLE
        assert failures, "the overload was none"

    def test_keeps_its_input_and_repeats_itself(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        damage = self.damage(code, self.easy, np.random.default_rng(0))
        syndrome, erasures = self.syndrome(code, damage), damage[0][:1].copy()
        syndrome.flags.writeable = erasures.flags.writeable = False
        first, second = (prepared.decode(syndrome, erasures) for _ in range(2))
        assert first.verdict is second.verdict
        np.testing.assert_array_equal(first.positions, second.positions)
        np.testing.assert_array_equal(first.values, second.values)

    def test_refuses_what_does_not_fit(self, decoder: Decoder, code: Code) -> None:
        prepared = decoder.prepare(code)
        syndrome = np.zeros(code.syndrome_shape, code.syndrome_dtype)
        for bad in (syndrome[:-1], syndrome.astype(np.int16)):
            with pytest.raises(SpecError, match="syndrome"):
                prepared.decode(bad)
        for erasures in ([-1], [code.n]):
            with pytest.raises(SpecError, match="erasures"):
                prepared.decode(syndrome, np.array(erasures))
        for noise in (-1.0, float("nan")):
            with pytest.raises(SpecError, match="noise"):
                prepared.decode(syndrome, noise=noise)

    def test_refuses_codes_of_other_families(self, decoder: Decoder, code: Code) -> None:
        class Foreign(type(code)):  # type: ignore[misc]
            pass

        Foreign.family = "foreign"  # set afterwards, so that no registry learns of it
        with pytest.raises(SpecError, match="foreign"):
            decoder.prepare(Foreign(**{k: v for k, v in code.spec().items() if k != "family"}))


class SumsDecoderContract(DecoderContract):
    """For decoders of sums of bit patterns: damage is residues, and there is no noise."""

    def damage(self, code: SumsCode, count: int, rng: np.random.Generator) -> Damage:
        positions = np.sort(rng.choice(code.n, count, replace=False))
        return positions, rng.integers(1, code.prime, count)

    def syndrome(self, code: SumsCode, damage: Damage) -> NDArray[Any]:
        return code.sums_of(*damage)

    def test_refuses_noise_and_numbers_that_are_no_sums(
        self, decoder: Decoder, code: SumsCode
    ) -> None:
        prepared = decoder.prepare(code)
        with pytest.raises(SpecError, match="noise must be 0"):
            prepared.decode(code.sums_of([3], [9]), noise=1.0)
        for which in (0, -1):
            wrong = code.zeros()
            wrong.flat[which] = code.prime
            with pytest.raises(SpecError, match="residues"):
                prepared.decode(wrong)


def assert_overload_is_told(prepared: Prepared, rng: np.random.Generator, trials: int) -> None:
    """Of 20 to 200 wrong words, which are too many, nothing is called corrected wrongly."""
    failures = 0
    for _ in range(trials):
        positions = np.unique(rng.integers(0, prepared.code.n, int(rng.integers(20, 200))))
        damage = rng.integers(1, prepared.code.prime, positions.size)
        decoding = prepared.decode(prepared.code.sums_of(positions, damage))
        assert decoding.verdict is not Verdict.CLEAN
        if decoding.verdict is Verdict.CORRECTED:
            np.testing.assert_array_equal(decoding.positions, positions)
            np.testing.assert_array_equal(decoding.values, damage)
        else:
            failures += 1
            assert 0 < decoding.unexplained <= prepared.code.m
    assert failures
