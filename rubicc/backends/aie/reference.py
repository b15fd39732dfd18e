"""The integer network executed in numpy, int64: what kernels and emulation are compared with.

Accumulators are checked, not wrapped: a network whose sums leave the accumulator is refused before it is
planned (:func:`accumulator_bits`), so wrapping never happens on real inputs and is an error here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rubicc.backends.aie.net import Add, Attention, Cell, Conv, Gru, Layer, Lookup, Lstm, Net, Norm, Table
from rubicc.backends.aie.numbers import Type, requantise, saturate, shift_round
from rubicc.errors import VerificationFailed
from rubicc.passes.integer.block_bodies import LANES, NORM_BITS, RECIPROCAL

INT16 = Type(16)
_TAPS_AT_ONCE = 1 << 24  # elements of gathered windows kept at a time


def run(net: Net, feeds: Mapping[str, np.ndarray], *, keep: bool = False) -> dict[str, np.ndarray]:
    """Execute ``net``.

    Args:
        feeds: int64 ``(N, C, T)`` by input edge.
        keep: return every edge, not the outputs alone.

    Returns:
        int64 ``(N, C, T')`` by edge name.

    Raises:
        VerificationFailed: ``RUB-AIE-101``: a fed value does not fit its type, or a sum leaves 64 bits' safe
        range.
    """
    values: dict[str, np.ndarray] = {}
    for name in net.inputs:
        values[name] = _fitting(name, np.asarray(feeds[name]), net.edges[name].type)
    last = {name: index for index, layer in enumerate(net.layers) for name in layer.inputs}
    for index, layer in enumerate(net.layers):
        inputs = [values[name] for name in layer.inputs]
        values[layer.output] = evaluate(layer, inputs, net.edges[layer.output].type)
        for name in () if keep else layer.inputs:
            if last[name] == index and name not in net.outputs:
                values.pop(name, None)
    return values if keep else {name: values[name] for name in net.outputs}


def evaluate(layer: Layer, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    """One layer on int64 ``(N, C, T)`` inputs; ``to`` is the type of its output edge."""
    return _KERNELS[type(layer)](layer, inputs, to)


def _fitting(name: str, values: np.ndarray, of: Type) -> np.ndarray:
    if values.ndim != 3 or not np.array_equal(values, saturate(values, of)):
        raise VerificationFailed("RUB-AIE-101", f"input {name} is not (N, C, T) of {of}", where=name)
    return values.astype(np.int64)


def _conv(layer: Conv, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    rows = [_conv_one(layer, x[None], to) for x in inputs[0]]  # one sequence stays in the cache
    return np.concatenate(rows) if rows else _conv_one(layer, inputs[0], to)


def _conv_one(layer: Conv, x: np.ndarray, to: Type) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), layer.pads)) if any(layer.pads) else x
    sums = correlate(padded, layer.weight, layer.groups, layer.stride, layer.dilation)
    if layer.bias is not None:
        sums += layer.bias[:, None]
    if layer.relu:
        np.maximum(sums, 0, out=sums)
    return requantise(sums, layer.shift[:, None], to)


def correlate(x: np.ndarray, weight: np.ndarray, groups: int, stride: int, dilation: int) -> np.ndarray:
    """Sums of products ``(N, O, T')`` of ``x`` ``(N, I, T)`` with ``weight`` ``(O, I / groups, k)``, exact.

    In float64, by BLAS, when every partial sum is below 2**53; otherwise in int64.
    """
    batch, channels, length = x.shape
    outputs, each, taps = weight.shape
    frames = (length - dilation * (taps - 1) - 1) // stride + 1
    bound = int(np.abs(x).max(initial=0)) * int(np.abs(weight).sum(axis=(1, 2)).max(initial=0))
    if bound >= 1 << 62:
        raise VerificationFailed("RUB-AIE-101", f"sums of up to {bound} leave 64 bits")
    kind = np.float64 if bound < 1 << 53 else np.int64
    x, matrix = x.astype(kind), weight.astype(kind).reshape(groups, outputs // groups, each * taps)
    sums = np.empty((batch, outputs, frames), np.int64)
    piece = max(1, _TAPS_AT_ONCE // max(1, channels * taps))
    for item in range(batch):
        if taps == 1:
            rows = np.ascontiguousarray(x[item, :, ::stride]).reshape(groups, each, frames)
            sums[item] = np.matmul(matrix, rows).reshape(outputs, frames)
            continue
        for begin in range(0, frames, piece):
            end = min(begin + piece, frames)
            rows = x[item, :, begin * stride : (end - 1) * stride + dilation * (taps - 1) + 1]
            windows = np.lib.stride_tricks.sliding_window_view(rows, dilation * (taps - 1) + 1, axis=1)
            windows = windows[:, ::stride, ::dilation].reshape(groups, each, end - begin, taps)
            columns = windows.transpose(0, 1, 3, 2).reshape(groups, each * taps, end - begin)
            sums[item, :, begin:end] = np.matmul(matrix, columns).reshape(outputs, end - begin)
    return sums


def _add(layer: Add, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    sums = (inputs[0] << layer.left[0]) + (inputs[1] << layer.left[1])
    return requantise(np.maximum(sums, 0) if layer.relu else sums, layer.shift, to)


def look_up(lookup: Lookup, values: np.ndarray) -> np.ndarray:
    """Entries for ``values``; int64 of the same shape."""
    half = 1 << (lookup.bits - 1)
    index = np.clip(requantise(values, lookup.shift, INT16), -half, half - 1)
    return np.asarray(lookup.entries, np.int64)[index + half]


def _table(layer: Table, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    return saturate(look_up(layer.lookup, inputs[0]), to)


def _cell(layer: Cell, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    """Frames one by one, float64: every number is below 2**53, so sums and shifts are exact."""
    projected = np.ascontiguousarray(inputs[0].transpose(2, 0, 1), np.float64)
    frames, batch, _ = projected.shape
    out = np.empty((frames, batch, layer.hidden))
    step = _Lstm(layer) if isinstance(layer, Lstm) else _Gru(layer)
    hidden = cell = np.zeros((batch, layer.hidden))
    for frame in range(frames)[:: -1 if layer.reverse else 1]:
        hidden, cell = step(projected[frame], hidden, cell)
        out[frame] = hidden
    return requantise(out.transpose(1, 2, 0).astype(np.int64), layer.output_shift, to)


def _whole(values: np.ndarray, factor: np.ndarray | float, of: Type) -> np.ndarray:
    """``requantise`` of whole numbers in float64; ``factor`` is ``2**-shift``."""
    made = values * factor
    np.rint(made, out=made)
    return np.clip(made, of.low, of.high, out=made)


class _Step:
    """What the cells have in common: gates from the state, tables, saturated sums."""

    def __init__(self, layer: Cell) -> None:
        self.layer = layer
        self.weight = np.ascontiguousarray(layer.recurrent.T, np.float64)  # |R h| < 2**30 * H: exact
        self.bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
        self.factor = np.exp2(-layer.gate_shift.astype(np.float64))

    def gates(self, hidden: np.ndarray) -> np.ndarray:
        """``q(R h + b, gate_shift)`` of all gates."""
        operand = _whole(hidden, 2.0**-self.layer.operand_shift, self.layer.operand)
        return _whole(operand @ self.weight + self.bias, self.factor, INT16)

    @staticmethod
    def look_up(lookup: Lookup, values: np.ndarray) -> np.ndarray:
        """Entries for the saturated ``values``."""
        half = 1 << (lookup.bits - 1)
        index = np.clip(values, INT16.low, INT16.high) * 2.0**-lookup.shift
        np.rint(index, out=index)
        np.clip(index, -half, half - 1, out=index)
        index += half
        return np.asarray(lookup.entries, np.float64)[index.astype(np.intp)]


class _Gru(_Step):
    def __call__(self, x: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """State behind one frame."""
        size, gates = self.layer.hidden, self.gates(hidden)
        both = self.look_up(self.layer.sigmoid, x[:, : 2 * size] + gates[:, : 2 * size])
        reset, update = both[:, :size], both[:, size:]
        inner = _whole(reset * gates[:, 2 * size :], 2.0**-15, INT16)
        new = self.look_up(self.layer.tanh, x[:, 2 * size :] + inner)
        return _whole(new * 2.0**15 + update * (hidden - new), 2.0**-15, INT16), cell


class _Lstm(_Step):
    def __init__(self, layer: Lstm) -> None:
        super().__init__(layer)
        self.cell_factor, self.inner = 2.0**layer.cell_bits, layer.tanh_cell

    def __call__(self, x: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """State and cell state behind one frame."""
        opened, kept, fresh, shown = np.split(x + self.gates(hidden), 4, axis=1)
        sigmoid = self.layer.sigmoid
        added = _whole(self.look_up(sigmoid, opened) * self.look_up(self.layer.tanh, fresh), 2.0**-15, INT16)
        total = self.look_up(sigmoid, kept) * cell + added * self.cell_factor
        cell = _whole(total, 2.0**-15, INT16)
        return _whole(self.look_up(sigmoid, shown) * self.look_up(self.inner, cell), 2.0**-15, INT16), cell


def _norm(layer: Norm, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    x, channels = inputs[0], len(layer.gain)
    mean = requantise(x.sum(axis=1, keepdims=True) * layer.mean_factor, 15 - layer.finer, INT16)
    away = saturate((x << layer.finer) - mean, INT16)
    lanes = np.square(away).reshape(len(x), channels // LANES, LANES, -1).sum(axis=1)
    spread = shift_round(lanes, layer.spread_shift).sum(axis=1, keepdims=True) + layer.floor
    root = np.floor(np.sqrt(spread)).astype(np.int64)  # exact, because the sum is below 2**31
    inverse = (1 << RECIPROCAL) // root
    normal = requantise(away * inverse, RECIPROCAL - NORM_BITS, INT16)
    return requantise(normal * layer.gain[:, None] + layer.offset[:, None], layer.shift, to)


def _attention(layer: Attention, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    batch, _, frames = inputs[0].shape
    parts = inputs[0].reshape(batch, layer.heads, 3, layer.depth, frames)
    query, key, value = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    scores = requantise(query.swapaxes(-1, -2) @ key, layer.score_shift, INT16)  # queries x keys
    below = np.minimum(scores.max(axis=-1, keepdims=True) - scores, len(layer.entries) - 1)
    weights = np.asarray(layer.entries, np.int64)[below]
    inverse = (1 << RECIPROCAL) // weights.sum(axis=-1)
    sums = value @ weights.swapaxes(-1, -2)
    made = requantise(sums * inverse[:, :, None], layer.output_shift, to)
    return made.reshape(batch, layer.heads * layer.depth, frames)


_KERNELS: dict[type[Layer], Callable[..., np.ndarray]] = {
    Conv: _conv,
    Add: _add,
    Table: _table,
    Gru: _cell,
    Lstm: _cell,
    Norm: _norm,
    Attention: _attention,
}
