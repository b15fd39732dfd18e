"""Chooses form, runtime, batch, streams and threads by measuring them on this machine, within a time limit.

First every form in every runtime runs against the others (:mod:`~rubicc.backends.cpu_gpu.contest`), at the
largest batch the time allows; then the winner's batch and streams (for throughput) or threads (for latency).
Loading and judging come on top of the time limit. Where measurements cannot tell two candidates apart,
the simpler one is taken: fp32 before other precisions, plain before polyphase, ONNX Runtime before OpenVINO
before native, the usual batch before others.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rubicc.backends.base import Gate, Judgement, Prepared, Target
from rubicc.backends.cpu_gpu import description, runtimes, shapes, tune_cache
from rubicc.backends.cpu_gpu.contest import Contestant, Result, contest
from rubicc.backends.cpu_gpu.forms import Form, Maker, draft
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import RubiccError, ToolMissing, Unsupported, VerificationFailed
from rubicc.evidence import measure
from rubicc.ir.graph import Graph, spec_of

SECONDS = 3.0
FIRST_SHARE = 0.6  # of the time, for forms and runtimes; the rest is for batch, streams and threads
BATCHES = (8, 16, 32, 64)
UNJUDGED = Judgement(math.inf)


@dataclass(frozen=True)
class Ask:
    """What is fixed and what is to be found out.

    Attributes:
        runtime: ``auto`` or a name.
        threads, batch, streams: ``None`` = open.
        seconds: of measuring in all.
        objective: ``throughput`` or ``latency``; ``None`` = batch, streams and threads follow their rules.
        gate: judge of accuracy; ``None`` = nothing is judged.
        feeds: real input to measure with; ``None`` = seeded arrays.
        cache: what the choice depends on beside this ask, e.g. digests of inputs; ``None`` = no cache.
    """

    target: Target
    runtime: str = "auto"
    threads: int | None = None
    batch: int | None = None
    streams: int | None = None
    seconds: float = SECONDS
    objective: str | None = None
    gate: Gate | None = None
    feeds: Mapping[str, np.ndarray] | None = None
    cache: Mapping[str, Any] | None = None

    @property
    def cores(self) -> int:
        """Threads that are there to be used."""
        return self.threads or runner.cores()

    @property
    def refines(self) -> bool:
        """Whether batch, streams or threads are to be measured."""
        open_ones = {"throughput": (self.batch, self.streams), "latency": (self.threads,)}
        return self.target.name == "cpu" and None in open_ones.get(self.objective or "", ())

    def key(self, forms: Sequence[Form], graph: Graph) -> str:
        """Content hash of the question."""
        own = {name: getattr(self, name) for name in ("runtime", "threads", "batch", "streams", "objective")}
        names = {name: runtimes.missing(name) for name in runtimes.RUNTIMES}
        return tune_cache.key_of(
            model=description.digest(description.model_bytes(graph)),
            forms=[form.name for form in forms],
            target=str(self.target),
            runtimes=names,
            cores_used=self.cores,
            seconds=self.seconds,
            **own,
            **{f"cache_{key}": value for key, value in (self.cache or {}).items()},
        )


@dataclass(frozen=True)
class Tuned:
    """What was chosen, as options of ``plan`` that need no measuring, and what stands behind it."""

    form: Form
    prepared: Prepared
    runtime: str
    threads: int | None
    batch: int | None
    streams: int | None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Loaded:
    """A form in a runtime, ready to run."""

    form: Form
    runtime: str
    graph: Graph
    engine: Any
    streams: int
    name: str

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [str(value.name) for value in self.graph.outputs]
        return dict(zip(names, self.engine.infer(dict(feeds)), strict=True))


def tune(maker: Maker, forms: Sequence[Form], base: Graph, ask: Ask) -> Tuned:
    """Choose among ``forms`` of ``base`` and everything ``ask`` leaves open.

    Raises:
        VerificationFailed: RUB-CPU-051 nothing is accurate enough, with the reason of each.
        Unsupported: RUB-CPU-008 no runtime takes any form.
        ToolMissing: a runtime asked for is missing (RUB-CPU-009).
    """
    key = ask.key(forms, base) if ask.cache is not None else ""
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
    first = (ask.streams or ask.cores) if ask.objective == "throughput" else 1
    loaded = [one for form in forms for one in _load(maker, form, ask, first, refused, len(forms) == 1)]
    if not loaded:
        raise Unsupported(
            "RUB-CPU-008", "; ".join(refused.values()), hint="run `rubicc check` for the nodes behind this"
        )
    usual = ask.batch or shapes.default_batch(loaded[0].graph.meta)
    begin = time.perf_counter()
    share = ask.seconds * (FIRST_SHARE if ask.refines else 1.0) if len(loaded) > 1 else 0.0
    batch = 1 if ask.objective == "latency" else _affordable(loaded, usual, share) if share else first
    feeds = _feeds(loaded[0].graph, batch // first, ask)
    share = max(0.0, share - (time.perf_counter() - begin))
    runners = [_contestant(one, _first_rank(one), feeds, pool, ask.gate) for one in loaded]
    # The only candidate needs no measuring, and the proof of the emitted files judges it.
    alone = Result(runners[0], "the only candidate")
    result = contest(runners, share) if len(runners) > 1 else alone
    if result.winner is None:
        what = "; ".join(f"{name}: {why}" for name, why in result.rejected.items())
        raise VerificationFailed(
            "RUB-CPU-051", what[:800], hint="choose a higher --precision, or a lower --max-gap"
        )
    best = next(one for one in loaded if one.name == result.winner.name)
    evidence: dict[str, Any] = {
        "refused": refused,
        "reason": result.reason,
        "chosen": best.name,
        "rejected": result.rejected,
        "snr_db": {name: _finite(judged.snr_db) for name, judged in result.judged.items()},
    }
    if result.timings:
        evidence["measured"] = {
            "shapes": {name: [array.shape[0] * first, *array.shape[1:]] for name, array in feeds.items()},
            "planned_batch": usual,
            "timings": {name: timing.to_dict() for name, timing in result.timings.items()},
        }
    chosen = Tuned(
        best.form, maker.make(best.form), best.runtime, ask.threads, ask.batch, ask.streams, evidence
    )
    left = ask.seconds - (time.perf_counter() - begin)
    return _refined(chosen, best, usual, left, ask, pool) if ask.refines else chosen


def _load(
    maker: Maker, form: Form, ask: Ask, streams: int, refused: dict[str, str], alone: bool
) -> list[_Loaded]:
    """``form`` in every runtime that may and does take it."""
    names = form.runtimes(ask.target)
    names = tuple(
        n for n in names if ask.runtime in ("auto", n) and not (runtimes.missing(n) and ask.runtime == "auto")
    )
    if not names:
        return []
    try:
        graph = maker.make(form).graph
    except (VerificationFailed, Unsupported) as err:
        refused[form.name] = err.what
        return []
    model = description.model_bytes(graph)
    plan = draft(graph, form, ask.target, names, batch=ask.batch, threads=ask.threads, streams=ask.streams)
    data = description.description(graph, plan, model)
    if plan.static_shape:  # compiled when first run, so naming more shapes costs nothing
        data["openvino"]["static_shapes"] = [
            {name: [1 << power, *shape[1:]] for name, shape in plan.static_shape.items()}
            for power in range(7)
        ]
    found = []
    for name in names:
        label = name if alone else f"{name} {form.name}"
        try:
            engine = runner.ENGINES[name](model, data, ask.cores, streams)
        except runner.ArtefactError as err:
            if err.kind == "missing":
                raise ToolMissing(err.code, err.what, hint=err.hint) from err
            refused[label] = err.what
        else:
            found.append(_Loaded(form, name, graph, engine, streams, label))
    return found


def _affordable(loaded: Sequence[_Loaded], usual: int, seconds: float) -> int:
    """The largest power of two up to the usual batch with which the contest fits into the time."""
    one = shapes.example_feeds(*_bound(loaded[0].graph, 1))
    calls = {entry.name: functools.partial(entry.engine.infer, one) for entry in loaded}
    probe = measure.interleave(calls, 0.0, min_rounds=1)
    each = sorted(timing.best / entry.streams for entry, timing in zip(loaded, probe.values(), strict=True))
    # A warm-up and two rounds for all, a warm-up and three rounds for the two that remain.
    cost = 3 * sum(each) + 4 * sum(each[:2])
    fits = min(usual, max(1.0, seconds / cost))
    return max(loaded[0].streams, min(usual, 1 << int(math.log2(fits))))


def _refined(
    chosen: Tuned, best: _Loaded, usual: int, seconds: float, ask: Ask, pool: ThreadPoolExecutor
) -> Tuned:
    """Batch and streams, or threads, of the winner; by rule where the time is over."""
    latency = ask.objective == "latency"
    rule = (ask.cores, usual, 1) if latency else (ask.cores, usual, ask.streams or min(ask.cores, usual))
    table: dict[str, tuple[int, int, int]] = {}
    runners = []
    for threads, streams in _arrangements(ask, latency):
        engine = (
            best if (threads, streams) == (ask.cores, best.streams) else _again(best, ask, threads, streams)
        )
        each = _seconds_per_item(engine, ask)
        for batch in [1] if latency else _batches(ask, usual, streams, seconds / 4 / each):
            name = f"threads={threads}" if latency else f"batch={batch} streams={streams}"
            feeds = _feeds(best.graph, batch // streams, ask)
            table[name] = (threads, usual if latency else batch, streams)
            far = abs(math.log2(batch / usual)) if not latency else 0.0
            rank = (table[name] != rule, far, threads, streams)
            runners.append(_contestant(engine, rank, feeds, pool, None, name))
    result = contest(runners, seconds) if seconds > 0 and len(runners) > 1 else Result(None)
    threads, batch, streams = table[result.winner.name] if result.winner else rule
    chosen = replace(
        chosen,
        threads=threads if latency else ask.threads,
        batch=ask.batch or (None if latency else batch),
        streams=ask.streams or streams,
    )
    return _with(
        chosen,
        refined={name: timing.to_dict() for name, timing in result.timings.items()},
        refined_reason=result.reason or "no time or nothing to measure: by rule",
    )


def _arrangements(ask: Ask, latency: bool) -> list[tuple[int, int]]:
    """(threads, streams) to try."""
    if latency:
        return [(threads, 1) for threads in dict.fromkeys((ask.cores, 1))]
    every = [ask.streams] if ask.streams else dict.fromkeys((ask.cores, 1))
    return [(ask.cores, streams) for streams in every]


def _batches(ask: Ask, usual: int, streams: int, affordable: float) -> list[int]:
    every = [ask.batch] if ask.batch else sorted({*BATCHES, usual})
    fit = [batch for batch in every if batch >= streams and (batch <= affordable or batch == every[0])]
    return fit or [max(every[0], streams)]


def _again(best: _Loaded, ask: Ask, threads: int, streams: int) -> _Loaded:
    model = description.model_bytes(best.graph)
    plan = draft(best.graph, best.form, ask.target, (best.runtime,), batch=ask.batch)
    data = description.description(best.graph, plan, model)
    engine = runner.ENGINES[best.runtime](model, data, threads, streams)
    return replace(best, engine=engine, streams=streams)


def _seconds_per_item(engine: _Loaded, ask: Ask) -> float:
    feeds = _feeds(engine.graph, 1, ask)
    timing = measure.interleave({"": functools.partial(engine.engine.infer, feeds)}, 0.0, min_rounds=1)[""]
    return max(timing.best / engine.streams, 1e-6)


def _contestant(
    one: _Loaded,
    rank: tuple[Any, ...],
    feeds: dict[str, np.ndarray],
    pool: ThreadPoolExecutor,
    gate: Gate | None,
    name: str = "",
) -> Contestant:
    def call() -> None:
        if one.streams == 1:
            one.engine.infer(feeds)
            return
        for future in [pool.submit(one.engine.infer, feeds) for _ in range(one.streams)]:
            future.result()

    def judge() -> Judgement:
        return gate(one.form.precision, one.run) if gate is not None else UNJUDGED

    def leave() -> None:
        if not name:  # engines are shared between the contestants of the second contest
            one.engine = None

    items = next(iter(feeds.values())).shape[0] * one.streams
    return Contestant(name or one.name, rank, call, items, judge, leave)


def _first_rank(one: _Loaded) -> tuple[Any, ...]:
    return (*one.form.rank, runtimes.RUNTIMES.index(one.runtime))


def _bound(graph: Graph, batch: int) -> tuple[list[Any], dict[str, int]]:
    inputs = [spec_of(value) for value in graph.inputs]
    return inputs, shapes.sizes(inputs, graph.meta, max(1, batch))


def _feeds(graph: Graph, batch: int, ask: Ask) -> dict[str, np.ndarray]:
    return dict(ask.feeds) if ask.feeds is not None else shapes.example_feeds(*_bound(graph, batch))


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
    return Tuned(form, prepared, str(name), threads, batch, streams, {**evidence, "cached": True})
