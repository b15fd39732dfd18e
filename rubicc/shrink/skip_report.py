"""What is told of a removal of skips: figures, skips, stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rubicc.evidence.change import Figure, Table
from rubicc.evidence.decision import Decision
from rubicc.shrink import result as results
from rubicc.shrink.told import Change, Part, shown, with_identity

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.passes.skip.find import Residual
    from rubicc.shrink.skip_schedule import Plan, SkipSettings
    from rubicc.shrink.student import Student
    from rubicc.training.history import History, ValidationRow
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

    @property
    def name(self) -> str:
        """Folder of its training."""
        return f"stage{self.number}"


@dataclass
class Removal:
    """What a run does.

    Attributes:
        start: the graph with all its skips.
        found: skips by name.
        before, plan: the network's schedule as it came and as it goes on; None: it came without.
        importance: movement of the output by name of skip; empty where it was not measured.
    """

    start: Graph
    settings: SkipSettings
    found: Mapping[str, Residual]
    before: Plan | None = None
    plan: Plan | None = None
    done: Sequence[Stage] = ()
    decisions: Sequence[Decision] = ()
    importance: Mapping[str, float] = field(default_factory=dict)
    first: Score | None = None


def change(student: Student, graph: Graph, removal: Removal) -> Change:
    """What came of it; ``graph`` is the result."""
    figures, done = results.figures(removal.start, graph), removal.done
    asked = {
        name: ", ".join(value) if isinstance(value, tuple) else value
        for name, value in vars(removal.settings).items()
        if value is not None
    }
    if removal.plan is not None:
        asked |= {"stride": removal.plan.stride, "order": removal.plan.order, "schedule": removal.plan.words}
    return Change(
        "skipclip",
        student,
        graph,
        _headline(figures, removal),
        figures,
        asked,
        removal.first,
        done[-1].after,
        [Part(one.name, one.history) for one in done if one.history],
        tables=_tables(done, removal.found, removal.importance),
        decisions=[*_gone_on(student.name, removal), *removal.decisions],
    )


def _gone_on(name: str, removal: Removal) -> list[Decision]:
    """That the network's own schedule was followed, where it was."""
    if removal.before is None or removal.plan is None:
        return []
    here = ", ".join(name for one in removal.done for name in (*one.removed, *one.folded))
    what = f"goes on behind stage {len(removal.before.gone)} with {here}, stride {removal.plan.stride}"
    why = f"the model carries a schedule ({removal.before.words}); --anew makes another"
    return [Decision("RUB-SHRINK-D50", name, what, why)]


def _headline(figures: Sequence[Figure], removal: Removal) -> str:
    done, plan = removal.done, removal.plan
    removed, folded = (sum(len(getattr(one, name)) for one in done) for name in ("removed", "folded"))
    parts = [f"{count} {'skip' if count == 1 else 'skips'} {what}" for count, what in
             ((removed, "removed"), (folded, "folded without loss")) if count]  # fmt: skip
    by_name = {figure.what: figure for figure in figures}
    text = f"{', '.join(parts)}; {1 + (by_name['parameters'].relative or 0.0):.1%} of the parameters are left"
    if plan is not None and plan.remaining:
        text += f"; {plan.words}"
    return with_identity(text, done[-1].after)


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
                    shown(stage.before),
                    shown(stage.after),
                )
            )
        columns = ("stage", "skips", "parameters", "steps", "identity after removal", "after training")
        tables.append(Table("Stages", columns, tuple(lines)))
    return tuple(tables)
