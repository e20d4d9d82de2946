"""Before the first trial: networks are loaded, protected, scored, and packed for the workers."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from parimend.arguments import whole_number
from parimend.campaign.damage import try_out
from parimend.campaign.facts import Fact, Prepared
from parimend.campaign.networks import (
    Metric,
    load,
    reach_of,
    said_of,
    struck,
    weights_hash,
)
from parimend.campaign.protections import Network, Protection, blaming, protection_of
from parimend.campaign.spec import Source, Spec, Strata
from parimend.campaign.subject import one_thread
from parimend.campaign.task import Stratum, content_hash
from parimend.errors import CampaignError, ParimendError, SpecError
from parimend.experiment import bit_patterns
from parimend.faults import Words
from parimend.functions import function_of
from parimend.stores.alone import Model, left_alone


def prepare(spec: Spec, folder: Path) -> Prepared:
    """Load and protect all networks, try out all faults, and write what workers need.

    Args:
        spec: of the campaign.
        folder: for the files that workers read; see `packed_name`.

    Raises:
        SpecError: if something of the spec cannot be done with a network; names it.
        CampaignError: if a network cannot be loaded, or a metric fails.
    """
    facts: list[Fact] = []
    reach, strata = [], {}
    for name, source in spec.networks.items():
        model = load(source, spec.base, name)
        reach.append(reach_of(model, source, name))
        words = bit_patterns(struck(model, source.buffers))
        strata[name] = strata_of(spec.strata, words)
        for fault in spec.faults:
            for stratum in strata[name]:
                try_out(fault, stratum, words, model, name)
        data = _data(source, spec.base, name)
        metric = Metric(source.metric, spec.base, data) if source.metric else None
        _pack(data, folder / packed_name(name), f"[networks.{name}]: the data")
        facts += _protected(spec, name, model, metric, folder)
    return Prepared(tuple(facts), strata, tuple(reach))


def packed_name(network: str, protection: str | None = None) -> str:
    """Name of the file with a protected network, or with the data of a network."""
    return f"{content_hash([network, protection])}.pt"


def _copied(model: Model, where: str) -> Model:
    """A copy of a network, to be protected.

    Raises:
        CampaignError: if it cannot be copied; says why.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever an object in it may raise
        raise CampaignError(f"{where}: the network cannot be copied: {error}") from error


def _pack(content: Any, path: Path, what: str) -> None:
    """Write a file for the workers.

    Raises:
        CampaignError: if it cannot be packed; says what.
        OSError: if it cannot be written, as on a full disk.
    """
    try:
        with open(path, "wb") as file:  # of a path, torch says nothing of a full disk
            torch.save(content, file)
    except Exception as error:  # whatever pickling what is not ours may raise
        # Where it could not write, torch fails once more as it closes the file.
        failed = error if isinstance(error, OSError) else error.__context__
        if isinstance(failed, OSError):
            failed.filename = str(path)
            raise failed from None
        raise CampaignError(
            f"{what} cannot be handed to workers: {error}: give what pickle takes"
        ) from error


def _data(source: Source, base: Path, name: str) -> Any:
    if source.data is None:
        return None
    where = f"[networks.{name}]"
    try:
        return function_of(source.data, base, where)(**source.data_arguments)
    except ParimendError:
        raise
    except (Exception, SystemExit) as error:  # whatever a function that is not ours may raise
        raise CampaignError(f"{where}: {source.data} fails: {said_of(error)}") from error


def _protected(
    spec: Spec, name: str, model: Model, metric: Metric | None, folder: Path
) -> list[Fact]:
    source, facts = spec.networks[name], []
    with one_thread():
        given = None
        if metric:
            where = f"[networks.{name}]: the metric {metric.text}"
            with left_alone(model, where, CampaignError):
                given = metric(model)
        weights = weights_hash(model)
        for setting in spec.protections:
            where = f"[protections.{setting.name}]"
            state = _copied(model, f"[networks.{name}]")
            run = (lambda state=state: metric(state)) if metric else None
            with blaming(setting, f"{where} on {name}"):
                began = time.perf_counter()
                protection = protection_of(setting, where, spec.base)
                tensors = struck(state, source.buffers)
                kept = _protect_(protection, Network(state, tensors, run), f"{where} on {name}")
                seconds = round(time.perf_counter() - began, 6)
                with protection.watching(state, kept):
                    score = metric(state) if metric else None
                nbytes, proven = protection.nbytes(kept), protection.guaranteed(tensors, kept)
                nbytes = whole_number(nbytes, f"{where}: nbytes of {setting.kind}", least=0)
                proven = whole_number(proven, f"{where}: guaranteed of {setting.kind}", least=0)
            packed = {
                "model": state,
                "protection": setting,
                "kept": kept,
                "metric": source.metric,
                "score": score,
                "slack": source.slack(score) if score is not None else 0.0,
                "buffers": source.buffers,
            }
            file = folder / packed_name(name, setting.name)
            _pack(packed, file, f"{name} under {setting.name}")
            facts.append(Fact(name, setting.name, weights, given, score, nbytes, seconds, proven))
    return facts


def _protect_(protection: Protection, network: Network, where: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out: only= says it
        try:
            return protection.protect_(network)
        except ParimendError as error:
            raise SpecError(f"{where}: {error}") from None


def strata_of(asked: Strata, words: Sequence[Words]) -> tuple[Stratum, ...]:
    """The strata of a network, with their weights.

    Raises:
        SpecError: if bits are asked for that not all words have.
    """
    if not asked.asked:
        return (Stratum(),)
    highest = max((pair[1] for pair in asked.bits), default=None)
    for each in words:
        if highest is not None and highest != each.format.bits - 1:
            raise SpecError(
                f"[strata]: bits end at {highest}, and {each.name} has elements of "
                f"{each.format.bits} bits: strata of bits need tensors of one width, "
                "all bits of them"
            )
    layers: list[tuple[tuple[str, ...], int]]
    layers = [((each.name,), len(each)) for each in words if len(each)]
    if not asked.layers:
        layers = [((), sum(count for _, count in layers))]
    total = sum(count for _, count in layers)
    bits: list[tuple[int, int] | None] = [(pair[0], pair[1]) for pair in sorted(asked.bits)]
    width = 1 + highest if highest is not None else 1
    return tuple(
        Stratum(names, pair, count / total * ((pair[1] - pair[0] + 1) / width if pair else 1.0))
        for names, count in layers
        for pair in bits or [None]
    )
