"""Timing on a machine that other programs share: candidates take turns, and doubt is said.

Candidates measured one after the other are measured under different loads and clocks; taking turns gives each
the same share of both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["faster", "slower", "UNSURE"]
SMALLEST_DIFFERENCE = 0.05  # below this share two medians are not told apart, whatever the spread


@dataclass(frozen=True)
class Timing:
    """Wall times of one candidate, in seconds, sorted."""

    seconds: tuple[float, ...]

    @property
    def count(self) -> int:
        """Timed calls."""
        return len(self.seconds)

    @property
    def best(self) -> float:
        """Shortest call: the machine at its least disturbed."""
        return self.seconds[0]

    @property
    def median(self) -> float:
        """Half of the calls were faster."""
        return self.percentile(50)

    @property
    def noise(self) -> float:
        """Interquartile range over the median."""
        return (self.percentile(75) - self.percentile(25)) / self.median

    def percentile(self, q: float) -> float:
        """Nearest-rank percentile, an actually measured time."""
        rank = max(1, math.ceil(q / 100 * len(self.seconds)))
        return self.seconds[rank - 1]

    def to_dict(self) -> dict[str, float | int]:
        """Milliseconds, for reports."""
        rows = {"min_ms": self.best, "median_ms": self.median} | {
            f"p{q}_ms": self.percentile(q) for q in (90, 99)
        }
        return {key: round(value * 1e3, 4) for key, value in rows.items()} | {
            "noise": round(self.noise, 4),
            "count": self.count,
        }


def interleave(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    min_rounds: int = 3,
    max_rounds: int = 1000,
    warm_up: bool = True,
) -> dict[str, Timing]:
    """Time the calls in turns until ``seconds`` are over, every call equally often.

    Each is called once untimed first, unless ``warm_up`` is off. The order rotates from round to round, so
    that none always follows the same neighbour (caches, clocks).

    Args:
        seconds: budget in all; ``min_rounds`` are timed even when it is over.
    """
    names = list(calls)
    for call in calls.values() if warm_up else ():
        call()
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    for done in range(max_rounds):
        if done >= min_rounds and time.perf_counter() >= end:
            break
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(sorted(values))) for name, values in times.items()}


def compare(a: Timing, b: Timing) -> Verdict:
    """Whether ``a`` is faster than ``b``; UNSURE below 5 % or where their middle halves overlap."""
    low, high = sorted((a.median, b.median))
    apart = a.percentile(75) < b.percentile(25) or b.percentile(75) < a.percentile(25)
    if (high - low) / high < SMALLEST_DIFFERENCE or not apart:
        return "UNSURE"
    return "faster" if a.median < b.median else "slower"
