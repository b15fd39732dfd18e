"""LSTM and plain recurrence, and what all recurrent layers share: directions, states, layouts. GRU:
``gru.py``.

MIL runs a layer over (T, N, I) with gates in another order than ONNX and returns (T, N, D*H); ONNX's extra
axis of directions is added only for those who read it. A layer that runs backwards is written as reverse,
layer, reverse: what MIL's own ``reverse`` direction returns in which order is documented for no operation
but the bidirectional LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, given
from rubicc.backends.coreml.lowering.gru import check_gru, gru_direction, needs_two_steps
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse
from rubicc.backends.coreml.tools import OPSETS
from rubicc.ir.ops.recurrent import GATES

_ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_LSTM_ORDER = (0, 2, 1, 3)  # ONNX i o f c -> MIL i f o c
_PEEP_ORDER = (0, 2, 1)
# What stands around the operation: axes of directions, zero states, running backwards.
_AROUND = "transpose reshape expand_dims squeeze reverse split stack concat shape slice_by_index fill pad"


@dataclass(frozen=True)
class Layer:
    """One recurrent node, read.

    Attributes:
        weights: (D, gates*H, I); ``recurrent``: (D, gates*H, H); ``bias``: (D, 2*gates*H).
        activations: per direction.
        reverse: it has one direction, backwards.
        dtype: type it is computed in.
    """

    node: ir.Node
    weights: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    activations: list[list[str]]
    reverse: bool
    dtype: str

    @property
    def directions(self) -> int:
        """1 or 2."""
        return int(self.weights.shape[0])

    @property
    def size(self) -> int:
        """Hidden units of one direction."""
        return int(self.recurrent.shape[2])

    def gates(self, array: np.ndarray, order: Sequence[int]) -> np.ndarray:
        """Gates (first axis) of one direction in MIL's order."""
        return np.concatenate([array[k * self.size : (k + 1) * self.size] for k in order])


def _check_recurrent(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    kind = node.op_type
    for index, what in (
        (1, "weights"),
        (2, "recurrent weights"),
        (3, "biases"),
        (4, "sequence lengths"),
        (7, "peepholes"),
    ):
        yield from needs_constant(facts, given(node, index), f"the {what} of {kind}")
    lengths, steps = given(node, 4), facts.size(node.inputs[0], 1 if attr(node, "layout", 0) else 0)
    array = facts.constant(lengths) if facts.is_constant(lengths) else None
    if array is not None and (steps is None or np.any(array != steps)):
        yield refuse(f"{kind} over sequences of different lengths")
    if attr(node, "clip") is not None or attr(node, "activation_alpha") or attr(node, "activation_beta"):
        yield refuse(f"{kind} with clip or activation parameters")
    if attr(node, "input_forget", 0):
        yield refuse("LSTM with coupled input and forget gates")
    unknown_names = {n for n in attr(node, "activations") or () if n.lower() not in _ACTIVATIONS}
    if unknown_names:
        yield refuse(f"{kind} with activation {', '.join(sorted(unknown_names))}")
    names = [n.lower() for n in attr(node, "activations") or ()]
    both = kind == "LSTM" and attr(node, "direction", "forward") == "bidirectional"
    if both and names[: len(names) // 2] != names[len(names) // 2 :]:
        yield refuse("LSTM whose directions have different activations")
    if kind == "GRU":
        yield from check_gru(facts, node)


def read(c: Context, node: ir.Node) -> Layer:
    """Weights and switches of a recurrent node."""
    kind = node.op_type
    weights, recurrent = c.constant(node.inputs[1]), c.constant(node.inputs[2])
    assert weights is not None and recurrent is not None
    bias = c.constant(given(node, 3))
    directions = weights.shape[0]
    names = attr(node, "activations") or list(_DEFAULT[kind]) * directions
    per = len(_DEFAULT[kind])
    dtype = "fp32" if kind == "GRU" and needs_two_steps(c, node) else c.dtype
    if dtype == "fp16" and not c.opset >= OPSETS["iOS17"]:
        dtype = "fp32"
        c.decide(
            "RUB-COREML-D15", node, f"{kind} in fp32", f"{c.opset.name} has no recurrent layer in float16"
        )
    for value in (node.inputs[1], node.inputs[2]):
        if value is not None and value.producer() is not None:
            c.decide("RUB-COREML-D18", node, f"{value.name} stored plain", "its gates are reordered")
    return Layer(
        node,
        np.asarray(weights),
        np.asarray(recurrent),
        np.zeros((directions, 2 * GATES[kind] * recurrent.shape[2]), np.float32)
        if bias is None
        else np.asarray(bias),
        [[_ACTIVATIONS[n.lower()] for n in names[d * per : (d + 1) * per]] for d in range(directions)],
        attr(node, "direction", "forward") == "reverse",
        dtype,
    )


def gate_weights(c: Context, layer: Layer, d: int, order: Sequence[int], suffix: str = "") -> dict[str, Var]:
    """Both matrices of one direction with the gates in MIL's order; compressed ones stay compressed."""
    made = {}
    for name, index in (("weight_ih", 1), ("weight_hh", 2)):
        value = layer.node.inputs[index]
        assert value is not None
        how = f"gates_{d}_{''.join(map(str, order))}"
        made[f"{name}{suffix}"] = c.weight(value, lambda a: layer.gates(a[d], order), how, dtype=layer.dtype)
    return made


def parameter(c: Context, layer: Layer, name: str, array: np.ndarray) -> Var:
    """A small or computed weight of a layer in its type."""
    title = f"{layer.node.name}_{name}"
    return c.const(np.ascontiguousarray(c.number(array, layer.dtype, title)), title)


def source(c: Context, layer: Layer) -> Var:
    """Input as (T, N, I)."""
    x = c.var(layer.node.inputs[0], layer.dtype)
    return (
        c.op("transpose", layer.node, "time_first", x=x, perm=[1, 0, 2])
        if attr(layer.node, "layout", 0)
        else x
    )


def state(c: Context, layer: Layer, x: Var, index: int, part: str) -> Var:
    """Initial state as (N, D*H); zeros when omitted."""
    node, wide = layer.node, layer.directions * layer.size
    value = given(node, index)
    if value is not None:
        given_state = c.var(value, layer.dtype)
        if not attr(node, "layout", 0):
            if layer.directions == 1:
                return c.op("squeeze", node, part, x=given_state, axes=[0])
            given_state = c.op("transpose", node, f"{part}_turned", x=given_state, perm=[1, 0, 2])
        batch = given_state.shape[0]
        return c.op(
            "reshape", node, part, x=given_state, shape=[batch if isinstance(batch, int) else -1, wide]
        )
    return zeros(c, layer, x, wide, part)


def zeros(c: Context, layer: Layer, x: Var, width: int, part: str) -> Var:
    """(N, width) zeros for ``x`` (T, N, I)."""
    node, batch = layer.node, x.shape[1]
    title = f"{node.name}_{part}"
    if isinstance(batch, int):
        return c.const(np.zeros((batch, width), c.number(0.0, layer.dtype, "").dtype), title)
    sizes = c.op("shape", node, f"{part}_sizes", x=x)
    rows = c.op("slice_by_index", node, f"{part}_batch", x=sizes, begin=[1], end=[2])
    shape = c.op(
        "concat", node, f"{part}_shape", values=(rows, c.const(np.array([width], np.int32), title)), axis=0
    )
    return c.op("fill", node, part, shape=shape, value=c.number(np.float64(0), layer.dtype, "")[()])


def both_ways(c: Context, layer: Layer, x: Var, run: Callable[[Var], Sequence[Var]]) -> Sequence[Var]:
    """A layer's outputs in the order of time, also where it runs backwards."""
    if not layer.reverse:
        return run(x)
    made = list(run(c.op("reverse", layer.node, "backwards", x=x, axes=[0])))
    made[0] = c.op("reverse", layer.node, "forwards", x=made[0], axes=[0])
    return made


def results(c: Context, layer: Layer, made: Sequence[Var]) -> None:
    """ONNX's outputs from MIL's (T, N, D*H) and (N, D*H), with the axis of directions for those who ask."""
    node, outputs = layer.node, list(layer.node.outputs)
    batch_first = bool(attr(node, "layout", 0))
    for index, (value, var) in enumerate(zip(outputs, made, strict=False)):
        if not value.name:
            continue
        if layer.directions == 1 and not batch_first:
            axis = 1 if index == 0 else 0
            c.expanded[value] = (var, axis)
        c.postpone(value, lambda index=index, var=var: _with_directions(c, layer, index, var))  # type: ignore[misc]
    if layer.directions == 2 and not batch_first and outputs and outputs[0].name:
        _merged(c, outputs[0], made[0], layer)


def _with_directions(c: Context, layer: Layer, index: int, var: Var) -> Var:
    """Y (T, D, N, H) or a state (D, N, H); batch first (N, T, D, H) and (N, D, H)."""
    node, d, h = layer.node, layer.directions, layer.size
    part, batch_first = ("y", "y_h", "y_c")[index], bool(attr(node, "layout", 0))
    lead = [n if isinstance(n, int) else 0 for n in var.shape[:-1]]
    free = [axis for axis, n in enumerate(var.shape[:-1]) if not isinstance(n, int)]
    if d == 1 and not batch_first:
        return c.op("expand_dims", node, part, x=var, axes=[1 if index == 0 else 0])
    if d == 1:
        var = c.op("expand_dims", node, f"{part}_axis", x=var, axes=[2 if index == 0 else 1])
    elif len(free) < 2:
        shape = [*(-1 if axis in free else n for axis, n in enumerate(lead)), d, h]
        var = c.op("reshape", node, f"{part}_axis", x=var, shape=shape)
    else:
        halves = c.op("split", node, f"{part}_halves", x=var, num_splits=d, axis=-1)
        var = c.op("stack", node, f"{part}_axis", values=tuple(halves), axis=len(var.shape) - 1)
    if index == 0:
        perm = [1, 0, 2, 3] if batch_first else [0, 2, 1, 3]
    else:
        perm = [0, 1, 2] if batch_first else [1, 0, 2]
    return var if perm == sorted(perm) else c.op("transpose", node, part, x=var, perm=perm)


def _merged(c: Context, value: ir.Value, var: Var, layer: Layer) -> None:
    """Exporters put the directions beside the units (Transpose 0 2 1 3, Reshape): what MIL returned."""
    for use in value.uses():
        turned = use.node
        if turned.op_type != "Transpose" or list(attr(turned, "perm", [])) != [0, 2, 1, 3]:
            continue
        for after in turned.outputs[0].uses():
            result = after.node.outputs[0]
            wide = c.size(result, -1) == layer.directions * layer.size
            if after.node.op_type == "Reshape" and c.rank(result) == 3 and wide:
                c.preset[result] = var


@convert(
    "LSTM",
    mil=f"lstm {_AROUND}",
    note="fp16 from iOS17 on; one length for all sequences",
    check=_check_recurrent,
)
def lstm(c: Context, node: ir.Node) -> None:
    """One or two directions, initial states, peepholes."""
    layer = read(c, node)
    x = source(c, layer)
    h, cell = (state(c, layer, x, index, part) for index, part in ((5, "h0"), (6, "c0")))
    inputs: dict[str, Any] = {"initial_h": h, "initial_c": cell, "output_sequence": True}
    half = 4 * layer.size
    peepholes = c.constant(given(node, 7))
    for d, suffix in ((0, ""), (1, "_back"))[: layer.directions]:
        bias = layer.bias[d, :half].astype(np.float64) + layer.bias[d, half:]
        inputs |= gate_weights(c, layer, d, _LSTM_ORDER, suffix)
        arrays = {"bias": layer.gates(bias, _LSTM_ORDER)}
        if peepholes is not None:
            arrays["peephole"] = layer.gates(peepholes[d], _PEEP_ORDER)
        inputs |= {f"{name}{suffix}": parameter(c, layer, f"{name}{suffix}", a) for name, a in arrays.items()}
    names = ("recurrent_activation", "cell_activation", "activation")
    inputs |= dict(zip(names, layer.activations[0], strict=True))
    inputs["direction"] = "bidirectional" if layer.directions == 2 else "forward"
    results(c, layer, both_ways(c, layer, x, lambda x: c.op("lstm", node, x=x, **inputs)))


@convert("RNN", mil=f"rnn {_AROUND}", note="fp16 from iOS17 on", check=_check_recurrent)
def rnn(c: Context, node: ir.Node) -> None:
    """Plain recurrence, a MIL operation per direction."""

    def run(layer: Layer, d: int, x: Var, h: Var) -> Sequence[Var]:
        bias = layer.bias[d, : layer.size].astype(np.float64) + layer.bias[d, layer.size :]
        parameters = gate_weights(c, layer, d, (0,)) | {"bias": parameter(c, layer, f"bias{d}", bias)}
        activation = layer.activations[d][0]
        return c.op(
            "rnn", node, f"{d}", x=x, initial_h=h, activation=activation, output_sequence=True, **parameters
        )

    _by_direction(c, read(c, node), run)


@convert(
    "GRU",
    mil=f"gru {_AROUND}",
    note="PyTorch's form (linear_before_reset): natively from iOS18 on, before it in two steps of fp32",
    check=_check_recurrent,
)
def gru(c: Context, node: ir.Node) -> None:
    """A MIL operation per direction."""
    _by_direction(c, read(c, node), lambda layer, d, x, h: gru_direction(c, layer, d, x, h))


def _by_direction(c: Context, layer: Layer, run: Callable[[Layer, int, Var, Var], Sequence[Var]]) -> None:
    """For operations that have no bidirectional form: each direction alone, then side by side."""
    x = source(c, layer)
    h = state(c, layer, x, 5, "h0")
    if layer.directions == 1:
        results(c, layer, both_ways(c, layer, x, lambda x: run(layer, 0, x, h)))
        return
    node = layer.node
    states = c.op("split", node, "states", x=h, num_splits=2, axis=1)
    ahead = run(layer, 0, x, states[0])
    back = list(run(layer, 1, c.op("reverse", node, "backwards", x=x, axes=[0]), states[1]))
    back[0] = c.op("reverse", node, "forwards", x=back[0], axes=[0])
    pairs = zip(ahead, back, ("sequence", "state"), strict=True)
    results(c, layer, [c.op("concat", node, part, values=pair, axis=-1) for *pair, part in pairs])
