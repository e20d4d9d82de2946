"""`guard_`: guards on the layers of a model, and the handle that removes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from parimend.arguments import flag, require, seed_of, whole_number
from parimend.codes.output import Output
from parimend.errors import GuardError
from parimend.guards import attention
from parimend.guards.checks import by_group, checks_of
from parimend.guards.journal import Answer, Cover, Coverage, GuardEvent, Journal, Policy
from parimend.guards.known import Standing, unusable
from parimend.guards.latch import Latch
from parimend.guards.layer import LayerGuard
from parimend.guards.outputs import project_outputs, round_evenly
from parimend.guards.repeat import LayerBeside, RepeatGuard
from parimend.guards.sites import OtherSite, ProductSite, Site, sites
from parimend.layers.nesting import unpack_
from parimend.moving import moving
from parimend.names import select, takes_in
from parimend.removable import Removable, wrappings
from parimend.showing import counted
from parimend.stores.model import changing


class _Asked(NamedTuple):
    """What is asked of guards; see `guard_`."""

    k: int
    blocks: int
    seed: int
    activations: bool
    deferred: bool


_LOST: dict[Standing, str] = {
    "replaced": "its weights were replaced after guarding: call project_()",
    "computed": "what its weights are computed from has changed: call project_()",
}
"""Why a layer is no longer checked, by what became of its weights."""


class Guards(Removable):
    """The guards of a model, made by `guard_`. As a context manager it removes them at the end."""

    def __init__(self, model: nn.Module, journal: Journal) -> None:
        self._model = model
        self._journal = journal
        self._layers: dict[str, tuple[LayerGuard, bool]] = {}  # and whether its weights were moved
        self._coverage: dict[str, tuple[nn.Module, Coverage]] = {}
        self._removers = ExitStack()

    @property
    def events(self) -> tuple[GuardEvent, ...]:
        """What was seen and done, oldest first."""
        return tuple(self._journal.events)

    @property
    def screened(self) -> int:
        """Samples that a first look stopped and a second one let pass. Each costs time."""
        return self._journal.screened

    @property
    def floor(self) -> Mapping[str, float]:
        """For every guarded product, the size of the smallest single wrong output that is sure to
        be seen, in units of the rms output of its block that inputs of this size give on average.
        Smaller ones may go unseen; with several checks also larger ones, by up to about the root of
        twice their number, where one output dwarfs all others. See docs/thresholds.md.

        It is that of the arithmetic in use: of the present dtype of the weights, of autocasting if
        it is asked for inside of that, and of PyTorch's present precision of float32 products.
        """
        return {
            name: guard.floor()
            for name, (guard, _) in self._layers.items()
            if not unusable(*guard.parameters())
        }

    @property
    def passed(self) -> Mapping[str, int]:
        """For every layer that had some, the calls whose outputs could not be checked: inside
        transformations of `torch.func` and while tracing, of tensors that are nested or of types of
        their own, and with weights that the guard does not know. See `project_`.
        """
        return dict(self._journal.passed)

    def __repr__(self) -> str:
        covered = {
            name for name, (_, found) in self._coverage.items() if found.cover != "uncovered"
        }
        layers = counted(len(covered & self._layers.keys()), "layer")
        events = counted(len(self.events), "event")
        return f"<Guards: {layers} guarded, {events}>"

    def coverage(self) -> tuple[Coverage, ...]:
        """How everything that modules compute is guarded, as the model is now.

        What is called without a module (``F.relu(x)``, ``x + y``) cannot be listed. It is covered
        with ``activations=True``, and only then.
        """
        found = []
        for site in sites(self._model):
            module, cover = self._coverage.get(site.name, (None, None))
            if cover is None or (module is not site.module and cover.cover != "uncovered"):
                reason = "put here after guarding: remove() the guards and guard again"
                cover = Coverage(site.name, type(site.module).__name__, "uncovered", reason)
            if site.name in self._layers and (reason := self._lost(site)):
                cover = replace(cover, cover="uncovered", reason=reason)
            found.append(cover)
        return tuple(found)

    def settle(self) -> bool:
        """Deals with alarms of a CUDA graph into which the model was captured; needs
        ``deferred=True``. To be called after a replay and before its outputs are used.

        A graph keeps its alarms on the device, and they stay there, over several replays, until
        they are read here. If there are any, the model runs again on the tensors that the graph
        reads, not as a graph, and what that gives is written into the tensors that the graph
        writes; only the last replay is put right so.

        Returns:
            Whether there was no alarm.

        Raises:
            ComputationError: if the policy says so.
        """
        return self._journal.latch is None or self._journal.latch.settle()

    def _lost(self, site: Site) -> str:
        """Why a layer is no longer checked; empty if it is."""
        guard, _ = self._layers[site.name]
        if site.module is not guard.site.module:
            return ""
        if reason := unusable(*guard.parameters()):
            return reason
        return _LOST.get(guard.standing(), "")

    def project_(self) -> None:
        """Adapts to changed weights: to be called after an optimizer's step or loading weights.

        Imposed layers are projected again; of kept ones the products are renewed.

        Raises:
            GuardError: if a layer has weights that cannot be guarded, or of another shape; names
                it, and nothing was changed then.
        """
        for name, (guard, imposed) in self._layers.items():
            if reason := guard.misfit() or (guard.site.immovable() if imposed else ""):
                raise GuardError(
                    f"{name}: {reason}: put that right, or remove() the guards and guard again"
                )
        with moving(_moved(guard.site for guard, imposed in self._layers.values() if imposed)):
            for guard, imposed in self._layers.values():
                if imposed:
                    _impose_(guard.site, guard.code)
                guard.renew()

    def remove(self) -> None:
        """Removes all guards. Weights that were projected stay so."""
        self._removers.close()
        self._coverage = {
            name: (module, Coverage(name, cover.kind, "uncovered", "its guard was removed"))
            for name, (module, cover) in self._coverage.items()
        }

    def _cover(self, site: Site, cover: Cover, reason: str = "") -> None:
        found = Coverage(site.name, type(site.module).__name__, cover, reason)
        self._coverage[site.name] = site.module, found

    def _guard(self, site: ProductSite, asked: _Asked, impose: bool) -> LayerGuard:
        blocks = site.blocks(asked.k, asked.blocks)
        code = Output(n=site.outputs // blocks, m=asked.k, seed=asked.seed)
        if impose:
            _impose_(site, code)
        kind = LayerBeside if asked.activations else LayerGuard
        guard = kind(site, code, self._journal, len(self._layers))
        self._layers[site.name] = guard, impose
        self._removers.callback(guard.retire)
        if guard.checks.imposed:
            self._cover(site, "imposed")
        else:
            too_coarse = "rounding its weights leaves too much of P W" if impose else ""
            self._cover(site, "kept", too_coarse or site.obstacle(asked.k, asked.blocks))
        return guard

    def _install(
        self,
        every_site: Sequence[Site],
        chosen: Sequence[Site],
        moved: Sequence[Site],
        asked: _Asked,
    ) -> None:
        attentions: dict[nn.MultiheadAttention, dict[str, LayerGuard]] = {}
        if asked.activations:
            self._removers.callback(RepeatGuard(self._model, self._journal).attach_())
        for site in every_site:
            if asked.activations and isinstance(site, OtherSite) and site.repeatable:
                self._cover(site, "repeated")
            elif site not in chosen:
                self._cover(site, "uncovered", "not selected by only=")
            elif isinstance(site, ProductSite) and asked.k < site.outputs:
                imposes = site in moved and not site.obstacle(asked.k, asked.blocks)
                guard = self._guard(site, asked, imposes)
                if isinstance(site.module, nn.MultiheadAttention):
                    projection = site.name.rpartition(".")[2]
                    attentions.setdefault(site.module, {})[projection] = guard
                else:
                    self._removers.callback(guard.attach_(site.module))
            elif isinstance(site, ProductSite):
                reason = f"has {site.outputs} outputs for {asked.k} checks: take a smaller k"
                self._cover(site, "uncovered", reason)
            else:
                self._cover(site, "uncovered", site.reason)
        for attended, projections in attentions.items():
            self._removers.callback(attention.guard_attention_(attended, projections))
        self._removers.callback(unpack_(self._model))
        if asked.deferred:
            self._journal.latch = Latch(self._model, self._journal, list(self._layers))
            self._removers.callback(self._journal.latch.attach_())


def guard_(
    model: nn.Module,
    k: int = 1,
    *,
    blocks: int = 1,
    impose: bool | str | Sequence[str] = False,
    policy: Policy | Answer = "correct",
    every: int = 1,
    only: str | Sequence[str] | None = None,
    activations: bool = False,
    deferred: bool = False,
    seed: int = 0,
) -> Guards:
    """Lets a model check its own computations.

    With P W = 0 and P b = 0 every output y = W x + b of a layer satisfies P y = 0, whatever x is.
    Layers whose weights satisfy that already, or are made to by ``impose``, check themselves; for
    the others P W and P b are kept beside the layer and multiplied with every input, as in
    K.-H. Huang, J. A. Abraham, "Algorithm-based fault tolerance for matrix operations", IEEE
    Transactions on Computers C-33, 1984. `Guards.coverage` tells what is covered and how.

    The model is used as before: in eager mode or compiled, in several threads, with or without
    gradients. Its state dict stays as it is. Copies of the model (`copy.deepcopy`, `torch.save`)
    have no guards. What cannot be checked is passed by and counted, see `Guards.passed`.

    Args:
        model: to guard.
        k: checks of every output. 1 detects; from 3 on wrong outputs are located, so that only
            these are computed again; 8 also sees errors half as large.
        blocks: split the outputs of every layer into so many blocks of equal size (or fewer, where
            that does not come out even or would leave fewer than 8 outputs, or no more than k) and
            check each of them. The outputs are read once all the same, and the floor falls with the
            root of the number; wrong outputs are located whatever k is. Where P W is kept, one row
            more for a block and a check is multiplied with the inputs.
        impose: which weights may be moved to the nearest ones with P W = 0: all (where it is
            possible), or those of modules whose names match one of these shell patterns.
        policy: what to do on an alarm: an `Answer`, or a `Policy` with one and with what repairs
            weights.
        every: check one call of a layer in so many.
        only: shell patterns; guards modules whose names match one of them, and none that begins
            with ``!``. All by default.
        activations: also check what no layer computes, in the whole model: products by functions by
            their sums (see `parimend.guards.matmul`), attention, activations, additions and the
            like by doing them twice (see `parimend.guards.repeat`). Not in compiled graphs.
        deferred: alarms wait for the end of the model's forward, and are read once: on a GPU the
            processor does not wait for every layer then. On an alarm the whole forward runs again,
            so it has to be one that may: it changes nothing but what it gives back. Where gradients
            are computed, or arguments are not tensors and plain values, nothing is deferred.
        seed: selects P.

    Returns:
        The handle: a context manager, with `Guards.events`, `Guards.coverage` and `Guards.remove`.

    Raises:
        GuardError: if nothing can be guarded, a pattern matches nothing, a module cannot be guarded
            or imposed on as asked for by name, or is guarded already.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> guards = guard_(model, k=4, impose=True)
        >>> [(c.layer, c.cover) for c in guards.coverage()]
        [('0', 'imposed'), ('1', 'uncovered'), ('2', 'imposed')]
        >>> y = model(torch.randn(100, 64))
        >>> guards.events
        ()
        >>> guards.remove()
    """
    require(model, "model", "a torch.nn.Module", nn.Module)
    k = whole_number(k, "k", least=1, error=GuardError)
    blocks = whole_number(blocks, "blocks", least=1, error=GuardError)
    every = whole_number(every, "every", least=1, error=GuardError)
    seed = seed_of(seed, error=GuardError)
    policy = policy if isinstance(policy, Policy) else Policy(policy)
    activations, deferred = flag(activations, "activations"), flag(deferred, "deferred")
    asked = _Asked(k, blocks, seed, activations, deferred)
    every_site = list(sites(model))
    chosen = _matching(every_site, only, "only")
    patterns = None if isinstance(impose, bool) else impose
    moved = [] if impose is False else _matching(chosen, patterns, "impose")
    by_name = moved if takes_in(patterns) else []
    if activations and _is_repeated(model):
        raise GuardError("its activations are guarded already: remove() these guards first")
    for site in chosen:
        _refuse(site, asked, takes_in(only), site in by_name)
    guards = Guards(model, Journal(policy, every))
    try:
        with moving(_moved(site for site in moved if isinstance(site, ProductSite))):
            guards._install(every_site, chosen, moved, asked)
    except BaseException:
        guards.remove()
        raise
    coverage = guards.coverage()
    if all(found.cover == "uncovered" for found in coverage):
        guards.remove()
        raise GuardError(
            f"{type(model).__name__} has no layer that can be guarded with k={k}: "
            + "; ".join(f"{found.layer or 'it'}: {found.reason}" for found in coverage[:4])
        )
    return guards


def _matching(
    sites: Sequence[Site], patterns: str | Sequence[str] | None, argument: str
) -> list[Site]:
    """The sites whose names match one of the patterns; all if there are none."""
    names = [site.name for site in sites]
    found = {*select(names, patterns, what="module", argument=argument, error=GuardError)}
    return [site for site in sites if site.name in found]


def _refuse(site: Site, asked: _Asked, by_name: bool, imposed_by_name: bool) -> None:
    """Raises if a module is guarded already, or cannot be guarded as asked for by its name."""
    hooks = site.module._forward_hooks
    if any(isinstance(h, LayerGuard | attention.Marker) for h in hooks.values()):
        raise GuardError(f"{site.name}: is guarded already: remove() its guards first")
    if isinstance(site, ProductSite):
        if by_name and asked.k >= site.outputs:
            raise GuardError(
                f"{site.name}: k={asked.k} checks need more than its {site.outputs} outputs: "
                "take a smaller k, or leave it out of only="
            )
        if imposed_by_name and (obstacle := site.obstacle(asked.k, asked.blocks)):
            raise GuardError(
                f"{site.name}: cannot be imposed on: {obstacle}; leave it out of impose="
            )
    elif by_name and not (asked.activations and site.repeatable):
        raise GuardError(f"{site.name}: cannot be guarded: {site.reason}")


def _is_repeated(model: nn.Module) -> bool:
    return any(isinstance(getattr(w, "__self__", None), RepeatGuard) for w in wrappings(model))


def _moved(sites: Iterable[ProductSite]) -> Iterator[torch.Tensor]:
    """What `_impose_` moves; of an attention parts of what is stored."""
    for site in sites:
        yield from (t for t in (*site.parameters(), *site.stored()) if t is not None)


@torch.no_grad()
def _impose_(site: ProductSite, code: Output) -> None:
    """Moves weights to the nearest ones with P W = 0 and P b = 0."""
    weight, bias = site.parameters()
    matrix = site.product.matrix(weight)
    P = checks_of(code, site.outputs).to(weight.device)
    nearest = round_evenly(project_outputs(matrix, by_group(P, matrix)), weight.dtype)
    with changing(weight):
        weight.copy_(site.product.weight(nearest, weight))
    if bias is not None:
        nearest = round_evenly(project_outputs(bias.unsqueeze(1), P), bias.dtype)
        with changing(bias):
            bias.copy_(nearest.squeeze(1))
