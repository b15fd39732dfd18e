"""Lays the weights of a GRU or LSTM layer out for ``kernels/rnn.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rubicc.backends.cpu_gpu.native.pack import LANES, PER_WORD, aligned, to_bf16
from rubicc.backends.cpu_gpu.native.program import Program, Quantised, Recurrent
from rubicc.backends.cpu_gpu.native.structs import KINDS, _fields
from rubicc.errors import Unsupported

GATES = {"gru": 3, "lstm": 4}
STATE = Quantised(1.0 / 127, 128)


class RnnStep(ctypes.Structure):
    """``RnnStep`` of ``kernels/rnn.h``, field by field in the same order."""

    _fields_ = [
        *_fields(ctypes.c_int32, "lstm reverse compute y_kind inputs hidden y_zero reserved"),
        ("y_scale", ctypes.c_double),
        *_fields(ctypes.c_void_p, "w_input w_hidden bias scale_input scale_hidden"),
    ]


@dataclass(frozen=True, eq=False)
class PackedRnn:
    """A layer as the kernel reads it; every array starts on a cache line.

    G gates; P panels of 16 hidden units.

    Attributes:
        inputs, hidden: channels, padded to multiples of 16.
        w_input: (P, inputs / per word, G, 16, per word) float32, bfloat16 bits or int8; ``w_hidden`` too.
        bias: (P, 4, 16) float32: GRU z r h(input) h(recurrent), LSTM i o f c; what the zero points of inputs
            and state add to every sum is taken off.
        scale_input, scale_hidden: (P, G, 16) float32, real value of a sum of one; ones unless ``u8``.
    """

    inputs: int
    hidden: int
    w_input: np.ndarray
    w_hidden: np.ndarray
    bias: np.ndarray
    scale_input: np.ndarray
    scale_hidden: np.ndarray


def pack(recurrent: Recurrent, x_channels_padded: int) -> PackedRnn:
    """Pack ``recurrent`` whose input rows hold ``x_channels_padded`` elements, a multiple of 16.

    Raises:
        Unsupported: int8 weights without their scales or without the input's (RUB-CPU-063).
    """
    if recurrent.compute == "u8" and (
        recurrent.weight_scale_input is None
        or recurrent.weight_scale_hidden is None
        or recurrent.x_quant is None
    ):
        what = "an int8 recurrent layer without scales of its weights and inputs"
        raise Unsupported("RUB-CPU-063", f"the native kernels cannot run {what}", where=recurrent.source)
    size = recurrent.w_hidden.shape[1]
    hidden = -(-size // LANES) * LANES
    w_input, scale_input, zero_input = _weights(
        recurrent, recurrent.w_input, recurrent.weight_scale_input, recurrent.x_quant, x_channels_padded
    )
    w_hidden, scale_hidden, zero_hidden = _weights(
        recurrent, recurrent.w_hidden, recurrent.weight_scale_hidden, STATE, hidden
    )
    gates = GATES[recurrent.cell]
    by_input = (recurrent.bias_input.astype(np.float64) - zero_input).reshape(gates, size)
    by_state = (recurrent.bias_hidden.astype(np.float64) - zero_hidden).reshape(gates, size)
    # The reset gate multiplies the recurrent bias of h and not the other one.
    rows = [*(by_input + by_state)[:2], by_input[2], by_state[2]]
    bias = np.stack(rows) if recurrent.cell == "gru" else by_input + by_state
    return PackedRnn(
        x_channels_padded,
        hidden,
        w_input,
        w_hidden,
        _panels(bias.astype(np.float32)),
        _panels(scale_input.reshape(gates, size).astype(np.float32)),
        _panels(scale_hidden.reshape(gates, size).astype(np.float32)),
    )


def _weights(
    recurrent: Recurrent, weight: np.ndarray, scale: np.ndarray | None, quant: Quantised | None, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed weights; per row the real value of a sum of one, and the real value of the zero point's sum."""
    ones, zeros = np.ones(len(weight)), np.zeros(len(weight))
    if recurrent.compute == "f32":
        return _packed(weight.astype(np.float32), recurrent, width), ones, zeros
    if recurrent.compute == "bf16":
        return _packed(to_bf16(weight), recurrent, width), ones, zeros
    assert scale is not None and quant is not None
    steps = scale.astype(np.float64)
    whole = np.rint(weight / steps[:, None]).clip(-127, 127).astype(np.int8)
    real = steps * quant.scale
    return _packed(whole, recurrent, width), real, whole.sum(axis=1, dtype=np.int64) * real * quant.zero_point


def _packed(values: np.ndarray, recurrent: Recurrent, width: int) -> np.ndarray:
    """(gates * hidden, columns) to (panels, words, gates, 16, columns per word), zeros in the padding."""
    gates, word = GATES[recurrent.cell], PER_WORD[recurrent.compute]
    rows, columns = values.shape
    size = rows // gates
    panels = -(-size // LANES)
    padded = np.zeros((gates, panels * LANES, width), values.dtype)
    padded[:, :size, :columns] = values.reshape(gates, size, columns)
    return aligned(padded.reshape(gates, panels, LANES, width // word, word).transpose(1, 3, 0, 2, 4))


def _panels(values: np.ndarray) -> np.ndarray:
    """(gates, hidden) to (panels, gates, 16), zeros where there is padding."""
    gates, size = values.shape
    panels = -(-size // LANES)
    padded = np.zeros((gates, panels * LANES), values.dtype)
    padded[:, :size] = values
    return aligned(padded.reshape(gates, panels, LANES).transpose(1, 0, 2))


def step_of(
    recurrent: Recurrent,
    packed: PackedRnn,
    y_kind: str,
    y_quant: Quantised,
    keep: Callable[[np.ndarray], int],
) -> RnnStep:
    """The struct; ``keep`` keeps an array alive and returns its address."""
    step = RnnStep(
        lstm=recurrent.cell == "lstm",
        reverse=recurrent.reverse,
        compute=KINDS[recurrent.compute],
        y_kind=KINDS[y_kind],
        inputs=packed.inputs,
        hidden=packed.hidden,
        y_zero=y_quant.zero_point,
        y_scale=y_quant.scale,
    )
    for name in ("w_input", "w_hidden", "bias", "scale_input", "scale_hidden"):
        setattr(step, name, keep(getattr(packed, name)))
    return step


def fill(recurrent: Recurrent, program: Program, kept: list[Any]) -> int:
    """Address of the struct of ``recurrent``; ``kept`` takes everything it refers to.

    Raises:
        Unsupported: an input that is not stored in the kind the layer computes in, or as in :func:`pack`
            (RUB-CPU-063).
    """
    x, y = program.buffers[recurrent.x], program.buffers[recurrent.y]
    if x.kind != recurrent.compute or (x.kind == "u8" and x.quant != recurrent.x_quant):
        what = f"a recurrent layer in {recurrent.compute} over inputs stored otherwise"
        raise Unsupported("RUB-CPU-063", f"the native kernels cannot run {what}", where=recurrent.source)

    def keep(array: np.ndarray) -> int:
        kept.append(array)
        return int(array.ctypes.data)

    packed = pack(recurrent, -(-x.channels // LANES) * LANES)
    step = step_of(recurrent, packed, y.kind, y.quant or STATE, keep)
    kept.append(step)
    return ctypes.addressof(step)
