"""From what a user names to the streams of a run: the form of the data is found by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.training.data import arrays
from rubicc.training.data.augment import OFF, Augment
from rubicc.training.data.chunks import ChunkSet, is_chunk_folder
from rubicc.training.data.crops import CropSet, split
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.data.store import Store, mapped_files, open_store
from rubicc.training.data.stream import DataSet
from rubicc.training.data.taught import TaughtSet, Teacher
from rubicc.training.objective import Objective, bases_of
from rubicc.training.settings import TrainSettings

SIMULATED = "simulated"
HELD_OUT = 0.05


@dataclass
class Opened:
    """The data of a run.

    Attributes:
        train, validation: streams; validation is None where nothing can be held out.
        truth: what the bases of the validation items are: ``reference`` or ``teacher``, or "" without any.
    """

    train: DataSet
    validation: DataSet | None
    truth: str
    decisions: list[Decision] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """What data are opened for.

    Attributes:
        folder: for what is made of them, kept between the parts of a run.
        teacher: labels raw reads; None where there is none.
        scores: whether the teacher's scores are a target for the student.
        told: called with (copies labelled, of how many).
    """

    objective: Objective
    settings: TrainSettings
    folder: Path
    teacher: Teacher | None = None
    scores: bool = True
    told: Callable[[int, int], None] = lambda done, whole: None


def open_data(paths: Sequence[str], validation: Sequence[str], wanted: Wanted) -> Opened:
    """The training stream of ``paths``, and the validation stream of ``validation`` or held out of ``paths``.

    Args:
        paths: one bonito folder, one ``.npz`` of arrays, the word ``simulated``, or files and folders of
            mapped or raw reads.

    Raises:
        UsageError: ``RUB-TRAIN-033``: no such data, or a form this network or run cannot use.
    """
    decisions: list[Decision] = []
    train, _ = _open(paths, "all" if validation else "train", wanted, decisions)
    held, truth = _open(
        validation or paths, "all" if validation else "validation", wanted, decisions, held=True
    )
    assert train is not None
    return Opened(train, held, truth, decisions)


def _open(
    paths: Sequence[str], part: str, wanted: Wanted, decisions: list[Decision], held: bool = False
) -> tuple[DataSet | None, str]:
    """A stream, and what its bases are."""
    objective, settings = wanted.objective, wanted.settings
    augment = OFF if held else settings.augment
    calls = objective.kind != "none"
    if list(paths) == [SIMULATED]:
        _require(calls and objective.meta.signal is not None, paths, "the network reads no signal")
        return SimulatedSet(objective, settings.chunk, augment), "reference"
    there = [Path(path) for path in paths]
    for path in there:
        _require(path.exists(), [str(path)], "there is no such file or folder")
    if len(there) == 1 and is_chunk_folder(there[0]):
        _require(calls, paths, "the network calls no bases")
        return ChunkSet(there[0], objective, part, augment, decisions), "reference"
    if len(there) == 1 and arrays.fits(there[0], objective):
        return arrays.ArraySet(there[0], objective, part), ""
    _require(calls and objective.meta.signal is not None, paths, "the network reads no signal")
    mapped = mapped_files(there)
    if mapped:
        store = _store(mapped, "mapped", wanted, decisions, held)
        reads = _part(store, part)
        if reads is None:
            return None, ""
        return CropSet(there[0].name, store, objective, settings.chunk, augment, reads), "reference"
    return _raw(there, part, augment, wanted, decisions, held)


def _raw(
    paths: list[Path], part: str, augment: Augment, wanted: Wanted, decisions: list[Decision], held: bool
) -> tuple[DataSet | None, str]:
    teacher, settings = wanted.teacher, wanted.settings
    if teacher is None:
        raise UsageError(
            "RUB-TRAIN-033",
            "raw reads have no bases to learn",
            where=paths[0].name,
            hint="give --teacher, a network that labels them",
        )
    store = _store(paths, "reads", wanted, decisions, held)
    reads = _part(store, part)
    if reads is None:
        return None, ""
    if not held and not settings.copies:
        return CropSet(paths[0].name, store, wanted.objective, settings.chunk, augment, reads), "teacher"
    made = TaughtSet(
        paths[0].name,
        store,
        wanted.objective,
        teacher,
        wanted.folder / ("teacher-validation" if held else "teacher"),
        chunk=settings.chunk,
        copies=1 if held else settings.copies,
        augment=augment,
        seed=settings.seed,
        scores=wanted.scores,
        reads=reads,
        told=wanted.told,
    )
    return made, "teacher"


def _store(paths: list[Path], name: str, wanted: Wanted, decisions: list[Decision], held: bool) -> Store:
    # Validation files have a store of their own; reads held out of the training files share theirs.
    known = hashlib.sha256("\n".join(map(str, paths)).encode()).hexdigest()[:8]
    folder = wanted.folder / f"{name}-{known}"
    letters = bases_of(wanted.objective.meta)
    told = None if held else decisions
    meta = wanted.objective.meta
    return open_store(paths, meta, folder, letters=letters, mapped=name == "mapped", decisions=told)


def _part(store: Store, part: str) -> np.ndarray | None:
    """Reads of a part; None where there are too few to hold one out."""
    train, held = split(store, HELD_OUT)
    chosen = {"train": train, "validation": held}.get(part, np.arange(len(store)))
    return chosen if len(chosen) else None


def _require(holds: bool, paths: Sequence[str], why: str) -> None:
    if not holds:
        raise UsageError(
            "RUB-TRAIN-033",
            f"the data cannot be used: {why}",
            where=", ".join(paths)[:200],
            hint="give a bonito chunk folder, mapped-signal or read files, an .npz with one array per input, "
            f"or the word {SIMULATED}",
        )
