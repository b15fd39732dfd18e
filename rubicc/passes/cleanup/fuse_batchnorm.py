"""BatchNormalization disappears into the weights before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.passes.cleanup.batchnorm import Affine, inference_affine
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, nodes_of, only_use, rank


class NotFused(Exception):
    """Why a BatchNormalization stays; becomes a note."""


@register
class FuseBatchnorm(Pass):
    """BatchNormalization after Conv, ConvTranspose, Gemm or MatMul (+ Add) goes into their weights and bias.

    ::

        Conv(x, W, b) -> c;  BatchNormalization(c) -> y      =>      Conv(x, a*W, a*b + d) -> y

        with a = gamma / sqrt(var + eps),  d = beta - a * mean, per output channel, in float64

    Fuses only where nothing else reads the value in between. A weight that other nodes use too is not
    touched; the fused node gets its own. Where the weight comes through a quantiser the two stay apart,
    because scaling the weight would change what the quantiser rounds; that is noted.
    """

    id = "cleanup.fuse-batchnorm"
    requires = frozenset({"constants-are-initializers", "shapes", "no-identities"})
    ensures = frozenset({"batchnorm-fused"})
    tolerance = 2e-5

    def run(self, graph: Graph) -> bool:
        """See :class:`FuseBatchnorm`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, "BatchNormalization"):
            try:
                changed |= self.fuse(edit, node)
            except NotFused as why:
                self.note(source_of(node), f"BatchNormalization not fused: {why}")
        return changed

    def fuse(self, edit: Editor, norm: ir.Node) -> bool:
        """Fuse one BatchNormalization; raises :class:`NotFused` where a match cannot be fused."""
        value = norm.inputs[0]
        node = value.producer() if value is not None else None
        if value is None or node is None or node.graph is not norm.graph or only_use(value) is not norm:
            return False
        if not is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul") and _product_of(node) is None:
            return False
        affine = inference_affine(norm)
        if not isinstance(affine, Affine):
            raise NotFused(str(affine))
        if is_standard(node, "Conv", "ConvTranspose"):
            result = _into_conv(edit, node, affine)
        elif is_standard(node, "Gemm"):
            result = _into_gemm(edit, node, affine)
        else:
            result = _into_matmul(edit, node, affine)
        edit.mark(node, norm)
        edit.replace_value(norm.outputs[0], result)
        edit.remove(norm)
        return True


def _into_conv(edit: Editor, node: ir.Node, affine: Affine) -> ir.Value:
    weight = _weight(node, 1)
    scale = affine.a.reshape(-1, *[1] * (weight.ndim - 1))
    if node.op_type == "ConvTranspose":  # (in, out / groups, kernel): channels of a group lie in axis 1
        groups = node.attributes.get_int("group", 1)
        scale = np.repeat(affine.a.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        scale = scale.reshape(*scale.shape, *[1] * (weight.ndim - 2))
    bias = _bias(node, 2)
    _set(edit, node, 1, weight * scale, weight.dtype)
    _set(edit, node, 2, affine.a * (0.0 if bias is None else bias) + affine.b, weight.dtype)
    return node.outputs[0]


def _into_gemm(edit: Editor, node: ir.Node, affine: Affine) -> ir.Value:
    """``alpha * A @ B + beta * C``: B takes the scale, C becomes the whole bias (so beta becomes 1)."""
    weight, bias = _weight(node, 1), _bias(node, 2)
    if bias is not None and (bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1)):
        raise NotFused("its bias differs per row")
    row = 0.0 if bias is None else np.asarray(bias, np.float64).reshape(-1)
    scale = affine.a[:, None] if node.attributes.get_int("transB", 0) else affine.a
    _set(edit, node, 1, weight * scale, weight.dtype)
    whole = affine.a * node.attributes.get_float("beta", 1.0) * row + affine.b
    _set(edit, node, 2, whole, weight.dtype)
    node.attributes.pop("beta", None)
    return node.outputs[0]


def _into_matmul(edit: Editor, node: ir.Node, affine: Affine) -> ir.Value:
    """MatMul or MatMul + Add on matrices, where the channel axis of BatchNormalization is the last one."""
    product, place = _product_of(node) or (node, -1)
    bias = constant(node.inputs[1 - place]) if node is not product else None
    if rank(product.outputs[0]) != 2 or rank(product.inputs[1]) != 2:
        raise NotFused(f"its channel axis is not the last of {product.op_type}'s result")
    weight = _weight(product, 1)
    if bias is not None and (bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1)):
        raise NotFused("its bias differs per row")
    row = 0.0 if bias is None else np.asarray(bias, np.float64).reshape(-1)
    _set(edit, product, 1, weight * affine.a, weight.dtype)
    whole = (affine.a * row + affine.b).astype(weight.dtype)
    if node is not product:
        node.replace_input_with(1 - place, edit.initializer(f"{node.name}_bias", whole, node.graph))
        edit.mark(product)
        return node.outputs[0]
    return _add_after(edit, product, whole)


def _product_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The MatMul behind an Add of a constant, and which input of the Add it is."""
    for place in (0, 1) if is_standard(node, "Add") else ():
        value = node.inputs[place]
        before = value.producer() if value is not None else None
        if value is None or before is None or not is_standard(before, "MatMul"):
            continue
        if only_use(value) is node and is_constant(node.inputs[1 - place]):
            return before, place
    return None


def _add_after(edit: Editor, product: ir.Node, bias: np.ndarray) -> ir.Value:
    """``product + bias`` as a new Add; the only reader of ``product`` is the normalisation."""
    value = product.outputs[0]
    norm = next(iter(value.uses())).node
    addend = edit.initializer(f"{product.name}_bias", bias, product.graph)
    made = edit.node("Add", [value, addend], like=norm, shape=norm.outputs[0].shape, dtype=value.dtype)
    return made.outputs[0]


def _weight(node: ir.Node, index: int) -> np.ndarray:
    array = constant(node.inputs[index])
    if array is not None:
        return array
    value = node.inputs[index]
    maker = value.producer() if value is not None else None
    if maker is not None and (is_quantiser(maker) or is_standard(maker, "DequantizeLinear")):
        raise NotFused(f"the weight of {source_of(node)} comes through {maker.op_type}, and scaling it would "
                       "change what is rounded")  # fmt: skip
    raise NotFused(f"the weight of {source_of(node)} is not constant")


def _bias(node: ir.Node, index: int) -> np.ndarray | None:
    if len(node.inputs) <= index or node.inputs[index] is None:
        return None
    array = constant(node.inputs[index])
    if array is None:
        raise NotFused(f"the bias of {source_of(node)} is not constant")
    return array


def _set(edit: Editor, node: ir.Node, index: int, array: np.ndarray, dtype: np.dtype) -> None:
    """Give ``node`` its own constant as input ``index``; an old one that others use stays as it is."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    stem = old.name if old is not None and old.name else f"{node.name}_bias"
    if old is not None and len(old.uses()) == 1 and is_constant(old) and not old.is_graph_output():
        node.replace_input_with(index, None)
        if old.graph is not None:
            del old.graph.initializers[stem]
        edit.release(stem)
    node.replace_input_with(index, edit.initializer(stem, np.ascontiguousarray(array, dtype), node.graph))
