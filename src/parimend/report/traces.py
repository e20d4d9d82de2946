"""Sheets of how errors travel."""

from __future__ import annotations

from parimend.propagation import Trace
from parimend.propagation.records import shown
from parimend.report.sheet import Chart, Column, Known, Sheet, Value, percent

_ERROR = "relative error of an output: the median."
_GAIN = "relative error of the output in that of the input: the median."


def trace_sheets(found: Trace) -> list[Sheet]:
    """What came of faults, layer by layer.

    Args:
        found: as `parimend.propagation.trace` gives it.

    Returns:
        ``struck layers``, ``on the way``, ``layers passed``, ``by size``, and if single bits were
        wrong ``by bit``.
    """
    made = [_struck(found), _passages(found), _layers(found), _groups(found, "size")]
    return made + [_groups(found, "bit")] * any(each.by_bit for each in found.struck)


def _struck(found: Trace) -> Sheet:
    columns = (
        *_named("layer", "type", "fault"),
        Column("faults", note="observations: one for every fault and input."),
        Column("changed", "%", Known.MEASURED, "answers that are others."),
        Column("masked", "%", Known.MEASURED, "faults that leave no error in the answer."),
        Column("error there", "", Known.MEASURED, _ERROR, log=True),
        Column("error of the answer", "", Known.MEASURED, log=True),
    )
    rows = [
        (shown(each.layer), each.kind, each.upset, each.faults)
        + (percent(each.changed), percent(each.passages[-1].masked))
        + (each.passages[0].error, each.passages[-1].error)
        for each in found.struck
    ]
    left_out = f" Not watched: {', '.join(found.left_out)}." if found.left_out else ""
    note = f" Note: {found.note}." if found.note else ""
    about = (
        f"Each layer was struck by {found.faults:,} faults of each kind, seen on {found.samples:,} "
        f"inputs, and what is left of the error in the answer was compared.{left_out}{note}"
    )
    values = ("changed", "masked", "error of the answer", "error there")
    return Sheet(
        "struck layers", about, columns, rows, Chart(("layer",), values, ("fault",), lying=True)
    )


def _passages(found: Trace) -> Sheet:
    columns = (
        *_named("struck", "fault", "at", "type"),
        Column("error", "", Known.MEASURED, _ERROR, log=True),
        Column("gain", "", Known.MEASURED, _GAIN, log=True),
        Column("masked", "%", Known.MEASURED, "faults that leave no error here."),
        Column("rounding", "%", Known.MEASURED, "faults whose error is at most the rounding unit."),
    )
    rows: list[tuple[Value, ...]] = [
        (shown(each.layer), each.upset, _call(at.layer, at.call), at.kind)
        + (at.error, at.gain, percent(at.masked), percent(at.rounding))
        for each in found.struck
        for at in each.passages
    ]
    about = "The errors on their way, from the layer that was struck to the answer."
    chart = Chart(("at",), ("error", "gain", "masked"), ("struck", "fault"), joined=True)
    return Sheet("on the way", about, columns, rows, chart)


def _layers(found: Trace) -> Sheet:
    columns = (
        *_named("layer", "type"),
        Column("gain", "", Known.MEASURED, _GAIN, log=True),
        Column("masks", "%", Known.MEASURED, "wrong inputs that leave no error."),
    )
    rows = [
        (_call(each.layer, each.call), each.kind, each.gain, percent(each.masks))
        for each in found.layers
    ]
    about = "What every module does to errors that arrive, whatever layer they are from."
    return Sheet(
        "layers passed", about, columns, rows, Chart(("layer",), ("gain", "masks"), (), lying=True)
    )


def _groups(found: Trace, what: str) -> Sheet:
    at = {
        "bit": Column("bit", note="that was wrong; 0 is the lowest.", choice=True),
        "size": Column(
            "size", note="lower end of a decade of relative errors in the layer.", log=True
        ),
    }[what]
    columns = (
        *_named("struck", "fault"),
        at,
        Column("faults"),
        Column("changed", "%", Known.MEASURED, "answers that are others."),
    )
    rows: list[tuple[Value, ...]] = [
        (shown(each.layer), each.upset, group.at, group.faults, percent(group.changed))
        for each in found.struck
        for group in (each.by_bit if what == "bit" else each.by_size)
    ]
    about = f"How often the answer changed, by the {what} of what was wrong."
    chart = Chart((what,), ("changed",), ("struck", "fault"), joined=True)
    return Sheet(f"by {what}", about, columns, rows, chart)


def _named(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, choice=True) for name in names)


def _call(name: str, call: int) -> str:
    return f"{shown(name)}, call {call + 1}" if call else shown(name)
