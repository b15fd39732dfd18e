"""What a graph is to an integer machine: products, sums and functions of one value, with movements between.

A stage ends in one value that is going to be rounded. Everything else is host work: before the first stage it
prepares inputs, behind the last one it finishes outputs (log-softmax and the like).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.cleanup.drop_zero_states import is_zero
from rubicc.passes.integer.block_bodies import BLOCK_KEY
from rubicc.passes.integer.cells import CELL_KEY
from rubicc.passes.rewrite import constant, is_constant, is_standard, only_use

Kind = Literal["product", "sum", "function", "cell", "block"]
PRODUCTS = ("Conv", "MatMul", "Gemm")
MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
FUNCTIONS = (
    *("Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus"),
    *("Softsign", "Sqrt", "Sub", "Tanh"),
)


_ZEROS = ("Shape", "Slice", "Concat", "ConstantOfShape")


@dataclass(frozen=True, eq=False)
class Stage:
    """One thing to compute with integers.

    Attributes:
        kind: product with constant weights, sum of two values, function of one value, element by
            element, recurrent cell (a Scan over projected inputs), or block (a Scan over sequences).
        node: the product, the sum, or the function's last node.
        inputs: values it reads, as its nodes name them.
        result: value it ends in, a ReLU that follows included.
        relu: whether one was.
        bias: constant added to a MatMul by the node behind it.
        nodes: all of its nodes, in graph order.
    """

    kind: Kind
    node: ir.Node
    inputs: tuple[ir.Value, ...]
    result: ir.Value
    relu: bool = False
    bias: ir.Value | None = None
    nodes: tuple[ir.Node, ...] = ()


@dataclass
class Stages:
    """A graph taken apart.

    Attributes:
        found: stages in graph order.
        entries: values that come from outside (graph inputs, host work) and are read by stages.
        host: nodes that are in no stage and move nothing between stages.
    """

    found: list[Stage] = field(default_factory=list)
    entries: list[ir.Value] = field(default_factory=list)
    host: list[ir.Node] = field(default_factory=list)


def moved(node: ir.Node | None) -> ir.Value | None:
    """What ``node`` only moves, or ``None``."""
    if node is None or not is_standard(node, *MOVERS):
        return None
    return node.inputs[0]


def origin(value: ir.Value) -> ir.Value:
    """The value that ``value`` is a movement of, or a rounding."""
    before = _before(value.producer())
    while before is not None and not is_constant(before):
        value = before
        before = _before(value.producer())
    return value


def _before(node: ir.Node | None) -> ir.Value | None:
    if node is not None and is_quantiser(node):
        return node.inputs[0]
    return moved(node)


def weight_of(node: ir.Node) -> np.ndarray | None:
    """The weights of a product, before they are rounded; ``None`` when they are not constant."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    rounding = value.producer() if value is not None else None
    return constant(rounding.inputs[0] if rounding is not None and is_quantiser(rounding) else value)


def stages(graph: Graph) -> Stages:
    """Take ``graph`` apart; see :class:`Stages`."""
    return _Finder(graph).run()


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = Stages()
        self.results: dict[ir.Value, Stage] = {}
        self.taken: set[ir.Node] = set()
        self.after: set[ir.Value] = set()  # computed by the host from results: nothing behind it is a stage
        self.cells: dict[ir.Node, ir.Value] = {}
        self.leaf: dict[ir.Value, tuple[ir.Value, tuple[ir.Node, ...]]] = {}

    def run(self) -> Stages:
        nodes = self.graph.nodes
        for node in nodes:
            self._function_of(node)
            self._cell_of(node)
        for node in nodes:
            if node in self.taken:
                continue
            stage = self._stage(node)
            if stage is not None and not any(origin(value) in self.after for value in stage.inputs):
                self._take(stage)
            elif _before(node) is None or not self._carries(node):
                self._leave(node)
        self._entries()
        return self.made

    def _carries(self, node: ir.Node) -> bool:
        """Whether a movement or rounding is of something that stages make or read."""
        begin = origin(node.outputs[0])
        return begin in self.results or is_constant(begin) or begin not in self.after

    def _stage(self, node: ir.Node) -> Stage | None:
        if is_standard(node, *PRODUCTS):
            return self._product(node)
        if node in self.cells:
            return Stage("cell", node, (self.cells[node],), node.outputs[-1], nodes=(node,))
        if BLOCK_KEY in node.metadata_props and is_standard(node, "Scan") and node.inputs[0] is not None:
            return Stage("block", node, (node.inputs[0],), node.outputs[0], nodes=(node,))
        leaf = self.leaf.get(node.outputs[0]) if len(node.outputs) == 1 else None
        if leaf is not None:
            return self._function(node, *leaf)
        dynamic = [value for value in node.inputs if value is not None and not is_constant(value)]
        if is_standard(node, "Add") and len(dynamic) == 2:
            return self._with_relu(Stage("sum", node, tuple(dynamic), node.outputs[0], nodes=(node,)))
        return None

    def _product(self, node: ir.Node) -> Stage | None:
        x, weight = node.inputs[0], weight_of(node)
        if (
            x is None
            or is_constant(x)
            or weight is None
            or weight.dtype.kind != "f"
            or not _plain(node, weight)
        ):
            return None
        stage = Stage("product", node, (x,), node.outputs[0], nodes=(node,))
        user = only_use(node.outputs[0])
        if node.op_type == "MatMul" and user is not None and is_standard(user, "Add"):
            other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
            array = constant(other)
            if array is not None and array.shape == (weight.shape[-1],):
                stage = Stage("product", node, (x,), user.outputs[0], bias=other, nodes=(node, user))
        return self._with_relu(stage)

    def _with_relu(self, stage: Stage) -> Stage:
        user = only_use(stage.result)
        if user is None or not is_standard(user, "Relu") or self._inside(user):
            return stage  # inside: a larger function of the sum, which is one table
        return Stage(
            stage.kind, stage.node, stage.inputs, user.outputs[0], True, stage.bias, (*stage.nodes, user)
        )

    def _cell_of(self, node: ir.Node) -> None:
        """Remember a recurrent cell that starts from zeros; what makes the zeros is a part of it."""
        gates = node.inputs[-1] if CELL_KEY in node.metadata_props and is_standard(node, "Scan") else None
        if gates is None or not all(is_zero(value) for value in node.inputs[:-1]):
            return
        if any(out.uses() or out.is_graph_output() for out in node.outputs[:-1]):
            return  # its last state is read
        self.cells[node] = gates
        behind = [value for value in node.inputs[:-1] if value is not None]
        while behind:
            value = behind.pop()
            maker = value.producer()
            if maker is not None and is_standard(maker, *_ZEROS) and maker not in self.taken:
                self.taken.add(maker)
                behind += [v for v in maker.inputs if v is not None and v is not gates]

    def _function_of(self, node: ir.Node) -> None:
        """Remember whether ``node`` computes a function of one value, and of which."""
        if not is_standard(node, *FUNCTIONS) or len(node.outputs) != 1:
            return
        leaves, inside = set(), list[ir.Node]()
        for value in node.inputs:
            if value is None:
                continue
            if is_constant(value):
                array = constant(value)
                if array is None or array.size != 1:
                    return
                continue
            leaf, nodes = self.leaf.get(value, (value, ()))
            leaves.add(leaf)
            inside += [other for other in nodes if other not in inside]
        if len(leaves) == 1:
            self.leaf[node.outputs[0]] = (leaves.pop(), (*inside, node))

    def _function(self, node: ir.Node, leaf: ir.Value, nodes: tuple[ir.Node, ...]) -> Stage | None:
        value = node.outputs[0]
        grown = [use.node.outputs[0] for use in value.uses() if len(use.node.outputs) == 1]
        inner = grown and all(self.leaf.get(out, (None,))[0] is leaf for out in grown)
        if inner and not value.is_graph_output():
            return None  # part of a larger function of the same value
        return Stage("function", node, (leaf,), value, nodes=nodes)

    def _take(self, stage: Stage) -> None:
        self.made.found.append(stage)
        self.taken.update(stage.nodes)
        self.results[stage.result] = stage

    def _leave(self, node: ir.Node) -> None:
        if self._inside(node):
            return
        self.made.host.append(node)
        reads = [origin(value) for value in node.inputs if value is not None]
        if any(value in self.results or value in self.after for value in reads):
            self.after.update(node.outputs)

    def _inside(self, node: ir.Node) -> bool:
        """Whether ``node`` is a part of a function that a later node completes."""
        if len(node.outputs) != 1 or node.outputs[0] not in self.leaf:
            return False
        leaf = self.leaf[node.outputs[0]][0]
        return not node.outputs[0].is_graph_output() and all(
            len(use.node.outputs) == 1 and self.leaf.get(use.node.outputs[0], (None,))[0] is leaf
            for use in node.outputs[0].uses()
        )

    def _entries(self) -> None:
        for stage in self.made.found:
            for value in stage.inputs:
                begin = origin(value)
                if begin not in self.results and begin not in self.made.entries:
                    self.made.entries.append(begin)


def _plain(node: ir.Node, weight: np.ndarray) -> bool:
    """Whether integers can compute it: no scaling inside, weights of a layer, bias per output channel."""
    if node.op_type == "MatMul":
        return weight.ndim == 2
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and (bias is None or bias.ndim != 1):
        return False
    if node.op_type == "Gemm":
        factors = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
        return factors == (1.0, 1.0) and node.attributes.get_int("transA", 0) == 0
    return weight.ndim == 3 and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


def bias_of(stage: Stage) -> np.ndarray | None:
    """The bias of a product, ``(O,)``, or ``None``."""
    if stage.bias is not None:
        return constant(stage.bias)
    inputs = stage.node.inputs
    return constant(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None


def output_axis(node: ir.Node) -> int:
    """Axis of a product's weights that counts its output channels."""
    return 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1 else 1


def weight_taps(node: ir.Node) -> int:
    """Positions a product's weights reach over: 1 unless it is a convolution."""
    weight = weight_of(node)
    return int(weight.shape[2]) if node.op_type == "Conv" and weight is not None else 1
