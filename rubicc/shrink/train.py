"""``train``: a network, data, perhaps a teacher, to a better network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubicc.shrink import result as results
from rubicc.shrink.told import Change, Part
from rubicc.shrink.verb import carried_out

if TYPE_CHECKING:
    from rubicc.shrink.session import Asked, Training
    from rubicc.shrink.student import Student
    from rubicc.training.history import History, ValidationRow
    from rubicc.training.scoring import Score


def train(asked: Asked) -> results.Result | None:
    """Train ``asked.model`` and write the result folder; see :func:`rubicc.shrink.verb.carried_out`."""

    def work(student: Student, run: Training | None) -> Change:
        assert run is not None
        before = run.score()
        history = run.fit(run.settings, run.state / "run", asked.watcher)
        after = history.best or run.score()
        graph = student.graph()
        return Change(
            "train",
            student,
            graph,
            _headline(history, after),
            results.figures(student.before, graph),
            {},
            before,
            after,
            [Part("run", history)],
        )

    return carried_out(asked, work, needs_data=True)


def _headline(history: History, after: Score | ValidationRow | None) -> str:
    text = f"{len(history.steps)} steps ({history.finished})"
    if history.best is not None:
        text += f"; kept are the weights after step {history.best_step}"
    if after is not None and after.identity is not None:
        text += f", identity {after.identity:.4f}"
    return text + "."
