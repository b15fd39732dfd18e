"""Post-training quantisation of a float graph, from calibration to corrected, quantised graph.

Float stay, as is usual: products that read the network's input, and the last one before its output; both
cost little and their errors count most. ``gate_db`` turns on islands: products kept in float until the output
keeps that signal-to-noise ratio on the calibration data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.quantize import bias_correction, bias_grid, equalise, insert, islands, round_weights
from rubicc.passes.quantize.observers import METHODS, Observer, unsigned_format
from rubicc.passes.rewrite import Editor, constant, is_standard

Feeds = Mapping[str, np.ndarray]
CALIBRATION_ITEMS, ISLAND_SECONDS = 4, 60.0


@dataclass(frozen=True)
class Options:
    """How to quantise.

    Attributes:
        method: range of activations: ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        percentile: for ``percentile``.
        equalise: move scale between channels and the weights that read them first (the same float network).
        bias_correction: take the mean error of rounded weights out of the bias.
        rounding: of weights: ``nearest``, ``optimised`` (the product changes least), or ``auto``: optimised
            where the nearest misses the accuracy asked for.
        keep_ends: leave the first products and the last one in float.
        quantise_outputs: also round the results of quantised products, which ONNX Runtime's integer kernels
            need.
        recurrent: of GRU and LSTM, round ``weights`` to int8 per row, ``inputs`` too, or ``none``.
        seconds: for finding islands.
    """

    method: str = "mse"
    percentile: float = 99.99
    equalise: bool = True
    bias_correction: bool = True
    rounding: Literal["auto", "nearest", "optimised"] = "auto"
    keep_ends: bool = True
    quantise_outputs: bool = False
    recurrent: insert.Recurrence = "weights"
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
    items = single_items(feeds, graph)
    if not items:
        raise ValueError("post-training quantisation needs calibration data")
    began = time.perf_counter()
    trial = _Trial(graph.clone(), items, options)
    if options.rounding == "optimised":
        trial.optimise_rounding()
    first = snr = trial.snr(())
    if gate_db is not None and snr < gate_db and options.rounding == "auto":
        trial.optimise_rounding()
        snr = trial.snr(())
    noise: dict[str, float] = {}
    kept: list[str] = []
    if gate_db is not None and snr < gate_db:
        noise = islands.sensitivity(trial.snr, list(trial.nodes), options.seconds)
        macs = islands.multiplications(trial.base, items[0])
        kept, snr = islands.choose(noise, macs, gate_db, trial.snr)
    made = trial.build(kept)
    evidence = {
        "snr_db": round(snr, 2),
        "products": len(trial.nodes) - len(kept),
        "islands": len(kept),
        "method": options.method,
        "rounding": "optimised" if trial.better else "nearest",
        "calibration_items": len(items),
        "noise_db": {name: round(islands.decibel_of(value), 1) for name, value in noise.items()},
        "layers_db": trial.layers(made),
        "ranges": trial.ranges(),
        "seconds": round(time.perf_counter() - began, 2),
    }
    return Quantised(made, tuple(trial.decisions(kept, noise, first)), evidence)


class _Trial:
    """One float graph, what calibration saw in it, and variants of it in int8."""

    def __init__(self, base: Graph, items: Sequence[Feeds], options: Options) -> None:
        self.base, self.items, self.options = base, items, options
        if options.equalise:
            _equalise(base, items)
        found = products(base, keep_ends=options.keep_ends)
        self.nodes = {node.name or "": node for node in found}
        watched = [*found, *(layers_of(base) if options.recurrent == "inputs" else ())]
        self.observers = observe(base, watched, items, outputs=options.quantise_outputs)
        self.formats = {
            name: _plain(unsigned_format(seen, options.method, options.percentile))
            for name, seen in self.observers.items()
        }
        self.results = {name: node.outputs[0].name or "" for name, node in self.nodes.items()}
        self.reference = execute(base, dict(items[0]), keep=list(self.results.values()))
        self.better: dict[str, list[np.ndarray | None]] = {}  # weights and bias by product

    def optimise_rounding(self) -> None:
        """From now on products get weights rounded so that their results change least."""
        names = {x.name or "" for node in self.nodes.values() if (x := node.inputs[0]) is not None}
        seen = [execute(self.base, dict(item), keep=list(names)) for item in self.items]
        inputs = {name: [arrays[name] for arrays in seen] for name in names}
        skip = frozenset({n.name for n in self.base.nodes} - set(self.nodes))
        copy = self.base.clone()
        round_weights.RoundWeights(round_weights.RoundOptions(inputs, skip=skip)).run(copy)
        self.better = {
            n.name or "": [constant(v) for v in n.inputs[1:]] for n in copy.nodes if n.name in self.nodes
        }

    def build(self, kept: Sequence[str]) -> Graph:
        """A copy in which all products but ``kept`` are quantised."""
        copy, options = self.base.clone(), self.options
        chosen = [n for n in copy.nodes if n.name in self.nodes and n.name not in kept]
        layers = layers_of(copy) if options.recurrent != "none" else []
        names = {x.name or "" for node in [*chosen, *layers] if (x := node.inputs[0]) is not None}
        wanted = {name: self.formats[name] for name in names if name in self.formats}
        skip = frozenset({n.name for n in copy.nodes} - {n.name for n in [*chosen, *layers]})
        _replace_weights(copy, chosen, self.better)
        if options.bias_correction:
            means = {name: self.observers[name].mean for name in wanted}
            bias_correction.CorrectBias(bias_correction.BiasOptions(means, skip)).run(copy)
        rounded = {}
        if options.quantise_outputs:
            joined = {value.name or "" for node in chosen for value in _joined(node)}
            rounded = {n: self.formats[n] for n in joined if n in self.formats and n not in wanted}
        insert.InsertQuantisers(insert.InsertOptions(wanted, rounded, options.recurrent, skip)).run(copy)
        bias_grid.RoundBias().run(copy)
        return copy

    def snr(self, kept: Sequence[str]) -> float:
        """Smallest SNR over the outputs for the first item, in dB."""
        got = execute(self.build(kept), dict(self.items[0]))
        return min(islands.snr_db(self.reference[name], array) for name, array in got.items())

    def layers(self, made: Graph) -> dict[str, float]:
        """SNR of every product's own result in ``made``, in dB."""
        got = execute(made, dict(self.items[0]), keep=list(self.results.values()))
        return {
            name: round(islands.snr_db(self.reference[value], got[value]), 1)
            for name, value in self.results.items()
        }

    def ranges(self) -> dict[str, list[float]]:
        """Extremes seen, scale and zero point by value."""
        return {
            name: [seen.low, seen.high, *self.formats[name]] for name, seen in sorted(self.observers.items())
        }

    def decisions(self, kept: Sequence[str], noise: Mapping[str, float], first: float) -> list[Decision]:
        """One for each island."""
        return [
            Decision(
                "RUB-PASS-D04",
                source_of(self.nodes[name]),
                "kept in float",
                f"in int8 alone it leaves {islands.decibel_of(noise[name]):.0f} dB; "
                f"everything in int8 left {first:.1f} dB",
            )
            for name in kept
        ]


def products(graph: Graph, *, keep_ends: bool) -> list[ir.Node]:
    """Products that may be quantised, in graph order."""
    found = [n for n in graph.nodes if is_standard(n, *insert.PRODUCTS) and insert.quantisable(n)]
    if not keep_ends or not found:
        return found
    inputs = set(graph.inputs)
    return [node for node in found[:-1] if node.inputs[0] not in inputs]


def layers_of(graph: Graph) -> list[ir.Node]:
    """GRUs and LSTMs that may be quantised."""
    return [n for n in graph.nodes if is_standard(n, *insert.RECURRENT) and insert.recurrent_float(n)]


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


def _equalise(graph: Graph, items: Sequence[Feeds]) -> None:
    between = [pair.second for pair in equalise.pairs(graph)]
    if between:
        seen = observe(graph, between, items, outputs=False)
        peaks = {name: observer.peaks for name, observer in seen.items()}
        equalise.Equalise(equalise.EqualiseOptions(peaks)).run(graph)


def _replace_weights(
    graph: Graph, nodes: Sequence[ir.Node], better: Mapping[str, Sequence[np.ndarray | None]]
) -> None:
    edit = Editor(graph, round_weights.RoundWeights.id)
    for node in nodes:
        for index, array in enumerate(better.get(node.name or "", ()), 1):
            if array is None:
                continue
            if len(node.inputs) <= index:
                node.resize_inputs(index + 1)
            node.replace_input_with(index, edit.initializer(f"{node.name}_rounded{index}", array))


def _joined(node: ir.Node) -> tuple[ir.Value, ...]:
    """A product's result, and the sum it goes into."""
    out = node.outputs[0]
    sums = [use.node.outputs[0] for use in out.uses() if is_standard(use.node, "Add")]
    return (out, *sums)


def single_items(feeds: Sequence[Feeds], graph: Graph) -> list[Feeds]:
    """Single batch items, taken in turns from the arrays; whole batches where inputs are fixed to them."""
    firsts = [value.shape[0] for value in graph.inputs if value.shape]
    if any(isinstance(first, int) and first > 1 for first in firsts):
        return list(feeds)[:CALIBRATION_ITEMS]
    found: list[Feeds] = []
    for feed in feeds:
        count = min(array.shape[0] for array in feed.values())
        found += [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]
    step = max(1, len(found) // CALIBRATION_ITEMS)
    return found[::step][:CALIBRATION_ITEMS]


def _plain(pair: tuple[np.float32, int]) -> tuple[float, int]:
    return float(pair[0]), pair[1]
