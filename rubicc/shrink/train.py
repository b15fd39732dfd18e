"""``train``: a network, data, perhaps a teacher, to a better network."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rubicc.errors import OutputExists
from rubicc.evidence.change import ChangeReport, Figure
from rubicc.evidence.decision import Decision
from rubicc.evidence.environment import machine
from rubicc.evidence.plots import Plot, Series
from rubicc.evidence.report import Measure, NotMeasured
from rubicc.evidence.staging import StagedDir, check_replaceable
from rubicc.genomics.journal import partial_folder
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink.student import Student, read_student
from rubicc.training.data.opening import Opened, Wanted, open_data
from rubicc.training.data.taught import Teacher
from rubicc.training.history import History
from rubicc.training.lessons import Lesson, mismatch
from rubicc.training.loop import Silent, Watcher, fit
from rubicc.training.machines import Alone, machines
from rubicc.training.network import Network, as_teacher
from rubicc.training.objective import Objective
from rubicc.training.scoring import Score, score, validation_items
from rubicc.training.settings import TrainSettings

if TYPE_CHECKING:
    from rubicc.training.data.stream import Item

log = logging.getLogger("rubicc.train")


@dataclass
class Training:
    """A network in training: everything that a verb needs to fit it, once or again after each change.

    Attributes:
        teacher: None where there is none.
        state: folder that a killed run goes on in.
        group: this process and the others.
    """

    student: Student
    settings: TrainSettings
    objective: Objective
    lesson: Lesson
    data: Opened
    items: Sequence[Item]
    state: Path
    group: Alone
    teacher: Student | None = None
    decisions: list[Decision] = field(default_factory=list)

    def network(self) -> Network:
        """The student as the loop calls it."""
        keep = tuple(pair[0] for pair in self.settings.features)
        return Network(self.student.inner, self.student.meta, keep)

    def score(self) -> Score | None:
        """Of the student as it is, on the validation items; None where there are none."""
        if not self.items:
            return None
        self.lesson.to(self.group.device)
        return score(self.network().to(self.group.device), self.lesson, self.items, self.settings)

    def fit(self, settings: TrainSettings, state: Path, watcher: Watcher) -> History:
        """Train the student in place; a killed run goes on in ``state``."""
        known = f"{self.student.sha256} {self.teacher.sha256 if self.teacher else ''} {self.data.train.facts}"
        return fit(
            self.network(),
            self.data.train,
            self.lesson,
            settings,
            state=state,
            validation=self.items,
            identity=known,
            watcher=watcher,
            group=self.group,
        )


def train(
    model: Any,
    out: str | Path,
    *,
    data: Sequence[str],
    teacher: Any = None,
    teacher_arch: str | None = None,
    validation: Sequence[str] = (),
    settings: TrainSettings | None = None,
    reading: Settings | None = None,
    watcher: Watcher | None = None,
) -> results.Result | None:
    """Train ``model`` and write the result folder ``out``.

    Args:
        model: any MODEL form, or the name of an architecture of the zoo (random weights from the seed).
        data, validation: see :func:`rubicc.training.data.opening.open_data`.
        teacher: any MODEL form; distilled from, or its calls are learned.
        teacher_arch: its architecture, where it is a bare state dict.
        reading: how models are read (``arch``, ``allow_code``, ...), ``force``.

    Returns:
        The result; None in the processes of torchrun that are not the first, which write nothing.

    Raises:
        RubiccError: nothing is written to ``out`` then; ``OUT.partial`` keeps what was done.
    """
    settings, reading = settings or TrainSettings(), reading or Settings()
    if reading.threads is not None:
        torch.set_num_threads(reading.threads)
    out = Path(out)
    with training_of(
        model, out, data, settings, reading, teacher=teacher, teacher_arch=teacher_arch, validation=validation
    ) as training:
        before = training.score()
        history = training.fit(settings, training.state / "run", watcher or Silent())
        if training.group.rank:
            return None
        after = history.best or training.score()
        made = _write(training, out, reading, history, before, after)
    shutil.rmtree(training.state, ignore_errors=True)
    return made


@contextlib.contextmanager
def training_of(
    model: Any,
    out: Path,
    data: Sequence[str],
    settings: TrainSettings,
    reading: Settings,
    *,
    teacher: Any = None,
    teacher_arch: str | None = None,
    validation: Sequence[str] = (),
) -> Iterator[Training]:
    """Everything read and ready; ``OUT.partial`` is locked meanwhile.

    Raises:
        RubiccError: see :func:`train`.
    """
    check_replaceable(out, force=reading.force)
    group = machines(settings.device)
    with _locked(partial_folder(out), reading.force, group) as state:
        student = read_student(model, reading)
        objective = Objective.of(student.meta)
        # The flags that say how to read MODEL are not about the teacher.
        plain = replace(reading, arch=teacher_arch, arch_config={}, inputs=())
        taught = read_student(teacher, plain) if teacher is not None else None
        decisions = [*student.decisions, *_about_teacher(objective, taught, settings)]
        lesson = Lesson(objective, settings, _teacher_network(taught, settings))
        wanted = Wanted(objective, settings, state / "data", _labeller(taught), not lesson.by_calls, _told)
        with group.first_alone():
            opened = open_data(data, validation, wanted)
        items = validation_items(opened.validation, settings.validation_items) if opened.validation else []
        lesson.check(opened.train.item(0, settings.seed))
        decisions += [*opened.decisions, *_about_validation(opened, data)]
        yield Training(student, settings, objective, lesson, opened, items, state, group, taught, decisions)


@contextlib.contextmanager
def _locked(folder: Path, force: bool, group: Alone) -> Iterator[Path]:
    """``OUT.partial``, made where it is not there, ours alone; ``force`` empties it."""
    if group.rank:
        group.wait()
        yield folder
        return
    if folder.is_symlink() or (folder.exists() and not (folder / "lock").is_file() and any(folder.iterdir())):
        raise OutputExists(
            "RUB-TRAIN-042", "this is no unfinished run of rubicc", where=str(folder), hint="move it away"
        )
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExists(
                "RUB-SHRINK-002",
                "another process is training into this folder",
                where=str(folder),
                hint="wait for it, or choose another -o",
            ) from None
        if force:
            for old in folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old, ignore_errors=True)
                elif old.name != "lock":
                    old.unlink()
        group.wait()
        yield folder


def _about_teacher(objective: Objective, teacher: Student | None, settings: TrainSettings) -> list[Decision]:
    why = objective.comparable(teacher.meta) if teacher else ""
    if not why or settings.labels == "calls":
        return []
    if settings.labels == "scores" or objective.kind == "none" or teacher is None:
        raise mismatch(why)
    return [Decision("RUB-SHRINK-D04", teacher.name, "its calls are the targets", why)]


def _teacher_network(teacher: Student | None, settings: TrainSettings) -> Network | None:
    if teacher is None:
        return None
    return as_teacher(teacher.inner, teacher.meta, tuple(pair[1] for pair in settings.features))


def _labeller(teacher: Student | None) -> Teacher | None:
    """The teacher as the data sees it."""
    if teacher is None or Objective.of(teacher.meta).kind == "none":
        return None
    network, name = Network(teacher.inner, teacher.meta), teacher.meta.inputs[0].name

    def scores(signal: np.ndarray) -> np.ndarray:
        device = next(network.parameters()).device
        with torch.no_grad():
            found, _ = network({name: torch.from_numpy(signal).to(device)})
        return found.float().cpu().numpy()

    return Teacher(teacher.meta, scores, teacher.sha256)


def _told(done: int, whole: int) -> None:
    if done % 10 == 0 or done == whole:
        log.info("teacher: %d of %d reads labelled", done, whole)


def _about_validation(opened: Opened, data: Sequence[str]) -> list[Decision]:
    if opened.validation is None:
        reason = "too little data, and no --validation"
        return [Decision("RUB-SHRINK-D03", ", ".join(data)[:200], "nothing was held out", reason)]
    if opened.truth == "teacher":
        reason = "the data hold no reference bases"
        return [Decision("RUB-SHRINK-D02", opened.validation.name, "identity to the teacher's calls", reason)]
    return []


def _write(
    training: Training, out: Path, reading: Settings, history: History, before: Any, after: Any
) -> results.Result:
    student = training.student
    graph = student.graph()
    report = _report(training, history, before, after, results.figures(student.before, graph))
    with StagedDir(out, force=reading.force) as staged:
        return results.write(
            staged,
            student,
            graph,
            report,
            logs=training.state / "run",
            inputs=inputs_of(training),
            seed=training.settings.seed,
            measured={"seconds": sum(row.seconds for row in history.steps)},
        )


def inputs_of(training: Training) -> dict[str, str]:
    """Digests of data and teacher, by role."""
    facts = f"{training.data.train.name} {sorted(training.data.train.facts.items(), key=str)}"
    found = {"data facts": hashlib.sha256(facts.encode()).hexdigest()}
    return found | ({"teacher": training.teacher.sha256} if training.teacher else {})


def _report(
    training: Training, history: History, before: Any, after: Any, figures: list[Figure]
) -> ChangeReport:
    student, settings = training.student, training.settings
    decisions = (*training.decisions, *results.graph_decision(student))
    data = training.data
    source: dict[str, Any] = {
        "model": f"{student.name} ({student.kind})",
        "architecture": student.meta.arch,
        "model sha256": student.sha256,
        "data": f"{data.train.name}: " + ", ".join(f"{v} {k}" for k, v in data.train.facts.items()),
    }
    if training.teacher is not None:
        source |= {"teacher": training.teacher.name, "teacher sha256": training.teacher.sha256}
    seconds = sum(row.seconds for row in history.steps)
    missing = [NotMeasured("speed of the compiled network", "compile the result and run `rubicc bench`")]
    if after is None:
        missing.append(NotMeasured("identity", "nothing was held out"))
    return ChangeReport(
        name=student.name,
        verb="train",
        headline=_headline(history, after),
        figures=(*figures, *score_figures(before, after, data.truth, len(training.items))),
        settings=plain_settings(settings),
        plots=tuple(history_plots(history)),
        decisions=decisions,
        measured=(Measure("training", seconds, "s", f"{len(history.steps)} steps, wall time"),),
        not_measured=tuple(missing),
        source=source,
        machine=machine(),
    )


def _headline(history: History, after: Any) -> str:
    text = f"{len(history.steps)} steps ({history.finished})"
    if history.best is not None:
        text += f"; kept are the weights after step {history.best_step}"
    if after is not None and after.identity is not None:
        text += f", identity {after.identity:.4f}"
    return text + "."


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
