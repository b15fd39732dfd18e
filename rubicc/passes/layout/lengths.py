"""Lengths along time: which values have the same one, and nodes that compute it where it is not a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.passes.layout.geometry import geometry, is_conv1d
from rubicc.passes.layout.operands import Stays
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, rank

UNARY = frozenset(
    {"Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Erf", "Gelu", "HardSigmoid"}
    | {"HardSwish", "Softplus", "Softsign", "Mish", "Swish", "Abs", "Neg", "Exp", "Sqrt", "Sign", "Round"}
    | {"Floor", "Ceil", "Cast", "ThresholdedRelu", "QuantizeLinear", "DequantizeLinear", "Identity"}
)
ALONG_CHANNELS = frozenset({"BatchNormalization", "Softmax", "LogSoftmax", "Concat"})
BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow"})


@dataclass(frozen=True)
class Length:
    """Length of ``root``'s last axis after convolutions, each floor((L + excess) / stride) + 1."""

    root: ir.Value
    steps: tuple[tuple[int, int], ...] = ()

    def after(self, excess: int, stride: int) -> Length:
        """The length behind one more convolution."""
        return self if (excess, stride) == (-1, 1) else Length(self.root, (*self.steps, (excess, stride)))

    @property
    def number(self) -> int | None:
        """The length where it is static."""
        static = self.root.shape[-1] if self.root.shape is not None else None
        return self.of(static) if isinstance(static, int) else None

    def of(self, length: int) -> int:
        """The length when the root has ``length`` positions."""
        for excess, stride in self.steps:
            length = (length + excess) // stride + 1
        return length


class LengthNodes:
    """Makes the nodes that compute lengths; each length once.

    Values are one-element int64 vectors. Nodes go before the node given first, so nodes must be visited in
    graph order.
    """

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._made: dict[tuple[Length, int], ir.Value] = {}

    def value(self, length: Length, like: ir.Node) -> ir.Value:
        """The length itself."""
        return self._cached(length, 0, like)

    def missing(self, length: Length, multiple: int, like: ir.Node) -> ir.Value:
        """How many positions are missing to a multiple: -length mod multiple."""
        return self._cached(length, multiple, like)

    def _cached(self, length: Length, multiple: int, like: ir.Node) -> ir.Value:
        key = (length, multiple)
        if key not in self._made:
            self._made[key] = self._make(length, multiple, like)
        return self._made[key]

    def _make(self, length: Length, multiple: int, like: ir.Node) -> ir.Value:
        if length.number is not None:
            number = -length.number % multiple if multiple else length.number
            return self.numbers([number], like)
        if multiple:
            negative = self._op("Neg", [self.value(length, like)], like)
            return self._op("Mod", [negative, self.numbers([multiple], like)], like)
        if length.steps:
            excess, stride = length.steps[-1]
            made = self.value(Length(length.root, length.steps[:-1]), like)
            if stride == 1:
                return self._op("Add", [made, self.numbers([excess + 1], like)], like)
            made = self._op("Add", [made, self.numbers([excess], like)], like)
            made = self._op("Div", [made, self.numbers([stride], like)], like)
            return self._op("Add", [made, self.numbers([1], like)], like)
        rank = len(length.root.shape) if length.root.shape is not None else 3
        attributes = {"start": rank - 1}
        return self._op("Shape", [length.root], like, attributes)

    def exists(self, length: Length, phases: int, like: ir.Node) -> ir.Value:
        """(1, 1, s*tau) bool: whether a position in phase-major order lies before ``length``."""
        key = (length, -phases)
        if key not in self._made:
            self._made[key] = self._make_exists(length, phases, like)
        return self._made[key]

    def _make_exists(self, length: Length, phases: int, like: ir.Node) -> ir.Value:
        if length.number is not None:
            steps = -(-length.number // phases)
            order = np.arange(steps * phases).reshape(steps, phases).T.reshape(1, 1, -1)
            return self._edit.initializer(f"{like.name}_exists", order < length.number, like.graph)
        whole = self.value(length, like)
        padded = self._op("Add", [whole, self.missing(length, phases, like)], like)
        ends = [self._scalar(0, like), self._op("Squeeze", [padded], like, dims=[]), self._scalar(1, like)]
        time = self._op("Range", ends, like, dims=[None])
        tall = self._op("Reshape", [time, self.numbers([-1, phases], like)], like, dims=[None, phases])
        turned = self._op("Transpose", [tall], like, {"perm": [1, 0]}, dims=[phases, None])
        row = self._op("Reshape", [turned, self.numbers([1, 1, -1], like)], like, dims=[1, 1, None])
        return self._op("Less", [row, whole], like, dims=[1, 1, None], dtype=ir.DataType.BOOL)

    def _scalar(self, number: int, like: ir.Node) -> ir.Value:
        return self._edit.initializer(f"{like.name}_number", np.asarray(number, np.int64), like.graph)

    def numbers(self, numbers: list[int], like: ir.Node) -> ir.Value:
        """A constant int64 vector."""
        array = np.asarray(numbers, np.int64)
        return self._edit.initializer(f"{like.name}_numbers", array, like.graph)

    def _op(
        self,
        op: str,
        inputs: list[ir.Value],
        like: ir.Node,
        attributes: Mapping[str, object] | None = None,
        *,
        dims: Sequence[int | None] = (1,),
        dtype: ir.DataType = ir.DataType.INT64,
    ) -> ir.Value:
        shape = ir.Shape(list(dims))
        made = self._edit.node(op, inputs, like=like, attributes=attributes, shape=shape, dtype=dtype)
        return made.outputs[0]


def pointwise_settings(node: ir.Node, start: int) -> bool:
    """Whether all inputs from ``start`` on are single numbers, so the node treats every element alike."""
    for value in node.inputs[start:]:
        if value is not None:
            array = constant(value)
            if array is None or array.size != 1 or array.ndim > 3:
                return False
    return True


def treats_all_alike(node: ir.Node) -> bool:
    """Whether ``node`` maps its first input element by element, the same way everywhere."""
    if is_quantiser(node) or is_standard(node, *UNARY):
        return pointwise_settings(node, 1)
    if is_standard(node, *BINARY):
        return any(
            (array := constant(value)) is not None and array.size == 1 and array.ndim <= 3
            for value in node.inputs[1:2]
        )
    return False


def is_along_channels(node: ir.Node) -> bool:
    """Whether ``node`` works on the channels of each time step by itself."""
    if is_standard(node, "BatchNormalization"):
        return rank(node.inputs[0]) == 3 and not node.attributes.get_int("training_mode", 0)
    if not is_standard(node, *ALONG_CHANNELS) or any(rank(value) != 3 for value in node.inputs):
        return False
    return node.attributes.get_int("axis", -1) in (1, -2)


def length_map(graph: ir.Graph) -> dict[ir.Value, Length]:
    """Length of every (N, C, T) value of the main graph, in terms of the value it comes from."""
    found: dict[ir.Value, Length] = {}
    for value in graph.inputs:
        found[value] = Length(value)
    for node in graph:
        length = _behind(node, found)
        for value in node.outputs:
            found[value] = Length(value) if length is None else length
    return found


def _behind(node: ir.Node, found: Mapping[ir.Value, Length]) -> Length | None:
    """Length of the output of ``node`` where it follows from those of its inputs."""
    source = node.inputs[0] if node.inputs else None
    if source is not None and source in found and is_conv1d(node):
        try:
            shape = geometry(node)
        except Stays:
            return None
        return found[source].after(shape.excess, shape.stride)
    if not (is_quantiser(node) or is_standard(node, *UNARY, *BINARY) or is_along_channels(node)):
        return None
    computed = [value for value in node.inputs if value is not None and not is_constant(value)]
    if is_quantiser(node) or is_standard(node, *UNARY, "BatchNormalization"):
        computed = computed[:1]
    lengths = {found.get(value) for value in computed}
    constants = [constant(value) for value in node.inputs]
    steady = all(array is None or array.ndim == 0 or array.shape[-1] == 1 for array in constants)
    if is_standard(node, *BINARY) and not steady:
        return None
    return lengths.pop() if len(lengths) == 1 else None
