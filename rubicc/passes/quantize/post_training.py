"""Post-training quantisation of a float graph, from calibration to corrected, quantised graph.

Float stay, as is usual: products that read the network's input, and the last one before its output; both cost
little and their errors count most. ``gate_db`` turns on islands: products kept in float, the worst first,
until
the output keeps that signal-to-noise ratio on the calibration data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.quantize import bias_correction, insert
from rubicc.passes.quantize.observers import METHODS, Observer, unsigned_format
from rubicc.passes.rewrite import is_standard

Feeds = Mapping[str, np.ndarray]
CALIBRATION_ITEMS, ISLAND_SECONDS = 4, 60.0
SILENT_DB = 200.0


@dataclass(frozen=True)
class Options:
    """How to quantise.

    Attributes:
        method: range of activations: ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        percentile: for ``percentile``.
        bias_correction: take the mean error of rounded weights out of the bias.
        keep_ends: leave the first products and the last one in float.
        quantise_outputs: also round the results of quantised products, which ONNX Runtime's integer kernels
            need.
        recurrent: round weights of GRU and LSTM to int8 per row.
        seconds: for finding islands.
    """

    method: str = "mse"
    percentile: float = 99.99
    bias_correction: bool = True
    keep_ends: bool = True
    quantise_outputs: bool = False
    recurrent: bool = True
    seconds: float = ISLAND_SECONDS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: {', '.join(METHODS)}")


@dataclass(frozen=True)
class Quantised:
    """A quantised graph (QONNX), what was decided, and figures (with times: never hashed)."""

    graph: Graph
    decisions: tuple[Decision, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)


def quantise(
    graph: Graph, feeds: Sequence[Feeds], *, gate_db: float | None = None, options: Options | None = None
) -> Quantised:
    """Quantise a copy of ``graph``.

    Args:
        feeds: calibration inputs; at most ``CALIBRATION_ITEMS`` batch items of them are run.
        gate_db: keep products in float until the output's SNR on the first item reaches this.

    Raises:
        ValueError: no calibration data.
    """
    options = options or Options()
    items = _items(feeds)
    if not items:
        raise ValueError("post-training quantisation needs calibration data")
    began = time.perf_counter()
    candidates = products(graph, keep_ends=options.keep_ends)
    observers = observe(graph, candidates, items, outputs=options.quantise_outputs)
    formats = {
        name: _plain(unsigned_format(seen, options.method, options.percentile))
        for name, seen in observers.items()
    }
    kept: list[ir.Node] = []
    made = _build(graph, candidates, kept, formats, observers, options)
    reference = execute(graph, dict(items[0]))
    snr = _snr(reference, execute(made, dict(items[0])))
    first = snr
    noise: dict[str, float] = {}
    if gate_db is not None and snr < gate_db:
        noise = sensitivity(graph, candidates, items[0], formats, observers, options)
        for name in sorted(noise, key=lambda name: -noise[name]):
            kept.append(next(node for node in candidates if node.name == name))
            made = _build(graph, candidates, kept, formats, observers, options)
            snr = _snr(reference, execute(made, dict(items[0])))
            if snr >= gate_db:
                break
    decisions = [
        Decision(
            "RUB-PASS-D04",
            source_of(node),
            "kept in float",
            f"alone it leaves {_db(noise[node.name or '']):.0f} dB; everything in int8 left {first:.1f} dB",
        )
        for node in kept
    ]
    count = len(candidates) - len(kept)
    evidence = {
        "snr_db": round(float(snr), 2),
        "products": count,
        "islands": len(kept),
        "method": options.method,
        "calibration_items": len(items),
        "noise_db": {name: round(_db(value), 1) for name, value in noise.items()},
        "seconds": round(time.perf_counter() - began, 2),
    }
    return Quantised(made, tuple(decisions), evidence)


def products(graph: Graph, *, keep_ends: bool) -> list[ir.Node]:
    """Products that may be quantised, in graph order."""
    found = [n for n in graph.nodes if is_standard(n, *insert.PRODUCTS) and insert.quantisable(n)]
    if not keep_ends or not found:
        return found
    inputs = set(graph.inputs)
    return [node for node in found[:-1] if node.inputs[0] not in inputs]


def observe(
    graph: Graph, nodes: Sequence[ir.Node], items: Sequence[Feeds], *, outputs: bool
) -> dict[str, Observer]:
    """Run the items in turn and watch the inputs (and ``outputs``) of ``nodes``, by value name."""
    axes: dict[str, int] = {}
    for node in nodes:
        axis = 1 if node.op_type == "Conv" else -1
        for value in (node.inputs[0], *(_joined(node) if outputs else ())):
            if value is not None and value.name:
                axes[value.name] = axis
    observers = {name: Observer(axis) for name, axis in axes.items()}
    for item in items:
        seen = execute(graph, dict(item), keep=list(axes))
        for name, observer in observers.items():
            observer.see(seen[name])
    return observers


def sensitivity(
    graph: Graph,
    nodes: Sequence[ir.Node],
    item: Feeds,
    formats: Mapping[str, tuple[float, int]],
    observers: Mapping[str, Observer],
    options: Options,
) -> dict[str, float]:
    """Noise over signal at the output when only this product is quantised, by node name.

    Measured in graph order as long as ``options.seconds`` last; what was not reached is not in the result.
    """
    reference = execute(graph, dict(item))
    began, found = time.perf_counter(), {}
    for node in nodes:
        if time.perf_counter() - began > options.seconds:
            break
        alone = [other for other in nodes if other is not node]
        one = _build(graph, nodes, alone, formats, observers, options)
        found[node.name or ""] = 10.0 ** (-_snr(reference, execute(one, dict(item))) / 10.0)
    return found


def _build(
    graph: Graph,
    nodes: Sequence[ir.Node],
    kept: Sequence[ir.Node],
    formats: Mapping[str, tuple[float, int]],
    observers: Mapping[str, Observer],
    options: Options,
) -> Graph:
    """A copy in which ``nodes`` less ``kept`` are quantised."""
    out = {node.name for node in nodes} - {node.name for node in kept}
    copy = graph.clone()
    chosen = [node for node in copy.nodes if node.name in out]
    names = {v.name for node in chosen if (v := node.inputs[0]) is not None and v.name is not None}
    wanted = {name: formats[name] for name in names if name in formats}
    skip = {node.name for node in copy.nodes if node.name not in out}
    if options.bias_correction:
        means = {n: observers[n].mean for n in wanted}
        bias_correction.CorrectBias(bias_correction.BiasOptions(means, frozenset(skip))).run(copy)
    rounded = {}
    if options.quantise_outputs:
        joined = {v.name for node in chosen for v in _joined(node) if v.name is not None}
        rounded = {name: formats[name] for name in joined if name in formats and name not in wanted}
    insert.InsertQuantisers(
        insert.InsertOptions(wanted, rounded, options.recurrent, frozenset(skip - _recurrent_names(copy)))
    ).run(copy)
    return copy


def _recurrent_names(graph: Graph) -> set[str | None]:
    return {node.name for node in graph.nodes if is_standard(node, *insert.RECURRENT)}


def _joined(node: ir.Node) -> tuple[ir.Value, ...]:
    """A product's result, and the sum it goes into."""
    out = node.outputs[0]
    sums = [use.node.outputs[0] for use in out.uses() if is_standard(use.node, "Add")]
    return (out, *sums)


def _items(feeds: Sequence[Feeds]) -> list[Feeds]:
    """Single batch items, taken in turns from the arrays."""
    found: list[Feeds] = []
    for feed in feeds:
        count = min(array.shape[0] for array in feed.values())
        found += [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]
    step = max(1, len(found) // CALIBRATION_ITEMS)
    return found[::step][:CALIBRATION_ITEMS]


def _plain(pair: tuple[np.float32, int]) -> tuple[float, int]:
    return float(pair[0]), pair[1]


def _snr(reference: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> float:
    """Smallest SNR over the outputs, in dB."""
    worst = SILENT_DB
    for name, ref in reference.items():
        signal = float(np.square(ref.astype(np.float64)).sum())
        error = float(np.square(got[name].astype(np.float64) - ref).sum())
        if error > 0:
            worst = min(worst, float(10.0 * np.log10(max(signal, 1e-300) / error)))
    return worst


def _db(noise: float) -> float:
    return float(-10.0 * np.log10(max(noise, 1e-20)))
