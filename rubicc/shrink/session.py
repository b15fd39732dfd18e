"""A network, data and perhaps a teacher, read and ready to be trained: what every verb starts from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rubicc.errors import OutputExists
from rubicc.evidence.decision import Decision
from rubicc.genomics.journal import partial_folder
from rubicc.settings import Settings
from rubicc.shrink.student import Student, read_student
from rubicc.training.data.opening import Opened, Wanted, open_data
from rubicc.training.data.taught import Teacher
from rubicc.training.history import History
from rubicc.training.lessons import Lesson, mismatch
from rubicc.training.loop import Silent, Watcher, fit
from rubicc.training.machines import Alone, machines
from rubicc.training.network import Maps, Network, as_teacher
from rubicc.training.objective import Objective
from rubicc.training.scoring import Score, score, validation_items
from rubicc.training.settings import TrainSettings

if TYPE_CHECKING:
    from rubicc.training.data.stream import Item
    from rubicc.training.movement import Movement

log = logging.getLogger("rubicc.train")


@dataclass(frozen=True)
class Asked:
    """What every verb is asked for, beside settings of its own.

    Attributes:
        model: any MODEL form, or the name of an architecture of the zoo (random weights from the seed).
        out: folder to write.
        data, validation: see :func:`rubicc.training.data.opening.open_data`; without data nothing is trained.
        teacher: any MODEL form; distilled from, or its calls are learned.
        teacher_arch: its architecture, where it is a bare state dict.
        training: of the training.
        reading: how models are read (``arch``, ``allow_code``, ...), ``force``, ``threads``.
    """

    model: Any
    out: Path
    data: tuple[str, ...] = ()
    teacher: Any = None
    teacher_arch: str | None = None
    validation: tuple[str, ...] = ()
    training: TrainSettings = field(default_factory=TrainSettings)
    reading: Settings = field(default_factory=Settings)
    watcher: Watcher = field(default_factory=Silent)


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

    def network(self, keep: Sequence[str] = (), maps: Maps | None = None) -> Network:
        """The student as the loop calls it; ``keep`` and ``maps`` as of :class:`Network`."""
        names = (*(pair[0] for pair in self.settings.features), *keep)
        return Network(self.student.inner, self.student.meta, names, maps)

    def score(self) -> Score | None:
        """Of the student as it is, on the validation items; None where there are none."""
        if not self.items:
            return None
        self.lesson.to(self.group.device)
        return score(self.network().to(self.group.device), self.lesson, self.items, self.settings)

    def fit(
        self,
        settings: TrainSettings,
        state: Path,
        watcher: Watcher,
        *,
        asked: str = "",
        lesson: Lesson | None = None,
        movement: Movement | None = None,
        network: Network | None = None,
    ) -> History:
        """Train the student in place; a killed run goes on in ``state``.

        Args:
            asked: what else must be the same when it goes on, such as what was cut before.
            lesson: instead of the one at hand.
            movement: gathers that of the weights.
            network: the student with what the lesson asks for; None = :meth:`network`.
        """
        return fit(
            network or self.network(),
            self.data.train,
            lesson or self.lesson,
            settings,
            state=state,
            validation=self.items,
            identity=f"{self.known} {asked}".rstrip(),
            watcher=watcher,
            group=self.group,
            movement=movement,
        )

    @property
    def known(self) -> str:
        """Model, teacher and data: what must be the same when a killed run goes on."""
        return f"{self.student.sha256} {self.teacher.sha256 if self.teacher else ''} {self.data.train.facts}"

    def inputs(self) -> dict[str, str]:
        """Digests of data and teacher, by role."""
        facts = f"{self.data.train.name} {sorted(self.data.train.facts.items(), key=str)}"
        found = {"data facts": hashlib.sha256(facts.encode()).hexdigest()}
        return found | ({"teacher": self.teacher.sha256} if self.teacher else {})


@contextlib.contextmanager
def training_of(asked: Asked) -> Iterator[Training]:
    """Everything read and ready; ``OUT.partial`` is locked meanwhile.

    Raises:
        RubiccError: model, teacher or data cannot be read, or do not fit each other.
    """
    settings, reading = asked.training, asked.reading
    group = machines(settings.device)
    with _locked(partial_folder(asked.out), reading.force, group) as state:
        student = read_student(asked.model, reading)
        objective = Objective.of(student.meta)
        # The flags that say how to read MODEL are not about the teacher.
        plain = replace(reading, arch=asked.teacher_arch, arch_config={}, inputs=())
        taught = read_student(asked.teacher, plain) if asked.teacher is not None else None
        decisions = [*student.decisions, *_about_teacher(objective, taught, settings)]
        lesson = Lesson(objective, settings, _teacher_network(taught, settings))
        wanted = Wanted(objective, settings, state / "data", _labeller(taught), not lesson.by_calls, _told)
        with group.first_alone():
            opened = open_data(asked.data, asked.validation, wanted)
        items = validation_items(opened.validation, settings.validation_items) if opened.validation else []
        lesson.check(opened.train.item(0, settings.seed))
        decisions += [*opened.decisions, *_about_validation(opened, asked.data)]
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
        try:
            yield folder
        except BaseException:
            if folder.is_dir() and os.listdir(folder) == ["lock"]:  # nothing was begun
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _about_teacher(objective: Objective, teacher: Student | None, settings: TrainSettings) -> list[Decision]:
    why = objective.comparable(teacher.meta) if teacher else ""
    if not why or teacher is None:
        return []
    if objective.kind == "none" or teacher.meta.decoder is None:
        raise mismatch(why, calls=False)
    if settings.labels == "calls":
        return []
    if settings.labels == "scores":
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
