"""Finds residual connections in any graph: two ways from one value, one of them short, that an Add joins.

The short way is the skip, the long one the branch. What they start from is found by walking back from one
operand of the Add, through operators that do not bend a value, until something is met that the other operand
is computed from. Names and modules play no role, so it does not matter what the network came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.passes.rewrite import graphs_of, is_constant, is_standard

Kind = Literal["identity", "projected", "reshaped"]
Form = Literal["post-activation", "post-norm", "pre-activation"]

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "GRU", "LSTM", "RNN", "Attention")
_AS_IT_IS = ("Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear")
_PLAIN = (
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Pad"),
    *("AveragePool", "MaxPool", "BatchNormalization", "Add", "Sub", "Mul", "Div"),
)
_ON_SKIPS = (*_AS_IT_IS, *_PLAIN, "Conv", "MatMul", "Gemm")
_ACTIVATIONS = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "Mish", "HardSwish", "Clip"),
    *("Tanh", "Sigmoid", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu"),
)
_NORMS = ("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization")
_SHAPES = ("Shape", "Size")  # what is computed from these hangs on sizes, not on values


@dataclass(frozen=True)
class Residual:
    """One skip.

    Attributes:
        name: of the Add that joins, unique in the graph and the same after other skips are gone.
        source: module the Add came from.
        node: the Add; ``place``: which of its inputs the skip is.
        origin: value that skip and branch start from.
        path: nodes of the skip, from the Add backwards; without any the origin itself is added.
        kind: ``identity`` (nothing but quantisers on it), ``projected`` (it multiplies by weights), or
            ``reshaped`` (norms, pooling, padding, transposes).
        form: what reads the sum: an activation, a norm, or neither.
        weights: numbers stored for the skip alone.
    """

    name: str
    source: str
    node: ir.Node
    place: int
    origin: ir.Value
    path: tuple[ir.Node, ...]
    kind: Kind
    form: Form
    weights: int

    @property
    def main(self) -> ir.Value:
        """What the branch gives."""
        value = self.node.inputs[1 - self.place]
        assert value is not None
        return value

    @property
    def skip(self) -> ir.Value:
        """What the skip gives."""
        value = self.node.inputs[self.place]
        assert value is not None
        return value


@dataclass(frozen=True)
class Refused:
    """Something like a skip that cannot be removed; ``reason`` says why."""

    name: str
    source: str
    reason: str


@dataclass(frozen=True)
class Skips:
    """What :func:`residuals` found, from the input side on."""

    found: tuple[Residual, ...]
    refused: tuple[Refused, ...]


def residuals(graph: Graph) -> Skips:
    """All skips of ``graph``, nested graphs included.

    Shapes should be known (``cleanup.infer-shapes``): where they are not, sums that repeat one operand along
    an axis cannot be told from others.
    """
    found: list[Residual] = []
    refused: list[Refused] = []
    for owner in graphs_of(graph):
        flow = _Flow(owner)
        for node in owner:
            if is_standard(node, "Add", "Sum"):
                one = flow.joined(node)
            elif is_standard(node, "Concat"):
                one = flow.concatenated(node)
            else:
                continue
            if isinstance(one, Residual):
                found.append(one)
            elif one is not None:
                refused.append(one)
    return Skips(tuple(found), tuple(refused))


@dataclass(frozen=True)
class _Way:
    """From an operand back to where it meets the other one."""

    origin: ir.Value
    path: tuple[ir.Node, ...]


class _Flow:
    """What every value of one graph is computed from, as sets of bits."""

    def __init__(self, owner: ir.Graph) -> None:
        self.bits: dict[ir.Value, int] = {}
        self.reach: dict[ir.Value, int] = {}  # absent: constant, or hangs on sizes only
        self.products = 0  # bits of results of products
        for value in owner.inputs:
            if not value.is_initializer():
                self._enter(value, 0)
        for node in owner:
            self._visit(node, owner)

    def _visit(self, node: ir.Node, owner: ir.Graph) -> None:
        whole, varies = 0, False
        for value in node.inputs:
            if value is None or is_constant(value):
                continue
            if value not in self.reach and value.graph is not owner:
                self._enter(value, 0)  # of an outer graph
            varies |= value in self.reach
            whole |= self.reach.get(value, 0)
        nested = any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        )
        if is_standard(node, *_SHAPES) or not (varies or nested):
            return
        for value in node.outputs:
            self._enter(value, whole)
            if is_standard(node, *PRODUCTS):
                self.products |= self.bits[value]

    def _enter(self, value: ir.Value, whole: int) -> None:
        self.bits[value] = 1 << len(self.bits)
        self.reach[value] = whole | self.bits[value]

    # ---- sums

    def joined(self, node: ir.Node) -> Residual | Refused | None:
        """The skip that an Add or Sum joins, why it cannot go, or None where there is none."""
        inputs = [value for value in node.inputs if value is not None and value in self.reach]
        if len(set(inputs)) != len(node.inputs) or len(inputs) < 2:
            return None
        if len(inputs) != 2:
            if any(self._between(a, b) for a in inputs for b in inputs if a is not b):
                return _refused(node, f"a Sum of {len(inputs)} values: write it as Adds of two")
            return None
        ways = [self._between(inputs[k], inputs[1 - k]) for k in (0, 1)]
        if ways[0] is None and ways[1] is None:
            return None
        loads = [self._load(way, inputs[1 - k]) for k, way in enumerate(ways)]
        place = 0 if loads[0] <= loads[1] else 1
        way = ways[place]
        assert way is not None
        if not self._worked(inputs[1 - place], way.origin):
            return None  # nothing is learned beside it
        if loads[0] == loads[1]:
            return _refused(node, "two branches of equal weight: neither is the skip")
        if _repeats(inputs[place], inputs[1 - place]):
            return None  # a mask or a bias, no skip
        if _repeats(inputs[1 - place], inputs[place]):
            return _refused(node, "the branch is repeated along an axis, and would be smaller than the sum")
        return self._residual(node, place, way)

    def _between(self, value: ir.Value, other: ir.Value) -> _Way | None:
        """Walk back from ``value``, while only one input of every node varies, to what ``other`` hangs on."""
        path: list[ir.Node] = []
        while not self.bits[value] & self.reach[other]:
            node = value.producer()
            if node is None or not (is_standard(node, *_ON_SKIPS) or is_quantiser(node)):
                return None
            given = [v for v in node.inputs if v is not None and v in self.reach]
            if len(given) != 1 or not _float(value):
                return None
            path.append(node)
            value = given[0]
        return _Way(value, tuple(path)) if _float(value) else None

    def _load(self, way: _Way | None, other: ir.Value) -> tuple[float, ...]:
        """How much is done on a way; the smaller one is the skip. A way that bends is never the skip."""
        if way is None:
            return (float("inf"),)
        products = [node for node in way.path if is_standard(node, *PRODUCTS)]
        return (len(products), sum(_weights_of(products)), len(way.path))

    def _worked(self, branch: ir.Value, origin: ir.Value) -> bool:
        """Whether the branch multiplies by something after ``origin``."""
        return bool(self.reach[branch] & ~self.reach[origin] & self.products)

    def _residual(self, node: ir.Node, place: int, way: _Way) -> Residual:
        kind: Kind = "identity"
        if any(is_standard(one, *PRODUCTS) for one in way.path):
            kind = "projected"
        elif any(is_standard(one, *_PLAIN) for one in way.path):
            kind = "reshaped"
        own = sum(_weights_of(_alone(way.path, node)))
        return Residual(
            node.name or "", source_of(node), node, place, way.origin, way.path, kind, _form(node), own
        )

    # ---- concatenations

    def concatenated(self, node: ir.Node) -> Refused | None:
        """A skip that a Concat joins, which cannot go."""
        values = [v for v in node.inputs if v is not None and v in self.reach]
        for value in values:
            for other in values:
                way = self._between(value, other) if value is not other else None
                if way is None or any(is_standard(one, "Slice", *PRODUCTS) for one in way.path):
                    continue
                if self._worked(other, way.origin):
                    reason = (
                        "a concatenation: layers behind it have weights for both parts, so that removing "
                    )
                    reason += "one changes their shapes; `prune.channels` can cut its channels"
                    return _refused(node, reason)
        return None


def _refused(node: ir.Node, reason: str) -> Refused:
    return Refused(node.name or "", source_of(node), reason)


def _form(node: ir.Node) -> Form:
    """What reads the sum, behind quantisers, norms that are affine, and the like."""
    value = node.outputs[0]
    while True:
        readers = list(dict.fromkeys(use.node for use in value.uses()))
        if any(is_standard(reader, *_ACTIVATIONS) for reader in readers):
            return "post-activation"
        if any(is_standard(reader, *_NORMS) for reader in readers):
            return "post-norm"
        through = len(readers) == 1 and (is_standard(readers[0], *_AS_IT_IS) or is_quantiser(readers[0]))
        if not through:
            return "pre-activation"
        if is_quantiser(readers[0]) and not readers[0].attributes.get_int("signed", 1):
            return "post-activation"  # a quantiser of positive numbers cuts negative ones off
        value = readers[0].outputs[0]


def _alone(path: tuple[ir.Node, ...], join: ir.Node) -> Iterator[ir.Node]:
    """Nodes of a skip that nothing but the skip reads, and what computes their weights."""
    dead: set[ir.Node] = {join}
    for node in path:
        if any(
            value.is_graph_output() or not {use.node for use in value.uses()} <= dead
            for value in node.outputs
        ):
            return
        dead.add(node)
        yield node
        makers = [value.producer() for value in node.inputs if value is not None]
        yield from (m for m in makers if m is not None and m not in path and is_quantiser(m))


def _weights_of(nodes: Iterable[ir.Node]) -> Iterator[int]:
    """Sizes of the learned numbers that nodes read, one by one; statistics and scales do not count."""
    for node in nodes:
        last = 1 if is_quantiser(node) else 3
        for value in node.inputs[:last]:
            array = value.const_value if value is not None and is_constant(value) else None
            if array is not None and value is not None and value.dtype is not None:
                yield int(array.size) if value.dtype.is_floating_point() else 0


def _float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _repeats(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether ``a`` is repeated to fit ``b``, as far as shapes are known."""
    if a is None or b is None or a.shape is None or b.shape is None:
        return False
    if len(a.shape) != len(b.shape):
        return len(a.shape) < len(b.shape)
    return any(x == 1 and y != 1 for x, y in zip(a.shape, b.shape, strict=True))
