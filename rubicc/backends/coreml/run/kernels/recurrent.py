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
The steps themselves are in :mod:`.cells`.
"""

from __future__ import annotations

import torch

from rubicc.backends.coreml.run.kernels.cells import ACTIVATIONS, gru_steps, lstm_steps, rnn_steps
from rubicc.backends.coreml.run.kernels.registry import Context, kernel

Tensor = torch.Tensor


def activation_named(name: str) -> str:
    """An activation of a recurrent layer, as the cells know it."""
    if name.lower() not in ACTIVATIONS:
        raise ValueError(f"activation {name}")
    return name.lower()


def projected(c: Context, x: Tensor, weight: Tensor, bias: Tensor | None, direction: str) -> Tensor:
    """Input part of all gates ``(steps, batch, gates)``, steps in the order in which they are taken."""
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction {direction}")
    c.reserve((*x.shape[:2], weight.shape[0]))
    c.turn(x.shape[0])
    c.multiply(x.shape[0] * x.shape[1] * (weight.numel() + weight.shape[0] ** 2))
    made = torch.nn.functional.linear(x, weight, bias)
    return made if direction == "forward" else made.flip([0])


def rounds(c: Context) -> bool:
    """Whether the states are rounded to fp16."""
    return c.half and c.dtype == "fp16"


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
    given = projected(c, x, weight_ih, bias, direction)
    weight = weight_hh.T.contiguous()
    made = torch.stack(rnn_steps(given, initial_h, weight, activation_named(activation), rounds(c)))
    return sequence(made, output_sequence), made[-1]


def sequence(made: Tensor, whole: bool) -> Tensor:
    """All steps, or the last one taken, on the first axis."""
    return made if whole else made[-1:].clone()


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
    hidden = torch.zeros(3 * size, dtype=x.dtype) if bias is None else bias
    outer = input_bias
    if not reset_after:
        # Both biases are outside the reset, so they only add up.
        outer = hidden if input_bias is None else hidden + input_bias
        hidden = torch.zeros_like(hidden)
    reset_x, new_x, update_x = projected(c, x, weight_ih, outer, direction).split(size, -1)
    reset_w, new_w, update_w = weight_hh.split(size)
    reset_b, new_b, update_b = hidden.split(size)
    made = torch.stack(
        gru_steps(
            torch.cat([reset_x, update_x], -1) + torch.cat([reset_b, update_b]),
            new_x.contiguous(),
            initial_h,
            torch.cat([reset_w, update_w]).T.contiguous(),
            new_w.T.contiguous(),
            new_b,
            activation_named(recurrent_activation),
            activation_named(activation),
            reset_after,
            rounds(c),
        )
    )
    return sequence(made, output_sequence), made[-1]


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
    options = (
        activation_named(recurrent_activation),
        activation_named(cell_activation),
        activation_named(activation),
        -1.0 if clip is None else float(clip),
        rounds(c),
    )
    if direction != "bidirectional":
        given = projected(c, x, weight_ih, bias, direction)
        made, h, cell = one_way(given, initial_h, initial_c, weight_hh, peephole, options)
        return sequence(made, output_sequence), h, cell
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm without weights of the way back")
    size = weight_hh.shape[1]
    h0, h1 = initial_h.split(size, -1)
    c0, c1 = initial_c.split(size, -1)
    given = projected(c, x, weight_ih, bias, "forward")
    made, h, cell = one_way(given, h0, c0, weight_hh, peephole, options)
    given = projected(c, x, weight_ih_back, bias_back, "reverse")
    back, h_back, cell_back = one_way(given, h1, c1, weight_hh_back, peephole_back, options)
    if output_sequence:
        back = back.flip([0])
    both = torch.cat([sequence(made, output_sequence), sequence(back, output_sequence)], -1)
    return both, torch.cat([h, h_back], -1), torch.cat([cell, cell_back], -1)


def one_way(
    given: Tensor,
    h: Tensor,
    cell: Tensor,
    weight_hh: Tensor,
    peephole: Tensor | None,
    options: tuple[str, str, str, float, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of an lstm: hidden states in the order made, last hidden state, last cell."""
    peeps = torch.zeros(0, dtype=h.dtype) if peephole is None else peephole
    made, last = lstm_steps(given, h, cell, weight_hh.T.contiguous(), peeps, *options)
    states = torch.stack(made)
    return states, states[-1], last
