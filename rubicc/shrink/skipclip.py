"""``skipclip``: residual connections out of a network, a few at a time, with training in between."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.evidence.staging import StagedDir, check_replaceable
from rubicc.passes.manager import run_pass
from rubicc.passes.skip.find import Residual, Skips, residuals
from rubicc.passes.skip.fold import FoldOptions, FoldSkips
from rubicc.passes.skip.remove import RemoveOptions, RemoveSkips
from rubicc.passes.skip.removing import chosen
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink import skip_schedule
from rubicc.shrink.prune import clean
from rubicc.shrink.skip_measures import exactly, importance, recalibrated
from rubicc.shrink.skip_report import Stage, joined, report, seconds
from rubicc.shrink.skip_schedule import Schedule, SkipSettings, stages_of
from rubicc.shrink.student import Student, read_student
from rubicc.shrink.train import Training, inputs_of, training_of
from rubicc.training.data.stream import batch
from rubicc.training.loop import Silent, Watcher
from rubicc.training.scoring import Score
from rubicc.training.settings import TrainSettings
from rubicc.training.twin import Twin

if TYPE_CHECKING:
    from rubicc.evidence.change import ChangeReport
    from rubicc.ir.graph import Graph

MEASURED = 4  # batches that importance is measured on


def skips_of(model: Any, reading: Settings) -> tuple[Skips, dict[str, str]]:
    """Skips of a MODEL, as ``rubicc skipclip MODEL --list`` prints them, and why each cannot be folded.

    Returns:
        What was found, and name -> reason; a skip without a reason can be folded.
    """
    graph = clean(read_student(model, reading).before)
    fold = FoldSkips()
    run_pass(fold, graph.clone())
    return residuals(graph), fold.reasons


def skipclip(
    model: Any,
    out: str | Path,
    *,
    settings: SkipSettings,
    data: Sequence[str] = (),
    teacher: Any = None,
    teacher_arch: str | None = None,
    validation: Sequence[str] = (),
    training: TrainSettings | None = None,
    reading: Settings | None = None,
    watcher: Watcher | None = None,
) -> results.Result | None:
    """Remove skips of ``model`` and write the result folder ``out``.

    Args:
        model: any MODEL form.
        data, validation, teacher, teacher_arch, training, watcher: of the training after each stage (see
            :func:`rubicc.shrink.train.train`), whose steps are shared out; without data none.
        reading: how models are read, ``force``.

    Returns:
        The result; None in the processes of torchrun that are not the first.

    Raises:
        RubiccError: nothing is written to ``out`` then; ``OUT.partial`` keeps what was trained, and the same
            command goes on at the same skip.
    """
    training, reading, out = training or TrainSettings(), reading or Settings(), Path(out)
    check_replaceable(out, force=reading.force)
    if not data:
        return _without_data(model, out, settings, training, reading)
    with training_of(
        model, out, data, training, reading, teacher=teacher, teacher_arch=teacher_arch, validation=validation
    ) as run:
        start = clean(run.student.before)
        skips = residuals(start)
        names = [one.name for one in _wanted(start, skips, settings)]
        run.student = _student_of(run.student, start)
        clip = _Clip(run, start, names, settings, watcher or Silent())
        first = run.score()
        done, decisions = clip.all()
        if run.group.rank:
            return None
        graph = run.student.graph()
        found = {one.name: one for one in skips.found}
        decided = [*run.decisions, *decisions]
        told = report(
            run.student, start, graph, settings, done, found, decided, run, first, clip.schedule.importance
        )
        made = _write(run.student, graph, out, reading, told, training, run, done)
    shutil.rmtree(run.state, ignore_errors=True)
    return made


def _without_data(
    model: Any, out: Path, settings: SkipSettings, training: TrainSettings, reading: Settings
) -> results.Result:
    """The structural rewrite alone."""
    if settings.order == "importance" or settings.recalibrate:
        what = "importance" if settings.order == "importance" else "re-calibration"
        raise UsageError(
            "RUB-SHRINK-051", f"{what} needs signal", hint="give --data, or leave the option out"
        )
    student = read_student(model, reading)
    start = clean(student.before)
    skips = residuals(start)
    graph = start.clone()
    cut = _cut(graph, [one.name for one in _wanted(start, skips, settings)], settings.fold)
    stage = Stage(1, cut.removed, cut.folded, results.facts(graph))
    student = replace(student, zoo=False)
    found = {one.name: one for one in skips.found}
    decisions = [*student.decisions, *cut.decisions]
    told = report(student, start, graph, settings, [stage], found, decisions, None, None, {})
    return _write(student, graph, out, reading, told, training, None, [stage])


def _wanted(graph: Graph, skips: Skips, settings: SkipSettings) -> list[Residual]:
    """The skips that go.

    Raises:
        UsageError: ``RUB-SHRINK-050``: none; ``RUB-PASS-060``: a name fits none.
    """
    kept = {one.name for one in chosen(graph, skips, settings.keep)}
    found = [one for one in chosen(graph, skips, settings.names) if one.name not in kept]
    if found:
        return found
    why = "all of them are kept" if skips.found else "the network has no residual connection"
    if not skips.found and skips.refused:
        why = f"{skips.refused[0].source}: {skips.refused[0].reason}"
    raise UsageError("RUB-SHRINK-050", why, hint="run `rubicc skipclip MODEL --list` for what was found")


def _student_of(student: Student, graph: Graph) -> Student:
    return replace(student, inner=Twin(graph), zoo=False)


@dataclass(frozen=True)
class _Cut:
    removed: tuple[str, ...]
    folded: tuple[str, ...]
    decisions: tuple[Decision, ...]


def _cut(graph: Graph, names: Sequence[str], fold: bool) -> _Cut:
    """Take skips out of ``graph`` in place."""
    folded: tuple[str, ...] = ()
    decisions: list[Decision] = []
    if fold:
        folding = FoldSkips(FoldOptions(exactly(names)))
        run_pass(folding, graph, check=True)
        folded = tuple(one.name for one in folding.folded)
        decisions = [
            Decision("RUB-SHRINK-D06", name, "removed, not folded", why)
            for name, why in folding.reasons.items()
        ]
    rest = tuple(name for name in names if name not in folded)
    if rest:
        run_pass(RemoveSkips(RemoveOptions(exactly(rest))), graph, check=True)
    return _Cut(rest, folded, tuple(decisions))


class _Clip:
    """Stage by stage; ``run.student`` holds the network afterwards."""

    def __init__(
        self, run: Training, start: Graph, names: Sequence[str], settings: SkipSettings, watcher: Watcher
    ) -> None:
        self.run, self.settings, self.watcher = run, settings, watcher
        self.start = start
        said = asdict(settings) | asdict(replace(run.settings, save_every=0.0))
        known = f"{run.student.sha256} {sorted(said.items())}"
        found = skip_schedule.load(run.state, known)
        if found is None:
            measured: dict[str, float] = {}
            if settings.order == "importance":
                measured = importance(start, names, self._feeds(MEASURED))
            found = Schedule(known, stages_of(names, settings.stride, measured), measured)
        self.steps = settings.steps(run.settings.steps, len(found.stages)) if settings.train else []
        self.schedule = found
        self._save()

    def _save(self) -> None:
        if self.run.group.rank == 0:
            self.schedule.save(self.run.state)
        self.run.group.wait()

    def _feeds(self, count: int) -> list[dict[str, Any]]:
        """Signal of the first batches of the training data, on the CPU."""
        size, data = self.run.settings.batch, self.run.data.train
        positions = [range(k * size, (k + 1) * size) for k in range(count)]
        return [batch(data, positions[k], self.run.settings.seed).feeds for k in range(count)]

    def all(self) -> tuple[list[Stage], list[Decision]]:
        """Run what is left of the schedule."""
        graph = self.start
        decisions: list[Decision] = []
        done: list[Stage] = []
        for number, names in enumerate(self.schedule.stages, start=1):
            before, graph = graph, graph.clone()
            cut = _cut(graph, names, self.settings.fold)
            decisions += cut.decisions
            stage = Stage(number, cut.removed, cut.folded, results.facts(graph))
            if self.settings.recalibrate:
                graph = recalibrated(before, graph, self._feeds(self.settings.recalibrate))
            self.run.student.inner = Twin(graph)
            stage.before = self._scored(number)
            if self.settings.train:
                self._train(stage)
                graph = self.run.student.graph()
            stage.after = (stage.history.best if stage.history else None) or stage.before
            done.append(stage)
            if number > self.schedule.done:
                score = stage.before
                self.schedule.scores.append([score.loss, score.identity] if score else None)
                self._save()
        return done, decisions

    def _scored(self, number: int) -> Score | None:
        """Of the student as it is; what a run that was killed has measured is not measured again."""
        if number > self.schedule.done:
            return self.run.score()
        kept = self.schedule.scores[number - 1]
        return None if kept is None or kept[0] is None else Score(kept[0], kept[1])

    def _train(self, stage: Stage) -> None:
        """Train the student for its part of the steps; a finished part is read from its state."""
        run, steps = self.run, self.steps[stage.number - 1]
        # Each stage sees other data, and warms up for a tenth of its time at most.
        own = replace(
            run.settings,
            steps=steps,
            warmup=min(run.settings.warmup, steps // 10),
            seed=run.settings.seed + stage.number - 1,
        )
        stage.history = run.fit(own, run.state / f"stage{stage.number}", self.watcher)


def _write(
    student: Student,
    graph: Graph,
    out: Path,
    reading: Settings,
    told: ChangeReport,
    training: TrainSettings,
    run: Training | None,
    done: Sequence[Stage],
) -> results.Result:
    logs = joined(run.state, done) if run is not None and done[-1].history else None
    with StagedDir(out, force=reading.force) as staged:
        return results.write(
            staged,
            student,
            graph,
            told,
            logs=logs,
            inputs=inputs_of(run) if run is not None else {},
            seed=training.seed,
            measured={"seconds": seconds(done)},
        )
