"""Bodies of ONNX ``Scan``: written node by node, and compared with what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.passes.rewrite import Editor

Name = Callable[[str], str]
Stamp = Callable[[ir.Node], object]
_DOUBLE, _INT64 = ir.DataType.DOUBLE, ir.DataType.INT64


class Body:
    """Nodes of one step being written; ``hidden`` is how wide values are that nothing is said of."""

    def __init__(self, name: Name, stamp: Stamp, hidden: int) -> None:
        self.name, self.stamp, self.hidden = name, stamp, hidden
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.roles: dict[ir.Value, str] = {}

    def value(self, stem: str, dtype: ir.DataType, width: int) -> ir.Value:
        """A value that comes from outside."""
        shape = ir.Shape([None, width])
        return ir.Value(name=self.name(stem), shape=shape, type=ir.TensorType(dtype))

    def const(self, array: object, role: str = "", dtype: ir.DataType = _DOUBLE) -> ir.Value:
        """A number of the body; one with a role is an array of the cell."""
        title = self.name(role or "number")
        made = np.asarray(array, dtype.numpy())
        value = ir.Value(name=title, const_value=ir.tensor(made, name=title))
        value.shape, value.type = ir.Shape(made.shape), ir.TensorType(dtype)
        self.constants.append(value)
        if role:
            self.roles[value] = role
        return value

    def op(
        self, kind: str, *inputs: ir.Value, width: int = 0, dtype: ir.DataType = _DOUBLE, **attributes: int
    ) -> ir.Value:
        """A node of one output."""
        return self.ops(kind, inputs, 1, width, dtype, attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: tuple[ir.Value, ...],
        outputs: int,
        width: int,
        dtype: ir.DataType,
        attributes: dict[str, int],
    ) -> list[ir.Value]:
        """A node; outputs are ``width`` wide."""
        node = ir.node(kind, list(inputs), dict(attributes), num_outputs=outputs, name=self.name(kind))
        for out in node.outputs:
            out.name = self.name(f"{kind}_out")
            out.shape, out.type = ir.Shape([None, width or self.hidden]), ir.TensorType(dtype)
        self.stamp(node)
        self.nodes.append(node)
        return list(node.outputs)

    def parts(self, value: ir.Value, gates: int, dtype: ir.DataType) -> list[ir.Value]:
        """The gates of ``value``."""
        sizes = self.const([self.hidden] * gates, dtype=_INT64)
        return self.ops("Split", (value, sizes), gates, self.hidden, dtype, {"axis": -1})

    def graph(self, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Graph:
        """Everything written."""
        return ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.constants, name=self.name("body")
        )


@dataclass(frozen=True)
class Written:
    """A body, and which of its initializers is which array of the cell."""

    graph: ir.Graph
    roles: dict[ir.Value, str]


def names_for(edit: Editor, node: ir.Node) -> Name:
    """Names within the body of ``node`` that no other value or node of the graph has."""

    def name(stem: str) -> str:
        while True:
            made = edit.fresh(f"{node.name}/{stem}")
            if edit.fresh_node(made) == made:
                return made

    return name


def scratch() -> tuple[Name, Stamp]:
    """Names and stamps for a body that is only compared."""
    taken: dict[str, int] = {}

    def name(stem: str) -> str:
        taken[stem] = taken.get(stem, 0) + 1
        return f"{stem}_{taken[stem]}"

    return name, lambda node: node


def with_body(node: ir.Node, body: ir.Graph) -> None:
    """Give a Scan another body."""
    node.attributes["body"] = ir.AttrGraph("body", body)


def body_of(node: ir.Node) -> ir.Graph | None:
    """The body of a Scan, or ``None``."""
    attribute = node.attributes.get("body")
    return attribute.as_graph() if attribute is not None else None


def is_reversed(node: ir.Node) -> bool:
    """Whether a Scan runs from the last frame to the first."""
    return any(node.attributes.get_ints("scan_input_directions") or ())


def is_plain(node: ir.Node) -> bool:
    """Whether a Scan goes over the leading axis, its outputs in the order of its inputs."""
    attributes = node.attributes
    same = is_reversed(node) == any(attributes.get_ints("scan_output_directions") or ())
    axes = [*(attributes.get_ints(f"scan_{end}_axes") or () for end in ("input", "output"))]
    return same and not any(any(of) for of in axes) and attributes.get_int("num_scan_inputs", 0) == 1


def match(template: Written, body: ir.Graph) -> dict[str, np.ndarray] | None:
    """Arrays of ``body`` by role, where it is ``template`` but for names and those arrays; else ``None``."""
    same = dict(zip(template.graph.inputs, body.inputs, strict=False))
    if len(template.graph.inputs) != len(body.inputs) or len(template.graph.outputs) != len(body.outputs):
        return None
    found: dict[str, np.ndarray] = {}
    wanted, nodes = list(template.graph), list(body)
    if len(wanted) != len(nodes):
        return None
    for want, have in zip(wanted, nodes, strict=True):
        plain = (want.op_type, want.domain, len(want.inputs), len(want.outputs))
        if plain != (have.op_type, have.domain, len(have.inputs), len(have.outputs)):
            return None
        if {a.name: a.value for a in want.attributes.values()} != {
            a.name: a.value for a in have.attributes.values()
        }:
            return None
        for a, b in zip(want.inputs, have.inputs, strict=True):
            if a is None or b is None or not _same_input(a, b, same, template.roles, found):
                return None
        same.update(zip(want.outputs, have.outputs, strict=True))
    ends = zip(template.graph.outputs, body.outputs, strict=True)
    return found if all(same.get(a) is b for a, b in ends) else None


def _same_input(
    want: ir.Value,
    have: ir.Value,
    same: dict[ir.Value, ir.Value],
    roles: dict[ir.Value, str],
    found: dict[str, np.ndarray],
) -> bool:
    if want.const_value is None:
        return same.get(want) is have
    if have.const_value is None or have.producer() is not None:
        return False
    a, b = want.const_value.numpy(), have.const_value.numpy()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    role = roles.get(want)
    if role is None:
        return bool(np.array_equal(a, b))
    return bool(np.array_equal(found.setdefault(role, b), b))
