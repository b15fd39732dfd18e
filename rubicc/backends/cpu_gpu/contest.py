"""Successive halving by measured speed: who is fastest, of those that are accurate enough.

All contestants take turns for a short while, the slower half leaves, and the rest is measured longer. Nobody
gets past a round without being judged accurate enough, fastest first, so a fast and wrong contestant neither
wins nor takes the place of a right one. Whoever cannot be told from the fastest (below 5 %, at the end also
middle halves that overlap while minimum or median are within a quarter) competes by ``rank`` instead: the
simpler one stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rubicc.backends.base import Judgement
from rubicc.evidence import measure

HALVING_ROUNDS, FINAL_ROUNDS, FINALISTS = 2, 3, 3
CLEARLY = 1.25
SIMPLEST_STAYS = 1.25  # times the fastest: few rounds say too little to send the simplest one away


@dataclass(eq=False)
class Contestant:
    """One way to run a model.

    Attributes:
        name: unique in its contest.
        rank: simpler ones are smaller.
        call: one round of work on ``items`` batch items.
        expected: seconds of a call at a guess; slow ones are called fewer times, and not to warm up.
        judge: whether its outputs are right; asked at most once, and only if it is fast enough to matter.
        leave: called when it is out of the contest.
    """

    name: str
    rank: tuple[Any, ...]
    call: Callable[[], object]
    items: int
    judge: Callable[[], Judgement]
    leave: Callable[[], None] = lambda: None
    expected: float = 0.0


@dataclass
class Result:
    """How a contest ended.

    Attributes:
        winner: ``None`` when nobody was accurate enough.
        reason: why this one.
        timings: name to seconds per batch item, from the last round each took part in.
        rejected: name to the limit that was missed.
        judged: name to what the judge said.
    """

    winner: Contestant | None
    reason: str = ""
    timings: dict[str, measure.Timing] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    judged: dict[str, Judgement] = field(default_factory=dict)


def contest(contestants: Sequence[Contestant], seconds: float) -> Result:
    """Find the fastest accurate contestant.

    Args:
        seconds: of measuring in all, judging not counted; everybody is called at least once even when it is
            over.
    """
    result = Result(None)
    alive = list(contestants)
    left = seconds
    while alive:
        final = len(alive) <= FINALISTS
        start = time.perf_counter()
        timings = _measure(alive, left if final else left / 2, FINAL_ROUNDS if final else HALVING_ROUNDS)
        left = max(0.0, left - (time.perf_counter() - start))
        result.timings |= timings
        alive = _final_order(alive, timings) if final else _order(alive, timings)
        if not final:
            _protect_simplest(alive, timings)
        places = len(alive) if final else max(FINALISTS, (len(alive) + 1) // 2)
        kept = _accurate(alive, places, result)
        for one in alive:
            if one not in kept:
                one.leave()
        alive = kept
        if final:
            _decide(kept, timings, result)
            break
    return result


def _measure(alive: Sequence[Contestant], seconds: float, rounds: int) -> dict[str, measure.Timing]:
    calls = {one.name: one.call for one in alive}
    fit = seconds / max(sum(one.expected for one in alive), 1e-9)
    hurry = fit < rounds + 1
    timings = measure.interleave(
        calls, seconds, min_rounds=max(1, int(fit)) if hurry else rounds, warm_up=not hurry
    )
    return {
        one.name: measure.Timing(tuple(second / one.items for second in timings[one.name].seconds))
        for one in alive
    }


def _order(alive: Sequence[Contestant], timings: dict[str, measure.Timing]) -> list[Contestant]:
    """Fastest first by the minimum, which says most of few rounds; among those near it the simpler first."""
    near = min(timings[one.name].best for one in alive) * (1.0 + measure.SMALLEST_DIFFERENCE)
    times = {one.name: timings[one.name].best for one in alive}
    return sorted(alive, key=lambda one: (times[one.name] if times[one.name] > near else 0.0, one.rank))


def _protect_simplest(alive: list[Contestant], timings: dict[str, measure.Timing]) -> None:
    """Move the simplest one to the front unless it is clearly slower, so that it is there at the end."""
    simplest = min(alive, key=lambda one: one.rank)
    fastest = min(timings[one.name].best for one in alive)
    if timings[simplest.name].best <= SIMPLEST_STAYS * fastest:
        alive.remove(simplest)
        alive.insert(0, simplest)


def _final_order(alive: Sequence[Contestant], timings: dict[str, measure.Timing]) -> list[Contestant]:
    return sorted(alive, key=lambda one: timings[one.name].median)


def _accurate(ranked: Sequence[Contestant], places: int, result: Result) -> list[Contestant]:
    """The first ``places`` of ``ranked`` that their judges let pass."""
    kept: list[Contestant] = []
    for one in ranked:
        if len(kept) == places:
            break
        if one.name not in result.judged:
            result.judged[one.name] = one.judge()
        if result.judged[one.name].holds:
            kept.append(one)
        else:
            result.rejected[one.name] = result.judged[one.name].reason
    return kept


def _in_doubt(fast: measure.Timing, slow: measure.Timing) -> bool:
    """Few rounds on a busy machine overlap whatever is measured; minimum and median together still tell."""
    clear = CLEARLY * fast.median < slow.median and CLEARLY * fast.best < slow.best
    return measure.compare(fast, slow) == "UNSURE" and not clear


def _decide(finalists: list[Contestant], timings: dict[str, measure.Timing], result: Result) -> None:
    if not finalists:
        return
    best = finalists[0]
    doubtful = [one for one in finalists if _in_doubt(timings[best.name], timings[one.name])]
    result.winner = min(doubtful, key=lambda one: one.rank)
    if result.winner is best:
        result.reason = "fastest by measurement" if len(result.timings) > 1 else "the only one"
    else:
        result.reason = f"no difference beyond the noise to {best.name}: the simpler one by rule"
    for one in finalists:
        if one is not result.winner:
            one.leave()
