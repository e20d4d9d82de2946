"""`guaranteed=`: what is proven is repaired, in models and in files, and what is not is refused."""

import itertools
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import parimend as pm
from benchmarks.guarantees import Misleading
from parimend.codes import Sparse
from parimend.decoders import certificate as proving
from parimend.errors import SpecError
from parimend.kernels import stopping_numba

N = 5120


def protected(rows=None, **options):
    """A word of weights that lies at an edge of its grid at some columns, and its seal."""
    weights = 0.2 * torch.randn(N, generator=torch.Generator().manual_seed(3))
    weights = weights.clamp(-0.6, 0.6)
    for column, value in {2997: -0.9, 4543: -0.9, 1527: 0.6, 4150: -0.9}.items():
        weights[column] = value
    state = {"w": weights}
    return state, pm.protect_(state, 210, pm.Real(rows=rows), guaranteed=3, **options)


class Live:
    """A protected word in memory, which is damaged and repaired."""

    def __init__(self, state, seal):
        self.state, self.seal = state, seal
        [self.word] = seal.words
        self.step = 2.0 ** self.word.parts[0].exponent
        self.good = state["w"].clone()
        self.q = torch.round(self.good.double() / self.step).long()
        assert torch.equal((self.q * self.step).float(), self.good)

    def holds(self, damage):
        """Whether what is wrong then is still on the grid."""
        return all(abs(int(self.q[i]) + x) < 1 << 17 for i, x in damage.items())

    def damaged(self, damage):
        for i, x in damage.items():
            self.state["w"][i] = (int(self.q[i]) + x) * self.step

    def assert_repaired(self, columns):
        report = pm.repair_(self.state, self.seal)
        assert report.verdict is pm.Verdict.CORRECTED
        assert sorted(change.index for change in report.changes) == sorted((i,) for i in columns)
        assert torch.equal(self.state["w"], self.good)


@pytest.fixture(scope="module")
def live():
    return Live(*protected())


@pytest.mark.parametrize(
    "damage", [{2997: 94539, 4543: 159513}, {1527: -157631, 4150: 224483}], ids=str
)
def test_damage_that_misled_the_rules_is_repaired(live, damage):
    assert (live.word.code.m, live.word.code.seed) == (173, 0)
    assert live.holds(damage)
    live.damaged(damage)
    assert pm.check(live.state, live.seal).verdict is pm.Verdict.CORRECTABLE
    live.assert_repaired(damage)


@pytest.mark.long
def test_a_thousand_constructed_patterns_are_repaired(live):
    """Of two and three words, made to mislead: every one of them, from damage to SHA-256."""
    repaired = 0
    for kind, (damages, _) in Misleading(live.word.code, seed=5).kinds().items():
        wanted = 10 if "named" in kind and kind[0] == "2" else 245
        for damage in itertools.islice(filter(live.holds, damages), wanted):
            live.damaged(damage)
            live.assert_repaired(damage)
            repaired += 1
    assert repaired == 1000


def test_weights_that_are_no_weights_any_more_count(live, rng):
    values = [float("nan"), float("inf"), 1e30, 1e-30]
    for _ in range(20):
        columns = rng.choice(N, 3, replace=False).tolist()
        for i in columns:
            live.state["w"][i] = values[rng.integers(4)]
        live.assert_repaired(columns)


def test_the_certificate_is_in_the_seal(live):
    again = pm.Seal.from_bytes(live.seal.to_bytes())
    assert again.words[0].certificate == live.word.certificate
    assert again.words[0].certificate.errors == 3
    assert again.promise.guaranteed == 3
    assert again.promise.measured.errors == 210


def test_another_guarantee_of_the_same_code_needs_less(live):
    state = {"w": live.good.clone()}
    seal = pm.protect_(state, 210, pm.Real(rows=320), guaranteed=2)
    assert seal.words[0].certificate.errors == 2
    assert seal.promise.guaranteed == 2


def test_without_the_option_nothing_is_asked_for():
    state = {"w": torch.linspace(-1, 1, N)}
    seal = pm.protect_(state, 210, pm.Real(rows=320))
    assert seal.words[0].certificate is None
    assert b"certificate" not in seal.to_bytes()
    assert seal.promise.guaranteed == 0


def test_a_seed_that_is_refused_gives_way_to_the_next():
    _, seal = protected(320, seed=1)
    assert seal.words[0].code.seed == 2
    assert seal.words[0].certificate.code == seal.words[0].code
    seal.verify_certificates()


def test_words_of_one_code_share_a_certificate(monkeypatch):
    asked = []
    certify = proving.certify
    monkeypatch.setattr(
        proving, "certify", lambda *of, **how: asked.append(of) or certify(*of, **how)
    )
    proving.certified.cache_clear()
    state = {name: torch.linspace(-1, 1, 1000) for name in "abc"}
    seal = pm.protect_(state, 40, pm.Real(rows=60), per="tensor", guaranteed=3)
    assert len(asked) == 1
    assert len({word.certificate for word in seal.words}) == 1
    again = pm.Seal.from_bytes(seal.to_bytes())
    again.verify_certificates()
    assert len(asked) == 2


def test_training_inside_a_certified_code_ends_with_its_certificate():
    model = torch.nn.Linear(512, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    options = {"guaranteed": 3, "seed": 1, "every": 1}
    constraint = pm.constrain_(model, optimizer, 210, pm.Real(rows=320), **options)
    for _ in range(2):
        model(torch.ones(1, 512)).square().sum().backward()
        optimizer.step()
    seal = constraint.seal_()
    assert seal.words[0].certificate.code == seal.words[0].code == constraint.codes[0]
    assert seal.promise.guaranteed == 3
    model.weight.data[0, :3] += 0.125
    assert pm.repair_(model, seal).verdict is pm.Verdict.CORRECTED


def test_what_is_planned_is_what_is_promised():
    state = {"w": torch.linspace(-1, 1, N)}
    [planned] = pm.plan(state, 210, pm.Real(rows=320), guaranteed=3).words
    assert planned.promise == pm.protect_(state, 210, pm.Real(rows=320), guaranteed=3).promise
    said = json.loads(planned.to_json())
    assert (said["guaranteed"], said["bound"], said["measured"]["errors"]) == (3, None, 210)
    assert "promise" not in said


class TestSidecar:
    @pytest.mark.parametrize("guaranteed", [1, 3, 210])
    def test_proves_all_that_it_repairs(self, guaranteed):
        state = {"w": torch.linspace(-1, 1, 9000)}
        seal = pm.protect_(state, 210, guaranteed=guaranteed)
        assert seal.to_bytes() == pm.protect_(state, 210).to_bytes()
        assert seal.promise.guaranteed == 210

    def test_says_how_many_it_can_prove(self):
        state = {"w": torch.linspace(-1, 1, 9000)}
        assert pm.protect_(state, 2000).promise.measured.errors == 2000
        with pytest.raises(SpecError, match="w: sums for 2,000 errors guarantee 4, not 5: ask for"):
            pm.protect_(state, 2000, guaranteed=5)
        assert pm.protect_(state, 1000, guaranteed=1000).promise.guaranteed == 1000

    def test_guarantees_small_tensors_wholly(self):
        state = {"w": torch.linspace(-1, 1, 900)}
        assert pm.protect_(state, 2000, guaranteed=2000).promise.guaranteed == 2000


class TestRefusals:
    @pytest.mark.parametrize(
        ("guaranteed", "says"),
        [
            (0, "guaranteed, a part of errors, must be from 1 to 210, not 0"),
            (-1, "not -1"),
            (211, "not 211"),
            (2.5, "guaranteed, a part of errors, must be a whole number, not a float: 2.5"),
            (True, "must be a whole number"),
            ("3", "must be a whole number, not a str"),
        ],
    )
    @pytest.mark.parametrize("carrier", ["sidecar", "real", "lowbits"])
    def test_of_what_is_no_part_of_the_errors(self, carrier, guaranteed, says):
        with pytest.raises(SpecError, match=says):
            pm.protect_({"w": torch.ones(N)}, 210, carrier, guaranteed=guaranteed)

    def test_lowbits_says_why_not(self):
        state = {"w": torch.linspace(-1, 1, N)}
        before = state["w"].clone()
        with pytest.raises(SpecError, match=r"lowbits carrier guarantees nothing: .*one pair of"):
            pm.protect_(state, 210, "lowbits", guaranteed=1)
        assert torch.equal(state["w"], before)

    @pytest.mark.parametrize(
        ("dtype", "guaranteed", "says"),
        [
            (torch.float32, 4, "guaranteed=4 asks for 4, .*: ask for guaranteed=3, or take"),
            (torch.int16, 2, "guaranteed=2 asks for 4, .*: ask for guaranteed=1, or take"),
            (torch.int8, 1, "guaranteed=1 asks for 4, .*: take carrier='sidecar'"),
        ],
    )
    def test_real_proves_three_weights(self, dtype, guaranteed, says):
        state = {"w": torch.arange(N).to(dtype)}
        with pytest.raises(SpecError, match=f"w: certificates are for 3 .* {says}"):
            pm.protect_(state, 20, "real", guaranteed=guaranteed)

    def test_words_of_more_than_30_000_weights(self):
        with pytest.raises(
            SpecError, match=r"w: any 3 .* too many pairs of the 60000 words .*per="
        ):
            pm.protect_({"w": torch.linspace(-1, 1, 60_000)}, 210, "real", guaranteed=3)

    def test_the_last_of_the_seeds_says_why(self, monkeypatch):
        proving.certified.cache_clear()
        monkeypatch.setattr(stopping_numba, "closest_pair", lambda *_: (5, 7, 11))
        with pytest.raises(SpecError, match=r"w: .*columns 7 and 11 .* Seeds 4 to 11 were tried"):
            pm.protect_({"w": torch.linspace(-1, 1, N)}, 210, "real", seed=4, guaranteed=3)
        with pytest.raises(SpecError, match=r"Seeds (\d+) to \1 were tried"):
            proving.certified(Sparse.for_errors(N, 210, seed=2**64 - 1))

    def test_too_few_checks_end_at_once(self, monkeypatch):
        """Another seed has as many stopping sets."""
        proving.certified.cache_clear()
        monkeypatch.setattr(proving, "_STEPS", 100)
        with pytest.raises(SpecError, match=r"the search takes more than .*Real\(rows=...\)"):
            pm.protect_({"w": torch.linspace(-1, 1, N)}, 210, "real", guaranteed=3)


def test_halves_of_words_are_guaranteed_together():
    """Two weights of 16 bits in one word of 32."""
    generator = torch.Generator().manual_seed(1)
    state = {"w": torch.randint(-9000, 9000, (N,), generator=generator, dtype=torch.int16)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seal = pm.protect_(state, 210, pm.Real(rows=400), guaranteed=1)
    assert seal.words[0].certificate.errors == 2
    assert seal.promise.guaranteed == 1
    good = state["w"].clone()
    for at in (0, 2222, N - 2):
        state["w"][at : at + 2] ^= 12345
        assert pm.repair_(state, seal).verdict is pm.Verdict.CORRECTED
        assert torch.equal(state["w"], good)


class TestFiles:
    def test_the_certificate_is_in_the_file(self, tmp_path):
        source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
        save_file({"w": torch.linspace(-1, 1, N)}, source)
        [made] = pm.protect_file(source, 210, pm.Real(rows=320), out, guaranteed=3)
        said = made.as_dict()
        assert (said["guaranteed"], said["bound"], said["measured"]["errors"]) == (3, None, 210)
        content = bytearray(out.read_bytes())
        content[-12:] = np.float32([np.nan, 9, -0.25]).tobytes()
        out.write_bytes(content)
        assert pm.repair_file(out).verdict is pm.Verdict.CORRECTED

    def test_a_sidecar_that_guarantees_it_already_is_kept(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_file({"w": torch.linspace(-1, 1, N)}, path)
        pm.protect_file(path, 210)
        [made] = pm.protect_file(path, 210, guaranteed=210)
        assert made.is_kept
        with pytest.raises(SpecError, match="guaranteed, a part of errors, must be from 1 to 210"):
            pm.protect_file(path, 210, guaranteed=211)

    def test_it_can_be_asked_for_when_saving(self, tmp_path):
        path = tmp_path / "model.safetensors"
        pm.save_file({"w": torch.linspace(-1, 1, N)}, path, 210, pm.Real(rows=320), guaranteed=3)
        assert pm.check_file(path).ok
        with pytest.raises(SpecError, match="lowbits carrier guarantees nothing"):
            pm.save_file(
                {"w": torch.ones(N)}, tmp_path / "x.safetensors", 9, "lowbits", guaranteed=1
            )
        assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
