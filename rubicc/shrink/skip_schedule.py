"""In which order skips go, and how far a run is: kept in ``OUT.partial`` for a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rubicc.errors import OutputExists, UsageError
from rubicc.text import first_line
from rubicc.training.state import put

FILE = "schedule.json"
VERSION = 1


@dataclass(frozen=True)
class SkipSettings:
    """Which skips go, in which order and how.

    Attributes:
        names, keep: patterns of the skips that go, and of those that stay whatever ``names`` says.
        stride: skips per stage.
        order: ``input``: from the input side on; ``importance``: first those that matter least, by how far
            the output moves on real signal when a skip alone is removed.
        fold: skips that can be folded into a convolution without loss are; the others are removed.
        recalibrate: batches that norms and quantisers are adjusted on after every removal, before training.
        share: of the training steps until the last skips go; the rest trains the network without them.
        train: whether to train where there are data.
    """

    names: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    stride: int = 1
    order: Literal["input", "importance"] = "input"
    fold: bool = False
    recalibrate: int = 0
    share: float = 0.5
    train: bool = True

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError("RUB-SHRINK-051", f"stride = {self.stride}: give at least 1")
        if self.order not in ("input", "importance"):
            raise UsageError("RUB-SHRINK-051", f"order = {self.order!r}: give input or importance")
        if self.recalibrate < 0:
            raise UsageError("RUB-SHRINK-051", f"recalibrate = {self.recalibrate}: give 0 or more batches")
        if not 0 <= self.share < 1:
            raise UsageError("RUB-SHRINK-051", f"share = {self.share}: give at least 0 and below 1")

    def steps(self, whole: int, stages: int) -> list[int]:
        """Steps of every stage, of ``whole`` in all.

        Raises:
            UsageError: ``RUB-SHRINK-051``: fewer steps than stages.
        """
        if whole < stages:
            raise UsageError(
                "RUB-SHRINK-051",
                f"{whole} steps for {stages} stages of skips",
                hint="give more --steps or a larger --stride",
            )
        # Stages before the last one have the same time; the last one has the rest.
        each = max(1, int(whole * self.share / max(stages - 1, 1)))
        return [each] * (stages - 1) + [whole - each * (stages - 1)]


@dataclass
class Schedule:
    """The stages of one run.

    Attributes:
        known: digest-like text of model and settings that must not change between the parts of a run.
        stages: names of skips, stage by stage.
        importance: movement of the output by name of skip; empty where it was not measured.
        scores: (loss, identity) after the removal of each stage that is done, before its training.
    """

    known: str
    stages: list[list[str]]
    importance: dict[str, float] = field(default_factory=dict)
    scores: list[list[float | None] | None] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Stages that are finished."""
        return len(self.scores)

    def save(self, folder: Path) -> None:
        """Keep it for a run that goes on."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1, sort_keys=True)
        put(folder / FILE, text.encode(), "schedule")


def stages_of(names: Sequence[str], stride: int, importance: Mapping[str, float]) -> list[list[str]]:
    """``names`` (from the input side on) in groups of ``stride``, the least important first where known."""
    ordered = sorted(names, key=lambda name: importance.get(name, 0.0))  # stable
    return [ordered[first : first + stride] for first in range(0, len(ordered), stride)]


def load(folder: Path, known: str) -> Schedule | None:
    """The schedule of an unfinished run, or None without one.

    Raises:
        OutputExists: ``RUB-SHRINK-052``: it belongs to another run.
        UsageError: ``RUB-SHRINK-053``: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        body: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if body.pop("version") != VERSION:
            raise ValueError("another version")
        found = Schedule(**body)
        found.stages = [[str(name) for name in stage] for stage in found.stages]
        if not found.stages or found.done > len(found.stages):
            raise ValueError("no stages")
    except (ValueError, KeyError, TypeError, OSError) as err:
        raise UsageError(
            "RUB-SHRINK-053",
            f"the schedule of the unfinished run cannot be read: {first_line(err)}",
            where=str(path),
            hint="give --force to start over",
        ) from err
    if found.known != known:
        raise OutputExists(
            "RUB-SHRINK-052",
            "an unfinished run of another model or with other settings lies here",
            where=str(folder),
            hint="run its command again to finish it, give --force to start over, or choose another -o",
        )
    return found
