"""The steps of recurrent layers, one after the other.

A network of five layers over a long read takes a quarter of a million steps, so what Python adds to each of
them counts. TorchScript runs the same functions with a third of that; where torch no longer has it, they run
as they stand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])

ACTIVATIONS = frozenset({"tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "sigmoid_hard", "scaled_tanh"})


def quick(steps: F) -> F:
    """The function in TorchScript, compiled at its first call; as it is where torch cannot."""
    held: list[F] = []

    def run(*given: object) -> object:
        if not held:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    held.append(torch.jit.script(steps))
                except (RuntimeError, OSError, AttributeError):
                    held.append(steps)
        return held[0](*given)

    return run  # type: ignore[return-value]


def activated(x: Tensor, name: str) -> Tensor:
    """One of :data:`ACTIVATIONS`."""
    if name == "tanh":
        return torch.tanh(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "relu":
        return torch.relu(x)
    if name == "linear":
        return x
    if name == "scaled_tanh":
        return 1.7159 * torch.tanh(2.0 / 3.0 * x)
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def _rnn(given: Tensor, h: Tensor, weight: Tensor, act: str, half: bool) -> list[Tensor]:
    made: list[Tensor] = []
    for x in given.unbind(0):
        h = activated(torch.addmm(x, h, weight), act)
        if half:
            h = h.half().to(weight.dtype)
        made.append(h)
    return made


def _gru(
    gates: Tensor,
    news: Tensor,
    h: Tensor,
    gates_w: Tensor,
    new_w: Tensor,
    new_b: Tensor,
    gate: str,
    act: str,
    reset_after: bool,
    half: bool,
) -> list[Tensor]:
    made: list[Tensor] = []
    size = h.size(1)
    inputs = news.unbind(0)
    for step, x in enumerate(gates.unbind(0)):
        both = activated(torch.addmm(x, h, gates_w), gate)
        reset, update = both[:, :size], both[:, size:]
        if reset_after:
            new = activated(inputs[step] + reset * torch.addmm(new_b, h, new_w), act)
        else:
            new = activated(torch.addmm(inputs[step], reset * h, new_w), act)
        h = torch.lerp(new, h, update)
        if half:
            h = h.half().to(new_w.dtype)
        made.append(h)
    return made


def _lstm(
    given: Tensor,
    h: Tensor,
    cell: Tensor,
    weight: Tensor,
    peeps: Tensor,
    gate: str,
    cell_act: str,
    act: str,
    clip: float,
    half: bool,
) -> tuple[list[Tensor], Tensor]:
    made: list[Tensor] = []
    size = h.size(1)
    peeking = peeps.numel() > 0
    for x in given.unbind(0):
        every = torch.addmm(x, h, weight)
        into, out, new = every[:, : 2 * size], every[:, 2 * size : 3 * size], every[:, 3 * size :]
        if peeking:
            into = into + torch.cat([cell, cell], 1) * peeps[: 2 * size]
        into = activated(into, gate)
        cell = into[:, size:] * cell + into[:, :size] * activated(new, cell_act)
        if clip >= 0:
            cell = torch.clamp(cell, -clip, clip)
        if half:
            cell = cell.half().to(weight.dtype)
        if peeking:
            out = out + cell * peeps[2 * size :]
        h = activated(out, gate) * activated(cell, act)
        if half:
            h = h.half().to(weight.dtype)
        made.append(h)
    return made, cell


# given (steps, batch, gates), state (batch, size), weight (size, gates); states in the order made.
rnn_steps = quick(_rnn)
# gates are reset and update, hidden bias included; `new_b` is inside the reset with `reset_after`.
gru_steps = quick(_gru)
# gates are input, forget, output, cell; `peeps` is empty or (3 * size,), a negative `clip` is none; gives the
# last cell too.
lstm_steps = quick(_lstm)
