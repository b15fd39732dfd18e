"""Chooses form, runtime, batch, streams and threads by measuring them on this machine, within a time limit.

First every form in every runtime runs against the others (:mod:`~rubicc.backends.cpu_gpu.contest`), at the
largest batch the time allows; then the winner's batch and streams (for throughput) or threads (for latency).
Loading and judging come on top of the time limit. Where measurements cannot tell two candidates apart,
the simpler one is taken: fp32 before other precisions, plain before polyphase, ONNX Runtime before OpenVINO
before native, the usual batch before others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from rubicc.backends.base import Prepared
from rubicc.backends.cpu_gpu import runtimes, shapes, tune_cache
from rubicc.backends.cpu_gpu.arena import (
    Ask,
    Loaded,
    again,
    contestant,
    feeds_of,
    fitting,
    hand_over,
    load,
    seconds_per_item,
    short_length,
)
from rubicc.backends.cpu_gpu.contest import FINAL_ROUNDS, HALVING_ROUNDS, Result, contest
from rubicc.backends.cpu_gpu.forms import Form, Maker
from rubicc.errors import RubiccError, Unsupported, VerificationFailed
from rubicc.ir.graph import Graph

FIRST_SHARE = 0.6  # of the time, for forms and runtimes; the rest is for batch, streams and threads
BATCHES = (8, 16, 32, 64)
ROUNDS = 2 + HALVING_ROUNDS + FINAL_ROUNDS  # of a contestant that stays to the end, warm-ups included


@dataclass(frozen=True)
class Tuned:
    """What was chosen, as options of ``plan`` that need no measuring, and what stands behind it."""

    form: Form
    prepared: Prepared
    maker: Maker
    runtime: str
    threads: int | None
    batch: int | None
    streams: int | None
    evidence: Mapping[str, Any] = field(default_factory=dict)


def tune(maker: Maker, forms: Sequence[Form], base: Graph, ask: Ask) -> Tuned:
    """Choose among ``forms`` of ``base`` and everything ``ask`` leaves open.

    Raises:
        VerificationFailed: RUB-CPU-051 nothing is accurate enough, with the reason of each.
        Unsupported: RUB-CPU-008 no runtime takes any form.
        ToolMissing: a runtime asked for is missing (RUB-CPU-009).
    """
    key = ask.key(forms, maker.bytes_of(base)) if ask.cache is not None else ""
    known = _recalled(key, forms, maker, ask) if key else None
    if known is not None:
        return known
    start = time.perf_counter()
    with ThreadPoolExecutor(max(ask.cores, ask.streams or 1), thread_name_prefix="rubicc-tune") as pool:
        tuned = _search(maker, forms, ask, pool)
    tuned = _with(tuned, wall_seconds=round(time.perf_counter() - start, 3), cached=False)
    if key:
        tune_cache.put(key, _entry(tuned))
    return tuned


def _search(maker: Maker, forms: Sequence[Form], ask: Ask, pool: ThreadPoolExecutor) -> Tuned:
    refused: dict[str, str] = {}
    streams = (ask.streams or ask.cores) if ask.objective == "throughput" else 1
    loaded = [one for form in forms for one in load(maker, form, ask, streams, refused, len(forms) == 1)]
    if not loaded:
        what = "; ".join(refused.values())
        raise Unsupported("RUB-CPU-008", what, hint="run `rubicc check` for the nodes behind this")
    usual = ask.batch or shapes.default_batch(loaded[0].graph.meta)
    begin = time.perf_counter()
    result, shown = _first(loaded, usual, streams, ask, pool)
    if result.winner is None:
        what = "; ".join(f"{name}: {why}" for name, why in result.rejected.items())
        hint = "choose a higher --precision, or a lower --max-gap"
        raise VerificationFailed("RUB-CPU-051", what[:800], hint=hint)
    best = next(one for one in loaded if one.name == result.winner.name)
    evidence: dict[str, Any] = {
        "refused": refused,
        "reason": result.reason,
        "chosen": best.name,
        "rejected": result.rejected,
        "snr_db": {name: _finite(judged.snr_db) for name, judged in result.judged.items()},
        **({"measured": shown} if shown else {}),
    }
    prepared = maker.make(best.form)
    chosen = Tuned(best.form, prepared, maker, best.runtime, ask.threads, ask.batch, ask.streams, evidence)
    if not ask.refines:
        return chosen
    left = ask.seconds - (time.perf_counter() - begin)
    refine = _faster_call if ask.objective == "latency" else _more_at_once
    return refine(chosen, best, usual, max(0.0, left), ask, pool)


def _first(
    loaded: Sequence[Loaded], usual: int, streams: int, ask: Ask, pool: ThreadPoolExecutor
) -> tuple[Result, dict[str, Any]]:
    """Every form in every runtime against the others."""
    begin = time.perf_counter()
    seconds = ask.seconds * (FIRST_SHARE if ask.refines else 1.0)
    latency = ask.objective == "latency"
    if len(loaded) == 1:  # needs no measuring, and the proof of the emitted files judges it
        only = contestant(loaded[0], (), feeds_of(loaded[0].graph, 1, ask), pool, None, 0.0)
        return Result(only, "the only candidate"), {}
    each = seconds_per_item(loaded, ask)
    graph = loaded[0].graph
    batch, length, each = fitting(graph, each, 1 if latency else usual, seconds)
    feeds = feeds_of(graph, batch // streams, ask, length)
    runners = [
        contestant(one, _first_rank(one), feeds, pool, ask.gate, guess)
        for one, guess in zip(loaded, each, strict=True)
    ]
    result = contest(runners, max(0.0, seconds - (time.perf_counter() - begin)))
    shape = {name: [array.shape[0] * streams, *array.shape[1:]] for name, array in feeds.items()}
    timings = {name: timing.to_dict() for name, timing in result.timings.items()}
    return result, {"shapes": shape, "planned_batch": usual, "timings": timings}


def _more_at_once(
    chosen: Tuned, best: Loaded, usual: int, seconds: float, ask: Ask, pool: ThreadPoolExecutor
) -> Tuned:
    """Streams at the largest batch that can be afforded, then the batch; by rule where the time is over."""
    start = time.perf_counter()
    rule = min(best.streams, usual)
    shown: dict[str, Any] = {}
    engines = {best.streams: best}
    guess = seconds_per_item([best], ask) if seconds > 0 else [math.inf]
    each, length = guess[0], short_length(best.graph)
    if ask.streams is None and seconds > 0 and best.streams > 1:
        engines[1] = again(best, ask, ask.cores, 1)
        batch, length, guess = fitting(best.graph, guess * 2, usual, seconds / 2)
        batch, each = max(best.streams, batch), guess[0]
        feeds = {n: feeds_of(best.graph, batch // n, ask, length) for n in engines}
        runners = [
            contestant(one, (n != rule,), feeds[n], pool, None, each, f"streams={n}")
            for n, one in engines.items()
        ]
        result = contest(runners, seconds / 2)
        shown |= {f"{name} batch={batch}": timing.to_dict() for name, timing in result.timings.items()}
        hand_over(engines[1], ask)
        rule = next(n for n in engines if result.winner and result.winner.name == f"streams={n}")
        each = result.timings[f"streams={rule}"].best
    left = seconds - (time.perf_counter() - start)
    fit = [ask.batch] if ask.batch else _sizes(usual, rule, left / each)
    size = usual
    if len(fit) > 1:
        one = engines.get(rule, best)
        runners = [
            contestant(one, (rank,), given, pool, None, each, f"batch={n}")
            for rank, n in enumerate(fit)
            for given in [feeds_of(one.graph, n // rule, ask, length)]
        ]
        result = contest(runners, left)
        shown |= {f"{name} streams={rule}": timing.to_dict() for name, timing in result.timings.items()}
        size = next(n for n in fit if result.winner and result.winner.name == f"batch={n}")
    return _with(replace(chosen, batch=size, streams=ask.streams or rule), refined=shown)


def _sizes(usual: int, streams: int, items: float) -> list[int]:
    """Batches to measure, the usual one first, as many as can be afforded when ``items`` can be run."""
    ranked = sorted({*BATCHES, usual}, key=lambda size: abs(math.log2(size / usual)))
    fit: list[int] = []
    for size in ranked:
        items -= size * ROUNDS
        if items < 0:
            break
        fit += [size] if size >= streams else []
    return fit


def _faster_call(
    chosen: Tuned, best: Loaded, usual: int, seconds: float, ask: Ask, pool: ThreadPoolExecutor
) -> Tuned:
    """All threads or one for a single item."""
    threads, shown = ask.cores, {}
    if seconds > 0 and ask.cores > 1:
        engines = {ask.cores: best, 1: again(best, ask, 1, 1)}
        _, length, (each,) = fitting(best.graph, seconds_per_item([best], ask), 1, seconds)
        feeds = feeds_of(best.graph, 1, ask, length)
        runners = [
            contestant(one, (n != ask.cores,), feeds, pool, None, each, f"threads={n}")
            for n, one in engines.items()
        ]
        result = contest(runners, seconds)
        shown = {name: timing.to_dict() for name, timing in result.timings.items()}
        threads = next(n for n in engines if result.winner and result.winner.name == f"threads={n}")
    return _with(replace(chosen, threads=threads, streams=ask.streams or 1), refined=shown)


def _first_rank(one: Loaded) -> tuple[Any, ...]:
    return (*one.form.rank, runtimes.RUNTIMES.index(one.runtime))


def _finite(value: float) -> float | str:
    return round(value, 2) if math.isfinite(value) else str(value)


def _with(tuned: Tuned, **evidence: Any) -> Tuned:
    return replace(tuned, evidence={**tuned.evidence, **evidence})


def _entry(tuned: Tuned) -> dict[str, Any]:
    own = {name: getattr(tuned, name) for name in ("runtime", "threads", "batch", "streams")}
    return {"form": tuned.form.name, "evidence": tuned.evidence, **own}


def _recalled(key: str, forms: Sequence[Form], maker: Maker, ask: Ask) -> Tuned | None:
    """An earlier answer to this very question, checked like any other input."""
    entry = tune_cache.get(key)
    if entry is None:
        return None
    form = next((form for form in forms if form.name == entry.get("form")), None)
    name, evidence = entry.get("runtime"), entry.get("evidence")
    numbers = [entry.get(part) for part in ("threads", "batch", "streams")]
    sane = all(n is None or (type(n) is int and 0 < n <= 65536) for n in numbers)
    if form is None or name not in form.runtimes(ask.target) or not sane or not isinstance(evidence, dict):
        tune_cache.ignored(key, "it names what is not to be chosen from")
        return None
    try:
        prepared = maker.make(form)
    except RubiccError as err:
        tune_cache.ignored(key, f"its form cannot be made: {err.what}")
        return None
    threads, batch, streams = numbers
    reason = f"{evidence.get('reason', '')} (measured here earlier)"
    said = {**evidence, "reason": reason, "cached": True}
    return Tuned(form, prepared, maker, str(name), threads, batch, streams, said)
