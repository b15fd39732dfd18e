"""Loaded models as contestants: what the tuner measures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rubicc.backends.base import Gate, Judgement, Target
from rubicc.backends.cpu_gpu import description, engines, runtimes, shapes, tune_cache
from rubicc.backends.cpu_gpu.contest import FINAL_ROUNDS, FINALISTS, HALVING_ROUNDS, Contestant
from rubicc.backends.cpu_gpu.forms import Form, Maker, draft
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import ToolMissing, Unsupported, VerificationFailed
from rubicc.ir.graph import Graph, spec_of

SECONDS = 3.0
SHORT = 3600  # positions; time per position hardly depends on the length beyond
FULL_LENGTH_FROM = 4  # batch items: below, more and shorter items say more
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

    def key(self, forms: Sequence[Form], model: bytes) -> str:
        """Content hash of the question."""
        own = {name: getattr(self, name) for name in ("runtime", "threads", "batch", "streams", "objective")}
        names = {name: runtimes.missing(name) for name in runtimes.RUNTIMES}
        return tune_cache.key_of(
            model=description.digest(model),
            forms=[form.name for form in forms],
            target=str(self.target),
            runtimes=names,
            cores_used=self.cores,
            seconds=self.seconds,
            **own,
            **{f"cache_{key}": value for key, value in (self.cache or {}).items()},
        )


@dataclass(eq=False)
class Loaded:
    """A form in a runtime, ready to run. ``name`` is unique among all that are loaded."""

    form: Form
    runtime: str
    graph: Graph
    model: bytes
    engine: Any
    streams: int
    name: str

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        names = [str(value.name) for value in self.graph.outputs]
        return dict(zip(names, self.engine.infer(dict(feeds)), strict=True))


def load(
    maker: Maker, form: Form, ask: Ask, streams: int, refused: dict[str, str], alone: bool
) -> list[Loaded]:
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
    model = maker.bytes_of(graph)
    plan = draft(graph, form, ask.target, names, batch=ask.batch, threads=ask.threads, streams=ask.streams)
    data = description.description(graph, plan, model)
    if plan.static_shape:  # compiled when first run, so naming more shapes costs nothing
        data["openvino"]["static_shapes"] = [
            shapes.bound_shapes(*_bound(graph, 1 << power, length))
            for power in range(7)
            for length in dict.fromkeys((None, short_length(graph)))
        ]
    found = []
    for name in names:
        label = name if alone else f"{name} {form.name}"
        try:
            engine = runner.ENGINES[name](model, data, ask.cores, streams)
        except runner.ArtefactError as err:
            if err.kind == "missing" and name in (ask.runtime, *(names if len(names) == 1 else ())):
                raise ToolMissing(err.code, err.what, hint=err.hint) from err
            refused[label] = err.what
        else:
            found.append(Loaded(form, name, graph, model, engine, streams, label))
    return found


def again(best: Loaded, ask: Ask, threads: int, streams: int) -> Loaded:
    """The same with other threads and streams."""
    data = _data(best, ask)
    engine = runner.ENGINES[best.runtime](best.model, data, threads, streams)
    return replace(best, engine=engine, streams=streams)


def hand_over(one: Loaded, ask: Ask) -> None:
    """Let the plan use an engine with one stream instead of loading the same again."""
    engines.keep(one.engine, one.runtime, one.model, _data(one, ask), ask.cores, 1)


def _data(one: Loaded, ask: Ask) -> dict[str, Any]:
    plan = draft(one.graph, one.form, ask.target, (one.runtime,), batch=ask.batch)
    return description.description(one.graph, plan, one.model)


def seconds_per_item(loaded: Sequence[Loaded], ask: Ask) -> list[float]:
    """A first guess, from calls with one short batch item each."""
    feeds = feeds_of(loaded[0].graph, 1, ask, short_length(loaded[0].graph))
    items = next(iter(feeds.values())).shape[0]
    long = ask.seconds / (2 * len(loaded))
    return [max(_once(one, feeds, long) / one.streams / items, 1e-6) for one in loaded]


def _once(one: Loaded, feeds: dict[str, np.ndarray], long: float) -> float:
    """Seconds of the second call (the first one compiles), or of the first where that took ``long``."""
    took = math.inf
    for _ in range(2):
        start = time.perf_counter()
        one.engine.infer(feeds)
        took = min(took, time.perf_counter() - start)
        if took > long:
            break
    return took


def affordable(each: Sequence[float], usual: int, seconds: float) -> int:
    """The largest power of two up to ``usual`` with which a contest of these fits into the time, or 1."""
    ranked = sorted(each)
    cost = (1 + HALVING_ROUNDS) * 2 * sum(ranked) + (1 + FINAL_ROUNDS) * sum(ranked[:FINALISTS])
    if len(ranked) <= FINALISTS:
        cost = (1 + FINAL_ROUNDS) * sum(ranked)
    return min(usual, 1 << int(math.log2(max(1.0, seconds / cost))))


def fitting(
    graph: Graph, each: Sequence[float], usual: int, seconds: float
) -> tuple[int, int | None, list[float]]:
    """Batch and length (``None`` = the chunk's) that fit into the time, and the seconds of such items.

    Args:
        each: of :func:`seconds_per_item`, for short items.
    """
    short = short_length(graph)
    if short is None or graph.meta is None or graph.meta.chunk is None:
        return affordable(each, usual, seconds), None, list(each)
    whole = [one * graph.meta.chunk / short for one in each]
    batch = affordable(whole, usual, seconds)
    if batch >= min(usual, FULL_LENGTH_FROM):
        return batch, None, whole
    return affordable(each, usual, seconds), short, list(each)


def contestant(
    one: Loaded,
    rank: tuple[Any, ...],
    feeds: dict[str, np.ndarray],
    pool: Executor,
    gate: Gate | None,
    each: float,
    name: str = "",
) -> Contestant:
    """``one`` with ``feeds`` for each of its streams; under a ``name`` of its own it keeps its engine.

    Args:
        each: seconds per batch item at a guess.
    """

    def call() -> None:
        if one.streams == 1:
            one.engine.infer(feeds)
            return
        for future in [pool.submit(one.engine.infer, feeds) for _ in range(one.streams)]:
            future.result()

    def judge() -> Judgement:
        return gate(one.form.precision, one.run) if gate is not None else UNJUDGED

    def leave() -> None:
        if not name:
            one.engine = None

    items = next(iter(feeds.values())).shape[0] * one.streams
    return Contestant(name or one.name, rank, call, items, judge, leave, expected=each * items)


def short_length(graph: Graph) -> int | None:
    """A length that stands for longer chunks where those take too long; ``None`` = the chunk is short."""
    chunk = graph.meta.chunk if graph.meta is not None else None
    return SHORT if chunk is not None and chunk > 1.5 * SHORT else None


def _bound(graph: Graph, batch: int, length: int | None = None) -> tuple[list[Any], dict[str, int]]:
    inputs = [spec_of(value) for value in graph.inputs]
    return inputs, shapes.sizes(inputs, graph.meta, max(1, batch), length)


def feeds_of(graph: Graph, batch: int, ask: Ask, length: int | None = None) -> dict[str, np.ndarray]:
    """Input of one call: seeded, with ``length`` (default: the model's chunk), or what was given."""
    if ask.feeds is not None:
        return dict(ask.feeds)
    return shapes.example_feeds(*_bound(graph, batch, length))
