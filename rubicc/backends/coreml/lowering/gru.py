"""GRU. MIL's operation applies the reset gate before the recurrent product, PyTorch's after it.

MIL (NeuralNetwork.proto, GRULayerParams, and coremltools' own tests, which run on Macs)::

    o = tanh(W_o x + R_o (r * h) + b_o)          h' = (1 - z) o + z h

PyTorch, and ONNX with ``linear_before_reset``::

    n = tanh(W_n x + b_n + r * (R_n h + b_h))    h' = (1 - z) n + z h

No choice of weights turns one into the other, not even with ``b_h = 0``. From iOS18 on the operation has
``reset_after`` with a bias of its own for each side. Before, one MIL ``gru`` of 2H units over 2T steps does
it: its state is ``[h, u]``, and two steps make one.

::

    step A   u  <- tanh(e (R_n h + b_h)) = e (R_n h + b_h)  up to its cube     h  stays (z = 1)
    step B   h  <- (1 - z) tanh(W_n x + b_n + (1/e) (r * u)) + z h             u  is of no use any more

``e`` is a power of two, so nothing is lost by dividing again; the linear part of tanh errs by ``(e v)^2 /
3`` relative, 3e-7 for ``v = 1``. That needs fp32. A channel added to the input is 1 in step A and 0 in step
B, and opens and closes gates: sigmoid(100) is 1 in fp32. In step A the other channels are 1 as well (they
come from one padding), which reaches gates that the channel holds wide open or shut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr
from rubicc.backends.coreml.lowering.table import Refusal, newer
from rubicc.backends.coreml.tools import OPSETS

if TYPE_CHECKING:
    from rubicc.backends.coreml.lowering.recurrent import Layer

_MIL_ORDER = (1, 2, 0)  # ONNX z r n -> MIL r n z
STEP = 2.0**-10  # e above
_OPEN = 100.0


def check_gru(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    """Refusals of GRU alone."""
    names = [name.lower() for name in attr(node, "activations") or ()]
    after = bool(attr(node, "linear_before_reset", 0))
    if (
        after
        and not facts.opset >= OPSETS["iOS18"]
        and names
        and set(names[::2]) | set(names[1::2]) != {"sigmoid", "tanh"}
    ):
        yield newer("GRU with linear_before_reset and other activations than sigmoid and tanh", "iOS18")


def gru_direction(c: Context, layer: Layer, d: int, x: Var, h: Var) -> Sequence[Var]:
    """One direction over ``x`` (T, N, I) in the order given: (T, N, H) and (N, H)."""
    if not attr(layer.node, "linear_before_reset", 0):
        return _plain(c, layer, d, x, h)
    write = _two_steps if needs_two_steps(c, layer.node) else _after
    return write(c, layer, d, x, h)


def needs_two_steps(facts: Facts, node: ir.Node) -> bool:
    """Whether a recurrent node is a GRU in PyTorch's form on a target without it."""
    return bool(attr(node, "linear_before_reset", 0)) and not facts.opset >= OPSETS["iOS18"]


def _run(c: Context, layer: Layer, d: int, x: Var, h: Var, **more: object) -> Sequence[Var]:
    names = dict(zip(("recurrent_activation", "activation"), layer.activations[d], strict=True))
    return c.op("gru", layer.node, f"{d}", x=x, initial_h=h, output_sequence=True, **names, **more)


def _plain(c: Context, layer: Layer, d: int, x: Var, h: Var) -> Sequence[Var]:
    """Reset before the product: MIL's own form, the two biases in one."""
    from rubicc.backends.coreml.lowering.recurrent import gate_weights, parameter

    half = 3 * layer.size
    total = layer.bias[d, :half].astype(np.float64) + layer.bias[d, half:]
    bias = parameter(c, layer, f"bias{d}", layer.gates(total, _MIL_ORDER))
    return _run(c, layer, d, x, h, bias=bias, **gate_weights(c, layer, d, _MIL_ORDER))


def _after(c: Context, layer: Layer, d: int, x: Var, h: Var) -> Sequence[Var]:
    """Reset after the product: ``bias`` is the hidden side's, ``input_bias`` the input side's."""
    from rubicc.backends.coreml.lowering.recurrent import gate_weights, parameter

    reason = "coremltools' own parity test of it is marked as failing (rdar://128479517): compare on a device"
    c.decide("RUB-COREML-D12", layer.node, "MIL's gru with reset_after", reason)
    half = 3 * layer.size
    bias = {
        name: parameter(c, layer, f"{name}{d}", layer.gates(array, _MIL_ORDER))
        for name, array in (("bias", layer.bias[d, half:]), ("input_bias", layer.bias[d, :half]))
    }
    return _run(c, layer, d, x, h, **bias, **gate_weights(c, layer, d, _MIL_ORDER), reset_after=True)


def two_step_weights(weights: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of the ``gru`` over ``[h, u]``; see the module.

    Args:
        weights: (3H, I), ``recurrent`` (3H, H), ``bias`` (6H,) in ONNX's order z r n.

    Returns:
        ``weight_ih`` (6H, I + 1), ``weight_hh`` (6H, 2H), ``bias`` (6H,) in MIL's order r o z; float64.
    """
    h, i = recurrent.shape[1], weights.shape[1]
    (w_z, w_r, w_n), (r_z, r_r, r_n) = (np.split(a.astype(np.float64), 3) for a in (weights, recurrent))
    b_z, b_r, b_n, h_z, h_r, h_n = np.split(bias.astype(np.float64), 6)
    none, dark = np.zeros((h, h)), np.zeros((h, i))
    column = np.ones((h, 1))
    held = _OPEN - w_r.sum(axis=1, keepdims=True), _OPEN - w_z.sum(axis=1, keepdims=True)
    weight_ih = [
        np.hstack([w_r, held[0]]), np.hstack([w_r, 0 * column]),  # r: step A reads all of h
        np.hstack([w_n, 0 * column]), np.hstack([dark, 0 * column]),  # o
        np.hstack([w_z, held[1]]), np.hstack([dark, 0 * column]),  # z: step A keeps h, u is always new
    ]  # fmt: skip
    weight_hh = [
        np.hstack([r_r, none]), np.hstack([r_r, none]),
        np.hstack([none, np.eye(h) / STEP]), np.hstack([STEP * r_n, none]),
        np.hstack([r_z, none]), np.hstack([none, none]),
    ]  # fmt: skip
    biases = [b_r + h_r, b_r + h_r, b_n, STEP * h_n, b_z + h_z, np.full(h, -_OPEN)]
    return {
        "weight_ih": np.vstack(weight_ih),
        "weight_hh": np.vstack(weight_hh),
        "bias": np.concatenate(biases),
    }


def _two_steps(c: Context, layer: Layer, d: int, x: Var, h: Var) -> Sequence[Var]:
    """Two MIL steps per step of the layer, in fp32."""
    from rubicc.backends.coreml.lowering.recurrent import parameter, zeros

    node, size = layer.node, layer.size
    what = f"{2 * size} units over two steps per step, in fp32"
    c.decide(
        "RUB-COREML-D12",
        node,
        what,
        f"MIL's gru of {c.opset.name} resets before the product, this layer after it",
    )
    wide = c.op("concat", node, f"{d}_state", values=(h, zeros(c, layer, x, size, f"{d}_u0")), axis=1)
    for value in (node.inputs[1], node.inputs[2]):
        if value is not None and value.producer() is not None:
            c.decide(
                "RUB-COREML-D18", node, f"{value.name} stored plain", "it becomes part of a larger matrix"
            )
    arrays = two_step_weights(layer.weights[d], layer.recurrent[d], layer.bias[d])
    parameters = {name: parameter(c, layer, f"{name}{d}", array) for name, array in arrays.items()}
    sequence, _ = _run(c, layer, d, _doubled(c, layer, d, x), wide, **parameters)
    made = c.op(
        "slice_by_index", node, f"{d}_cells", x=sequence, begin=[1, 0, 0], end=[0, 0, size], stride=[2, 1, 1],
        begin_mask=[False, True, True], end_mask=[True, True, False],
    )  # fmt: skip
    last = c.op(
        "slice_by_index", node, f"{d}_last", x=made, begin=[-1, 0, 0], end=[0, 0, 0],
        begin_mask=[False, True, True], end_mask=[True, True, True], squeeze_mask=[True, False, False],
    )  # fmt: skip
    return made, last


def _doubled(c: Context, layer: Layer, d: int, x: Var) -> Var:
    """(T, N, I) to (2T, N, I + 1): before every step one of ones, whose added channel says so."""
    node = layer.node
    zero, one = (c.scalar_like(x, number) for number in (0, 1))
    x = c.op("pad", node, f"{d}_channel", x=x, pad=[0, 1], mode="constant", constant_val=zero)
    pair = c.op("expand_dims", node, f"{d}_pairs", x=x, axes=[1])
    pair = c.op("pad", node, f"{d}_twice", x=pair, pad=[1, 0, 0, 0, 0, 0], mode="constant", constant_val=one)
    steps, batch, width = (n if isinstance(n, int) else None for n in x.shape)
    if batch is None and steps is None:
        sizes = c.op("shape", node, f"{d}_sizes", x=x)
        tail = c.op("slice_by_index", node, f"{d}_tail", x=sizes, begin=[1], end=[3])
        free = c.const(np.array([-1], np.int32), f"{node.name}_{d}_free")
        shape = c.op("concat", node, f"{d}_shape", values=(free, tail), axis=0)
    else:
        shape = [-1 if steps is None else 2 * steps, -1 if batch is None else batch, width]
    return c.op("reshape", node, f"{d}_steps", x=pair, shape=shape)
