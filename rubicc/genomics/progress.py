"""How far a run is, on stderr: one rewritten line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO


@dataclass(frozen=True)
class Tally:
    """Counts so far, of this run and of the part of it done before a resume."""

    reads: int = 0
    samples: int = 0
    bases: int = 0
    problems: int = 0
    seconds: float = 0.0
    fresh_samples: int = 0

    @property
    def rate(self) -> float:
        """Samples per second since this process started."""
        return self.fresh_samples / self.seconds if self.seconds > 0 else 0.0


class Progress(Protocol):
    """Told about every read written; must be quick."""

    def update(self, tally: Tally) -> None:
        """Called after each read."""

    def close(self, tally: Tally) -> None:
        """Called once, at the end, also of a failed run."""


class Silent:
    """Says nothing."""

    def update(self, tally: Tally) -> None:
        """Nothing."""

    def close(self, tally: Tally) -> None:
        """Nothing."""


class StreamProgress:
    """Lines on ``stream`` (stderr): four times a second in place on a terminal, else every ten seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every = 0.25 if self.live else 10.0
        self._next = time.monotonic() + self.every

    def update(self, tally: Tally) -> None:
        """A line, when it is time for one."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.every
            self._write(tally, "\r\x1b[K" if self.live else "", "" if self.live else "\n")

    def close(self, tally: Tally) -> None:
        """The last line."""
        self._write(tally, "\r\x1b[K" if self.live else "", "\n")

    def _write(self, tally: Tally, before: str, after: str) -> None:
        problems = f", {tally.problems} problems" if tally.problems else ""
        text = (
            f"{tally.reads} reads, {tally.samples / 1e6:.2f} M samples, "
            f"{tally.rate / 1e6:.3f} M samples/s, {tally.bases} bases{problems}"
        )
        self.stream.write(before + text + after)
        self.stream.flush()
