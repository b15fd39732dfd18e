"""Timing in turns: every engine gets the same share of the machine, after its neighbour fell asleep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rubicc.evidence.measure import Timing

SETTLE = 0.03  # idle worker threads of ONNX Runtime and OpenMP spin for some milliseconds before they sleep
TURN = 0.3  # seconds of calls in one turn


class Watch:
    """How much of the machine's processor time other programs took between entering and leaving.

    Attributes:
        others: their share of all CPUs, 0 to 1.
    """

    def __init__(self) -> None:
        self.others = 0.0

    def __enter__(self) -> Watch:
        self._start = _busy()
        return self

    def __exit__(self, *error: object) -> None:
        own, busy, total = (after - before for after, before in zip(_busy(), self._start, strict=True))
        self.others = max(0.0, busy - own) / total if total > 0 else 0.0


def _busy() -> tuple[float, float, float]:
    """Processor seconds: of this process, of everything, and that there were."""
    import psutil

    own, all_of = psutil.Process().cpu_times(), psutil.cpu_times()
    total = sum(all_of[:8])  # the later fields are contained in the first two
    return own.user + own.system, total - all_of.idle - getattr(all_of, "iowait", 0.0), total


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    turn: float = TURN,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Wall times of each call over ``rounds`` rotations.

    A turn is one untimed call (its weights come back into the caches), then timed calls for ``turn`` seconds,
    at least one. A call longer than a turn is not warmed up again: its first half second is nothing to it.

    Args:
        rounds: rotations; the first engine of each is another one.
        settle: pause before each turn.
    """
    if rounds < 1:
        raise ValueError("at least one round")
    names = list(calls)
    estimate: dict[str, float] = {}
    for name in names:
        start = clock()
        calls[name]()
        estimate[name] = clock() - start
    times: dict[str, list[float]] = {name: [] for name in names}
    for done in range(rounds):
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            sleep(settle)
            if estimate[name] < turn:
                calls[name]()
            end = clock() + turn
            while True:
                start = clock()
                calls[name]()
                now = clock()
                times[name].append(now - start)
                if now >= end:
                    break
            estimate[name] = min(times[name])
    return {name: Timing(tuple(sorted(values))) for name, values in times.items()}
