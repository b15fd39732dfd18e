"""The few graph edits all passes share, so that each keeps the interface, provenance and weight sharing.

Weights are shared between copies of a graph: an edit makes a new tensor and never writes into an old one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, Graph, inherit_provenance, source_of

# Functions of one value that make nothing of zero.
KEEPS_ZERO = ("Relu", "LeakyRelu", "Tanh", "Abs", "Neg", "Elu", "Selu", "Celu", "Gelu", "Erf", "Sign")
FUSED_KEY = "rubicc.fused"  # ';'-separated sources of nodes whose work this node took over


def graphs_of(graph: Graph) -> Iterator[ir.Graph]:
    """The main graph, then every subgraph nested in its nodes."""
    yield graph.ir
    yield from graph.ir.subgraphs()


def nodes_of(graph: Graph, *op_types: str) -> Iterator[ir.Node]:
    """Nodes of the named standard operators, nested graphs after the main one (removable meanwhile)."""
    return (node for owner in graphs_of(graph) for node in owner if is_standard(node, *op_types))


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether ``node`` is one of the named operators of the ONNX domain."""
    return node.domain == "" and node.op_type in op_types


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is an initializer that no caller can override."""
    return (
        value is not None
        and value.is_initializer()
        and not value.is_graph_input()
        and value.const_value is not None
    )


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant (not copied: do not write into it), or ``None`` when it is not one."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return value.const_value.numpy()


def constant_bytes(value: ir.Value | None) -> int:
    """Bytes of a constant without reading it; 0 when it is not one."""
    if value is None or not is_constant(value) or value.const_value is None:
        return 0
    return value.const_value.nbytes


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, or ``None`` when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def only_use(value: ir.Value) -> ir.Node | None:
    """The node that consumes ``value``, when it is used exactly once and is no graph output."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def names_in_use(graph: Graph) -> set[str]:
    """Every value name of the graph and of its subgraphs."""
    names: set[str] = set()
    for one in graphs_of(graph):
        names.update(v.name for v in one.inputs if v.name)
        names.update(one.initializers)
        names.update(v.name for node in one for v in node.outputs if v.name)
    return names


def unique(name: str, taken: set[str]) -> str:
    """``name``, or ``name_1``, ``name_2`` ... where it is taken; the result is added to ``taken``."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


class Editor:
    """Edits of one graph by one pass: keeps names unique and marks what it makes.

    Args:
        graph: the graph being rewritten.
        pass_id: goes into ``rubicc.made_by`` of every node made.
    """

    def __init__(self, graph: Graph, pass_id: str) -> None:
        self.graph = graph
        self.pass_id = pass_id
        self._taken: set[str] | None = None
        self._node_names: set[str] | None = None

    def fresh(self, name: str) -> str:
        """A value name not yet used anywhere in the graph."""
        if self._taken is None:
            self._taken = names_in_use(self.graph)
        return unique(name, self._taken)

    def fresh_node(self, name: str) -> str:
        """A node name not yet used anywhere in the graph."""
        if self._node_names is None:
            self._node_names = {node.name for node in self.graph.all_nodes() if node.name}
        return unique(name, self._node_names)

    def release(self, name: str) -> None:
        """Let a name that a removed value had be given again."""
        if self._taken is not None:
            self._taken.discard(name)

    def initializer(self, name: str, array: np.ndarray, owner: ir.Graph | None = None) -> ir.Value:
        """A new initializer holding ``array`` (not copied) under a fresh name."""
        return self._register(self.fresh(name), np.asarray(array), owner)

    def constant_instead(self, old: ir.Value, array: np.ndarray, owner: ir.Graph | None = None) -> ir.Value:
        """An initializer holding ``array`` takes over the name and the uses of ``old`` (no graph output)."""
        title, old.name = old.name or self.fresh("constant"), None
        value = self._register(title, array, owner)
        old.replace_all_uses_with(value)
        return value

    def _register(self, title: str, array: np.ndarray, owner: ir.Graph | None) -> ir.Value:
        value = ir.Value(name=title, const_value=ir.tensor(array, name=title))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        (owner if owner is not None else self.graph.ir).register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        like: ir.Node,
        attributes: Mapping[str, Any] | None = None,
        shape: ir.Shape | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Node:
        """A new standard node with one output, standing for ``like``, inserted before it."""
        stem = self.fresh_node(f"{like.name or like.op_type}/{op_type}")
        made = ir.node(op_type, inputs, dict(attributes or {}), num_outputs=1, name=stem)
        made.outputs[0].name = self.fresh(f"{stem}_out")
        made.outputs[0].shape = shape.copy() if shape is not None else None
        made.outputs[0].type = ir.TensorType(dtype) if dtype is not None else None
        self.stamp(made, like)
        if like.graph is None:
            raise ValueError(f"{source_of(like)} is not in a graph")
        like.graph.insert_before(like, made)
        return made

    def replace_value(self, old: ir.Value, new: ir.Value) -> None:
        """Let every use of ``old`` use ``new``; a graph output keeps its name, type and shape.

        Where ``new`` cannot take the place of a graph output (it is an input, an initializer or another
        output itself), an Identity node does.
        """
        if old.is_graph_output():
            producer = old.producer()
            if new.producer() is None or new.is_graph_output() or new.graph is not old.graph:
                if producer is None:
                    raise ValueError("a graph input cannot be replaced")
                new = self.node("Identity", [new], like=producer, shape=old.shape, dtype=old.dtype).outputs[0]
            _become(old, new)
        elif new.shape is None or (old.shape is not None and _unknown(new.shape) > _unknown(old.shape)):
            new.shape = old.shape.copy() if old.shape is not None else new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def stamp(self, made: ir.Node, like: ir.Node) -> ir.Node:
        """Mark a node made by this pass as standing for ``like``."""
        return inherit_provenance(made, like, self.pass_id)

    def mark(self, node: ir.Node, *absorbed: ir.Node) -> None:
        """Mark ``node`` as rewritten by this pass and as doing the work of ``absorbed`` too."""
        node.metadata_props[MADE_BY_KEY] = self.pass_id
        fused = [part for part in node.metadata_props.get(FUSED_KEY, "").split(";") if part]
        fused += [source_of(other) for other in absorbed]
        if fused:
            node.metadata_props[FUSED_KEY] = ";".join(dict.fromkeys(fused))

    def remove(self, node: ir.Node) -> None:
        """Take a node whose outputs nobody uses out of its graph."""
        if node.graph is not None:
            node.graph.remove(node, safe=True)


def can_replace_output(old: ir.Value, new: ir.Value) -> bool:
    """Whether dropping the producer of ``old`` in favour of ``new`` needs no Identity in its place."""
    if not old.is_graph_output():
        return True
    return new.producer() is not None and not new.is_graph_output() and new.graph is old.graph


def _become(old: ir.Value, new: ir.Value) -> None:
    name, old.name = old.name, None
    new.name = name
    new.type = old.type if old.type is not None else new.type
    new.shape = old.shape.copy() if old.shape is not None else new.shape
    new.doc_string = old.doc_string or new.doc_string
    new.metadata_props.update(old.metadata_props)


def _unknown(shape: ir.Shape) -> int:
    return sum(not isinstance(dim, int) for dim in shape)


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a static shape, exact for absurd sizes."""
    return math.prod(int(d) for d in shape)
