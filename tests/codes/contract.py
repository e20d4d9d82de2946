"""What every code must do: subclass a contract, provide the fixture ``code``, override the hooks.

    class TestMine(CodeContract):
        @pytest.fixture(params=[Mine(n=40, m=12), Mine(n=7, m=3, seed=5)])
        def code(self, request):
            return request.param

The codes should be small (n up to a few hundred): every test compares with the dense oracle.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parimend.codes import Code, RealCode, SumsCode, from_spec
from parimend.errors import SpecError


class CodeContract:
    """For every `Code`. The hooks fit codes over the integers and the reals."""

    def word(self, code: Code, rng: np.random.Generator) -> NDArray[Any]:
        """Hook: a random word. Default: standard normal, integers of up to 24 bits, or patterns."""
        if code.word_dtype.kind == "f":
            return rng.normal(size=code.n).astype(code.word_dtype)
        low, high = -(1 << 23), 1 << 24
        if code.word_dtype.kind == "u":
            low, high = 0, int(np.iinfo(code.word_dtype).max)
        return rng.integers(low, high, code.n, dtype=code.word_dtype, endpoint=True)

    def oracle(self, code: Code, word: NDArray[Any]) -> NDArray[Any]:
        """Hook: the syndrome, the slow and obvious way. Default: the dense matrix, no modulus."""
        return np.asarray(code.dense() @ word)

    def assert_equal(self, code: Code, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Hook: syndromes agree. Default: exactly, or to rounding where they are floats."""
        if code.syndrome_dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * (1 + np.abs(b).max()))
        else:
            np.testing.assert_array_equal(a, b)

    def test_syndrome_is_that_of_the_oracle(self, code: Code) -> None:
        for seed in range(5):
            word = self.word(code, np.random.default_rng(seed))
            self.assert_equal(code, code.syndrome(word), self.oracle(code, word))

    def test_syndrome_has_the_promised_shape_and_dtype(self, code: Code) -> None:
        syndrome = code.syndrome(self.word(code, np.random.default_rng(0)))
        assert syndrome.shape == code.syndrome_shape
        assert syndrome.dtype == code.syndrome_dtype

    def test_syndrome_takes_strided_and_read_only_words(self, code: Code) -> None:
        word = self.word(code, np.random.default_rng(0))
        strided = np.repeat(word, 2)[::2]
        strided.flags.writeable = False
        np.testing.assert_array_equal(code.syndrome(strided), code.syndrome(word))

    def test_syndrome_refuses_other_shapes_and_dtypes(self, code: Code) -> None:
        word = self.word(code, np.random.default_rng(0))
        other = np.int16 if code.word_dtype != np.int16 else np.int32
        for bad in (word[:-1], word[None, :], word.astype(other)):
            with pytest.raises(SpecError, match="word"):
                code.syndrome(bad)

    def test_zero_has_a_zero_syndrome(self, code: Code) -> None:
        assert not code.syndrome(np.zeros(code.n, code.word_dtype)).any()

    def test_a_word_is_seen_by_the_checks_of_its_column_and_no_others(self, code: Code) -> None:
        word = np.zeros(code.n, code.word_dtype)
        for i in {0, code.n // 2, code.n - 1}:
            rows, coefficients = code.column(i)
            assert rows.shape == coefficients.shape
            assert rows.dtype == np.int64
            assert rows.size == np.unique(rows).size
            assert coefficients.all()
            changed = word.copy()
            changed[i] = 1
            seen = np.flatnonzero(code.syndrome(changed).reshape(code.m, -1).any(axis=1))
            np.testing.assert_array_equal(seen, np.sort(rows))

    def test_spec_round_trip(self, code: Code) -> None:
        spec = json.loads(json.dumps(code.spec()))
        again = from_spec(spec)
        assert again == code
        assert hash(again) == hash(code)
        assert type(again) is type(code)
        word = self.word(code, np.random.default_rng(0))
        np.testing.assert_array_equal(again.syndrome(word), code.syndrome(word))

    def test_pickles_and_copies(self, code: Code) -> None:
        word = self.word(code, np.random.default_rng(0))
        for again in (pickle.loads(pickle.dumps(code)), copy.deepcopy(code)):
            assert again == code
            np.testing.assert_array_equal(again.syndrome(word), code.syndrome(word))

    def test_is_frozen(self, code: Code) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            code.n = 1  # type: ignore[misc]

    def test_another_seed_gives_another_code(self, code: Code) -> None:
        other = dataclasses.replace(code, seed=code.seed + 1)
        word = self.word(code, np.random.default_rng(0))
        assert not np.array_equal(other.syndrome(word), code.syndrome(word))

    @pytest.mark.parametrize(
        "change",
        [
            {"n": 0},
            {"m": 0},
            {"n": 2.0},
            {"m": True},
            {"seed": -1},
            {"seed": 1 << 64},
            {"version": 99},
        ],
    )
    def test_refuses_codes_that_cannot_exist(self, code: Code, change: dict[str, Any]) -> None:
        with pytest.raises(SpecError, match=next(iter(change))):
            dataclasses.replace(code, **change)

    def test_from_spec_refuses_unknown_and_missing_fields(self, code: Code) -> None:
        with pytest.raises(SpecError, match="colour"):
            from_spec({**code.spec(), "colour": 3})
        spec = code.spec()
        del spec["m"]
        with pytest.raises(SpecError, match="'m'"):
            from_spec(spec)


class RealCodeContract(CodeContract):
    """For every `RealCode`, besides: the products in the reals and the projection."""

    def real_matrix(self, code: RealCode) -> NDArray[np.float64]:
        """The matrix of `RealCode.matvec`."""
        return np.column_stack([code.matvec(row) for row in np.eye(code.n)])

    def test_matvec_is_the_syndrome_up_to_one_scale(self, code: RealCode) -> None:
        H, dense = self.real_matrix(code), code.dense().astype(np.float64)
        scale = np.abs(H).max() / np.abs(dense).max()
        np.testing.assert_allclose(H, dense * scale, rtol=1e-12, atol=1e-12)
        assert 0.1 < np.sqrt((H[H != 0] ** 2).mean()) < 10

    def test_rmatvec_is_the_transpose(self, code: RealCode) -> None:
        back = np.column_stack([code.rmatvec(row) for row in np.eye(code.m)])
        np.testing.assert_allclose(back, self.real_matrix(code).T, rtol=1e-12, atol=1e-12)

    def test_products_keep_their_input(self, code: RealCode) -> None:
        x, y = np.ones(code.n), np.ones(code.m)
        x.flags.writeable = y.flags.writeable = False
        assert code.matvec(x).shape == (code.m,)
        assert code.rmatvec(y).shape == (code.n,)
        assert code.project(x).shape == (code.n,)

    @pytest.mark.parametrize("more", [-1, 1])
    def test_products_of_another_length_are_refused(self, code: RealCode, more: int) -> None:
        for product, count in ((code.matvec, code.n), (code.rmatvec, code.m)):
            with pytest.raises(ValueError, match=r"shape|size"):
                product(np.ones(count + more))

    def test_projection_meets_the_checks(self, code: RealCode) -> None:
        rng = np.random.default_rng(1)
        x = rng.normal(size=code.n)
        assert np.abs(code.matvec(code.project(x))).max() < 1e-10
        target = code.matvec(rng.normal(size=code.n))
        projected = code.project(x, target)
        np.testing.assert_allclose(code.matvec(projected), target, rtol=0, atol=1e-10)

    def test_projection_onto_the_first_checks_is_the_shortest_way(self, code: RealCode) -> None:
        rng, H = np.random.default_rng(4), self.real_matrix(code)
        x, target = rng.normal(size=code.n), code.matvec(rng.normal(size=code.n))
        for rows in {1, code.m // 2, code.m}:
            first = H[:rows]
            moved = first.T @ np.linalg.solve(first @ first.T, first @ x - target[:rows])
            projected = code.project(x, target, rows)
            np.testing.assert_allclose(projected, x - moved, rtol=0, atol=1e-9)

    def test_projection_is_idempotent(self, code: RealCode) -> None:
        once = code.project(np.random.default_rng(2).normal(size=code.n))
        np.testing.assert_allclose(code.project(once), once, rtol=0, atol=1e-10)

    def test_projection_is_orthogonal(self, code: RealCode) -> None:
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(2, code.n))
        px, py = code.project(x), code.project(y)
        assert abs((x - px) @ py) < 1e-9 * code.n
        assert abs((y - py) @ px) < 1e-9 * code.n


def assert_golden_sums(case: dict[str, Any]) -> None:
    """Sums of some words, all others being zero, are those that were recorded."""
    code = from_spec(case["spec"])
    assert isinstance(code, SumsCode)
    assert code.spec() == case["spec"]
    positions, values = np.array(case["words"], np.int64).T
    sums = code.sums_of(positions, values)
    assert code.pack(sums).hex() == case["checks"]
    assert (code.unpack(bytes.fromhex(case["checks"])) == sums).all()
    if code.n <= 300_000:  # the others would fill the memory
        word = np.zeros(code.n, np.uint32)
        word[positions] = values
        assert (code.syndrome(word) == sums).all()
