"""``prune``: a network to a smaller one, in one cut or in rounds with training in between."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rubicc.errors import UsageError
from rubicc.evidence.staging import StagedDir, check_replaceable
from rubicc.passes.manager import run_pass, run_pipeline
from rubicc.passes.pipelines import CLEANUP
from rubicc.passes.prune.channels import ChannelOptions, Cut, PruneChannels
from rubicc.passes.prune.groups import Coupling, groups
from rubicc.passes.prune.weights import PruneWeights, WeightOptions, masks
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink.prune_report import Round, report, seconds
from rubicc.shrink.student import Student, read_student
from rubicc.shrink.train import Training, inputs_of, training_of
from rubicc.training.loop import Silent, Watcher
from rubicc.training.settings import TrainSettings
from rubicc.training.twin import Twin

if TYPE_CHECKING:
    from rubicc.evidence.change import ChangeReport
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph

# Norms are kept for their scales and to be trained; equal weights of different layers stay apart.
_CLEAN = tuple(step for step in CLEANUP if step.id not in ("cleanup.fuse-batchnorm", "cleanup.deduplicate"))


@dataclass(frozen=True)
class PruneSettings:
    """What is cut, and in how many rounds.

    Attributes:
        channels: options of ``prune.channels``; None: whole channels stay.
        weights: options of ``prune.weights``, applied after the channels; None: single weights stay.
        rounds: the share that goes rises evenly over so many rounds, with training after each.
        train: whether to train where there are data.
    """

    channels: ChannelOptions | None = field(default_factory=ChannelOptions)
    weights: WeightOptions | None = None
    rounds: int = 1
    train: bool = True

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
    return groups(clean(read_student(model, reading).before), norms=norms)


def prune(
    model: Any,
    out: str | Path,
    *,
    settings: PruneSettings,
    data: Sequence[str] = (),
    teacher: Any = None,
    teacher_arch: str | None = None,
    validation: Sequence[str] = (),
    training: TrainSettings | None = None,
    reading: Settings | None = None,
    watcher: Watcher | None = None,
) -> results.Result | None:
    """Prune ``model`` and write the result folder ``out``.

    Args:
        model: any MODEL form.
        data, validation, teacher, teacher_arch, training, watcher: of the training after each round (see
            :func:`rubicc.shrink.train.train`), whose steps are shared out evenly; without data none.
        reading: how models are read, ``force``.

    Returns:
        The result; None in the processes of torchrun that are not the first.

    Raises:
        RubiccError: nothing is written to ``out`` then; ``OUT.partial`` keeps what was trained.
    """
    training, reading, out = training or TrainSettings(), reading or Settings(), Path(out)
    _compatible(settings)
    check_replaceable(out, force=reading.force)
    if not data:
        student = read_student(model, reading)
        start = clean(student.before)
        done, decisions = _rounds(student, start, settings, None, Silent())
        told = report(student, start, settings, done, [*student.decisions, *decisions], None)
        return _write(student, out, reading, told, done, training, None)
    with training_of(
        model, out, data, training, reading, teacher=teacher, teacher_arch=teacher_arch, validation=validation
    ) as run:
        start = clean(run.student.before)
        run.student = _student_of(run.student, start)
        first = run.score()
        done, decisions = _rounds(run.student, start, settings, run, watcher or Silent())
        if run.group.rank:
            return None
        told = report(run.student, start, settings, done, [*run.decisions, *decisions], run, first)
        made = _write(run.student, out, reading, told, done, training, run)
    shutil.rmtree(run.state, ignore_errors=True)
    return made


def _compatible(settings: PruneSettings) -> None:
    channels = settings.channels
    absolute = channels is not None and max(channels.macs, channels.weight_bytes) > 1
    if settings.rounds > 1 and (absolute or (channels is not None and channels.cost is not None)):
        raise UsageError(
            "RUB-SHRINK-031",
            "rounds need a budget as a share of what the network costs",
            hint="give --macs or --weight-bytes as a percentage, or one round",
        )


def clean(graph: Graph) -> Graph:
    """A cleaned copy with its norms and with the weights of every layer apart."""
    work = graph.clone()
    run_pipeline(work, _CLEAN)
    return work


def _student_of(student: Student, graph: Graph) -> Student:
    """The same network with the twin of ``graph`` in it."""
    return replace(student, inner=Twin(graph), zoo=False)


def _rounds(
    student: Student, start: Graph, settings: PruneSettings, run: Training | None, watcher: Watcher
) -> tuple[list[Round], list[Decision]]:
    """Cut, and train, round by round; ``student`` holds the network afterwards."""
    graph = start
    done: list[Round] = []
    decisions: list[Decision] = []
    for number in range(1, settings.rounds + 1):
        graph = graph.clone()
        cuts, decided, why = _cut(graph, settings.at(number))
        if number == settings.rounds and not (cuts or _zeros(graph) or any(one.cuts for one in done)):
            raise UsageError(
                "RUB-SHRINK-030",
                f"nothing could be cut{why}",
                hint="ask for more; `rubicc prune MODEL --list` shows what may go",
            )
        decisions += [one for one in decided if one not in decisions]
        student.inner, student.zoo = Twin(graph), False
        one = Round(number, cuts, results.facts(graph), _zeros(graph))
        if run is not None:
            one.before = run.score()
            if settings.train:
                _train(run, student, graph, one, settings, watcher)
                graph = student.graph()
            one.after = (one.history.best if one.history else None) or run.score()
        done.append(one)
    return done, decisions


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


def _train(
    run: Training,
    student: Student,
    graph: Graph,
    one: Round,
    settings: PruneSettings,
    watcher: Watcher,
) -> None:
    """Train the student for its part of the steps; zeros stay zeros."""
    steps = max(1, run.settings.steps * one.number // settings.rounds)
    steps -= run.settings.steps * (one.number - 1) // settings.rounds
    with _frozen_zeros(student.inner, graph):
        one.history = run.fit(
            replace(run.settings, steps=max(1, steps)), run.state / f"round{one.number}", watcher
        )


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


def _write(
    student: Student,
    out: Path,
    reading: Settings,
    told: ChangeReport,
    done: Sequence[Round],
    training: TrainSettings,
    run: Training | None,
) -> results.Result:
    last = run.state / f"round{done[-1].number}" if run is not None and done[-1].history else None
    with StagedDir(out, force=reading.force) as staged:
        return results.write(
            staged,
            student,
            student.graph(),
            told,
            logs=last,
            inputs=inputs_of(run) if run is not None else {},
            seed=training.seed,
            measured={"seconds": seconds(done)},
        )
