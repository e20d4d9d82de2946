"""What a spec says, and what it must not."""

import json
from enum import IntEnum, StrEnum

import numpy as np
import pytest

from parimend.campaign import Spec
from parimend.campaign.damage import damage_of
from parimend.campaign.task import Setting, Stratum, Task
from parimend.errors import SpecError
from parimend.faults import select
from tests.campaign.conftest import tables

TOML = """
seed = 7

[networks.digits]
build = "digits_recipe:network"
arguments = {steps = 40}
data = "digits_recipe:pictures"
metric = "digits_recipe:accuracy"
tolerance = 0.01

[protections.none]

[protections.eight]
kind = "sidecar"
errors = 8

[faults.flips]
kind = "bitflip"
rate = 1e-4

[faults.hammer]
kind = "rowhammer"

[stop]
trials = 500
width = 0.1
"""


class Kind(StrEnum):
    FLIP = "bitflip"


class Least(IntEnum):
    ONE = 1


def test_a_file_is_its_tables(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(TOML)
    spec = Spec.load(path)
    assert spec.base == tmp_path
    assert [each.label for each in spec.protections] == ["none()", "sidecar(errors=8)"]
    assert spec.stop.width == 0.1
    assert spec.networks["digits"].arguments == {"steps": 40}
    again = Spec.of(json.loads(json.dumps(spec.as_dict())))
    assert (again.key, again) == (spec.key, spec)
    path.write_text("# a comment\n" + TOML.replace("seed = 7", "seed = 8"))
    assert Spec.load(path).key != spec.key


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = true", "seed must be a whole number, not a bool: True"),
        ("[faults.leo]\ndays = inf", r"faults\.leo\.days must be finite, not inf"),
        ("[faults.f]\nkind = 'noise'\ncount = 1\nscale = nan", r"faults\.f\.scale must be finite"),
        ("[networks.n]\nfile = 'a'\ntolerance = nan", "tolerance must be finite, not nan"),
        (
            "[networks.n]\nfile = 'a'\ntolerance = -0.1",
            "tolerance must be a difference of at least 0, not",
        ),
        ("[stop]\noutcomes = []", "outcomes is empty: name what is looked for"),
        ("sead = 7", "unknown key 'sead'; did you mean 'seed'"),
        ("seed = -1", "seed must be from 0 to 2.64 - 1, not -1"),
        ("block = 0", "block must be at least 1, not 0"),
        ("[stop]\ntrails = 5", r"\[stop\]: unknown key 'trails'; did you mean 'trials'"),
        ("[stop]\ntrials = 'many'", r"\[stop\]: trials must be a whole number, not 'many'"),
        ("[stop]\ntrials = true", "must be a whole number, not True"),
        ("[stop]\ntrials = 0", r"\[stop\]: trials must be from 1 to 100000000, not 0"),
        ("[stop]\nwidth = 2.0", "width must be a number between 0 and 1"),
        ("[stop]\nwidth = 1" + "0" * 400, "width must be a number, not a number of 401 digits"),
        ("[stop]\nwidth = 1" + "0" * 5000, "is no TOML file: .* for integer string conversion"),
        ("[stop]\nwidth = " + "[" * 2000, "is no TOML file: maximum recursion depth exceeded"),
        ("[stop]\nconfidence = 1.0", "confidence must be a number between 0 and 1"),
        ("[stop]\noutcomes = ['lost']", "outcomes are masked, repaired, .* not 'lost'"),
        ("[stop]\noutcomes = 'silent'", "outcomes must be a list"),
        ("[networks.n]\nfile = 'a'\nmetrics = 'a:b'", r"\[networks.n\]: .* 'metric'"),
        ("[networks.n]", "say where it comes from: build, file or folder"),
        ("[networks.n]\nfolder = 'a'\nfile = 'b'", "leave out build and file"),
        ("[networks.n]\nbuild = 'recipe'", "build is module:function, not 'recipe'"),
        ("[protections.p]\nkind = 'sidcar'", "unknown kind 'sidcar'; did you mean 'sidecar'"),
        ("[protections.p]\nkind = 'sidecar'\nerors = 3", "key 'erors'; did you mean 'errors'"),
        ("[protections]\np = 3", r"\[protections.p\] must be a table"),
        ("[faults.f]\nkind = 'bitflop'\ncount = 1", "'bitflop'; did you mean 'bitflip'"),
        ("[faults.f]\nkind = 'bitflip'", "say how many faults: either count or rate"),
        ("[faults.f]\nkind = 'bitflip'\ncount = 1\nrate = 0.1", "either count or rate"),
        ("[faults.f]\nknd = 'bitflip'\ncount = 1", "unknown key 'knd'; did you mean 'kind'"),
        ("[faults.f]\nkind = 'bitflip'\ncount = 0", "count must be at least 1, not 0"),
        (
            "[faults.f]\nkind = 'bitflip'\nrate = 1.5",
            "rate must be a probability for each bit between 0 and 1",
        ),
        ("[faults.f]\nkind = 'upset'\npattern = ['row']", r"\[faults.f\]: pattern must be a name"),
        ("[faults.f]\nkind = 'noise'\ncount = 1\nscala = 2.0", "unknown key 'scala'; .*'scale'"),
        ("[faults.f]\nkind = 'noise'\ncount = 1\nplacement = 'raw'", "unknown kind 'raw'"),
        ("[faults.f]\nkind = 'single-bit'\nrate = 0.1", "unknown key 'rate'"),
        ("[faults.f]\nkind = 'single-bit'\nstays = 1", "stays must be true or false"),
        ("[faults.f]\nkind = 'bitflip'\ncount = 1\nlowest = 1.5", r"\[faults.f\].*a whole number"),
        (
            "[faults.f]\nkind = 'noise'\ncount = 1\nscale = 'x'",
            "scale must be a number, not a str: 'x'",
        ),
        ("[faults.f]\nkind = 'stuck'\ncount = 1\nvalue = true", "value must be a number"),
        ("[faults.f]\nkind = 'sign'\ncount = 1\nstrikes = 'everything'", "beside .* are bytes: "),
        ("[faults.f]\nkind = 'bitflip'\ncount = 1\nonly = 2020-01-01", "faults.f.only must be a"),
        ("[stop]\ntrials = 18446744073709551616", "trials must be from 1 to 100000000"),
        ("[faults.leo]", "days must be the time between two checks of at least 0, not None"),
        ("[faults.leo]\ncount = 3", "unknown key 'count'"),
        ("[strata]\nbits = [[0, 5], [7, 9]]", "the highest bit that leave none out"),
        ("[strata]\nlayers = 3", "layers must be true or false"),
    ],
)
def test_what_is_not_known_names_the_key_and_the_nearest(tmp_path, line, message):
    given = {
        "networks": "[networks.m]\nfile = 'm'",
        "protections": "[protections.none]",
        "faults": "[faults.g]\nkind = 'bitflip'\ncount = 1",
    }
    first = [line] if "[" not in line.splitlines()[0] else []
    last = [] if first else [line]
    parts = [text for name, text in given.items() if not line.startswith(f"[{name}]")]
    path = tmp_path / "spec.toml"
    path.write_text("\n".join([*first, *parts, *last]))
    with pytest.raises(SpecError, match=message) as error:
        Spec.load(path)
    assert str(error.value).startswith(str(path))


def test_numbers_of_numpy_and_enums_are_what_a_folder_gives_back():
    """Faults are drawn by what their options are written as: a run that goes on has to write them
    as the one before did.
    """
    fault = {"kind": Kind.FLIP, "rate": np.float64(1e-4), "lowest": Least.ONE, "only": ("a*",)}
    spec = Spec.of(tables(faults={"f": fault}))
    again = Spec.of(json.loads(json.dumps(spec.as_dict())))
    assert spec.faults[0].label == "bitflip(lowest=1, only=('a*',), rate=0.0001)"
    assert again.faults[0].label == spec.faults[0].label
    seeds = [task(fault=each.faults[0]).seeds() for each in (spec, again)]
    assert seeds[0] == seeds[1]


def test_the_mark_of_an_editor_is_no_part_of_a_spec(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(TOML)
    plain = Spec.load(path)
    path.write_text(TOML, encoding="utf-8-sig")
    assert Spec.load(path) == plain


def test_tables_that_hold_themselves_are_refused():
    given = tables()
    given["networks"]["digits"]["arguments"] = given
    with pytest.raises(SpecError, match="a spec holds itself"):
        Spec.of(given)


def test_a_name_is_a_text():
    with pytest.raises(SpecError, match="protections: a key must be a text, not 1"):
        Spec.of(tables(protections={1: {"kind": "none"}}))


def test_what_is_missing_is_named(tmp_path):
    for name in ("networks", "protections", "faults"):
        given = tables()
        with pytest.raises(SpecError, match=rf"\[{name}\] is empty"):
            Spec.of(given | {name: {}})
        del given[name]
        with pytest.raises(SpecError, match=rf"\[{name}.NAME\] is missing"):
            Spec.of(given)
    path = tmp_path / "spec.toml"
    path.write_text("[networks")
    with pytest.raises(SpecError, match="is no TOML file"):
        Spec.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="is no TOML file"):
        Spec.load(path)


def test_strata_are_for_single_flips():
    with pytest.raises(SpecError, match=r"\[faults.five\]: strata divide single flips"):
        Spec.of(tables(strata={"layers": True}))
    with pytest.raises(SpecError, match="harmed needs a metric"):
        Spec.of(tables(networks={"n": {"file": "a"}}, stop={"harmed": True}))


def task(**change):
    parts = {
        "network": "n",
        "weights": "0" * 32,
        "metric": "",
        "protection": Setting.of("p", {"kind": "none"}),
        "fault": Setting.of("f", {"kind": "bitflip", "count": 1}),
        "stratum": Stratum(),
        "seed": 0,
        "start": 0,
        "stop": 10,
    }
    return Task(**parts | change)


def test_a_task_is_its_content():
    """Golden values: a changed hash or seed would make every stored campaign another one."""
    assert task().key == "4319aaffebc7866cea98216731d77e0b"
    assert task().seeds()[:2] == [9874950155861939714, 14678372318944643181]
    assert Task.of(json.loads(task().to_json())) == task()
    keys = {task().key, task(seed=1).key, task(start=1).key, task(weights="1" * 32).key}
    assert len(keys) == 4


def test_seeds_depend_on_fault_stratum_and_number_and_not_on_protection():
    one = task()
    assert task(start=3, stop=10).seeds() == one.seeds()[3:]
    assert task(protection=Setting.of("q", {"kind": "sidecar", "errors": 3})).seeds() == one.seeds()
    assert task(network="other").seeds() == one.seeds()
    assert task(fault=Setting.of("renamed", {"kind": "bitflip", "count": 1})).seeds() == one.seeds()
    others = [
        task(seed=1),
        task(fault=Setting.of("f", {"kind": "bitflip", "count": 2})),
        task(stratum=Stratum(("w",))),
        task(stratum=Stratum((), (0, 3))),
    ]
    for other in others:
        assert not set(other.seeds()) & set(one.seeds())


def test_a_rate_draws_the_number_of_faults():
    words = select({"a": np.zeros(1000, np.float32), "b": np.zeros(500, np.float32)})
    damage = damage_of(Setting.of("f", {"kind": "bitflip", "rate": 1e-3}), Stratum())
    counts = [len(damage.draw(words, seed)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(48, abs=1.5)  # of 48,000 bits
    assert np.var(counts) == pytest.approx(48, rel=0.3)
    some = damage_of(Setting.of("f", {"kind": "zero", "rate": 1e-3, "only": ["b"]}), Stratum())
    assert some.only == ("b",)
