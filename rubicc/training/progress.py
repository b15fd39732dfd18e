"""How far a run is, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

from rubicc.training.history import StepRow, ValidationRow

EVERY = 10.0


class Bar:
    """A progress bar with the loss and the last identity."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._last = ""

    def step(self, row: StepRow, total: int) -> None:
        """Move the bar."""
        if self._bar is None:
            self._bar = tqdm(total=total, initial=row.step - 1, file=self.stream, unit="step", leave=True)
        self._bar.set_postfix_str(f"loss {row.loss:.4f}{self._last}", refresh=False)
        self._bar.update()

    def validated(self, row: ValidationRow, total: int) -> None:
        """Remember the figures for the bar."""
        self._last = _words(row)

    def close(self) -> None:
        """Leave the bar as it is; the next step, of another run, begins one of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """A line for every validation, and every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._next = time.monotonic() + EVERY

    def step(self, row: StepRow, total: int) -> None:
        """A line, when it is time for one."""
        if time.monotonic() >= self._next or row.step == total:
            self._write(f"step {row.step}/{total} loss {row.loss:.4f}")

    def validated(self, row: ValidationRow, total: int) -> None:
        """A line."""
        self._write(f"step {row.step}/{total} validation{_words(row)}")

    def close(self) -> None:
        """Nothing."""

    def _write(self, text: str) -> None:
        self._next = time.monotonic() + EVERY
        self.stream.write(text + "\n")
        self.stream.flush()


def _words(row: ValidationRow) -> str:
    called = "" if row.identity is None else f", identity {row.identity:.4f}"
    return f", validation loss {row.loss:.4f}{called}{' (best)' if row.best else ''}"
