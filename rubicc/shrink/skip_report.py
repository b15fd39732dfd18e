"""What is told of a removal of skips: figures, skips, stages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import ChangeReport, Figure, Table
from rubicc.evidence.environment import machine
from rubicc.evidence.report import Measure, NotMeasured
from rubicc.shrink import result as results
from rubicc.shrink.train import Training, history_plots, plain_settings, score_figures
from rubicc.training.history import History

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph
    from rubicc.passes.skip.find import Residual
    from rubicc.shrink.skip_schedule import SkipSettings
    from rubicc.shrink.student import Student
    from rubicc.training.history import ValidationRow
    from rubicc.training.scoring import Score


@dataclass
class Stage:
    """What one stage did.

    Attributes:
        removed, folded: names of skips.
        facts: costs of the network after the removal.
        before, after: of training; None: not measured.
    """

    number: int
    removed: tuple[str, ...]
    folded: tuple[str, ...]
    facts: dict[str, float]
    before: Score | None = None
    after: Score | ValidationRow | None = None
    history: History | None = None


def seconds(done: Sequence[Stage]) -> float:
    """Wall time of all training."""
    return sum(row.seconds for stage in done if stage.history for row in stage.history.steps)


def joined(state: Path, done: Sequence[Stage]) -> Path:
    """The logs of all stages in one folder, each under its number."""
    folder = state / "logs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for stage in done:
        for file in sorted((state / f"stage{stage.number}").glob("*.csv")):
            shutil.copyfile(file, folder / f"stage{stage.number}-{file.name}")
    return folder


def report(
    student: Student,
    start: Graph,
    graph: Graph,
    settings: SkipSettings,
    done: Sequence[Stage],
    found: Mapping[str, Residual],
    decisions: Sequence[Decision],
    run: Training | None,
    first: Score | None,
    importance: Mapping[str, float],
) -> ChangeReport:
    """The report of a result folder; ``start`` is the graph with all its skips, ``graph`` the result."""
    figures = results.figures(start, graph)
    if run is not None:
        figures += score_figures(first, done[-1].after, run.data.truth, len(run.items))
    missing = [NotMeasured("speed of the compiled network", "compile the result and run `rubicc bench`")]
    if first is None:
        why = "no data were given" if run is None else "nothing was held out"
        missing.append(NotMeasured("identity", why))
    whole = _whole(done)
    asked = {
        name: ", ".join(value) if isinstance(value, tuple) else value
        for name, value in vars(settings).items()
    }
    if run is not None and settings.train:
        asked |= plain_settings(run.settings)
    source: dict[str, Any] = {
        "model": f"{student.name} ({student.kind})",
        "architecture": student.meta.arch,
        "model sha256": student.sha256,
    }
    if run is not None and run.teacher is not None:
        source |= {"teacher": run.teacher.name, "teacher sha256": run.teacher.sha256}
    return ChangeReport(
        name=student.name,
        verb="skipclip",
        headline=_headline(figures, done),
        figures=tuple(figures),
        settings=asked,
        plots=tuple(history_plots(whole)) if whole.steps else (),
        tables=_tables(done, found, importance),
        decisions=(*dict.fromkeys(decisions), *results.graph_decision(student)),
        measured=(Measure("training", seconds(done), "s", "wall time"),) if whole.steps else (),
        not_measured=tuple(missing),
        source=source,
        machine=machine(),
    )


def _whole(done: Sequence[Stage]) -> History:
    """One history of all stages, with steps counted through."""
    whole, past = History(), 0
    for stage in done:
        if stage.history is not None:
            whole.steps += [replace(row, step=row.step + past) for row in stage.history.steps]
            whole.validations += [replace(row, step=row.step + past) for row in stage.history.validations]
            past += len(stage.history.steps)
    return whole


def _headline(figures: Sequence[Figure], done: Sequence[Stage]) -> str:
    removed, folded = (sum(len(getattr(one, name)) for one in done) for name in ("removed", "folded"))
    parts = [f"{count} {'skip' if count == 1 else 'skips'} {what}" for count, what in
             ((removed, "removed"), (folded, "folded without loss")) if count]  # fmt: skip
    by_name = {figure.what: figure for figure in figures}
    text = f"{', '.join(parts)}; {1 + (by_name['parameters'].relative or 0.0):.1%} of the parameters are left"
    after = done[-1].after
    return text + (f", identity {after.identity:.4f}." if after is not None and after.identity else ".")


def _tables(
    done: Sequence[Stage], found: Mapping[str, Residual], importance: Mapping[str, float]
) -> tuple[Table, ...]:
    when = {name: (one, name in one.folded) for one in done for name in (*one.removed, *one.folded)}
    rows = []
    for name, one in found.items():
        stage, folded = when.get(name, (None, False))
        did = "stays" if stage is None else "folded" if folded else "removed"
        moved = f"{importance[name]:.3g}" if name in importance else "-"
        rows.append((name, one.kind, one.form, one.weights, moved, stage.number if stage else "-", did))
    header = ("skip", "kind", "form", "weights", "output moves by", "stage", "did")
    caption = "From the input side on. The output moves by this share of itself when the skip alone goes."
    tables = [Table("Skips", header, tuple(rows), caption)]
    if len(done) > 1 or done[0].before is not None:
        lines = []
        for stage in done:
            names = ", ".join((*stage.removed, *stage.folded))
            steps = len(stage.history.steps) if stage.history else 0
            lines.append(
                (
                    stage.number,
                    names,
                    int(stage.facts["parameters"]),
                    steps,
                    _shown(stage.before),
                    _shown(stage.after),
                )
            )
        columns = ("stage", "skips", "parameters", "steps", "identity after removal", "after training")
        tables.append(Table("Stages", columns, tuple(lines)))
    return tuple(tables)


def _shown(score: Score | ValidationRow | None) -> str:
    return "-" if score is None or score.identity is None else f"{score.identity:.4f}"
