"""Formats of a recurrent cell from what calibration saw: gates' grid, tables, state, recurrent weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rubicc.passes.integer.cells import INT16, POINT, Lookup, Spec, Weights
from rubicc.passes.integer.formats import BLOCK, Format, fit_weight
from rubicc.passes.quantize.round_weights import compensated

INDEX_BITS = 12
FINEST_GATES, COARSEST_GATES = -14, -8
ACCUMULATOR, BIAS_LIMIT = 2.0**31, 2.0**30
LEAST_CELL_BITS = 8
STEPS_SEEN = 600  # frames a grid is chosen on

Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(x, np.float64))


@dataclass(frozen=True)
class Seen:
    """What calibration saw of a layer.

    Attributes:
        gates: projected inputs ``(T, N, G * H)``.
        outputs: states ``(T, N, H)``.
        backward: time runs from the last frame.
    """

    gates: np.ndarray
    outputs: np.ndarray
    backward: bool

    @property
    def before(self) -> np.ndarray:
        """The state every frame starts from, ``(T, N, H)``."""
        shifted = np.zeros_like(self.outputs)
        if self.backward:
            shifted[:-1] = self.outputs[1:]
        else:
            shifted[1:] = self.outputs[:-1]
        return shifted


@dataclass(frozen=True)
class Held:
    """Recurrent weights on their grid.

    Attributes:
        integers: ``(G * H, H)``.
        exponents: ``(G * H,)``, equal within blocks.
        operand: format of the state where it is multiplied.
    """

    integers: np.ndarray
    exponents: np.ndarray
    operand: Format
    bits: int

    @property
    def coarsest(self) -> int:
        """Exponent of the coarsest sums."""
        return int(self.exponents.max()) + self.operand.exponent


def held(weights: Weights, bits: int, state_bits: int, seen: Sequence[Seen] = ()) -> Held:
    """Recurrent weights of ``bits`` bits such that no state makes a sum leave the accumulator.

    Args:
        seen: states with which rounding is optimised; empty for the nearest integers.
    """
    operand = Format(1 - state_bits, state_bits)
    rows = weights.recurrent.astype(np.float64)
    exponents = fit_weight(rows, bits)
    limit = Format(0, bits)
    if bits + state_bits <= 24:
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            while _reach(rows[part], exponents[start], limit) * -operand.low > ACCUMULATOR - BIAS_LIMIT:
                exponents[part] += 1
    steps = np.exp2(exponents.astype(np.float64))
    made = rows / steps[:, None]
    if seen:
        states = np.concatenate([one.before.reshape(-1, weights.hidden) for one in seen])

        def choose(_part: slice, column: np.ndarray, _which: np.ndarray) -> np.ndarray:
            return np.asarray(np.clip(np.rint(column / steps), limit.low, limit.high) * steps)

        made = compensated(rows[None], states.T[None], choose, centred=False)[0] / steps[:, None]
    integers = np.clip(np.rint(made), limit.low, limit.high).astype(np.int64)
    return Held(integers, exponents, operand, bits)


def _reach(rows: np.ndarray, exponent: int, limit: Format) -> float:
    whole = np.clip(np.rint(rows / 2.0**exponent), limit.low, limit.high)
    return float(np.abs(whole).sum(axis=1).max(initial=0)) + rows.shape[1]  # optimised: a step more each


def gate_exponent(weights: Weights, of: Held, seen: Sequence[Seen]) -> int:
    """The grid of the gates with which sigmoid and tanh come out best: they need no range where they are
    flat."""
    one = seen[0]
    x = one.gates[:STEPS_SEEN].astype(np.float64)
    g = one.before[:STEPS_SEEN].astype(np.float64) @ weights.recurrent.T.astype(np.float64)
    if weights.bias is not None:
        g += weights.bias
    parts = x.shape[-1] // weights.hidden
    xs, gs = (np.split(array, parts, axis=-1) for array in (x, g))

    def error(exponent: int) -> float:
        form, total = Format(exponent, 16), 0.0
        for index in range(parts):
            function = np.tanh if index == 2 else sigmoid
            made = form.rounded(xs[index]) + form.rounded(gs[index])
            rounded = _indexed(form.rounded(made), exponent, function)
            total += float(np.square(function(rounded) - function(xs[index] + gs[index])).mean())
        return total

    least = max(FINEST_GATES, of.coarsest)
    return min(range(least, max(least, COARSEST_GATES) + 1), key=error)


def _indexed(values: np.ndarray, exponent: int, function: Function) -> np.ndarray:
    step = 2.0 ** (exponent + best_shift(exponent, function))
    half = 1 << (INDEX_BITS - 1)
    return np.clip(np.rint(values / step), -half, half - 1) * step


def best_shift(exponent: int, function: Function) -> int:
    """Bits a table drops of an int16 argument: the step against the range it can still tell apart."""
    at = np.arange(INT16[0], INT16[1] + 1, 7) * 2.0**exponent
    exact = function(at)

    def worst(shift: int) -> float:
        table = lookup(shift, exponent, function)
        index = np.clip(np.rint(at / 2.0 ** (exponent + shift)), -(1 << 11), (1 << 11) - 1).astype(int)
        return float(np.abs(table.entries[index + (1 << 11)] * 2.0**-POINT - exact).max())

    return min(range(5), key=worst)


def lookup(shift: int, exponent: int, function: Function) -> Lookup:
    """A table of ``function`` for arguments of step ``2**exponent``; int16, 15 bits behind the point."""
    half = 1 << (INDEX_BITS - 1)
    at = np.arange(-half, half) * 2.0 ** (exponent + shift)
    entries = np.clip(np.rint(function(at) * 2.0**POINT), *INT16)
    return Lookup(shift, INDEX_BITS, entries.astype(np.int64))


def spec_of(weights: Weights, of: Held, seen: Sequence[Seen], entry: Format, result: Format) -> Spec:
    """The cell in integers.

    Args:
        entry: of the gates.
        result: of the outputs; its step is at least the state's.
    """
    grid = of.exponents + of.operand.exponent
    error = weights.recurrent - of.integers * np.exp2(of.exponents.astype(np.float64))[:, None]
    mean = np.mean([one.before.mean(axis=(0, 1)) for one in seen], axis=0)
    hidden = np.zeros(len(grid)) if weights.bias is None else weights.bias.astype(np.float64)
    bias = np.rint((hidden + error @ mean) / np.exp2(grid.astype(np.float64)))
    exponent = entry.exponent
    cell_bits, inner = 0, None
    if weights.kind == "lstm":
        cell_bits = _cell_bits(weights, seen)
        inner = lookup(best_shift(-cell_bits, np.tanh), -cell_bits, np.tanh)
    return Spec(
        kind=weights.kind, recurrent=of.integers, weight_bits=of.bits,
        bias=np.clip(bias, 1 - BIAS_LIMIT, BIAS_LIMIT - 1).astype(np.int64),
        operand_bits=of.operand.bits, operand_shift=16 - of.operand.bits, gate_shift=exponent - grid,
        sigmoid=lookup(best_shift(exponent, sigmoid), exponent, sigmoid),
        tanh=lookup(best_shift(exponent, np.tanh), exponent, np.tanh),
        output_shift=result.exponent + POINT, output_bits=result.bits, cell_bits=cell_bits,
        tanh_cell=inner, entry=exponent, exit=result.exponent,
    )  # fmt: skip


def _cell_bits(weights: Weights, seen: Sequence[Seen]) -> int:
    """Bits behind the point of an LSTM's cell state: all that its largest value leaves."""
    largest = 0.0
    for one in seen:
        x = one.gates.astype(np.float64)
        g = one.before.astype(np.float64) @ weights.recurrent.T.astype(np.float64)
        i, f, u, _ = np.split(x + g if weights.bias is None else x + g + weights.bias, 4, axis=-1)
        kept, added = sigmoid(f), sigmoid(i) * np.tanh(u)
        state = np.zeros(added.shape[1:])
        for frame in range(len(added))[:: -1 if one.backward else 1]:
            state = kept[frame] * state + added[frame]
            largest = max(largest, float(np.abs(state).max()))
    spare = int(np.ceil(np.log2(max(largest * 1.125, 2.0**-3))))
    return int(np.clip(POINT - max(0, spare), LEAST_CELL_BITS, POINT))
