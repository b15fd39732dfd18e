"""GRU and LSTM as an ordinary linear layer for the input, and a ``Scan`` for what depends on the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.integer import cells
from rubicc.passes.integer.bodies import names_for
from rubicc.passes.integer.cells import CELL_KEY, GATES, Weights
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, only_use

_ORDER = {
    "GRU": (1, 0, 2),
    "LSTM": (0, 2, 3, 1),
}  # ONNX: z, r, h and i, o, f, c; the array: r, z, n and i, f, g, o
_DEFAULTS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_LAST = -(1 << 31)


@register
class Recurrence(Pass):
    """A recurrent layer of one direction becomes its input projection, for all frames at once, and a Scan.

    A sequence that is turned round before a layer and after it becomes a layer that runs backward. All biases
    that are added before a function goes into the projection; a GRU's hidden bias of the new state stays.

    ::

        before   x -> Slice(-1) -> GRU(W, R, B) -> Squeeze -> Slice(-1) -> y
        after    x -> MatMul(W) -> Add(b) -> Scan(one step with R; backward) -> y
    """

    id = "integer.recurrence"
    ensures = frozenset({"scans"})
    tolerance = 1e-4

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in graph.nodes:
            if not is_standard(node, "GRU", "LSTM"):
                continue
            why = _misfit(node)
            if why:
                self.note(source_of(node), why)
            else:
                self._rewrite(edit, node)
                changed = True
        return changed

    def _rewrite(self, edit: Editor, node: ir.Node) -> None:
        x, squeeze = node.inputs[0], next(iter(node.outputs[0].uses())).node
        old = squeeze.outputs[0]
        backward = node.attributes.get_string("direction", "forward") == "reverse"
        turned = x.producer() if x is not None else None
        turned = turned if turned is not None and _turns(turned) else None
        if turned is not None:
            x, backward = turned.inputs[0], not backward
        if x is None:
            raise AssertionError("a recurrent layer reads something")
        kind, weight, of, bias = _weights(node)
        gates = self._projection(edit, node, x, weight, bias)
        y = self._scan(edit, node, gates, of, kind, backward)
        if turned is None:
            edit.replace_value(old, y)
        else:
            self._turn_back(edit, node, old, y)
        for gone in (squeeze, node, turned):
            if gone is not None and not any(out.uses() or out.is_graph_output() for out in gone.outputs):
                edit.remove(gone)

    def _turn_back(self, edit: Editor, node: ir.Node, old: ir.Value, y: ir.Value) -> None:
        """``old`` was turned round: whoever turns it back reads ``y``, everyone else a turned ``y``."""
        for use in list(old.uses()):
            if _turns(use.node) and use.idx == 0:
                edit.replace_value(use.node.outputs[0], y)
                if not use.node.outputs[0].uses():
                    edit.remove(use.node)
        if old.uses() or old.is_graph_output():
            ends = [np.asarray([number], np.int64) for number in (-1, _LAST, 0, -1)]
            names = ("starts", "ends", "axes", "steps")
            given = [edit.initializer(f"{node.name}_{n}", a) for n, a in zip(names, ends, strict=True)]
            made = edit.node("Slice", [y, *given], like=node, shape=y.shape, dtype=ir.DataType.FLOAT)
            edit.replace_value(old, made.outputs[0])

    def _projection(
        self, edit: Editor, node: ir.Node, x: ir.Value, weight: np.ndarray, bias: np.ndarray
    ) -> ir.Value:
        """``W x + b`` for all frames."""
        shape = None if x.shape is None else ir.Shape([*list(x.shape)[:2], len(weight)])
        matrix = edit.initializer(f"{node.name}_input", np.ascontiguousarray(weight.T))
        made = edit.node("MatMul", [x, matrix], like=node, shape=shape, dtype=ir.DataType.FLOAT)
        added = edit.initializer(f"{node.name}_bias", bias)
        inputs = [made.outputs[0], added]
        return edit.node("Add", inputs, like=node, shape=shape, dtype=ir.DataType.FLOAT).outputs[0]

    def _scan(
        self, edit: Editor, node: ir.Node, gates: ir.Value, of: Weights, kind: str, backward: bool
    ) -> ir.Value:
        body = cells.float_body(of, names_for(edit, node), lambda made: edit.stamp(made, node)).graph
        zeros = initial_state(edit, node, gates, of.hidden, np.dtype(np.float32))
        states = 1 + (kind == "lstm")
        made = scan_node(edit, node, [zeros] * states, gates, body, kind, backward, of.hidden)
        return made.outputs[-1]


def scan_node(
    edit: Editor, like: ir.Node, states: list[ir.Value], gates: ir.Value, body: ir.Graph, kind: str,
    backward: bool, hidden: int,
) -> ir.Node:  # fmt: skip
    """A Scan of ``body`` over the frames of ``gates`` (T, N, G * H); its last output is (T, N, H)."""
    attributes: dict[str, Any] = {"body": body, "num_scan_inputs": 1}
    if backward:
        attributes |= {"scan_input_directions": [1], "scan_output_directions": [1]}
    stem = edit.fresh_node(f"{like.name}/Scan")
    made = ir.node("Scan", [*states, gates], attributes, num_outputs=len(states) + 1, name=stem)
    frames = list(gates.shape)[:2] if gates.shape is not None else [None, None]
    for out, state in zip(made.outputs, [*states, None], strict=True):
        out.name = edit.fresh(f"{stem}_out")
        out.shape = ir.Shape([*(frames[1:] if state is not None else frames), hidden])
        out.type = ir.TensorType(state.dtype if state is not None and state.dtype else ir.DataType.FLOAT)
    edit.stamp(made, like)
    made.metadata_props[CELL_KEY] = kind
    if like.graph is None:
        raise AssertionError("the layer is in a graph")
    like.graph.insert_before(like, made)
    return made


def initial_state(edit: Editor, like: ir.Node, gates: ir.Value, hidden: int, dtype: np.dtype) -> ir.Value:
    """Zeros (N, H), N that of ``gates`` (T, N, ...)."""
    number = ir.DataType.INT64

    def const(stem: str, numbers: list[int]) -> ir.Value:
        return edit.initializer(f"{like.name}_{stem}", np.asarray(numbers, np.int64))

    sizes = edit.node("Shape", [gates], like=like, shape=ir.Shape([3]), dtype=number).outputs[0]
    cut = [sizes, const("from", [1]), const("to", [2])]
    batch = edit.node("Slice", cut, like=like, shape=ir.Shape([1]), dtype=number).outputs[0]
    both = [batch, const("hidden", [hidden])]
    shape = edit.node(
        "Concat", both, like=like, attributes={"axis": 0}, shape=ir.Shape([2]), dtype=number
    ).outputs[0]
    kind = ir.DataType.from_numpy(dtype)
    batch_size = list(gates.shape)[1] if gates.shape is not None else None
    return edit.node(
        "ConstantOfShape", [shape], like=like, attributes={"value": ir.tensor(np.zeros(1, dtype))},
        shape=ir.Shape([batch_size, hidden]), dtype=kind,
    ).outputs[0]  # fmt: skip


def _weights(node: ir.Node) -> tuple[str, np.ndarray, Weights, np.ndarray]:
    """Kind, input weights (G * H, I), the cell, and the bias that goes into the projection."""
    arrays = [constant(value) for value in node.inputs[1:3]]
    if arrays[0] is None or arrays[1] is None:
        raise AssertionError("weights are constant")
    order, kind = _ORDER[node.op_type], node.op_type.lower()
    hidden = arrays[1].shape[2]

    def gates(array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(len(order), hidden, -1)
        return np.ascontiguousarray(blocks[list(order)].reshape(len(order) * hidden, -1))

    weight, recurrent = gates(arrays[0][0]), gates(arrays[1][0])
    given = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    width = len(weight)
    both = np.zeros(2 * width, np.float32) if given is None else given[0]
    into, held = gates(both[:width])[:, 0], gates(both[width:])[:, 0]
    if kind == "lstm":
        return kind, weight, Weights("lstm", recurrent, None), into + held
    inner = held.copy()
    inner[: 2 * hidden] = 0
    into = into + held - inner
    return kind, weight, Weights("gru", recurrent, inner if np.any(inner) else None), into


def _misfit(node: ir.Node) -> str:
    """Why a layer stays as it is; empty when it need not."""
    attributes, gates = node.attributes, GATES[node.op_type.lower()]
    if attributes.get_string("direction", "forward") == "bidirectional":
        return "two directions in one layer: write them as two layers, or as layers of alternating direction"
    if attributes.get_int("layout", 0) != 0:
        return "sequences before frames (layout 1)"
    if node.op_type == "GRU" and attributes.get_int("linear_before_reset", 0) != 1:
        return "the reset gate is applied before the product (linear_before_reset 0)"
    if any(name in attributes for name in ("clip", "activation_alpha", "activation_beta")):
        return "clipped or parametrised activations"
    named = tuple(attributes.get_strings("activations") or ())
    if named and tuple(name.lower() for name in named) != tuple(n.lower() for n in _DEFAULTS[node.op_type]):
        return f"activations {', '.join(named)}"
    if any(value is not None for value in node.inputs[4:]) or attributes.get_int("input_forget", 0) != 0:
        return "initial states, lengths or peepholes"
    if any(not is_constant(value) for value in node.inputs[1:4] if value is not None):
        return "weights that are not constant"
    matrix = constant(node.inputs[2])
    if matrix is None or matrix.shape[1] != gates * matrix.shape[2] or matrix.dtype != np.float32:
        return "weights of another type or shape"
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return "its last state is read"
    user = only_use(node.outputs[0])
    axes = constant(user.inputs[1]) if user is not None and is_standard(user, "Squeeze") else None
    if axes is None or axes.reshape(-1).tolist() != [1]:
        return "its output is not squeezed over the direction"
    return ""


def _turns(node: ir.Node) -> bool:
    """Whether a Slice turns frames (axis 0) round."""
    if not is_standard(node, "Slice") or len(node.inputs) != 5:
        return False
    numbers = [constant(value) for value in node.inputs[1:]]
    if any(array is None or array.size != 1 for array in numbers):
        return False
    start, end, axis, step = (int(array.reshape(())) for array in numbers if array is not None)
    return (start, axis, step) == (-1, 0, -1) and end <= _LAST
