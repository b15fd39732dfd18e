"""In which order skips go, and how far that is.

It is kept in the network's graph, so in every checkpoint of it, and in ``OUT.partial`` for a killed run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rubicc.errors import OutputExists, UsageError
from rubicc.text import first_line
from rubicc.training.state import put

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph

FILE = "schedule.json"
VERSION = 2
PLAN_KEY = "rubicc.skip-schedule"  # graph metadata, JSON of :class:`Plan`
ORDERS = ("input", "importance")


@dataclass(frozen=True)
class SkipSettings:
    """Which skips go, in which order and how.

    Attributes:
        names, keep: patterns of the skips that go, and of those that stay whatever ``names`` says.
        stride: skips per stage; None: as the model's schedule says, else 1.
        order: ``input``: from the input side on; ``importance``: first those that matter least, by how far
            the output moves on real signal when a skip alone is removed; None: as the model's schedule says,
            else ``input``.
        stages: stages of this run; the others are left to a later one. None: all.
        anew: do not go on with the schedule of the model.
        fold: skips that can be folded into a convolution without loss are; the others are removed.
        recalibrate: batches that norms and quantisers are adjusted on after every removal, before training.
        share: of the training steps until the last skips go; the rest trains the network without them.
        train: whether to train where there are data.
    """

    names: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    stride: int | None = None
    order: Literal["input", "importance"] | None = None
    stages: int | None = None
    anew: bool = False
    fold: bool = False
    recalibrate: int = 0
    share: float = 0.5
    train: bool = True

    def __post_init__(self) -> None:
        for name in ("stride", "stages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError("RUB-SHRINK-051", f"{name} = {value}: give at least 1")
        if self.order not in (None, *ORDERS):
            raise UsageError("RUB-SHRINK-051", f"order = {self.order!r}: give input or importance")
        if self.recalibrate < 0:
            raise UsageError("RUB-SHRINK-051", f"recalibrate = {self.recalibrate}: give 0 or more batches")
        if not 0 <= self.share < 1:
            raise UsageError("RUB-SHRINK-051", f"share = {self.share}: give at least 0 and below 1")

    def steps(self, whole: int, stages: int, *, more: bool = False) -> list[int]:
        """Steps of every stage of a run, of ``whole`` in all; with ``more`` to come none of them is the last.

        Raises:
            UsageError: ``RUB-SHRINK-051``: fewer steps than stages.
        """
        if whole < stages:
            raise UsageError(
                "RUB-SHRINK-051",
                f"{whole} steps for {stages} stages of skips",
                hint="give more --steps or a larger --stride",
            )
        if more:
            return [whole // stages + (k < whole % stages) for k in range(stages)]
        # Stages before the last one have the same time; the last one has the rest.
        each = max(1, int(whole * self.share / max(stages - 1, 1)))
        return [each] * (stages - 1) + [whole - each * (stages - 1)]


@dataclass(frozen=True)
class Plan:
    """Which skips went, and which are to go: what the graph carries.

    Attributes:
        stride, order: as of :class:`SkipSettings`.
        gone, remaining: names of skips, stage by stage.
        steps: steps of training behind each stage of ``gone``.
        importance: movement of the output by name of skip; empty where it was not measured.
    """

    stride: int
    order: str
    gone: tuple[tuple[str, ...], ...] = ()
    remaining: tuple[tuple[str, ...], ...] = ()
    steps: tuple[int, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)

    def after(self, stages: int, steps: Sequence[int]) -> Plan:
        """When so many more stages are gone, each with its steps."""
        every = self.gone + self.remaining
        here = len(self.gone) + stages
        trained = (*self.steps, *steps)
        return Plan(self.stride, self.order, every[:here], every[here:], trained, self.importance)

    def into(self, graph: Graph) -> None:
        """Keep it in a graph, and so in every file that is made of it."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        graph.ir.metadata_props[PLAN_KEY] = text

    @property
    def to_go(self) -> list[str]:
        """Names of the skips that remain."""
        return [name for stage in self.remaining for name in stage]

    @property
    def words(self) -> str:
        """For people."""
        whole, left = len(self.gone) + len(self.remaining), len(self.to_go)
        remain = f"{left} skip remains" if left == 1 else f"{left} skips remain"
        return f"stage {len(self.gone)} of {whole} done, stride {self.stride}, {remain}"


def plan_of(graph: Graph) -> Plan | None:
    """The schedule that a network carries; None where there is none.

    Raises:
        UsageError: ``RUB-SHRINK-054``: it is damaged.
    """
    text = graph.ir.metadata_props.get(PLAN_KEY)
    if text is None:
        return None
    try:
        return _plan(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise UsageError(
            "RUB-SHRINK-054",
            f"the model's schedule of skips cannot be read: {first_line(err)}",
            where=PLAN_KEY,
            hint="give --anew to make another one",
        ) from err


def _plan(body: Any) -> Plan:
    """Of what a file says, which may say anything."""
    if body["version"] != VERSION:
        raise ValueError(f"version {str(body['version'])[:20]}")
    gone, remaining = (tuple(tuple(stage) for stage in body[name]) for name in ("gone", "remaining"))
    steps, importance = tuple(body["steps"]), dict(body["importance"])
    names = [name for stage in (*gone, *remaining) for name in stage]
    checks = {
        "names": all(isinstance(name, str) for name in names) and len(set(names)) == len(names),
        "stages": all(not isinstance(stage, str) for name in ("gone", "remaining") for stage in body[name]),
        "stride": type(body["stride"]) is int and body["stride"] >= 1,
        "order": body["order"] in ORDERS,
        "steps": len(steps) == len(gone) and all(type(count) is int and count >= 0 for count in steps),
        "importance": all(type(x) in (int, float) and math.isfinite(x) for x in importance.values()),
    }
    wrong = [name for name, good in checks.items() if not good]
    if wrong:
        raise ValueError(f"wrong {', '.join(wrong)}")
    return Plan(body["stride"], body["order"], gone, remaining, steps, importance)


def followed(settings: SkipSettings, before: Plan | None) -> tuple[int, str]:
    """Stride and order: those asked for, else those of the model's schedule, else 1 and ``input``."""
    stride = settings.stride or (before.stride if before else 1)
    return stride, settings.order or (before.order if before else "input")


def planned(
    names: Sequence[str], settings: SkipSettings, before: Plan | None, importance: Mapping[str, float]
) -> Plan:
    """The schedule for ``names`` (from the input side on), behind the stages that are gone ``before``.

    Args:
        importance: of all of them where the order is by it, else of none.
    """
    stride, order = followed(settings, before)
    stages = tuple(map(tuple, stages_of(names, stride, importance)))
    if before is None:
        return Plan(stride, order, (), stages, (), importance)
    known = {**before.importance, **importance}
    return Plan(stride, order, before.gone, stages, before.steps, known)


@dataclass
class Schedule:
    """How far one run is.

    Attributes:
        known: digest-like text of model and settings that must not change between the parts of a run.
        before: the plan that the run began with.
        stages: how many this run does.
        scores: (loss, identity) after the removal of each stage that is done, before its training.
        steps: of the training behind each.
    """

    known: str
    before: Plan
    stages: int
    scores: list[list[float | None] | None] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Stages that this run has finished."""
        return len(self.scores)

    @property
    def plan(self) -> Plan:
        """As it is now."""
        return self.before.after(self.done, self.steps)

    def save(self, folder: Path) -> None:
        """Keep it for a run that goes on, with what is gone and what remains by now."""
        body = {"version": VERSION, **asdict(self), "now": asdict(self.plan)}
        put(folder / FILE, json.dumps(body, indent=1, sort_keys=True).encode(), "schedule")


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
        del body["now"]
        before = _plan({"version": VERSION, **body.pop("before")})
        found = Schedule(before=before, **body)
        if not found.done <= found.stages <= len(before.remaining) or len(found.steps) != found.done:
            raise ValueError("other stages")
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
