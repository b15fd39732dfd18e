"""Labels through operators that work on every channel by itself, and through normalisations."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.passes.prune.labels import Vector
from rubicc.passes.prune.walk import Axes, Kept, Lost, Results, Rule, Walk
from rubicc.passes.rewrite import Editor

_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan"),
    *("Atanh", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu"),
    *("Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log"),
    *("Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
    *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub"),
    *("Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
)
_SCALARS_AFTER = {"Dropout": 1, "Clip": 1, "CastLike": 1}  # inputs from here on are no data


def elementwise(walk: Walk, node: ir.Node) -> Results:
    """Axes that are broadcast against each other go together."""
    count = _SCALARS_AFTER.get(node.op_type, len(node.inputs))
    axes = broadcast(walk, node, range(min(count, len(node.inputs))))
    return [axes] * len(node.outputs)


def broadcast(walk: Walk, node: ir.Node, inputs: range, leave: int = 0) -> Axes:
    """Labels of the axes of inputs broadcast against each other.

    Args:
        inputs: which inputs.
        leave: so many axes at the end take no part.
    """
    shapes = {i: walk.shape(node.inputs[i]) for i in inputs if node.inputs[i] is not None}
    rank = max((len(shape) for shape in shapes.values()), default=0)
    result: Axes = [None] * (rank - leave)
    sizes = [1] * (rank - leave)
    for i, shape in shapes.items():
        axes = walk.of(node, i)
        for axis in range(len(shape) - leave):
            place = axis + rank - len(shape)
            if shape[axis] == 1:
                continue
            vector: Vector = axes[axis] if axes else None
            if sizes[place] == 1:
                result[place], sizes[place] = vector, shape[axis]
            else:
                walk.equate(node, result[place], vector)
    return result


def _linear_quant(walk: Walk, node: ir.Node) -> Results:
    """QuantizeLinear and DequantizeLinear: scales and zero points stand along one axis, or are numbers."""
    axes = walk.of(node, 0)
    rank = walk.rank(node.inputs[0])
    if node.attributes.get_int("block_size", 0):
        raise Lost(f"{node.op_type} in blocks")
    for index in range(1, len(node.inputs)):
        for vector in walk.of(node, index):
            walk.equate(node, vector, axes[(node.attributes.get_int("axis", 1) or 0) % rank])
    return [axes or [None] * rank]


def _batch_norm(walk: Walk, node: ir.Node) -> Results:
    """Scale, bias, mean and variance stand along axis 1 (InstanceNormalization too, without statistics)."""
    axes = list(walk.of(node, 0))
    if node.op_type == "InstanceNormalization":
        walk.fix(node, axes[2:], f"{node.op_type} normalises over it")
    for index in range(1, len(node.inputs)):
        for vector in walk.of(node, index):
            walk.equate(node, axes[1], vector)
    return [axes, *([[axes[1]]] * (len(node.outputs) - 1))]


def _layer_norm(walk: Walk, node: ir.Node) -> Results:
    """LayerNormalization and RMSNormalization over the axes from ``axis`` on."""
    axes, rank = list(walk.of(node, 0)), walk.rank(node.inputs[0])
    first = (node.attributes.get_int("axis", -1) or 0) % rank
    for index in range(1, len(node.inputs)):
        params = walk.of(node, index)
        for axis, vector in enumerate(params):
            if vector is not None:
                walk.equate(node, axes[rank - len(params) + axis], vector)
    for vector in axes[first:]:
        walk.normalise(node, vector)
    kept: Axes = [*axes[:first], *[None] * (rank - first)]
    return [axes, *([kept] * (len(node.outputs) - 1))]


def _group_norm(walk: Walk, node: ir.Node) -> Results:
    """Whole groups of channels are independent of each other; within one it is a normalisation."""
    axes, shape = list(walk.of(node, 0)), walk.shape(node.inputs[0])
    count = node.attributes.get_int("num_groups", 1) or 1
    outer, inner = walk.labels.factor(axes[1], (count, shape[1] // count), walk.why(node))
    walk.normalise(node, inner)
    walk.fix(node, axes[2:], f"{node.op_type} normalises over it")
    for index in range(1, len(node.inputs)):
        for vector in walk.of(node, index):
            if vector is not None:
                walk.equate(node, axes[1] if vector.size == shape[1] else outer, vector)

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        left = int(kept(outer, count).sum())
        if left != count:
            real.attributes["num_groups"] = ir.AttrInt64("num_groups", left)
            editor.mark(real)

    walk.patch(edit)
    return [axes]


def _softmax(walk: Walk, node: ir.Node) -> Results:
    """Softmax and its like mix the axes they run over."""
    axes, rank = walk.of(node, 0), walk.rank(node.inputs[0])
    old = walk.opset < 13 and node.op_type != "LpNormalization"
    first = (node.attributes.get_int("axis", 1 if old else -1) or 0) % rank
    walk.fix(node, axes[first:] if old else axes[first : first + 1], f"{node.op_type} runs over it")
    return [axes]


def _pool(walk: Walk, node: ir.Node) -> Results:
    """Pools over the axes from 2 on."""
    axes = walk.of(node, 0)
    walk.fix(node, axes[2:], f"{node.op_type} runs over it")
    return [[*axes[:2], *[None] * (walk.rank(node.inputs[0]) - 2)]] * len(node.outputs)


def _reduce(walk: Walk, node: ir.Node) -> Results:
    """A sum loses nothing with a channel of zeros; a mean is a normalisation; the rest needs all channels."""
    axes, rank = walk.of(node, 0), walk.rank(node.inputs[0])
    over = walk.numbers(node, "axes", 1)
    if not over:
        idle = node.attributes.get_int("noop_with_empty_axes", 0)
        over = [] if idle else list(range(rank))
    over = [axis % rank for axis in over]
    for axis in over:
        if node.op_type == "ReduceMean":
            walk.normalise(node, axes[axis])
        elif node.op_type not in ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"):
            walk.fix(node, [axes[axis]], f"{node.op_type} runs over it")
    if node.attributes.get_int("keepdims", 1):
        return [[None if axis in over else axes[axis] for axis in range(rank)]]
    return [[axes[axis] for axis in range(rank) if axis not in over]]


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(
        [f"{QONNX_DOMAIN}::{op}" for op in ("Quant", "IntQuant", "BipolarQuant", "Trunc")], elementwise
    ),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _linear_quant),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _batch_norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _softmax),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(
        ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceMax", "ReduceMin"),
        _reduce,
    ),
    "GroupNormalization": _group_norm,
}
