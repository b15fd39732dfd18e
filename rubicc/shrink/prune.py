"""``prune``: a network to a smaller one, in one cut or in rounds with training in between."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from rubicc.errors import UsageError
from rubicc.passes.manager import run_pass
from rubicc.passes.prune.channels import ChannelOptions, Cut, PruneChannels
from rubicc.passes.prune.groups import Coupling, groups
from rubicc.passes.prune.weights import PruneWeights, WeightOptions, masks
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink.latency import LatencyBudget
from rubicc.shrink.latency_model import Predictions
from rubicc.shrink.prune_hidden import Matching
from rubicc.shrink.prune_report import Round, change
from rubicc.shrink.prune_scores import Measure, Scores, digest
from rubicc.shrink.student import Student, cleaned, read_student
from rubicc.shrink.verb import carried_out

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Asked, Training
    from rubicc.shrink.told import Change


@dataclass(frozen=True)
class PruneSettings:
    """What is cut, and in how many rounds.

    Attributes:
        channels: options of ``prune.channels``; None: whole channels stay.
        weights: options of ``prune.weights``, applied after the channels; None: single weights stay.
        rounds: the share that goes rises evenly over so many rounds, with training after each.
        train: whether to train where there are data.
        measure: what is measured on the data to choose what goes.
        latency: budget of a predicted latency that the channels are cut to.
        match: weight of hidden layers that training keeps like those of the network before any cut.
    """

    channels: ChannelOptions | None = field(default_factory=ChannelOptions)
    weights: WeightOptions | None = None
    rounds: int = 1
    train: bool = True
    measure: Measure = field(default_factory=Measure)
    latency: LatencyBudget | None = None
    match: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.match < math.inf:
            raise UsageError("RUB-SHRINK-031", f"match = {self.match}: give 0 or more")
        if self.rounds < 1:
            raise UsageError("RUB-SHRINK-031", f"rounds = {self.rounds}: give at least 1")
        if self.channels is None and self.weights is None:
            raise UsageError("RUB-SHRINK-031", "nothing is asked for: give --ratio, --macs, --sparsity ...")
        channels = self.channels
        budgets = (
            channels is None or channels.macs or channels.weight_bytes or channels.cost or channels.shares
        )
        if self.latency is not None and budgets:
            what = "a budget of latency is for channels, and excludes other budgets and shares"
            raise UsageError("RUB-SHRINK-031", what, hint="give one budget")

    def parts(self) -> list[PruneSettings]:
        """Channels and single weights by themselves, in their order."""
        if self.channels is None or self.weights is None:
            return [self]
        return [replace(self, weights=None), replace(self, channels=None, latency=None)]

    def at(self, number: int) -> PruneSettings:
        """Of round ``number`` from 1 on: a share of the whole cut."""
        part = number / self.rounds
        channels, weights = self.channels, self.weights
        if channels is not None and part < 1:
            channels = replace(
                channels,
                ratio=channels.ratio * part,
                shares={name: share * part for name, share in channels.shares.items()},
                macs=_part(channels.macs, part),
                weight_bytes=_part(channels.weight_bytes, part),
            )
        if weights is not None and part < 1:
            weights = replace(
                weights,
                sparsity=weights.sparsity * part,
                layers={name: share * part for name, share in weights.layers.items()},
            )
        return replace(self, channels=channels, weights=weights, rounds=1)


def _part(budget: float, part: float) -> float:
    """What a share of 1 shrinks to on the way to ``budget``."""
    return 1 - (1 - budget) * part if budget else 0.0


def options(kind: type, values: Mapping[str, Any]) -> Any:
    """Options of a pass, from plain values.

    Raises:
        UsageError: ``RUB-SHRINK-031``, a value cannot work.
    """
    try:
        return kind(**values)
    except ValueError as err:
        raise UsageError("RUB-SHRINK-031", str(err), hint="`rubicc prune --help` lists the values") from None


def coupling_of(model: Any, reading: Settings, *, norms: bool = False) -> Coupling:
    """Groups of channels of a MODEL, as ``rubicc prune MODEL --list`` prints them."""
    return groups(cleaned(read_student(model, reading).before), norms=norms)


def prune(asked: Asked, settings: PruneSettings) -> results.Result | None:
    """Prune ``asked.model`` and write the result folder; see :func:`rubicc.shrink.verb.carried_out`.

    The steps of training are shared out evenly over the rounds.
    """
    _compatible(settings)
    settings.measure.check(settings, data=bool(asked.data))
    return carried_out(asked, lambda student, run: _Rounds(student, settings, run, asked).all())


def _compatible(settings: PruneSettings) -> None:
    channels = settings.channels
    absolute = channels is not None and max(channels.macs, channels.weight_bytes) > 1
    if settings.rounds > 1 and (absolute or (channels is not None and channels.cost is not None)):
        raise UsageError(
            "RUB-SHRINK-031",
            "rounds need a budget as a share of what the network costs",
            hint="give --macs or --weight-bytes as a percentage, or one round",
        )


class _Rounds:
    """Cut, and train, round by round; ``student`` holds the network afterwards."""

    def __init__(self, student: Student, settings: PruneSettings, run: Training | None, asked: Asked) -> None:
        self.student, self.settings, self.run, self.watcher = student, settings, run, asked.watcher
        self.start = cleaned(student.before)
        self.scores = Scores(settings, run, asked.watcher)
        asked_for = settings.latency
        self.latency = Predictions.of(asked_for, self.start, student.name) if asked_for else None
        self.matching = Matching(self.start, settings.match if settings.train else 0.0)
        self.done: list[Round] = []
        self.decisions: list[Decision] = []

    def all(self) -> Change:
        """Every round, and what came of it."""
        graph, first = self.start, None
        if self.run is not None:
            self.student.become(graph)
            first = self.run.score()
        if self.settings.channels is not None and self.settings.rounds > 1:
            # Refused before any training; how much the largest cut leaves does not hang on scores.
            plain = replace(self.settings.channels, importance="l2")
            self._cut(graph.clone(), replace(self.settings, channels=plain, weights=None), 1.0)
        for number in range(1, self.settings.rounds + 1):
            graph = self._round(number, graph.clone())
        decisions, figures = [*self.scores.decisions, *self.decisions], []
        if self.latency is not None:
            decisions += self.latency.model.decisions
            figures = [self.latency.figure(graph)]
        return change(self.student, (self.start, graph), self.settings, self.done, decisions, first, figures)

    def _round(self, number: int, graph: Graph) -> Graph:
        """Cut ``graph`` in place; the network after training."""
        asked, made = self.settings.at(number), _Cuts()
        for part in asked.parts():
            made += self._cut(graph, self.scores.into(part, number, graph), number / self.settings.rounds)
        self.matching.cut(made.narrowed, masks(graph))
        last = number == self.settings.rounds
        if last and not (made.cuts or _zeros(graph) or any(one.cuts for one in self.done)):
            raise UsageError(
                "RUB-SHRINK-030",
                f"nothing could be cut{made.why}",
                hint="ask for more; `rubicc prune MODEL --list` shows what may go",
            )
        self.decisions += [one for one in made.decisions if one not in self.decisions]
        one = Round(number, made.cuts, results.facts(graph), _zeros(graph))
        self.done.append(one)
        if self.run is None:
            self.student.zoo = False
            return graph
        self.student.become(graph)
        one.before = self.run.score()
        if self.settings.train:
            self._train(self.run, graph, one)
            graph = self.student.graph()
        one.after = (one.history.best if one.history else None) or self.run.score()
        return graph

    def _cut(self, graph: Graph, asked: PruneSettings, part: float) -> _Cuts:
        """Cut ``graph`` in place to ``part`` of the way."""
        if self.latency is None or asked.channels is None:
            return _cut(graph, asked)
        with self.latency.within(asked.channels, part) as channels:
            return _cut(graph, replace(asked, channels=channels, latency=None))

    def _train(self, run: Training, graph: Graph, one: Round) -> None:
        """Train the student for its part of the steps; zeros stay zeros."""
        steps = max(1, run.settings.steps * one.number // self.settings.rounds)
        steps -= run.settings.steps * (one.number - 1) // self.settings.rounds
        own = replace(run.settings, steps=max(1, steps))
        moved, asked = self.scores.watched(), digest(self.settings)
        network, lesson = self.matching.network(run), self.matching.lesson(run)
        with _frozen_zeros(self.student.inner, graph):
            one.history = run.fit(
                own,
                run.state / one.name,
                self.watcher,
                asked=asked,
                movement=moved,
                lesson=lesson,
                network=network,
            )
        self.matching.trained(network)
        if moved is not None:
            self.scores.moved = moved.scores(self.student.inner)


@dataclass(frozen=True)
class _Cuts:
    """What the passes did, and why some channels stayed."""

    cuts: tuple[Cut, ...] = ()
    decisions: tuple[Decision, ...] = ()
    why: str = ""
    narrowed: Mapping[str, tuple[int, Any]] = field(default_factory=dict)

    def __add__(self, other: _Cuts) -> _Cuts:
        return _Cuts(
            self.cuts + other.cuts,
            self.decisions + other.decisions,
            self.why + other.why,
            {**self.narrowed, **other.narrowed},
        )


def _cut(graph: Graph, settings: PruneSettings) -> _Cuts:
    """Apply the passes in place."""
    made = _Cuts()
    if settings.channels is not None:
        channels = PruneChannels(settings.channels)
        run_pass(channels, graph, check=True)
        why = "".join(f"; {note.where}: {note.what}" for note in channels.notes[:3])
        made += _Cuts(tuple(channels.cuts), tuple(channels.decisions), why, channels.narrowed)
    if settings.weights is not None:
        weights = PruneWeights(settings.weights)
        run_pass(weights, graph, check=True)
        made += _Cuts(decisions=tuple(weights.decisions))
    return made


def _zeros(graph: Graph) -> float:
    """Share of zeros in the weights that were pruned one by one; 0 where there are none."""
    found = masks(graph)
    whole = sum(mask.size for mask in found.values())
    return 1 - sum(int(mask.sum()) for mask in found.values()) / whole if whole else 0.0


@contextlib.contextmanager
def _frozen_zeros(twin: Any, graph: Graph) -> Iterator[None]:
    """Gradients of pruned weights are 0, so that no optimiser moves them (decay keeps a zero, too)."""
    found, hooks = masks(graph), []
    for name, parameter in twin.named_parameters():
        mask = found.get(twin.names.get(name, ""))
        if mask is not None:
            kept = torch.from_numpy(mask)
            hooks.append(parameter.register_hook(lambda grad, kept=kept: grad * kept.to(grad.device)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
