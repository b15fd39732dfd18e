"""``prune``: a network to a smaller one, in one cut or in rounds with training in between."""

from __future__ import annotations

import contextlib
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
    """

    channels: ChannelOptions | None = field(default_factory=ChannelOptions)
    weights: WeightOptions | None = None
    rounds: int = 1
    train: bool = True
    measure: Measure = field(default_factory=Measure)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError("RUB-SHRINK-031", f"rounds = {self.rounds}: give at least 1")
        if self.channels is None and self.weights is None:
            raise UsageError("RUB-SHRINK-031", "nothing is asked for: give --ratio, --macs, --sparsity ...")

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
        self.done: list[Round] = []
        self.decisions: list[Decision] = []

    def all(self) -> Change:
        """Every round, and what came of it."""
        graph, first = self.start, None
        if self.run is not None:
            self.student.become(graph)
            first = self.run.score()
        for number in range(1, self.settings.rounds + 1):
            graph = self._round(number, graph.clone())
        decisions = [*self.scores.decisions, *self.decisions]
        return change(self.student, (self.start, graph), self.settings, self.done, decisions, first)

    def _round(self, number: int, graph: Graph) -> Graph:
        """Cut ``graph`` in place; the network after training."""
        asked = self.scores.into(self.settings.at(number), number, graph)
        cuts, decided, why = _cut(graph, asked)
        last = number == self.settings.rounds
        if last and not (cuts or _zeros(graph) or any(one.cuts for one in self.done)):
            raise UsageError(
                "RUB-SHRINK-030",
                f"nothing could be cut{why}",
                hint="ask for more; `rubicc prune MODEL --list` shows what may go",
            )
        self.decisions += [one for one in decided if one not in self.decisions]
        one = Round(number, cuts, results.facts(graph), _zeros(graph))
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

    def _train(self, run: Training, graph: Graph, one: Round) -> None:
        """Train the student for its part of the steps; zeros stay zeros."""
        steps = max(1, run.settings.steps * one.number // self.settings.rounds)
        steps -= run.settings.steps * (one.number - 1) // self.settings.rounds
        own = replace(run.settings, steps=max(1, steps))
        moved, asked = self.scores.watched(), digest(self.settings)
        with _frozen_zeros(self.student.inner, graph):
            one.history = run.fit(own, run.state / one.name, self.watcher, asked=asked, movement=moved)
        if moved is not None:
            self.scores.moved = moved.scores(self.student.inner)


def _cut(graph: Graph, settings: PruneSettings) -> tuple[tuple[Cut, ...], list[Decision], str]:
    """Apply the passes in place; what went, and why some stayed."""
    cuts: tuple[Cut, ...] = ()
    decisions: list[Decision] = []
    why = ""
    if settings.channels is not None:
        channels = PruneChannels(settings.channels)
        run_pass(channels, graph, check=True)
        cuts, decisions = tuple(channels.cuts), list(channels.decisions)
        why = "".join(f"; {note.where}: {note.what}" for note in channels.notes[:3])
    if settings.weights is not None:
        weights = PruneWeights(settings.weights)
        run_pass(weights, graph, check=True)
        decisions += weights.decisions
    return cuts, decisions, why


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
