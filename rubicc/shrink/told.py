"""What is told of a change: the report that every verb writes, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import ChangeReport, Figure, Table
from rubicc.evidence.environment import machine
from rubicc.evidence.plots import Plot, Series
from rubicc.evidence.report import Measure, NotMeasured
from rubicc.shrink import result as results
from rubicc.training.history import History

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Training
    from rubicc.shrink.student import Student
    from rubicc.training.history import ValidationRow
    from rubicc.training.scoring import Score
    from rubicc.training.settings import TrainSettings


@dataclass
class Part:
    """One stretch of training.

    Attributes:
        name: its folder in ``OUT.partial``.
    """

    name: str
    history: History


@dataclass
class Change:
    """What a verb did.

    Attributes:
        graph: the network now.
        headline: one sentence that says what came out.
        figures: costs before and after.
        settings: what was asked for, beside the training.
        first, last: scores on the validation items; None: not measured.
        decisions: beside those of the reading of model and data.
    """

    verb: str
    student: Student
    graph: Graph
    headline: str
    figures: Sequence[Figure]
    settings: dict[str, Any]
    first: Score | None = None
    last: Score | ValidationRow | None = None
    parts: Sequence[Part] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    decisions: Sequence[Decision] = ()

    @property
    def seconds(self) -> float:
        """Wall time of all training."""
        return sum(row.seconds for part in self.parts for row in part.history.steps)

    def logs(self, state: Path) -> dict[str, Path]:
        """Folders with logs of training, by what their names begin with."""
        many = len(self.parts) > 1
        return {f"{part.name}-" if many else "": state / part.name for part in self.parts}


def report(change: Change, run: Training | None) -> ChangeReport:
    """The report of a result folder."""
    student, history = change.student, whole([part.history for part in change.parts])
    figures, settings, source = list(change.figures), dict(change.settings), _source(student, run)
    if run is not None:
        figures += score_figures(change.first, change.last, run.data.truth, len(run.items))
    missing = [NotMeasured("speed of the compiled network", "compile the result and run `rubicc bench`")]
    if change.last is None:
        why = "no data were given" if run is None else "nothing was held out"
        missing.append(NotMeasured("identity", why))
    measured: tuple[Measure, ...] = ()
    plots = list(change.plots)
    if run is not None and history.steps:
        settings |= plain_settings(run.settings)
        plots = [*history_plots(history), *plots]
        how = f"{len(history.steps)} steps, wall time"
        measured = (Measure("training", change.seconds, "s", how),)
    decisions = [*(student.decisions if run is None else run.decisions), *change.decisions]
    return ChangeReport(
        name=student.name,
        verb=change.verb,
        headline=change.headline,
        figures=tuple(figures),
        settings=settings,
        plots=tuple(plots),
        tables=tuple(change.tables),
        decisions=(*dict.fromkeys(decisions), *results.graph_decision(student)),
        measured=measured,
        not_measured=tuple(missing),
        source=source,
        machine=machine(),
    )


def _source(student: Student, run: Training | None) -> dict[str, Any]:
    """Facts of model, data and teacher."""
    found: dict[str, Any] = {
        "model": f"{student.name} ({student.kind})",
        "architecture": student.meta.arch,
        "model sha256": student.sha256,
    }
    if run is None:
        return found
    data = run.data.train
    found["data"] = f"{data.name}: " + ", ".join(f"{v} {k}" for k, v in data.facts.items())
    if run.teacher is not None:
        found |= {"teacher": run.teacher.name, "teacher sha256": run.teacher.sha256}
    return found


def whole(histories: Sequence[History]) -> History:
    """One history of all, with steps counted through."""
    made, past = History(), 0
    for history in histories:
        made.steps += [replace(row, step=row.step + past) for row in history.steps]
        made.validations += [replace(row, step=row.step + past) for row in history.validations]
        past += len(history.steps)
    return made


def shown(score: Score | ValidationRow | None) -> str:
    """Identity for a table."""
    return "-" if score is None or score.identity is None else f"{score.identity:.4f}"


def with_identity(text: str, score: Score | ValidationRow | None) -> str:
    """A headline, with the identity where there is one."""
    return text + (f", identity {score.identity:.4f}." if score is not None and score.identity else ".")


def score_figures(before: Any, after: Any, truth: str, count: int) -> list[Figure]:
    """Identity and loss on the validation items, before and after; scores or None."""
    if before is None and after is None:
        return []
    against = {"reference": "the reference", "teacher": "the teacher's calls"}.get(truth, "")
    how = f"mean over {count} validation items"
    rows = [Figure("loss", before and before.loss, after and after.loss, "", how)]
    was, now = (None if one is None else one.identity for one in (before, after))
    if was is not None or now is not None:
        rows.insert(0, Figure("identity", was, now, "identity", f"{how}, edlib end to end against {against}"))
    return rows


def plain_settings(settings: TrainSettings) -> dict[str, Any]:
    """Settings as flat facts for a report."""
    values = asdict(settings)
    augment = values.pop("augment")
    values["features"] = ", ".join("=".join(pair) for pair in settings.features) or None
    return {k: v for k, v in values.items() if v is not None} | {
        f"augment {k}": v for k, v in augment.items()
    }


def history_plots(history: History) -> list[Plot]:
    """Loss over steps, and identity over steps where it was taken."""
    steps = tuple((row.step, row.loss) for row in history.steps)
    held = tuple((row.step, row.loss) for row in history.validations)
    rows = [Series("training", steps), *([Series("validation", held)] if held else [])]
    caption = "Training losses are means of neighbouring steps where there are many."
    plots = [Plot("Loss", "steps", "loss", tuple(rows), caption)]
    called = tuple((row.step, row.identity) for row in history.validations if row.identity is not None)
    if called:
        plots.append(Plot("Identity", "steps", "identity", (Series("validation", called),)))
    return plots
