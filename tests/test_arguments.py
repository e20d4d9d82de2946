"""Arguments of the wrong type end in one sentence that says what was expected."""

import json
import math
import os
from functools import partial

import numpy as np
import pytest
import torch

import parimend as pm
from parimend.carriers import Share
from parimend.errors import ParimendError, SpecError
from parimend.faults import draw
from parimend.planner import simulate
from parimend.propagation import trace
from parimend.upsets import Upset, upset_
from parimend.words.layout import Word, whole

MODEL = torch.nn.Linear(40, 30)
SEAL = pm.protect_(MODEL, errors=3)
HALF = {name: tensor.half() for name, tensor in MODEL.state_dict().items()}
SGD = torch.optim.SGD(MODEL.parameters(), 0.1)
X = torch.ones(2, 40)


class Odd(os.PathLike):
    """A path that cannot say which."""

    def __fspath__(self):
        return 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pm.check(MODEL, "model.parimend"), "seal must be a Seal .*: 'model.parimend'"),
        (lambda: pm.check(SEAL, MODEL), "seal must be a Seal .*, not a Linear"),
        (lambda: pm.repair_(MODEL, None), "seal must be a Seal .*, not None"),
        (lambda: pm.refresh(MODEL, MODEL.state_dict()), "seal must be a Seal"),
        (lambda: pm.protect_(MODEL, errors=2.5), "errors must be a whole number, not a float: 2.5"),
        (lambda: pm.protect_(MODEL, errors=1 << 63), "errors must be at most 9223372036854775807"),
        (lambda: pm.plan(MODEL, errors=10**400), "errors must be at most 9223372036854775807"),
        (lambda: pm.protect_(MODEL, errors=True), "errors must be a whole number, not a bool"),
        (lambda: pm.protect_(3, MODEL), "Module|whole number"),
        (lambda: pm.plan(MODEL, errors="210"), "errors must be a whole number, not a str: '210'"),
        (lambda: pm.protect_(SEAL, errors=3), "expected a torch.nn.Module or a state dict"),
        (lambda: pm.protect_("m.safetensors", 3), "for files there are protect_file, check_file"),
        (lambda: pm.protect_(MODEL, 3, pm.Real), r"Real is a class: give Real\(\)"),
        (lambda: pm.check(HALF, SEAL), "weight is F16 .* if it was converted, protect it"),
        (lambda: pm.constrain_(SGD, MODEL, 3), "optimizer must be an optimizer .*, not a Linear"),
        (lambda: pm.heal_(MODEL, "adam"), "optimizer must be an optimizer .*, not a str: 'adam'"),
        (lambda: pm.constrain_(MODEL, SGD, 3, state={"epoch": 1}), "this is no state of a constr"),
        (
            lambda: pm.Service("leo", interval="12h"),
            "interval must be a number of days .*not a str",
        ),
        (lambda: pm.Service("leo", target="1e-6"), "target must be a probability .*not a str"),
        (lambda: pm.Environment("x", 1e-9, {1: 1.0}), r"events must be an Events, as Events.of\("),
        (lambda: pm.Events({1: 1.0}), r"sizes must be a tuple; Events.of takes \{1: 0.9, 2: 0.1"),
        (lambda: pm.fingerprint(MODEL).compare("m.safetensors"), "other must be a Fingerprint"),
        (lambda: pm.Scrubber(MODEL, SEAL, log="nowhere/log"), "there is no folder nowhere: make"),
        (lambda: pm.load_file(3), "path must be the path of a file, not an int: 3"),
        (lambda: pm.load_file(MODEL), "path must be the path of a file, not a Linear"),
        (lambda: pm.save_file("a", {}, 3), "path must be the path of a file, not a dict"),
        (lambda: pm.save_file({}, "a", None), "errors must be a whole number"),
        (lambda: pm.verify(SEAL), "path must be the path of a file, not a Seal"),
        (lambda: pm.Seal.load(0), "path must be the path of a file, not an int: 0"),
        (lambda: pm.heal_({}, SGD), "model must be a torch.nn.Module, not a dict"),
        (lambda: pm.guard_(None), "model must be a torch.nn.Module, not None"),
        (lambda: pm.protect_(MODEL, 3, only=True), "only must be a shell pattern or a list"),
        (lambda: pm.plan(MODEL, 3, only=[3]), "only must be a shell pattern .*, not an int: 3"),
        (lambda: pm.Real(rows=1.5), "rows must be a whole number, not a float: 1.5"),
        (lambda: pm.Real(bits="x"), "bits must be a whole number, not a str: 'x'"),
        (lambda: pm.LowBits(rows=[]), "rows must be a whole number, not a list"),
        (lambda: pm.protect_(MODEL, 3, seed="0"), "seed must be a whole number, not a str: '0'"),
        (lambda: pm.plan(MODEL, 3, seed=2.0), "seed must be a whole number, not a float: 2.0"),
        (lambda: SEAL.save(MODEL), "path must be the path of a file"),
        (lambda: pm.load_file("\ud800"), "path must be the path of a file"),
        (lambda: pm.check_file(Odd()), "path must be the path of a file, not an Odd"),
        (lambda: pm.check_file(b"m.npy"), "path must be the path of a file, not a bytes: b'm.npy'"),
        (lambda: pm.check_file("x", progress=3), "progress must be a function of a number of by"),
        (lambda: pm.repair_file("x", progress=None), "progress must be a function .*, not None"),
        (lambda: pm.protect_file("x", 3, progress=[]), "progress must be a function .*, not a lis"),
        (lambda: pm.repair_file("x", sources=None), "sources must be a path, an address, or a lis"),
        (lambda: pm.repair_file("x", sources=[3]), "each of sources must be the path .*int: 3"),
        (lambda: pm.verify("x", "ignore"), "on_damage must be 'raise', 'repair' or 'warn'"),
        (lambda: pm.verify("x", np.ones(2)), "on_damage must be .*, not a ndarray"),
        (lambda: pm.check(MODEL, SEAL, proof=np.ones(2)), "proof must be .*, not a ndarray"),
        (lambda: pm.protect_(MODEL, 3, per=np.ones(2)), "per must be .*, not a ndarray"),
        (lambda: pm.guard_(MODEL, policy=[1]), "policy must be 'correct', .*, not a list"),
        (lambda: pm.check_file("x", engine=[1]), "engine must be a name, not a list"),
        (lambda: pm.protect_(MODEL, 3, {}), "carrier must be a name, or a Carrier with its op"),
        (lambda: pm.protect_(MODEL, 3, 10**5000), "carrier .*, not an int: a number of thousands"),
        (lambda: pm.plan(MODEL, 3, service={}), "environment must be a name.*, not a dict"),
        (
            lambda: pm.plan(MODEL, 3, environment="leo"),
            "environment belongs to a service: say serv",
        ),
        (lambda: pm.Service([]), "environment must be a name, or an Environment, not a list"),
        (lambda: Upset([]), "kind must be a name, not a list"),
        (lambda: draw("noise", 3, 1, 0), "tensors must be tensors by name, or a list of Words, no"),
        (lambda: draw("noise", ["w"], 1, 0), "each of tensors must be Words, not a str"),
        (lambda: upset_(3, Upset("offset")), "model must be a torch.nn.Module, not an int: 3"),
        (lambda: upset_(MODEL, "offset"), "upset must be an Upset, not a str: 'offset'"),
        (lambda: simulate(MODEL, 3), "plan must be a Plan, not a Linear"),
        (lambda: simulate(pm.plan(MODEL, 3), 3, progress=1), "progress must be a function of a nu"),
        (lambda: simulate(pm.plan(MODEL, 3), 3, seed=1.5), "seed must be a whole number"),
        (lambda: pm.campaign.compare(3, "out"), "a must be the path of a file, not an int: 3"),
        (lambda: draw([], {"w": np.ones(9)}, 1, 0), "kind of damage must be a name, not a list"),
        (lambda: pm.plan(MODEL, 3, metric=3), "metric must be a function of a model that giv"),
        (lambda: pm.plan(MODEL, 3, metric=lambda of: None), "gives no number but a NoneType"),
        (lambda: pm.plan(MODEL, 3, metric=lambda of: X), "gives no number but a Tensor"),
        (lambda: pm.plan(MODEL, 3, calibration=3), "calibration must be an iterable of batches"),
        (lambda: pm.plan(MODEL, 3, calibration=X), "batches must be an iterable of batches, not a"),
        (lambda: pm.balance(MODEL, 3, None), "calibration must be an iterable .*, not None"),
        (lambda: pm.balance(MODEL, 3, X), "batches must be an iterable of batches, not a tensor"),
        (lambda: pm.balance(MODEL, 3, [X], metric=3), "metric must be a function of a model"),
        (lambda: pm.constrain_(MODEL, SGD, 3, state=3), "state must be what state_dict"),
        (lambda: pm.heal_(MODEL, SGD, on_event=3), "on_event must be a function .*, not an int: 3"),
        (lambda: pm.save_file(HALF, "m.safetensors", 3, metadata=["a"]), "metadata must be texts"),
        (lambda: pm.Seal.from_bytes(SEAL), "data must be the bytes of a seal, not a Seal"),
        (lambda: trace(MODEL, X, 3), "upsets must be Upset or Faults, or a list of them, not"),
        (lambda: trace(MODEL, X, Upset("offset"), seeds=np.array(3)), "seeds must be whole"),
        (lambda: pm.load_file("x", device=1 << 70), "device '1180591620717411303424' cannot"),
    ],
)
def test_wrong_types_are_one_sentence(call, says):
    with pytest.raises(ParimendError, match=says) as error:
        call()
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda no: pm.protect_(MODEL, 3, buffers=no), "buffers"),
        (lambda no: pm.plan(MODEL, 3, buffers=no), "buffers"),
        (lambda no: pm.plan(MODEL, 3, measure=no), "measure"),
        (lambda no: pm.Sidecar(digest=no), "digest"),
        (lambda no: pm.protect_file("x", 3, force=no), "force"),
        (lambda no: pm.protect_file("x", 3, everything=no), "everything"),
        (lambda no: pm.repair_file("x", partial=no), "partial"),
        (lambda no: pm.verified("x", at_once=no).__enter__(), "at_once"),
        (lambda no: pm.guard_(MODEL, activations=no), "activations"),
        (lambda no: pm.guard_(MODEL, deferred=no), "deferred"),
        (lambda no: trace(MODEL, X, Upset("offset"), buffers=no), "buffers"),
    ],
)
@pytest.mark.parametrize("no", ["no", "", 0, None, np.ones(2), torch.ones(2)])
def test_what_is_neither_true_nor_false_is_taken_for_neither(call, name, no):
    with pytest.raises(SpecError, match=f"{name} must be True or False, not "):
        call(no)


def test_true_and_false_of_numpy_are_true_and_false():
    assert not pm.Sidecar(digest=np.bool_(False)).digest
    assert pm.protect_(MODEL, 3, buffers=np.bool_(True)).covered == SEAL.covered


@pytest.mark.parametrize("state", [{"hook": lambda: 0}, {"all": (i for i in ())}])
def test_what_torch_cannot_save_is_refused(state, tmp_path):
    with pytest.raises(SpecError, match=r"m\.pt cannot be saved: .*; give state dicts, numbers"):
        pm.save_file(state, tmp_path / "m.pt", 3)
    assert not list(tmp_path.iterdir())


def test_long_arguments_are_shown_shortened():
    with pytest.raises(SpecError) as error:
        pm.check_file(10**300)
    assert len(str(error.value)) < 200


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert pm.protect_(MODEL, errors=np.int32(3)).to_bytes() == SEAL.to_bytes()
    weights = [{"w": torch.linspace(-1, 1, 5120)} for _ in range(2)]
    numbers = {"rows": 320, "bits": 18}, {"seed": 1, "guaranteed": 2}
    own, options = ({name: np.int64(x) for name, x in some.items()} for some in numbers)
    seals = (
        pm.protect_(weights[0], 210, pm.Real(**numbers[0]), **numbers[1]),
        pm.protect_(weights[1], np.uint8(210), pm.Real(**own), **options),
    )
    assert seals[0].to_bytes() == seals[1].to_bytes()


def test_whole_numbers_of_numpy_balance_a_budget_as_others_do():
    model, numbers = torch.nn.Linear(40, 90), {"checks": 2, "floor": 4, "trials": 5, "seed": 3}
    batches = [torch.linspace(-1, 1, 20_000).reshape(500, 40)]
    found, same = (
        pm.balance(model, kind(120), batches, **{name: kind(x) for name, x in numbers.items()})
        for kind in (int, np.int8)
    )
    assert found.to_json() == same.to_json()


def test_numbers_of_numpy_are_numbers_in_records():
    where = pm.Environment("mine", rate=np.float32(0.5))
    assert json.loads(where.to_json())["rate"] == 0.5
    share = Share(np.int64(5), Word((whole("w", "F32", (3,)),)))
    assert json.loads(share.to_json())["errors"] == 5


def _tuned(tune, **options):
    """A call of `constrain_` or `heal_` on a network of its own."""
    model = torch.nn.Linear(40, 30)
    return tune(model, torch.optim.SGD(model.parameters(), 0.1), **options)


def _scrubber(**options):
    return pm.Scrubber(MODEL, SEAL, **options)


def _upset(**options):
    return Upset("offset", **options)


def _struck(**options):
    return upset_(torch.nn.Linear(4, 3), _upset(), **options)


def _balanced(**options):
    return pm.balance(torch.nn.Linear(20, 40), 20, [torch.randn(500, 20)], **options)


def _guarded(**options):
    return pm.guard_(torch.nn.Linear(40, 30), **options)


def _drawn(count=1, seed=0, scale=1.0):
    return draw("noise", {"w": np.ones(3)}, count, seed=seed, scale=scale)


_TARGET = {"target": 1e-6, "worst_rate": 1e-12}
WHOLE = [
    (partial(_tuned, pm.constrain_, errors=2), "every"),
    (partial(_tuned, pm.constrain_), "errors"),
    (partial(_tuned, pm.heal_), "errors"),
    (_guarded, "k"),
    (_guarded, "blocks"),
    (_guarded, "every"),
    (_guarded, "seed"),
    (_upset, "count"),
    (_upset, "bits"),
    (_struck, "every"),
    (_struck, "seed"),
    (_drawn, "count"),
    (_drawn, "seed"),
    (_balanced, "trials"),
    (partial(pm.protect_, MODEL), "errors"),
    (partial(pm.protect_, MODEL, 3), "seed"),
    (partial(pm.plan, MODEL, 3), "seed"),
]
REAL = [
    (partial(_tuned, pm.heal_), "gradient_factor"),
    (_scrubber, "share"),
    (partial(_scrubber, worst_rate=1e-12), "target"),
    (partial(_scrubber, target=1e-6), "worst_rate"),
    (partial(pm.Environment, "mine"), "rate"),
    (partial(pm.Environment, "mine"), "hard_rate"),
    (partial(pm.Environment, "mine"), "read_rate"),
    (partial(pm.Service, "leo"), "target"),
    (partial(pm.Service, "leo"), "interval"),
    (partial(pm.Service, "leo"), "years"),
    (_upset, "size"),
    (_drawn, "scale"),
    (_balanced, "tolerance"),
]
BELOW, HUGE = -3, 10**400
NO_NUMBERS = [None, "5", b"5", True, math.nan, BELOW, HUGE, [5], np.array([5, 6]), 5j, object()]
TAKEN = {
    None: ("every", "errors", "target", "worst_rate", "interval", "scale"),  # nothing was given
    BELOW: ("size",),
    HUGE: ("every", "blocks", "k", "count", "bits"),  # a number like others, if more than there is
}
"""What some of them mean all the same; the names are those of arguments."""


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        pytest.param(call, name, value, id=f"{name}-{value!r:.12}")
        for value in NO_NUMBERS
        for call, name in WHOLE + REAL
        if not any(value is each and name in names for each, names in TAKEN.items())
    ],
)
def test_what_is_no_number_is_refused_wherever_one_is_asked_for(call, name, value):
    """Also NaN, which is neither smaller nor larger than a bound."""
    with pytest.raises(ParimendError, match=rf"\b{name}\b.*, not |unknown environment") as error:
        call(**{name: value})
    assert len(str(error.value)) < 200
