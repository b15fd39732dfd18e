"""Recurrent layers: lstm, gru, rnn.

Formulas: coremltools' definitions iOS15/recurrent.py and iOS18/recurrent.py; where these are ambiguous, its
backend tests (mil/ops/tests/iOS14/test_recurrent.py), which were run against Core ML on Macs:

* ``gru`` applies the reset gate before the matrix product, ``o = act(W_o x + R_o (r * h) + b_o)``; only
  ``reset_after`` (iOS 18) gives ``o = act(W_o x + b_i + r * (R_o h + b_h))``, PyTorch's form;
* a one-directional layer with ``direction="reverse"`` gives its outputs in the order in which it made them,
  last time step first; the two halves of a bidirectional lstm are both in order of time;
* the gates of ``lstm`` stand as input, forget, output, cell; those of ``gru`` as reset, output, update;
* the output gate of ``lstm`` looks through its peephole at the new cell, and ``clip`` bounds the cell.

Under fp16 semantics the states are rounded to fp16 after every step, because every step's output is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rubicc.backends.coreml.run.kernels.registry import Context, kernel

Tensor = torch.Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "scaled_tanh": lambda x: 1.7159 * torch.tanh(2.0 / 3.0 * x),
}


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    """An activation of a recurrent layer."""
    if name.lower() not in ACTIVATIONS:
        raise ValueError(f"activation {name}")
    return ACTIVATIONS[name.lower()]


def projected(c: Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Input part of all gates for all steps, ``(steps, batch, gates)``."""
    c.reserve((*x.shape[:2], weight.shape[0]))
    return torch.nn.functional.linear(x, weight, bias)


def steps_of(direction: str, count: int) -> range:
    """Time steps in the order in which they are taken."""
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction {direction}")
    return range(count) if direction == "forward" else range(count - 1, -1, -1)


@kernel("rnn", host="direction output_sequence activation")
def rnn(
    c: Context,
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """``h = act(W x + R h + b)``; x ``(steps, batch, inputs)``."""
    act = activation_named(activation)
    given = projected(c, x, weight_ih, bias)
    h, made, dtype = initial_h, [], c.dtype
    for step in steps_of(direction, len(given)):
        h = c.stored(act(torch.addmm(given[step], h, weight_hh.T)), dtype)
        made.append(h)
    return sequence(made, output_sequence), h


def sequence(made: list[Tensor], whole: bool) -> Tensor:
    """All steps, or the last one taken, on a first axis."""
    return torch.stack(made) if whole else made[-1].unsqueeze(0)


@kernel("gru", host="direction output_sequence recurrent_activation activation reset_after")
def gru(
    c: Context,
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit; gates reset, output, update; x ``(steps, batch, inputs)``."""
    size = weight_hh.shape[1]
    gate, act = activation_named(recurrent_activation), activation_named(activation)
    # Without reset_after both biases are outside the reset, so they only add up.
    outer = input_bias
    if not reset_after and bias is not None:
        outer = bias if input_bias is None else bias + input_bias
    given = projected(c, x, weight_ih, outer)
    reset_w, new_w, update_w = weight_hh.split(size)
    gates_w = torch.cat([reset_w, update_w]).T.contiguous()
    whole_w = torch.cat([reset_w, update_w, new_w]).T.contiguous()
    hidden = torch.zeros(3 * size, dtype=x.dtype)
    if reset_after and bias is not None:
        reset_b, new_b, update_b = bias.split(size)
        hidden = torch.cat([reset_b, update_b, new_b])
    new_t = new_w.T.contiguous()
    h, made, dtype = initial_h, [], c.dtype
    for step in steps_of(direction, len(given)):
        reset_x, new_x, update_x = given[step].split(size, -1)
        if reset_after:
            reset_h, update_h, new_h = torch.addmm(hidden, h, whole_w).split(size, -1)
            reset, update = gate(reset_x + reset_h), gate(update_x + update_h)
            new = act(new_x + reset * new_h)
        else:
            reset_h, update_h = torch.mm(h, gates_w).split(size, -1)
            reset, update = gate(reset_x + reset_h), gate(update_x + update_h)
            new = act(torch.addmm(new_x, reset * h, new_t))
        h = c.stored(new + update * (h - new), dtype)
        made.append(h)
    return sequence(made, output_sequence), h


@kernel("lstm", host="direction output_sequence recurrent_activation cell_activation activation clip")
def lstm(
    c: Context,
    *,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; gates input, forget, output, cell; x ``(steps, batch, inputs)``."""
    acts = (
        activation_named(recurrent_activation),
        activation_named(cell_activation),
        activation_named(activation),
    )
    if direction != "bidirectional":
        made, h, cell = one_way(
            c, x, initial_h, initial_c, weight_ih, weight_hh, bias, peephole, acts, clip, direction
        )
        return sequence(made, output_sequence), h, cell
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm without weights of the way back")
    size = weight_hh.shape[1]
    h0, h1 = initial_h.split(size, -1)
    c0, c1 = initial_c.split(size, -1)
    made, h, cell = one_way(c, x, h0, c0, weight_ih, weight_hh, bias, peephole, acts, clip, "forward")
    back, h_back, cell_back = one_way(
        c, x, h1, c1, weight_ih_back, weight_hh_back, bias_back, peephole_back, acts, clip, "reverse"
    )
    if output_sequence:
        back = back[::-1]
    both = torch.cat([sequence(made, output_sequence), sequence(back, output_sequence)], -1)
    return both, torch.cat([h, h_back], -1), torch.cat([cell, cell_back], -1)


Activation = Callable[[Tensor], Tensor]


def one_way(
    c: Context,
    x: Tensor,
    h: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    acts: tuple[Activation, Activation, Activation],
    clip: float | None,
    direction: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """One direction of an lstm: hidden states in the order made, last hidden state, last cell."""
    gate, cell_act, act = acts
    size = weight_hh.shape[1]
    given = projected(c, x, weight_ih, bias)
    weights = weight_hh.T.contiguous()
    peeps = (0.0, 0.0, 0.0) if peephole is None else peephole.split(size)
    made, dtype = [], c.dtype
    for step in steps_of(direction, len(given)):
        in_, forget, out, new = torch.addmm(given[step], h, weights).split(size, -1)
        if peephole is None:
            cell = gate(forget) * cell + gate(in_) * cell_act(new)
        else:
            cell = gate(forget + cell * peeps[1]) * cell + gate(in_ + cell * peeps[0]) * cell_act(new)
        if clip is not None:
            cell = cell.clamp(-clip, clip)
        cell = c.stored(cell, dtype)
        h = c.stored(gate(out if peephole is None else out + cell * peeps[2]) * act(cell), dtype)
        made.append(h)
    return made, h, cell
