"""Maps: every point is a plan, dominated ones are marked, and a picture is drawn."""

import json
import shlex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import parimend as pm
from parimend.cli import main
from parimend.errors import FormatError, ParimendError, WordError
from parimend.planner import map_of
from parimend.planner.maps import Point, _marked

MODEL = torch.nn.Linear(512, 10)


def test_points_are_plans():
    it = map_of(MODEL, budgets=[4, 210], service=pm.Service("leo", 0.1))
    assert [(p.carrier, p.errors) for p in it.points] == [
        (carrier, errors) for carrier in ("sidecar", "real", "lowbits") for errors in (4, 210)
    ]
    for point in it.points:
        made = pm.plan(MODEL, point.errors, point.carrier, service=pm.Service("leo", 0.1))
        assert (point.guaranteed, point.seal_bytes) == (made.guaranteed, made.seal_bytes)
        assert point.unrepaired == made.risk.unrepaired
        assert point.command == f'pm.protect_(model, {point.errors}, "{point.carrier}")'


def test_a_file_without_weights_has_a_map(tmp_path):
    save_file({"none": torch.empty(0, 3)}, tmp_path / "m.safetensors")
    [point] = map_of(tmp_path / "m.safetensors", carriers=["sidecar"], budgets=[4]).points
    assert (point.guaranteed, point.seal_bytes, point.moved) == (0, 0, 0.0)


def test_what_is_left_is_of_a_year_however_long_the_service_is():
    service = pm.Service("leo", 0.1, years=10)
    [point] = map_of(MODEL, carriers=["sidecar"], budgets=[4], service=service).points
    left = pm.plan(MODEL, 4, service=service, measure=False).risk
    assert point.unrepaired == left.yearly == pytest.approx(left.unrepaired / 10, rel=1e-3)


def test_scores_are_those_of_the_protected_model():
    it = map_of(MODEL, carriers=["lowbits"], budgets=[4], metric=lambda m: float(m.weight.sum()))
    truth = float(MODEL.weight.sum())
    assert it.points[0].score == pytest.approx(truth, abs=1e-2)
    assert it.points[0].seal_bytes == pm.plan(MODEL, 4, "lowbits").seal_bytes


def test_what_cannot_be_is_left_out_by_name():
    it = map_of(torch.nn.Linear(30, 2).half(), budgets=[3, 4])
    assert [p.carrier for p in it.points] == ["sidecar"] * 2
    assert [text.split(":")[0] for text in it.left_out] == ["real", "lowbits"]
    with pytest.raises(WordError, match="lowbits carrier holds F32"):
        map_of(torch.nn.Linear(30, 2).half(), carriers=["lowbits"], budgets=[3, 4])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budgets": []}, r"budgets must be whole numbers, .* not \[\]"),
        ({"budgets": 4}, "budgets must be whole numbers"),
        ({"carriers": "sidecar"}, "carriers must be names of carriers, .* not 'sidecar'"),
        ({"carriers": None}, "carriers must be names of carriers"),
        ({"calibration": torch.ones(100, 512)}, "an iterable of batches, not a tensor"),
    ],
)
def test_what_is_no_list_of_ways_is_refused(given, says):
    with pytest.raises(ParimendError, match=says):
        map_of(MODEL, **{"carriers": ["sidecar"], "budgets": [4]} | given)


def test_ways_may_come_one_by_one():
    it = map_of(MODEL, carriers=iter(["sidecar"]), budgets=iter([4, 5]))
    assert [point.errors for point in it.points] == [4, 5]


def test_budgets_that_are_too_large_are_left_out_one_by_one():
    it = map_of(torch.nn.Linear(40, 10), carriers=["real"], budgets=[4, 5000, 6000])
    assert [point.errors for point in it.points] == [4]
    assert [text.split(":")[0] for text in it.left_out] == ["real, 5000", "real, 6000"]


def test_ways_that_a_file_has_no_place_for_are_left_out(tmp_path):
    np.save(tmp_path / "w.npy", np.ones(3000, np.float32))
    it = map_of(tmp_path / "w.npy", budgets=[4])
    assert [point.carrier for point in it.points] == ["sidecar"]
    assert "w.npy has no place for a seal" in it.left_out[0]
    with pytest.raises(FormatError, match=r"w\.npy has no place for a seal"):
        pm.plan(tmp_path / "w.npy", carrier="real")
    with pytest.raises(FormatError, match="has no file with a place for a seal"):
        pm.plan(tmp_path, carrier="lowbits")


def point(values):
    guaranteed, seal, moved = values
    return Point("sidecar", 4, guaranteed, seal, 1.0, 1.0, float(moved), None, None, "")


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=8))
def test_a_point_is_dominated_if_another_is_as_good_in_everything(values):
    marked = _marked([point(each) for each in values])
    best = [p for p in marked if not p.dominated]
    assert best
    for p in marked:
        rivals = [
            q
            for q in best
            if q is not p and all(a <= b for a, b in zip(q.costs, p.costs, strict=True))
        ]
        assert bool(rivals) == p.dominated


def test_the_command_that_a_point_names_makes_it(tmp_path):
    path = tmp_path / "my model's.safetensors"
    save_file({"a": torch.randn(60, 50), "b": torch.randn(9)}, path)
    out = tmp_path / "map.json"
    run("plan", path, "--only", "a*", "--map", out)
    points = json.loads(out.read_text())["points"]
    # Of real words certificates are sought, which takes minutes where there are few checks.
    points += [
        each.as_dict()
        for each in map_of(path, carriers=["sidecar"], only="a*", guaranteed=3).points
    ]
    chosen = [each for each in points if each["errors"] == 4]
    assert len(chosen) == 4
    for at, each in enumerate(chosen):
        target = tmp_path / f"{at}.safetensors"
        command = each["command"].replace("--out OUT", f"--out {target}")
        run(*shlex.split(command)[1:])
        protected = target if target.exists() else path
        [file] = pm.check_file(protected).files
        assert (file.carrier, file.errors, file.covered) == (each["carrier"], 4, 3000)
    assert "--guaranteed 3" in chosen[-1]["command"]
    points = map_of(path, carriers=["sidecar"], budgets=[4], only="a*", seed=5).points
    assert points[0].command.endswith("--errors 4 --only 'a*' --seed 5")


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert not end.value.code
