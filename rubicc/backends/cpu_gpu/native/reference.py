"""Runs a program in plain numpy: what the compiled kernels and the lowering are judged by.

It follows the definitions in :mod:`rubicc.backends.cpu_gpu.native.program` word by word and shares no code
with the kernels: no packing, no storage conversions inserted, no approximated functions. Slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rubicc.backends.cpu_gpu.native.program import (
    Activation,
    Buffer,
    Conv,
    Elementwise,
    Gather,
    LogSoftmax,
    Program,
    Quantised,
    Recurrent,
    Step,
    frames_after,
)
from rubicc.ir.ops.elementwise import sigmoid

Array = np.ndarray
STATE = Quantised(1.0 / 127, 128)  # of a recurrent layer computed in ``u8``


def run(program: Program, x: Array, dtype: type = np.float64) -> Array:
    """Output of ``program`` for ``x``.

    Args:
        x: (N, C, T) float32.
        dtype: in which everything is computed that is not stored in bfloat16 or 8 bits.

    Returns:
        (T', N, C') or (N, C', T'), as ``program.layout`` says, in ``dtype``.

    Raises:
        ValueError: the program contradicts itself, or ``x`` does not fit it.
    """
    return values(program, x, dtype)[1]


def values(program: Program, x: Array, dtype: type = np.float64) -> tuple[dict[int, Array], Array]:
    """What every buffer holds, in real units (N, channels, frames), and the output of :func:`run`."""
    first = program.buffers[program.input]
    if x.ndim != 3 or x.shape[1] != first.channels:
        raise ValueError(f"an input of shape {x.shape} for {first.channels} channels")
    held = {program.input: rounded(x.astype(dtype), first)}
    with np.errstate(over="ignore", under="ignore"):
        for step in program.steps:
            buffer = program.buffers[step.y]
            if step.y in held:
                raise ValueError(f"buffer {step.y} is written twice")
            y = _STEPS[type(step)](program, step, held)
            if y.shape[1] != buffer.channels:
                raise ValueError(f"{y.shape[1]} channels for a buffer of {buffer.channels}")
            held[step.y] = rounded(y.astype(dtype), buffer)
    if program.buffers[program.output].kind != "f32":
        raise ValueError("the output is not stored in float32")
    out = held[program.output]
    return held, out.transpose(2, 0, 1) if program.layout == "TNC" else out


def rounded(x: Array, buffer: Buffer) -> Array:
    """What storage in ``buffer`` leaves of ``x``."""
    if buffer.kind == "bf16":
        return to_bf16(x)
    if buffer.kind == "u8":
        if buffer.quant is None:
            raise ValueError("8-bit storage without a scale")
        return fake_quantised(x, buffer.quant)
    return x


def fake_quantised(x: Array, quant: Quantised) -> Array:
    """``x`` rounded half to even to the steps of ``quant``, saturated."""
    return (stored(x, quant) - quant.zero_point) * x.dtype.type(quant.scale)


def stored(x: Array, quant: Quantised) -> Array:
    """The integers of ``x``, in its own type."""
    return np.clip(np.rint(x / x.dtype.type(quant.scale)) + quant.zero_point, 0, 255)


def to_bf16(x: Array) -> Array:
    """``x`` rounded to the nearest bfloat16, ties to even, in its own type."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    kept = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(x.dtype)


def _conv(program: Program, step: Conv, held: dict[int, Array]) -> Array:
    x, kind = held[step.x], _type(held[step.x])
    weight = step.weight.astype(np.float64)
    if step.compute == "u8":
        quant = program.buffers[step.x].quant
        if quant is None or step.weight_scale is None or step.weight.dtype != np.int8:
            raise ValueError("int8 products need stored integers on both sides")
        # Whole numbers below 2 ** 53: float64 sums them exactly, whatever ``dtype`` is.
        total = convolve(np.rint(x.astype(np.float64) / quant.scale), weight, step)
        total = total * (step.weight_scale.astype(np.float64) * quant.scale)[:, None]
    elif step.weight_scale is not None:
        raise ValueError("weight scales belong to int8 products")
    elif step.compute == "bf16":
        total = convolve(to_bf16(x), to_bf16(weight).astype(kind), step)
    else:
        total = convolve(x, weight.astype(kind), step)
    y: Array = (total + step.bias.astype(np.float64)[:, None]).astype(kind)
    if step.output_quant is not None:
        y = fake_quantised(y, step.output_quant)
    return _finished(y, step.add, step.activations, held)


def convolve(x: Array, weight: Array, conv: Conv) -> Array:
    """(N, C, T) with the weights given in place of ``conv``'s; no bias."""
    frames = frames_after(x.shape[2], conv)
    if frames < 1 or min(conv.pads) < 0:
        raise ValueError(f"{x.shape[2]} frames are too few")
    outputs, inputs, taps = weight.shape
    groups = conv.groups
    if inputs * groups != x.shape[1] or outputs % groups:
        raise ValueError(f"weights {weight.shape} in {groups} groups over {x.shape[1]} channels")
    x = np.pad(x, ((0, 0), (0, 0), conv.pads)).reshape(len(x), groups, inputs, -1)
    by_group = weight.reshape(groups, outputs // groups, inputs, taps)
    y: Array = np.zeros((len(x), groups, outputs // groups, frames), x.dtype)
    for tap in range(taps):
        at = tap * conv.dilation
        y += by_group[..., tap] @ x[..., at : at + (frames - 1) * conv.stride + 1 : conv.stride]
    return y.reshape(len(x), outputs, frames)


def _type(x: Array) -> type:
    """The floating type in which a value is carried."""
    kind: type = x.dtype.type
    return kind


def _elementwise(program: Program, step: Elementwise, held: dict[int, Array]) -> Array:
    return _finished(held[step.x], step.add, step.activations, held)


def _finished(
    y: Array, add: int | None, activations: tuple[Activation, ...], held: dict[int, Array]
) -> Array:
    if add is not None:
        if held[add].shape != y.shape:
            raise ValueError(f"the sum of shapes {y.shape} and {held[add].shape}")
        y = y + held[add]
    for activation in activations:
        y = FUNCTIONS[activation.function](y, activation).astype(y.dtype)
    return y


FUNCTIONS: dict[str, Callable[[Array, Activation], Array]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "silu": lambda x, _: x * sigmoid(x),
    "tanh": lambda x, _: np.tanh(x),
    "sigmoid": lambda x, _: sigmoid(x),
    "gelu": lambda x, _: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "clip": lambda x, f: np.clip(x, f.a, f.b),
    "affine": lambda x, f: x * f.a + f.b,
}


def _gather(program: Program, step: Gather, held: dict[int, Array]) -> Array:
    x = held[step.x]
    picked = x[:, np.maximum(step.index, 0)]
    return np.where(step.index[:, None] < 0, x.dtype.type(step.constant), picked)


def _log_softmax(program: Program, step: LogSoftmax, held: dict[int, Array]) -> Array:
    x = held[step.x]
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _recurrent(program: Program, step: Recurrent, held: dict[int, Array]) -> Array:
    x = held[step.x].transpose(2, 0, 1)
    inputs, weights = _operands(program, step, x)
    bias = step.bias_hidden.astype(x.dtype)
    gates = 3 if step.cell == "gru" else 4
    hidden = step.w_hidden.shape[1]
    if step.w_hidden.shape[0] != gates * hidden or step.w_input.shape != (gates * hidden, x.shape[2]):
        raise ValueError(f"{step.cell} weights {step.w_input.shape} over {x.shape[2]} channels")
    by_input = inputs + step.bias_input.astype(x.dtype)
    h = cell = np.zeros((x.shape[1], hidden), x.dtype)
    y = np.empty((*x.shape[:2], hidden), x.dtype)
    for t in range(len(x))[:: -1 if step.reverse else 1]:
        a = np.split(by_input[t], gates, axis=1)
        b = np.split(_state(h, step) @ weights.T + bias, gates, axis=1)
        if step.cell == "gru":
            update, reset = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            h = (1 - update) * np.tanh(a[2] + reset * b[2]) + update * h
        else:
            i, o, f = (sigmoid(a[k] + b[k]) for k in range(3))
            cell = f * cell + i * np.tanh(a[3] + b[3])
            h = o * np.tanh(cell)
        y[t] = h
    return y.transpose(1, 2, 0)


def _operands(program: Program, step: Recurrent, x: Array) -> tuple[Array, Array]:
    """The inputs' products (T, N, G * H), no bias, and the weights of the state."""
    w, r = step.w_input.astype(x.dtype), step.w_hidden.astype(x.dtype)
    if step.compute == "bf16":
        return to_bf16(x) @ to_bf16(w).T, to_bf16(r)
    if step.compute == "u8":
        if step.x_quant is None or step.weight_scale_input is None or step.weight_scale_hidden is None:
            raise ValueError("int8 products of a recurrent layer need scales on both sides")
        for matrix, scale in ((w, step.weight_scale_input), (r, step.weight_scale_hidden)):
            steps = matrix / scale[:, None].astype(x.dtype)
            if np.abs(steps - np.rint(steps)).max() > 1e-3 or np.abs(steps).max() > 127.5:
                raise ValueError("int8 weights that are no multiples of their scales")
        return fake_quantised(x, step.x_quant) @ w.T, r
    return x @ w.T, r


def _state(h: Array, step: Recurrent) -> Array:
    """What of the state meets the weights: the cell itself is never rounded."""
    if step.compute == "bf16":
        return to_bf16(h)
    return fake_quantised(h, STATE) if step.compute == "u8" else h


_STEPS: dict[type[Step], Callable[..., Array]] = {
    Conv: _conv,
    Elementwise: _elementwise,
    Gather: _gather,
    LogSoftmax: _log_softmax,
    Recurrent: _recurrent,
}
