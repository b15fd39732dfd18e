"""The log of a run: rows of figures, CSV files that a resumed run continues exactly, TensorBoard if there."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

STEPS, VALIDATIONS = "steps.csv", "validation.csv"
BOARD = "tensorboard"  # folder of its events


@dataclass(frozen=True)
class StepRow:
    """One step: losses before it, norm of the gradient before clipping, and what it took.

    ``task`` is the loss of known bases, ``distil`` and ``features`` those against the teacher, None where not
    used.
    """

    step: int
    loss: float
    task: float | None
    distil: float | None
    features: float | None
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class ValidationRow:
    """One validation after ``step`` steps; ``identity`` is None where nothing is called."""

    step: int
    loss: float
    identity: float | None
    best: bool


@dataclass
class History:
    """Everything a run logged.

    Attributes:
        finished: why it stopped: ``all steps``, ``no better validation``, or "" while it runs.
        best_step: steps after which the weights that were kept were reached.
    """

    steps: list[StepRow] = field(default_factory=list)
    validations: list[ValidationRow] = field(default_factory=list)
    finished: str = ""
    best_step: int = 0

    @property
    def best(self) -> ValidationRow | None:
        """The validation whose weights were kept."""
        return next((row for row in self.validations if row.step == self.best_step), None)

    def losses(self) -> list[float]:
        """Loss of every step."""
        return [row.loss for row in self.steps]


class Log:
    """Writes a history as it grows. Floats are written so that they are read back the same.

    Args:
        folder: of the files; None = only in memory.
        lengths: file name -> bytes to keep of what is there; files are cut to them (0 where not named).
        board: also write TensorBoard events where that package is installed.
    """

    def __init__(self, folder: Path | None, lengths: dict[str, int], board: bool = True) -> None:
        self.history = History()
        self._files: dict[str, TextIO] = {}
        self._board = None
        if folder is not None:
            self._open(folder, lengths)
            self._board = _board(folder / BOARD, len(self.history.steps)) if board else None

    def _open(self, folder: Path, lengths: dict[str, int]) -> None:
        for name, row in ((STEPS, StepRow), (VALIDATIONS, ValidationRow)):
            path = folder / name
            path.touch()
            os.truncate(path, min(lengths.get(name, 0), path.stat().st_size))
            self._files[name] = path.open("a", newline="", encoding="utf-8")
            if path.stat().st_size == 0:
                csv.writer(self._files[name]).writerow([f.name for f in fields(row)])
                self._files[name].flush()
        self.history.steps = read_rows(folder / STEPS, StepRow)
        self.history.validations = read_rows(folder / VALIDATIONS, ValidationRow)

    def step(self, row: StepRow) -> None:
        """Add a step."""
        self.history.steps.append(row)
        self._write(STEPS, "train", row)

    def validation(self, row: ValidationRow) -> None:
        """Add a validation."""
        self.history.validations.append(row)
        self._write(VALIDATIONS, "validation", row)

    def _write(self, name: str, group: str, row: StepRow | ValidationRow) -> None:
        values = asdict(row)
        if name in self._files:
            cells = ["" if value is None else value for value in values.values()]
            csv.writer(self._files[name]).writerow(cells)
        if self._board is not None:
            for key, value in values.items():
                if key not in ("step", "best") and value is not None:
                    self._board.add_scalar(f"{group}/{key}", value, row.step)

    def lengths(self) -> dict[str, int]:
        """Bytes of each file, after they are on disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()


def read_rows(path: Path, kind: type) -> list[Any]:
    """Rows of one of the two files; a last line that a kill cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]
    types = {f.name: str(f.type) for f in fields(kind)}
    return [kind(**{k: _value(types[k], v) for k, v in row.items()}) for row in csv.DictReader(lines)]


def _value(kind: str, text: str) -> Any:
    if text == "":
        return None
    if kind == "bool":
        return text == "True"
    return int(text) if kind == "int" else float(text)


def _board(folder: Path, done: int) -> Any:
    """A writer of TensorBoard events after ``done`` steps; what a killed run told of later ones is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
