"""The integer network executed in numpy, int64: what kernels and emulation are compared with.

Accumulators are checked, not wrapped: a network whose sums leave the accumulator is refused before it is
planned (:func:`accumulator_bits`), so wrapping never happens on real inputs and is an error here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rubicc.backends.aie.net import Add, Cell, Conv, Gru, Layer, Lookup, Lstm, Net, Table
from rubicc.backends.aie.numbers import Type, requantise, saturate
from rubicc.errors import VerificationFailed

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
    for layer in net.layers:
        values[layer.output] = evaluate(
            layer, [values[name] for name in layer.inputs], net.edges[layer.output].type
        )
    return values if keep else {name: values[name] for name in net.outputs}


def evaluate(layer: Layer, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    """One layer on int64 ``(N, C, T)`` inputs; ``to`` is the type of its output edge."""
    return _KERNELS[type(layer)](layer, inputs, to)


def _fitting(name: str, values: np.ndarray, of: Type) -> np.ndarray:
    if values.ndim != 3 or not np.array_equal(values, saturate(values, of)):
        raise VerificationFailed("RUB-AIE-101", f"input {name} is not (N, C, T) of {of}", where=name)
    return values.astype(np.int64)


def _conv(layer: Conv, inputs: list[np.ndarray], to: Type) -> np.ndarray:
    x = np.pad(inputs[0], ((0, 0), (0, 0), layer.pads))
    sums = correlate(x, layer.weight, layer.groups, layer.stride, layer.dilation)
    if layer.bias is not None:
        sums += layer.bias[:, None]
    if layer.relu:
        sums = np.maximum(sums, 0)
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
    projected = inputs[0]
    batch, _, frames = projected.shape
    out = np.empty((batch, layer.hidden, frames), np.int64)
    weight = layer.recurrent.T.astype(np.float64)  # |R h| < 2**15 * 2**15 * H: exact
    hidden = cell = np.zeros((batch, layer.hidden), np.int64)
    for frame in range(frames)[:: -1 if layer.reverse else 1]:
        operand = requantise(hidden, layer.operand_shift, layer.operand)
        sums = (operand @ weight).astype(np.int64)
        if layer.bias is not None:
            sums += layer.bias
        gates = requantise(sums, layer.gate_shift, INT16)
        if isinstance(layer, Lstm):
            hidden, cell = _lstm_step(layer, projected[:, :, frame], gates, cell)
        else:
            hidden = _gru_step(layer, projected[:, :, frame], gates, hidden)
        out[:, :, frame] = requantise(hidden, layer.output_shift, to)
    return out


def _gru_step(layer: Cell, x: np.ndarray, g: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    xr, xz, xn = np.split(x, 3, axis=1)
    gr, gz, gn = np.split(g, 3, axis=1)
    reset = look_up(layer.sigmoid, saturate(xr + gr, INT16))
    update = look_up(layer.sigmoid, saturate(xz + gz, INT16))
    new = look_up(layer.tanh, saturate(xn + requantise(reset * gn, 15, INT16), INT16))
    return requantise((new << 15) + update * hidden - update * new, 15, INT16)


def _lstm_step(layer: Lstm, x: np.ndarray, g: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    opened, kept, fresh, shown = np.split(saturate(x + g, INT16), 4, axis=1)
    added = requantise(look_up(layer.sigmoid, opened) * look_up(layer.tanh, fresh), 15, INT16)
    cell = requantise(look_up(layer.sigmoid, kept) * cell + (added << layer.cell_bits), 15, INT16)
    return requantise(look_up(layer.sigmoid, shown) * look_up(layer.tanh_cell, cell), 15, INT16), cell


_KERNELS: dict[type[Layer], Callable[..., np.ndarray]] = {
    Conv: _conv,
    Add: _add,
    Table: _table,
    Gru: _cell,
    Lstm: _cell,
}
