"""``skipclip``: residual connections out of a network, a few at a time, with training in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.passes.manager import run_pass
from rubicc.passes.skip.find import Residual, Skips, residuals
from rubicc.passes.skip.fold import FoldOptions, FoldSkips
from rubicc.passes.skip.remove import RemoveOptions, RemoveSkips
from rubicc.passes.skip.removing import chosen
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink import skip_schedule
from rubicc.shrink.fingerprint import digest
from rubicc.shrink.skip_measures import exactly, importance, recalibrated
from rubicc.shrink.skip_report import Removal, Stage, change
from rubicc.shrink.skip_schedule import Plan, Schedule, SkipSettings, followed, plan_of, planned
from rubicc.shrink.student import Student, cleaned, read_student
from rubicc.shrink.verb import carried_out
from rubicc.training.data.stream import batch
from rubicc.training.loop import Watcher
from rubicc.training.scoring import Score

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Asked, Training
    from rubicc.shrink.told import Change

MEASURED = 4  # batches that importance is measured on


def skips_of(model: Any, reading: Settings) -> tuple[Skips, dict[str, str], Plan | None]:
    """Skips of a MODEL, as ``rubicc skipclip MODEL --list`` prints them, and why each cannot be folded.

    Returns:
        What was found, name -> reason (a skip without a reason can be folded), and the model's schedule.
    """
    graph = cleaned(read_student(model, reading).before)
    fold = FoldSkips()
    run_pass(fold, graph.clone())
    return residuals(graph), fold.reasons, plan_of(graph)


def skipclip(asked: Asked, settings: SkipSettings) -> results.Result | None:
    """Remove skips of ``asked.model`` and write the result folder; see
    :func:`rubicc.shrink.verb.carried_out`. The same command goes on at the same skip after a kill, and a
    result goes on with its own schedule.
    """

    def work(student: Student, run: Training | None) -> Change:
        start = cleaned(student.before)
        skips = residuals(start)
        before = None if settings.anew else plan_of(start)
        names = [one.name for one in _wanted(start, skips, settings, before)]
        removal = Removal(start, settings, {one.name: one for one in skips.found}, before)
        if run is None:
            graph, plan = _alone(removal, names)
            student.zoo = False
        else:
            student.become(start)
            clip = _Clip(run, removal, names, asked.watcher)
            removal.first = run.score()
            removal.done, removal.decisions = clip.all()
            graph, plan = student.graph(), clip.schedule.plan
        removal.plan = plan
        plan.into(graph)
        return change(student, graph, removal)

    return carried_out(asked, work)


def _alone(removal: Removal, names: Sequence[str]) -> tuple[Graph, Plan]:
    """The structural rewrite, without data, and what is left of the schedule."""
    settings, before = removal.settings, removal.before
    measured = _measured(removal, names)
    if measured is None or settings.recalibrate:
        what = "importance" if measured is None else "re-calibration"
        raise UsageError(
            "RUB-SHRINK-051", f"{what} needs signal", hint="give --data, or leave the option out"
        )
    plan = planned(names, settings, before, measured)
    here = plan.remaining[: settings.stages]
    graph = removal.start.clone()
    cut = _cut(graph, [name for stage in here for name in stage], settings.fold)
    first = Stage(len(plan.gone) + 1, cut.removed, cut.folded, results.facts(graph))
    removal.done, removal.decisions = [first], cut.decisions
    return graph, plan.after(len(here), [0] * len(here))


def _measured(removal: Removal, names: Sequence[str]) -> dict[str, float] | None:
    """Importance as the model's schedule knows it; empty in another order, None where it lacks some."""
    before = removal.before
    if followed(removal.settings, before)[1] != "importance":
        return {}
    if before is None or not set(names) <= set(before.importance):
        return None
    return {name: before.importance[name] for name in names}


def _wanted(graph: Graph, skips: Skips, settings: SkipSettings, before: Plan | None) -> list[Residual]:
    """The skips that go: of a schedule that is not finished those left in it, where none are named.

    Raises:
        UsageError: ``RUB-SHRINK-050``: none; ``RUB-PASS-060``: a name fits none.
    """
    kept = {one.name for one in chosen(graph, skips, settings.keep)}
    found = [one for one in chosen(graph, skips, settings.names) if one.name not in kept]
    to_go = {one.name for one in found} & set(before.to_go if before else ())
    if to_go and settings.names == SkipSettings().names:
        found = [one for one in found if one.name in to_go]
    if found:
        return found
    why = "all of them are kept" if skips.found else "the network has no residual connection"
    if not skips.found and before is not None:
        why = f"the network has no residual connection left ({before.words})"
    elif not skips.found and skips.refused:
        why = f"{skips.refused[0].source}: {skips.refused[0].reason}"
    raise UsageError("RUB-SHRINK-050", why, hint="run `rubicc skipclip MODEL --list` for what was found")


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

    def __init__(self, run: Training, removal: Removal, names: Sequence[str], watcher: Watcher) -> None:
        self.run, self.settings, self.watcher = run, removal.settings, watcher
        self.start = removal.start
        # The first process reads, measures and decides.
        found = self._schedule(removal, names) if run.group.rank == 0 else None
        self.schedule: Schedule = run.group.agreed(found)
        plan, stages = self.schedule.before, self.schedule.stages
        more = stages < len(plan.remaining)
        trains = self.settings.train
        self.steps = self.settings.steps(run.settings.steps, stages, more=more) if trains else []
        self.cools = -1 if more else stages - 1  # index of the stage after which no skips go
        removal.importance = {name: plan.importance[name] for name in names if name in plan.importance}
        self._save()

    def _schedule(self, removal: Removal, names: Sequence[str]) -> Schedule:
        """That of the run that was killed, or a new one."""
        run, settings = self.run, self.settings
        known = digest([run.student.sha256, settings, run.settings])
        found = skip_schedule.load(run.state, known)
        if found is not None:
            return found
        measured = _measured(removal, names)
        if measured is None:
            measured = importance(removal.start, names, self._feeds(MEASURED))
        plan = planned(names, settings, removal.before, measured)
        return Schedule(known, plan, len(plan.remaining[: settings.stages]))

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
        plan = self.schedule.before
        for index, names in enumerate(plan.remaining[: self.schedule.stages]):
            before, graph = graph, graph.clone()
            cut = _cut(graph, names, self.settings.fold)
            decisions += cut.decisions
            stage = Stage(len(plan.gone) + index + 1, cut.removed, cut.folded, results.facts(graph))
            if self.settings.recalibrate:
                graph = recalibrated(before, graph, self._feeds(self.settings.recalibrate))
            self.run.student.become(graph)
            stage.before = self._scored(index)
            if self.settings.train:
                self._train(stage, index)
                graph = self.run.student.graph()
            stage.after = (stage.history.best if stage.history else None) or stage.before
            done.append(stage)
            if index >= self.schedule.done:
                score = stage.before
                self.schedule.scores.append([score.loss, score.identity] if score else None)
                self.schedule.steps.append(len(stage.history.steps) if stage.history else 0)
                self._save()
        return done, decisions

    def _scored(self, index: int) -> Score | None:
        """Of the student as it is; what a run that was killed has measured is not measured again."""
        if index >= self.schedule.done:
            return self.run.score()
        kept = self.schedule.scores[index]
        return None if kept is None or kept[0] is None else Score(kept[0], kept[1])

    def _train(self, stage: Stage, index: int) -> None:
        """Train the student for its part of the steps; a finished part is read from its state."""
        run, steps = self.run, self.steps[index]
        # Each stage sees other data, and warms up for a tenth of its time at most. Only the last one ends in
        # small steps: what those win is lost with the next skips.
        own = replace(
            run.settings,
            steps=steps,
            warmup=min(run.settings.warmup, steps // 10),
            lr_end=run.settings.lr_end if index == self.cools else 1.0,
            seed=run.settings.seed + stage.number - 1,
        )
        # The state of the training belongs to a network without just these skips.
        asked = digest([self.settings, vars(self.schedule.before.after(index + 1, []))])
        stage.history = run.fit(own, run.state / stage.name, self.watcher, asked=asked)
