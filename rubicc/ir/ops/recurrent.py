"""LSTM, GRU and RNN with ONNX gate order, directions, sequence lengths and layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rubicc.ir.ops.elementwise import sigmoid, softplus
from rubicc.ir.ops.registry import Array, Call, KernelError, Result, kernel, widened

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": softplus,
    "hardsigmoid": lambda x: np.clip(x.dtype.type(0.2) * x + x.dtype.type(0.5), 0, 1),
}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
State = tuple[Array, ...]


@dataclass
class _Cell:
    """One direction: recurrent weight (H, gates*H), biases, peepholes, activations, switches."""

    recurrent: Array
    recurrent_bias: Array
    peepholes: Array | None
    activations: list[Callable[[Array], Array]]
    before_reset: bool

    def lstm(self, x: Array, state: State) -> State:
        """Gates input, output, forget, cell; ``x`` (N, 4H) already projected and biased."""
        h, c = state
        size = h.shape[1]
        f, g, out = self.activations
        gates = x + h @ self.recurrent
        i, o, fo, ce = (gates[:, k * size : (k + 1) * size] for k in range(4))
        if self.peepholes is not None:
            i, fo = i + self.peepholes[:size] * c, fo + self.peepholes[2 * size :] * c
        c = f(fo) * c + f(i) * g(ce)
        o = o if self.peepholes is None else o + self.peepholes[size : 2 * size] * c
        return f(o) * out(c), c

    def gru(self, x: Array, state: State) -> State:
        """Gates update, reset, hidden; ``x`` (N, 3H) projected and biased with the input bias only."""
        (h,) = state
        size = h.shape[1]
        f, g = self.activations
        split = 2 * size
        inner = x[:, :split] + h @ self.recurrent[:, :split] + self.recurrent_bias[:split]
        gates = f(inner)
        z, r = gates[:, :size], gates[:, size:]
        weight, bias = self.recurrent[:, split:], self.recurrent_bias[split:]
        hidden = r * (h @ weight + bias) if self.before_reset else (r * h) @ weight + bias
        candidate = g(x[:, split:] + hidden)
        return ((1 - z) * candidate + z * h,)

    def rnn(self, x: Array, state: State) -> State:
        """Plain recurrence."""
        (h,) = state
        return (self.activations[0](x + h @ self.recurrent),)


def _reversed(x: Array, lengths: Array | None) -> Array:
    """Time-reverse (T, N, ...) within every sequence's length."""
    if lengths is None:
        return x[::-1]
    steps = np.arange(x.shape[0])[:, None]
    index = np.where(steps < lengths, lengths - 1 - steps, steps)
    return np.take_along_axis(x, index[:, :, None], axis=0)


def _scan(
    step: Callable[[Array, State], State], x: Array, state: State, lengths: Array | None
) -> tuple[Array, State]:
    """Run ``step`` over time; past a sequence's end the state stays and the output is 0."""
    y = np.zeros((x.shape[0], *state[0].shape), x.dtype)
    for t in range(x.shape[0]):
        new = step(x[t], state)
        if lengths is not None:
            alive = (t < lengths)[:, None]
            state = tuple(np.where(alive, a, b) for a, b in zip(new, state, strict=True))
            y[t] = np.where(alive, new[0], 0)
        else:
            state = new
            y[t] = new[0]
    return y, state


def _activations(call: Call, kind: str, directions: int) -> list[list[Callable[[Array], Array]]]:
    names = call.attr("activations") or list(_DEFAULT[kind]) * directions
    if call.attr("activation_alpha") or call.attr("activation_beta") or call.attr("clip"):
        raise KernelError(f"{kind} with clip or activation parameters is not implemented")
    unknown = [n for n in names if n.lower() not in _ACTIVATIONS]
    if unknown:
        raise KernelError(f"{kind} activation {unknown[0]} is not implemented")
    per = len(_DEFAULT[kind])
    return [[_ACTIVATIONS[n.lower()] for n in names[d * per : (d + 1) * per]] for d in range(directions)]


@kernel("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> Result:
    """Outputs Y (T, D, N, H), Y_h (D, N, H) and for LSTM Y_c, or batch-first under ``layout=1``."""
    kind = call.node.op_type
    x, w, r = widened(call[0]), widened(call[1]), widened(call[2])
    if call.attr("input_forget", 0):
        raise KernelError("LSTM with coupled input and forget gates is not implemented")
    batch_first = call.attr("layout", 0)
    x = x.swapaxes(0, 1) if batch_first else x
    directions, width, size = w.shape[0], w.shape[1], r.shape[2]
    if width != GATES[kind] * size:
        raise KernelError(f"{kind} weight {w.shape} does not hold {GATES[kind]} gates of {size}")
    b = call.get(3)
    bias = np.zeros((directions, 2 * width), x.dtype) if b is None else widened(b)
    given = call.get(4)
    lengths = None if given is None or (given == x.shape[0]).all() else given.astype(np.int64)
    states = [_initial(call, 5 + k, directions, x, size) for k in range(2 if kind == "LSTM" else 1)]
    peepholes = call.get(7) if kind == "LSTM" else None
    activations = _activations(call, kind, directions)
    ys, finals = [], []
    for d in range(directions):
        backward = call.attr("direction", "forward") == "reverse" or d == 1
        cell = _Cell(
            np.ascontiguousarray(r[d].T),
            bias[d, width:],
            None if peepholes is None else peepholes[d],
            activations[d],
            bool(call.attr("linear_before_reset", 0)),
        )
        fixed = bias[d, :width] if kind == "GRU" else bias[d, :width] + bias[d, width:]
        seq = _reversed(x, lengths) if backward else x
        y, final = _scan(
            getattr(cell, kind.lower()), seq @ w[d].T + fixed, tuple(s[d] for s in states), lengths
        )
        ys.append(_reversed(y, lengths) if backward else y)
        finals.append(final)
    out = [np.stack(ys, axis=1), *(np.stack([f[k] for f in finals]) for k in range(len(states)))]
    if batch_first:
        out = [out[0].transpose(2, 0, 1, 3), *(o.swapaxes(0, 1) for o in out[1:])]
    return [o.astype(call[0].dtype, copy=False) for o in out[: len(call.node.outputs)]]


def _initial(call: Call, index: int, directions: int, x: Array, size: int) -> Array:
    """Initial state (D, N, H), zeros when omitted."""
    given = call.get(index)
    if given is None:
        return np.zeros((directions, x.shape[1], size), x.dtype)
    return widened(given).swapaxes(0, 1) if call.attr("layout", 0) else widened(given)
