"""Linear layers over sequences become 1x1 convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.forms import SequenceForms
from rubicc.passes.ane.matching import (
    MIN_OPSET,
    Channels,
    Form,
    data_uses,
    drop_unused,
    is_elementwise,
)
from rubicc.passes.ane.weights import ConvWeights, is_stored, root
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use, rank

_RECURRENT = ("LSTM", "GRU", "RNN")
_CLOSE = 8  # nodes walked back to learn what a sequence comes from


@dataclass(frozen=True)
class Linear:
    """A matrix product with stored weights, and the addition of its bias where it has one.

    Attributes:
        x: (B, S, I) or (S, B, I).
        weight: (I, O).
        bias: constant of O numbers.
        out: what the layer gives.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    out: ir.Value


@register
class LinearToConv(Pass):
    """A linear layer over (B, S, C) becomes a 1x1 convolution over (B, C, 1, S).

    ::

        x (B,S,I) -> MatMul(W) -> Add(b) -> y (B,S,O)
        becomes
        x -> Transpose, Unsqueeze -> (B,I,1,S) -> Conv(W as (O,I,1,1), b) -> Squeeze, Transpose -> y

    The Neural Engine is built for convolutions on four axes, channels second and time last. Between two
    layers the two views meet and nothing is left of them; `ane.layout` carries what stands in between.
    Weights are turned as views: nothing is copied. Quantisers on weights stay, scales turned alike.

    A layer behind a recurrent one stays (that does not run on the Neural Engine, so its data has the other
    order anyway). A head whose weight is the embedding's own table becomes a convolution on a view of that
    table: vocabularies fit the channels of the Neural Engine (65,536), not the last axis of a product
    (16,384). With ``head = product`` it stays a matrix product on the very same array.
    """

    id = "ane.linear-to-conv"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"linear-is-conv"})
    tolerance = 1e-5  # a convolution adds up in another order

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`LinearToConv`.

        Attributes:
            head: ``product`` leaves products with a weight that another operator reads; ``conv`` changes all.
        """

        head: Literal["conv", "product"] = "conv"

    def run(self, graph: Graph) -> bool:
        """See :class:`LinearToConv`."""
        if graph.opset < MIN_OPSET:
            self.note(
                "graph", f"operator set {graph.opset} is older than {MIN_OPSET}: no linear layer changed"
            )
            return False
        edit = Editor(graph, self.id)
        suited = [one for node in graph.nodes if (one := linear(node)) is not None and self._suits(one)]
        if not suited:
            return False
        channels, weights, forms = Channels(edit), ConvWeights(edit), SequenceForms(graph)
        changed = False
        for node, form in [(one.node, forms.of(one.x)) for one in suited]:
            found = linear(node)  # again: what it reads may be a view by now
            assert found is not None
            changed |= self._replace(edit, channels, weights, found, form)
        return changed

    def _suits(self, found: Linear) -> bool:
        where = source_of(found.node)
        if self.options.head == "product" and _shared(found.weight):
            self.note(where, "linear layer stays a matrix product: it shares its weight with an embedding")
            return False
        if comes_from(found.x, _RECURRENT) is not None:
            self.note(where, "linear layer stays a matrix product: it follows a recurrent layer")
            return False
        return True

    def _replace(
        self, edit: Editor, channels: Channels, weights: ConvWeights, found: Linear, form: Form
    ) -> bool:
        weight = weights.make(found.weight, False, found.node)
        if weight is None:
            self.note(source_of(found.node), "linear layer stays: its weight is computed in a form not known")
            return False
        inputs: list[ir.Value | None] = [channels.enter(found.x, form, found.node), weight]
        bias = constant(found.bias)
        if bias is not None and found.bias is not None:
            flat = (
                found.bias
                if bias.ndim == 1
                else edit.initializer(f"{found.bias.name}_conv", bias.reshape(-1))
            )
            inputs.append(flat)
        entered = inputs[0]
        assert entered is not None and entered.shape is not None and weight.shape is not None
        shape = ir.Shape([entered.shape[0], weight.shape[0], 1, entered.shape[3]])
        conv = edit.node(
            "Conv",
            inputs,
            like=found.node,
            attributes={"kernel_shape": [1, 1]},
            shape=shape,
            dtype=found.out.dtype,
        )
        adder = found.out.producer()
        edit.mark(conv, *([adder] if adder is not None and adder is not found.node else []))
        channels.leave(conv.outputs[0], found.out, form, found.node)
        drop_unused(edit, found.out)
        return True


def linear(node: ir.Node) -> Linear | None:
    """The linear layer over a sequence that ``node`` is the product of."""
    if not is_standard(node, "MatMul"):
        return None
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or rank(x) != 3 or is_stored(x) or not is_stored(weight):
        return None
    if x.is_initializer() or weight.shape is None or not isinstance(weight.shape[1], int):
        return None
    out = node.outputs[0]
    adder = only_use(out)
    if adder is not None and is_standard(adder, "Add"):
        other = adder.inputs[1] if adder.inputs[0] is out else adder.inputs[0]
        bias = constant(other)
        width = weight.shape[1]
        if bias is not None and bias.size == width and bias.shape[-1:] == (width,) and bias.ndim <= 3:
            return Linear(node, x, weight, other, adder.outputs[0])
    return Linear(node, x, weight, None, out)


def _shared(weight: ir.Value) -> bool:
    """Whether something that is no linear layer reads the stored numbers too."""
    stored = root(weight)
    readers = [node for node, _ in data_uses(stored)]
    while readers:
        node = readers.pop()
        if is_stored(node.outputs[0]):
            readers += [user for user, _ in data_uses(node.outputs[0])]
        elif not is_standard(node, "MatMul", "Gemm", "Conv"):
            return True
    return False


def comes_from(value: ir.Value, op_types: tuple[str, ...]) -> ir.Node | None:
    """The nearest node of the named operators that ``value`` is made from, element by element."""
    passing = ("Transpose", "Squeeze", "Reshape", "Concat", "Unsqueeze", "Slice", "Identity")
    for _ in range(_CLOSE):
        node = value.producer()
        if node is None:
            return None
        if is_standard(node, *op_types):
            return node
        data = [v for v in node.inputs if v is not None and constant(v) is None]
        if not data or not (is_elementwise(node) or is_standard(node, *passing)):
            return None
        value = data[0]
    return None
