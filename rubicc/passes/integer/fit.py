"""Post-training quantisation to integers with power-of-two scales: calibration, formats, integer graph."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from rubicc.errors import Unsupported
from rubicc.evidence.decision import Decision
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.integer import fit_block, fit_cell, strip
from rubicc.passes.integer.block_bodies import BLOCK_KEY, Attention, AttentionSpec, NormSpec, read_float
from rubicc.passes.integer.bodies import is_reversed
from rubicc.passes.integer.cells import Spec, Weights, read_weights
from rubicc.passes.integer.formats import BLOCK, Format, fit, fit_weight
from rubicc.passes.integer.legalise import Legalise
from rubicc.passes.integer.place import Place, PlaceOptions, index_form
from rubicc.passes.integer.stages import (
    Stage,
    Stages,
    bias_of,
    origin,
    output_axis,
    stages,
    weight_of,
    weight_taps,
)
from rubicc.passes.integer.tables import function_at
from rubicc.passes.quantize import equalise, islands
from rubicc.passes.quantize.observers import Observer
from rubicc.passes.quantize.post_training import Feeds, Quantised, single_items
from rubicc.passes.quantize.round_weights import as_rows, compensated, from_rows, multiplied
from rubicc.passes.rewrite import Editor

EQUALISE_ITEMS = 2  # largest values per channel need fewer examples than formats
ACCUMULATOR = 2.0**31
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Options:
    """Widths and methods.

    Attributes:
        bits: of values between products, 8 or 16.
        weight_bits: 4, 8 or 16.
        entry_bits: of what comes from outside.
        exit_bits: of results that the host reads.
        argument_bits: of values that only functions (tables) read.
        state_bits: of a recurrent state where it is multiplied, 8 or 16; the state itself has 16.
        own_widths: widths of the model's own quantisers count for more than ``bits`` and ``weight_bits``.
        equalise: move scale between channels and the weights that read them first.
        rounding: of weights; ``nearest`` takes the mean error out of the bias, ``optimised`` lets weights
            still to come make up for each one's error (minutes for millions of weights).
    """

    bits: int = 8
    weight_bits: int = 8
    entry_bits: int = 8
    exit_bits: int = 16
    argument_bits: int = 16
    state_bits: int = 16
    own_widths: bool = True
    equalise: bool = True
    rounding: Literal["nearest", "optimised"] = "nearest"


def quantise(graph: Graph, feeds: Sequence[Feeds], options: Options | None = None) -> Quantised:
    """An integer-only copy of a float graph (batch norms fused, ``integer.strip`` run if it had quantisers).

    Args:
        feeds: calibration inputs.

    Raises:
        ValueError: no calibration data.
        Unsupported: ``RUB-PASS-030/031``.
    """
    began = time.perf_counter()
    items = single_items(feeds, graph)
    if not items:
        raise ValueError("integer quantisation needs calibration data")
    fitted = _Fit(graph.clone(), items, options or Options())
    placed = fitted.placed()
    made = placed.clone()
    Legalise().run(made)
    reference, got = fitted.reference, execute(made, dict(items[0]), dtype=np.float64)
    evidence: dict[str, Any] = {
        "snr_db": round(min(islands.snr_db(reference[name], got[name]) for name in reference), 2),
        "stages": len(fitted.stages.found),
        "host": sorted({node.op_type for node in fitted.stages.host}),
        "calibration_items": len(items),
        "formats": {name: list(vars(form).values()) for name, form in sorted(fitted.formats.items())},
        "seconds": round(time.perf_counter() - began, 2),
    }
    return Quantised(made, tuple(fitted.decisions), evidence)


def on_grids(graph: Graph, feeds: Sequence[Feeds], options: Options | None = None) -> Graph:
    """A copy of a float graph with every value and weight rounded to powers of two, still in float.

    :func:`quantise` makes an integer-only graph of it that computes the same numbers.
    """
    return _Fit(graph.clone(), single_items(feeds, graph), options or Options()).placed()


class _Fit:
    """A float graph, what calibration saw in it, and the formats that follow."""

    def __init__(self, graph: Graph, items: Sequence[Feeds], options: Options) -> None:
        self.graph, self.options, self.items = graph, options, items
        self.decisions: list[Decision] = []
        if options.equalise:
            _equalise(graph, items)
        self.stages: Stages = stages(graph)
        self.readers = _readers(self.stages)
        self.reference: dict[str, np.ndarray] = {}  # the float graph's outputs on the first item
        self.multiplied: list[dict[str, np.ndarray]] = []  # what optimised rounding looks at, by item
        self.recurrent: dict[str, list[fit_cell.Seen]] = {}
        self.seen = self._observe()
        self.formats: dict[str, Format] = {}
        self.held: dict[str, fit_cell.Held] = {}
        self.cells: dict[str, Spec] = {}
        self.blocks: dict[str, NormSpec | AttentionSpec] = {}
        self.exponents: dict[str, tuple[tuple[int, ...], int]] = {}
        self.widened: dict[tuple[str, int, int], int] = {}
        self._choose()
        for (what, asked, given), count in sorted(self.widened.items()):
            told = f"{count} tensors of {what} of {asked} bits computed with {given}"
            self.decisions.append(Decision("RUB-PASS-D42", "model", told, "the array has no narrower type"))

    def placed(self) -> Graph:
        """The graph with rounded weights and power-of-two quantisers."""
        values = {name: (form.exponent, form.bits, form.signed) for name, form in self.formats.items()}
        Place(PlaceOptions(values, self.exponents, self.cells, self.blocks)).run(self.graph)
        return self.graph

    def _observe(self) -> dict[str, Observer]:
        """Entries and results on the calibration data."""
        names = [v.name or "" for v in self.stages.entries] + [s.result.name or "" for s in self.stages.found]
        observers = {name: Observer(1) for name in names}
        read = [s.inputs[0].name or "" for s in self.stages.found if s.kind == "product"]
        read = read if self.options.rounding == "optimised" else []
        for item in self.items:
            arrays = dict(item) | execute(self.graph, dict(item), keep={*names, *read})
            self.multiplied.append({name: arrays[name] for name in read})
            if not self.reference:
                self.reference = {v.name or "": arrays[v.name or ""] for v in self.graph.outputs}
            for name, observer in observers.items():
                observer.see(np.asarray(arrays[name]))
            for stage in self.stages.found:
                if stage.kind == "cell":
                    gates, states = (
                        arrays[origin(stage.inputs[0]).name or ""],
                        arrays[stage.result.name or ""],
                    )
                    one = fit_cell.Seen(gates, states, is_reversed(stage.node))
                    self.recurrent.setdefault(stage.node.name or "", []).append(one)
        return observers

    def _choose(self) -> None:
        """Formats in graph order: a result's must not be finer than the sums it is rounded from."""
        for value in self.stages.entries:
            self.formats[value.name or ""] = self._format(value, self._entry_bits(value))
        for stage in self.stages.found:
            form = self._format(stage.result, self._result_bits(stage))
            if any(_is_attention(reader) for reader in self.readers.get(stage.result, [])):
                seen = self.seen[stage.result.name or ""]
                form = fit(seen.samples(), seen.low, seen.high, form.bits, signed=True)
            cell = next((s for s in self.readers.get(stage.result, []) if s.kind == "cell"), None)
            if cell is not None:
                form = self._gates(cell)
            elif form.bits == self.options.argument_bits and self._feeds_functions(stage):
                form = self._argument(stage, form)
            if stage.kind == "product":
                finest = self._weights(stage)
                if finest > form.exponent:
                    what = f"step 2**{finest} instead of 2**{form.exponent}"
                    self._decide("RUB-PASS-D41", stage, what, "its sums have no finer steps")
                    form = Format(finest, form.bits, form.signed)
            elif stage.kind == "sum":
                inputs = [self.formats[origin(value).name or ""].exponent for value in stage.inputs]
                form = Format(max(form.exponent, min(inputs)), form.bits, form.signed)
            elif stage.kind == "cell":
                form = self._cell(stage, form.bits)
            elif stage.kind == "block":
                form = self._block(stage, form)
            self.formats[stage.result.name or ""] = form

    def _gates(self, cell: Stage) -> Format:
        """The grid of what a cell reads, and its recurrent weights."""
        weights, name = self._cell_weights(cell), cell.node.name or ""
        bits = (self.options.weight_bits, self.options.state_bits)
        seen = self.recurrent[name] if self.options.rounding == "optimised" else ()
        held = fit_cell.held(weights, *bits, seen)
        self.held[name] = held
        return Format(fit_cell.gate_exponent(weights, held, self.recurrent[name]), 16)

    def _cell(self, stage: Stage, bits: int) -> Format:
        seen, name = self.seen[stage.result.name or ""], stage.node.name or ""
        form = fit(seen.samples(), seen.low, seen.high, bits, signed=True)
        form = Format(max(form.exponent, -fit_cell.POINT), bits)
        entry = self.formats[origin(stage.inputs[0]).name or ""]
        if name not in self.held or entry.bits != 16:
            raise Unsupported(
                "RUB-PASS-030", "a recurrent cell reads what no linear layer made",
                where=source_of(stage.node), hint="run integer.recurrence first",
            )  # fmt: skip
        weights, seen_cell = self._cell_weights(stage), self.recurrent[name]
        self.cells[name] = fit_cell.spec_of(weights, self.held[name], seen_cell, entry, form)
        return form

    def _block(self, stage: Stage, form: Format) -> Format:
        block, entry = read_float(stage.node), self.formats[origin(stage.inputs[0]).name or ""]
        if block is None:
            raise Unsupported(
                "RUB-PASS-030", "a Scan is marked as a block of a sequence and its body is none",
                where=source_of(stage.node), hint="compile the model itself again",
            )  # fmt: skip
        made, form = fit_block.spec_of(block, entry, form)
        self.blocks[stage.node.name or ""] = made
        return form

    def _cell_weights(self, stage: Stage) -> Weights:
        weights = read_weights(stage.node)
        if weights is None:
            raise Unsupported(
                "RUB-PASS-030", "a Scan is marked as a recurrent cell and its body is none",
                where=source_of(stage.node), hint="compile the model itself again",
            )  # fmt: skip
        return weights

    def _feeds_functions(self, stage: Stage) -> bool:
        readers = self.readers.get(stage.result, [])
        return bool(readers) and all(reader.kind == "function" for reader in readers)

    def _argument(self, stage: Stage, covering: Format) -> Format:
        """The format with which functions of the value come out best (no range where they are flat)."""
        seen = self.seen[stage.result.name or ""].samples()[::8].astype(np.float64)
        readers = self.readers[stage.result]
        exact = [function_at(self.graph, reader, seen) for reader in readers]

        def error(form: Format) -> float:
            rounded = index_form(form).rounded(form.rounded(seen))
            made = (function_at(self.graph, reader, rounded) for reader in readers)
            return sum(float(np.square(a - b).mean()) for a, b in zip(made, exact, strict=True))

        tried = [Format(covering.exponent - finer, covering.bits, covering.signed) for finer in range(-1, 6)]
        return min(tried, key=error)

    def _format(self, value: ir.Value, bits: int) -> Format:
        seen = self.seen[value.name or ""]
        return fit(seen.samples(), seen.low, seen.high, bits)

    def _entry_bits(self, value: ir.Value) -> int:
        hints = [use.node.metadata_props.get(strip.ENTRY_KEY) for use in value.uses()]
        known = [int(hint) for hint in hints if hint]
        if not known or not self.options.own_widths:
            return self.options.entry_bits
        return self._widened("values", known[0], _width(known[0]))

    def _result_bits(self, stage: Stage) -> int:
        options = self.options
        readers = self.readers.get(stage.result, [])
        if not readers:
            return options.exit_bits
        if all(reader.kind == "function" for reader in readers):
            return options.argument_bits
        if any(reader.kind == "cell" for reader in readers):
            return 16
        if any(_is_attention(reader) for reader in readers):
            if options.bits > 8:
                self._decide(
                    "RUB-PASS-D43", stage, "queries, keys and values in 8 bits", "products of 8 x 8 bits"
                )
            return self._widened("values", options.bits, 8)
        hint = next((h for n in reversed(stage.nodes) if (h := n.metadata_props.get(strip.RESULT_KEY))), None)
        if not hint or not options.own_widths:
            return options.bits
        return self._widened("values", int(hint), _width(int(hint)))

    def _weights(self, stage: Stage) -> int:
        """Fix a product's weights; the exponent of its coarsest sums."""
        node, weight = stage.node, weight_of(stage.node)
        if weight is None:
            raise AssertionError("a product has constant weights")
        hint = node.metadata_props.get(strip.WEIGHT_KEY)
        bits = self.options.weight_bits
        if hint and self.options.own_widths:
            bits = self._widened("weights", int(hint), _weight_width(int(hint)))
        argument = self.formats[origin(stage.inputs[0]).name or ""]
        rows = np.moveaxis(weight, output_axis(node), 0).reshape(weight.shape[output_axis(node)], -1)
        exponents = fit_weight(rows, bits, self._floor(stage, argument, len(rows)))
        if argument.bits + bits <= 24:
            exponents = _within_accumulator(rows, exponents, bits, argument)
        self._round(stage, weight, exponents, bits)
        self.exponents[node.name or ""] = (tuple(int(e) for e in exponents), bits)
        return int(exponents.max()) + argument.exponent

    def _floor(self, stage: Stage, argument: Format, outputs: int) -> np.ndarray:
        """Exponents below which a bias would need more than 31 bits of the accumulator."""
        bias = bias_of(stage)
        if bias is None or not np.any(bias):
            return np.full(outputs, -60)
        with np.errstate(divide="ignore"):
            least = np.ceil(np.log2(np.abs(bias.astype(np.float64)) / BIAS_LIMIT)) - argument.exponent
        return np.maximum(least, -60).astype(np.int64)

    def _round(self, stage: Stage, weight: np.ndarray, exponents: np.ndarray, bits: int) -> None:
        node, limit = stage.node, Format(0, bits, True)
        groups = node.attributes.get_int("group", 1)
        rows = as_rows(node, weight, groups)
        steps = np.exp2(exponents.astype(np.float64)).reshape(groups, -1)

        def choose(part: slice, column: np.ndarray, _which: np.ndarray) -> np.ndarray:
            return np.clip(np.rint(column / steps[part]), limit.low, limit.high) * steps[part]

        edit, x = Editor(self.graph, Place.id), None
        if self.options.rounding == "optimised":
            x = multiplied(node, weight, [arrays[stage.inputs[0].name or ""] for arrays in self.multiplied])
        if x is not None:
            made = compensated(rows, x, choose, centred=False)
            node.replace_input_with(1, edit.initializer(f"{node.name}_fitted", from_rows(node, made, weight)))
            return
        near = np.clip(np.rint(rows / steps[:, :, None]), limit.low, limit.high) * steps[:, :, None]
        self._correct_bias(edit, stage, rows - near)

    def _correct_bias(self, edit: Editor, stage: Stage, error: np.ndarray) -> None:
        """Take the mean of what rounding changes out of the bias; padding is not counted."""
        node = stage.node
        old = bias_of(stage)
        if node.op_type == "MatMul" and old is None:
            return
        mean = self.seen[origin(stage.inputs[0]).name or ""].mean
        taps = error.reshape(*error.shape[:2], -1, weight_taps(node)).sum(axis=3)
        if mean.size != taps.shape[0] * taps.shape[2]:
            return  # moved on the way: channels are on another axis than where they were observed
        lost = np.einsum("goi,gi->go", taps, mean.reshape(len(taps), -1)).reshape(-1)
        value = edit.initializer(
            f"{node.name}_corrected", np.asarray(lost if old is None else old + lost, np.float32)
        )
        if stage.bias is not None:
            adding = stage.nodes[1]
            adding.replace_input_with(0 if adding.inputs[0] is stage.bias else 1, value)
        else:
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, value)

    def _widened(self, what: str, asked: int, given: int) -> int:
        """``given``, counted where it is more than was asked for."""
        if given > asked:
            key = (what, asked, given)
            self.widened[key] = self.widened.get(key, 0) + 1
        return given

    def _decide(self, code: str, stage: Stage, what: str, why: str) -> None:
        self.decisions.append(Decision(code, source_of(stage.node), what, why))


def _within_accumulator(rows: np.ndarray, exponents: np.ndarray, bits: int, argument: Format) -> np.ndarray:
    """Exponents with which no input whatever can make a sum leave 32 bits."""
    limit = Format(0, bits, True)
    largest = max(argument.high, -argument.low)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        while True:
            integers = np.clip(np.rint(rows[part] / 2.0 ** exponents[start]), limit.low, limit.high)
            # The bias may take up to half of the range (BIAS_LIMIT); optimised rounding may add a step each.
            worst = (np.abs(integers).sum(axis=1).max(initial=0) + rows.shape[1]) * largest
            if worst <= ACCUMULATOR - BIAS_LIMIT:
                break
            exponents[part] += 1
    return exponents


def _readers(found: Stages) -> Mapping[ir.Value, list[Stage]]:
    readers: dict[ir.Value, list[Stage]] = {}
    for stage in found.found:
        for value in stage.inputs:
            readers.setdefault(origin(value), []).append(stage)
    return readers


def _equalise(graph: Graph, items: Sequence[Feeds]) -> None:
    names = {pair.second.inputs[0].name or "" for pair in equalise.pairs(graph) if pair.second.inputs[0]}
    if not names:
        return
    observers = {name: Observer(1) for name in names}
    for item in items[:EQUALISE_ITEMS]:
        arrays = execute(graph, dict(item), keep=list(names))
        for name, observer in observers.items():
            observer.see(arrays[name])
    peaks = {name: observer.peaks for name, observer in observers.items()}
    equalise.Equalise(equalise.EqualiseOptions(peaks)).run(graph)


def _is_attention(stage: Stage) -> bool:
    return stage.node.metadata_props.get(BLOCK_KEY) == Attention.kind


def _width(bits: int) -> int:
    return 8 if bits <= 8 else 16


def _weight_width(bits: int) -> int:
    return 4 if bits <= 4 else _width(bits)
