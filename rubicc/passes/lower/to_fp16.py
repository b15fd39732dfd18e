"""Float32 compute becomes float16, with islands of float32 where asked or needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = 65504.0  # largest finite float16

# They set the integers of a quantised tensor, hold graphs, or take their type from an attribute.
ALWAYS_FLOAT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Scan"}
    | {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "EyeLike", "Bernoulli"}
)
# These compute nothing: they follow their neighbours, so that no Cast stands on both sides of one.
NEUTRAL = frozenset(
    {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat"}
    | {"Gather", "Expand", "Relu", "Neg", "Abs"}
)


@register
class ToFp16(Pass):
    """Float32 weights and compute become float16; inputs and outputs of the graph stay float32.

    ::

        x -> Conv(W) -> LogSoftmax -> y
        becomes (keep_ops has LogSoftmax)
        x -> Cast(f16) -> Conv(W16) -> Cast(f32) -> LogSoftmax -> y

    One Cast per value and type, shared by its readers. Operators that only move data, between float32
    neighbours, stay float32 too, so that nothing is rounded for a transpose. A weight beyond 65504 keeps its
    nodes in float32 (``RUB-PASS-D01``) or is refused.
    """

    @dataclass(frozen=True)
    class Options:
        """What stays in float32.

        Attributes:
            keep: names of nodes.
            keep_ops: operator types. By default those whose exponentials, sums over many terms or small
                differences leave the range or precision of float16.
            overflow: ``keep`` nodes with weights beyond 65504 in float32, or ``refuse`` the graph.
        """

        keep: tuple[str, ...] = ()
        keep_ops: tuple[str, ...] = (
            "LogSoftmax", "ReduceLogSumExp", "ReduceSumSquare", "ReduceL2", "CumSum", "Exp", "Log", "Pow",
            "LayerNormalization", "InstanceNormalization", "GroupNormalization", "Range",
        )  # fmt: skip
        overflow: Literal["keep", "refuse"] = "keep"

    id = "lower.to-fp16"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"fp16"})
    exact = False
    tolerance = 2e-2

    def run(self, graph: Graph) -> bool:
        """Raises UsageError: ``RUB-PASS-011`` overflow, ``-012`` unknown types, ``-003`` no such node."""
        _require_types(graph)
        nodes = [n for n in graph.nodes if self._moves(n)]
        if not nodes:
            return False
        self._check_names(graph)
        halves = self._choose(graph, nodes)
        if not halves:
            return False
        _Casting(Editor(graph, self.id), halves).run()
        return True

    def _moves(self, node: ir.Node) -> bool:
        """Whether the node computes in float32 now, so that there is something to decide."""
        if op_key(node) == "Cast":
            return node.attributes.get_int("to") == FLOAT and _dtype(node.inputs[0]) not in (FLOAT, HALF)
        if _reads_any(node):
            return False
        return any(_dtype(v) == FLOAT for v in (*node.inputs, *node.outputs))

    def _check_names(self, graph: Graph) -> None:
        known = {node.name for node in graph.nodes}
        missing = [name for name in self.options.keep if name not in known]
        if missing:
            raise UsageError("RUB-PASS-003", f"no node named {missing[0]!r} to keep in fp32")

    def _choose(self, graph: Graph, nodes: list[ir.Node]) -> set[ir.Node]:
        """The nodes that compute in float16."""
        too_large = _overflowing(graph)
        captured = _captured(graph)
        halves = set()
        for node in nodes:
            overflow = [v.name for v in node.inputs if v in too_large]
            if node.name in self.options.keep or self._kept_type(node) or not _half_form(node, graph.opset):
                continue
            if any(v in captured for v in (*node.inputs, *node.outputs)):
                continue
            if overflow:
                self._overflow(node, str(overflow[0]))
                continue
            halves.add(node)
        return _settle(graph, halves)

    def _kept_type(self, node: ir.Node) -> bool:
        return node.domain != "" or node.op_type in ALWAYS_FLOAT or node.op_type in self.options.keep_ops

    def _overflow(self, node: ir.Node, name: str) -> None:
        what = f"{node.op_type} stays in fp32: its constant {name!r} exceeds {LARGEST:g}"
        if self.options.overflow == "refuse":
            raise UsageError("RUB-PASS-011", what, where=source_of(node), hint="keep the node in fp32")
        self.decisions.append(Decision("RUB-PASS-D01", source_of(node), what, "no finite fp16 number"))


def _settle(graph: Graph, halves: set[ir.Node]) -> set[ir.Node]:
    """Take data movement between float32 neighbours out of ``halves``, from the outputs upwards."""
    for node in reversed(graph.nodes):
        if node not in halves or node.op_type not in NEUTRAL:
            continue
        sources = [v for v in node.inputs if v is not None and _dtype(v) == FLOAT and not is_constant(v)]
        readers = [reader for v in node.outputs for reader in v.consumers()]
        from_float = all(v.producer() is None or v.producer() not in halves for v in sources)
        if sources and from_float and not any(reader in halves for reader in readers):
            halves.discard(node)
    return halves


class _Casting:
    """Rewrites types and inserts Casts once the float16 nodes are chosen."""

    def __init__(self, edit: Editor, halves: set[ir.Node]) -> None:
        self.edit = edit
        self.halves = halves
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.weights: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        """Retype outputs first, then connect every reader to a value of its type."""
        nodes = self.edit.graph.nodes
        for node in nodes:
            if node in self.halves:
                self._retype(node)
        for node in nodes:
            if _reads_any(node):
                continue
            wanted, unwanted = (HALF, FLOAT) if node in self.halves else (FLOAT, HALF)
            for index, value in enumerate(node.inputs):
                if value is None or _dtype(value) != unwanted or (wanted == FLOAT and not self._ours(value)):
                    continue
                if is_constant(value):
                    node.replace_input_with(index, self._weight(value))
                else:
                    node.replace_input_with(index, self._cast(value, wanted, node))
        for value in list(self.edit.graph.ir.outputs):
            if self._ours(value):
                self._output(value)
        self._drop_unread_weights()

    def _ours(self, value: ir.Value) -> bool:
        return value.producer() in self.halves and _dtype(value) == HALF

    def _retype(self, node: ir.Node) -> None:
        for value in node.outputs:
            if _dtype(value) == FLOAT:
                value.type = ir.TensorType(HALF)
        if op_key(node) == "Cast":
            node.attributes.add(ir.AttrInt64("to", HALF))
        fill = node.attributes.get("value")
        if op_key(node) == "ConstantOfShape" and (fill is None or fill.as_tensor().dtype == FLOAT):
            array = np.zeros(1, np.float16) if fill is None else fill.as_tensor().numpy().astype(np.float16)
            node.attributes.add(ir.AttrTensor("value", ir.tensor(array)))

    def _weight(self, value: ir.Value) -> ir.Value:
        """The float16 form of a constant, converted once."""
        if value not in self.weights:
            array = constant(value)
            half = np.asarray(array).astype(np.float16)
            self.weights[value] = self.edit.initializer(f"{value.name}_fp16", half, value.graph)
        return self.weights[value]

    def _drop_unread_weights(self) -> None:
        """Constants whose float32 form nobody reads any more hand their name to the float16 one."""
        for old, new in self.weights.items():
            if old.uses() or old.is_graph_output() or old.graph is None or old.name is None:
                continue
            name = old.name
            del old.graph.initializers[name]
            new.name = name

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """``value`` in ``dtype``, by one Cast right behind it."""
        if (value, dtype) not in self.casts:
            maker = value.producer()
            like = maker if maker is not None else reader
            made = ir.node(
                "Cast", [value], {"to": int(dtype)}, name=self.edit.fresh_node(f"{value.name}/Cast")
            )
            out = made.outputs[0]
            out.name = self.edit.fresh(f"{value.name}_{'fp16' if dtype == HALF else 'fp32'}")
            out.type = ir.TensorType(dtype)
            out.shape = value.shape.copy() if value.shape is not None else None
            self.edit.stamp(made, like)
            if maker is None:
                self.edit.graph.ir.insert_before(next(iter(self.edit.graph.ir)), made)
            else:
                self.edit.graph.ir.insert_after(maker, made)
            self.casts[(value, dtype)] = out
        return self.casts[(value, dtype)]

    def _output(self, value: ir.Value) -> None:
        """A float16 result leaves the graph as float32, under its own name."""
        name = value.name
        value.name = self.edit.fresh(f"{name}_fp16")
        maker = value.producer()
        out = self._cast(value, FLOAT, maker) if maker is not None else value
        out.name = name
        outputs = self.edit.graph.ir.outputs
        for index, old in enumerate(list(outputs)):
            if old is value:
                outputs[index] = out


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    return None if value is None else value.dtype


def _reads_any(node: ir.Node) -> bool:
    """Whether the node takes float32 and float16 alike and makes neither."""
    return op_key(node) in ("Shape", "Size") or (
        op_key(node) == "Cast" and node.attributes.get_int("to") not in (FLOAT, HALF)
    )


def _half_form(node: ir.Node, opset: int) -> bool:
    """Whether the operator, by its ONNX schema, takes float16 wherever the node has float32."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    pairs = [(node.inputs, schema.inputs), (node.outputs, schema.outputs)]
    return all(
        _dtype(value) != FLOAT or "tensor(float16)" in formals[min(index, len(formals) - 1)].types
        for values, formals in pairs
        for index, value in enumerate(values)
    )


def _require_types(graph: Graph) -> None:
    for node in graph.nodes:
        for value in node.outputs:
            if value.name and value.dtype is None:
                raise UsageError(
                    "RUB-PASS-012", f"the element type of {value.name!r} is unknown", where=source_of(node)
                )


def _overflowing(graph: Graph) -> set[ir.Value]:
    """Constants with finite values beyond float16; infinities (masks) have a float16 form."""
    found = set()
    for value in graph.ir.initializers.values():
        array = constant(value) if _dtype(value) == FLOAT else None
        if array is None or not array.size or max(float(array.max()), -float(array.min())) <= LARGEST:
            continue
        if np.any(np.isfinite(array) & (np.abs(array) > LARGEST)):
            found.add(value)
    return found


def _captured(graph: Graph) -> set[ir.Value]:
    """Values of the main graph read inside nested graphs, which stay float32."""
    return {
        value
        for owner in graph.ir.subgraphs()
        if owner is not graph.ir
        for node in owner
        for value in node.inputs
        if value is not None and value.graph is graph.ir
    }
