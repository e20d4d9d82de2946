"""What a campaign is to do: a small TOML file, or the same tables in Python."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from parimend.arguments import path_of, real_number, seed_of, whole_number
from parimend.atomic import PathLike
from parimend.campaign.computing import KIND as UPSET
from parimend.campaign.damage import require_fault
from parimend.campaign.protections import PROTECTIONS, is_own, protection_of
from parimend.campaign.tables import require_keys, require_table, table
from parimend.campaign.task import Setting, content_hash
from parimend.errors import SpecError
from parimend.experiment import Outcome

MOST_TRIALS = 10**8
"""Of each network, protection and fault: what they are is kept in memory."""

_ROUNDING = 2.0**-20


@dataclass(frozen=True)
class Source:
    """Where a network comes from, and how it is scored.

    One or two of ``build``, ``file`` and ``folder`` say what it is: of a file alone the tensors are
    damaged and repaired; with ``build`` they are loaded into what that gives.

    Attributes:
        build: ``module:function`` that gives a module, such as a recipe. The module is looked for
            beside the spec first.
        arguments: of that function.
        file: of any format, or the index of a sharded checkpoint.
        folder: of a model in the layout of a hub, read by transformers.
        buffers: whether the buffers of the module are struck and protected, too. Unless it is said
            they are not, and a network that has most of its bytes there is refused.
        data: ``module:function`` that gives the data; called once.
        data_arguments: of that function.
        metric: ``module:function`` that scores a network, and is given the network (of a file alone
            its tensors by name) and, if there are any, the data. Larger is better.
        tolerance: a score that differs from the intact one's by no more than this counts as equal
            to it; see `slack`.
    """

    build: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    folder: str | None = None
    buffers: bool | None = None
    data: str | None = None
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    tolerance: float = 0.0

    def slack(self, intact: float) -> float:
        """How far a score may be from that of the intact network and count as equal to it.

        It is the tolerance, and no less than a part in a million (2^-20) of the score: what is
        computed right a second time, in another order, is right to within rounding. That is what
        float32 leaves of a score that is a mean; coarser arithmetic needs a tolerance.

        >>> Source(tolerance=0.0).slack(0.5), Source(tolerance=0.01).slack(0.5)
        (4.76837158203125e-07, 0.01)
        """
        return max(self.tolerance, _ROUNDING * abs(intact))


@dataclass(frozen=True)
class Strata:
    """How places are divided: single faults then strike every stratum, and its share weighs it.

    Attributes:
        layers: one stratum for each tensor.
        bits: pairs of the lowest and the highest bit, which together are all bits of a word.
    """

    layers: bool = False
    bits: tuple[tuple[int, ...], ...] = ()

    @property
    def asked(self) -> bool:
        """Whether there are any."""
        return self.layers or bool(self.bits)


@dataclass(frozen=True)
class Stop:
    """When there are enough trials.

    Attributes:
        trials: of each network, protection and fault, at most.
        width: if given, trials end as soon as the confidence sequence of every protection is no
            wider than this.
        confidence: of intervals and confidence sequences.
        outcomes: whose probability is looked at; by default ending silently wrong.
        harmed: look at the probability of a lower score instead.
        first: number of trials before a stop is thought about, and before strata are weighed.
    """

    trials: int = 1000
    width: float | None = None
    confidence: float = 0.95
    outcomes: tuple[str, ...] = ("silent", "miscorrected")
    harmed: bool = False
    first: int = 100


@dataclass(frozen=True)
class Spec:
    """A campaign; see docs/campaigns.md.

    Attributes:
        networks: by name.
        protections: that meet the same faults.
        faults: kinds of damage.
        strata: of all places.
        stop: when there is enough.
        seed: of all faults.
        block: trials in a task.
        base: folder that paths and modules are looked for in; no part of what the campaign is.
    """

    networks: Mapping[str, Source]
    protections: tuple[Setting, ...]
    faults: tuple[Setting, ...]
    strata: Strata = field(default_factory=Strata)
    stop: Stop = field(default_factory=Stop)
    seed: int = 0
    block: int = 20
    base: Path = field(default=Path("."), compare=False)

    @classmethod
    def load(cls, path: PathLike) -> Spec:
        """Read a TOML file.

        Raises:
            SpecError: if it is none, or says something that is not known; names the key.
            OSError: if it cannot be read.
        """
        path = path_of(path, "spec")
        try:
            # With or without the mark that some editors put first.
            given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:  # also numbers that Python does not read
            raise SpecError(f"{path} is no TOML file: {error}") from None
        try:
            return cls.of(given, path.resolve().parent)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None

    @classmethod
    def of(cls, given: Mapping[str, Any], base: PathLike = ".") -> Spec:
        """From the tables of a TOML file.

        Args:
            given: tables by name.
            base: the folder that paths and modules are looked for in.

        Raises:
            SpecError: if they say something that is not known; names the key and the nearest one.

        Example:
            >>> Spec.of({"networks": {"n": {"file": "model.safetensors"}}, "fault": {}})
            Traceback (most recent call last):
            parimend.errors.SpecError: unknown key 'fault'; did you mean 'faults'?
        """
        require_table(given, "a spec")
        try:
            given = _plain(given, "")
        except RecursionError:
            raise SpecError("a spec holds itself, or tables within tables without end") from None
        _require_tables(given)
        networks = {
            name: _source(table(Source, each, f"[networks.{name}]"), name)
            for name, each in given["networks"].items()
        }
        more = {key: given[key] for key in ("seed", "block") if key in given}
        made = cls(
            networks=networks,
            protections=_settings(given, "protections", _require_protection),
            faults=_settings(given, "faults", require_fault),
            strata=table(Strata, given.get("strata", {}), "[strata]"),
            stop=table(Stop, given.get("stop", {}), "[stop]"),
            base=Path(base).resolve(),
            **more,
        )
        _require_sense(made)
        return made

    def as_dict(self) -> dict[str, Any]:
        """The tables that make this spec again, with every default written out."""
        return {
            "networks": {name: vars(each) for name, each in self.networks.items()},
            "protections": {each.name: _table_of(each) for each in self.protections},
            "faults": {each.name: _table_of(each) for each in self.faults},
            "strata": vars(self.strata),
            "stop": vars(self.stop),
            "seed": self.seed,
            "block": self.block,
        }

    @property
    def key(self) -> str:
        """The content hash: comments, order and places of files are no part of it."""
        return content_hash(self.as_dict())


_TABLES = ("networks", "protections", "faults")


def _require_tables(given: Mapping[str, Any]) -> None:
    require_keys(given, (*_TABLES, "strata", "stop", "seed", "block"), "")
    for name in _TABLES:
        if name not in given:
            raise SpecError(f"[{name}.NAME] is missing: a campaign needs one or more")
        require_table(given[name], f"[{name}]")
        if not given[name]:
            raise SpecError(f"[{name}] is empty: a campaign needs one or more")


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it: faults are drawn by what their options are written as, and those that
    a folder gives back are no more than this, where numpy's numbers and enums were given.

    Raises:
        SpecError: for what no JSON holds, wherever it is: NaN, infinity and dates, which TOML has.
    """
    if isinstance(value, Mapping):
        if others := [key for key in value if not isinstance(key, str)]:
            raise SpecError(f"{where or 'a spec'}: a key must be a text, not {others[0]!r:.60}")
        inside = f"{where}." if where else ""
        return {str.__str__(key): _plain(each, inside + key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where} must be finite, not {value}")
    for kind, made in ((bool, bool), (int, int), (float, float), (str, str.__str__)):
        if isinstance(value, kind):
            return made(value)
    if value is None:
        return None
    raise SpecError(
        f"{where} must be a text, a number, true or false, a list or a table, not {value!r:.60}"
    )


def _settings(given: Mapping[str, Any], which: str, require: Any) -> tuple[Setting, ...]:
    found = []
    for name, each in given[which].items():
        where = f"[{which}.{name}]"
        require_table(each, where)
        if "kind" not in each:  # then the name is the kind, unless the key is misspelt
            for key in get_close_matches("kind", each, n=1, cutoff=0.7):
                raise SpecError(f"{where}: unknown key {key!r}; did you mean 'kind'?")
        setting = Setting.of(name, each)
        require(setting, where)
        found.append(setting)
    return tuple(found)


def _require_protection(setting: Setting, where: str) -> None:
    """Refuse what is not known; users' classes are looked for when networks are, not before: what
    was found is reported without them.
    """
    if not is_own(setting.kind):
        protection_of(setting, where)


def _table_of(setting: Setting) -> dict[str, Any]:
    return {"kind": setting.kind, **dict(setting.options)}


def _source(source: Source, name: str) -> Source:
    where = f"[networks.{name}]"
    if source.folder and (source.build or source.file):
        raise SpecError(f"{where}: folder says what the network is; leave out build and file")
    if not (source.build or source.file or source.folder):
        raise SpecError(f"{where}: say where it comes from: build, file or folder")
    for key in ("build", "data", "metric"):
        text = getattr(source, key)
        if text is not None and text.count(":") != 1:
            raise SpecError(f"{where}: {key} is module:function, not {text!r}")
    real_number(source.tolerance, f"{where}: tolerance", "a difference", least=0)
    return source


def _require_sense(spec: Spec) -> None:
    stop = spec.stop
    whole_number(spec.block, "block", least=1)
    whole_number(stop.trials, "[stop]: trials", least=1, most=MOST_TRIALS)
    whole_number(stop.first, "[stop]: first", least=1)
    seed_of(spec.seed)
    real_number(stop.confidence, "[stop]: confidence", above=0, below=1)
    if stop.width is not None:
        real_number(stop.width, "[stop]: width", above=0, below=1)
    if not stop.outcomes:
        raise SpecError(
            f"[stop]: outcomes is empty: name what is looked for, of {', '.join(Outcome)}"
        )
    for outcome in stop.outcomes:
        if outcome not in list(Outcome):
            raise SpecError(f"[stop]: outcomes are {', '.join(Outcome)}, not {outcome!r}")
    if stop.harmed and not all(source.metric for source in spec.networks.values()):
        raise SpecError("[stop]: harmed needs a metric for every network")
    _require_runs(spec)
    _require_strata(spec)


def _require_runs(spec: Spec) -> None:
    """Refuse what has to see a network run where one cannot be run."""
    watching = [
        *(
            f"[protections.{each.name}]"
            for each in spec.protections
            if not is_own(each.kind) and PROTECTIONS[each.kind].runs
        ),
        *(f"[faults.{each.name}]" for each in spec.faults if each.kind == UPSET),
    ]
    for name, source in spec.networks.items():
        if watching and not (source.metric and (source.build or source.folder)):
            raise SpecError(
                f"{', '.join(watching)} on {name}: this is about what a network computes, so "
                f"[networks.{name}] needs a build (or folder) and a metric: give them, or leave "
                "these out"
            )


def _require_strata(spec: Spec) -> None:
    if not spec.strata.asked:
        return
    for fault in spec.faults:
        if fault.kind != "bitflip" or dict(fault.options) != {"count": 1}:
            raise SpecError(
                f'[faults.{fault.name}]: strata divide single flips: take kind = "bitflip" and '
                "count = 1 alone, or leave out [strata]"
            )
    ends = [0]
    for pair in sorted(spec.strata.bits):
        if len(pair) != 2 or pair[0] != ends[-1] or pair[1] < pair[0]:
            raise SpecError(
                f"[strata]: bits are pairs of the lowest and the highest bit that leave none out, "
                f"from 0 on, such as [[0, 22], [23, 30], [31, 31]]; not {list(spec.strata.bits)}"
            )
        ends.append(pair[1] + 1)
