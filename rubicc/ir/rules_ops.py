"""Rules on single operators; :mod:`rubicc.ir.verify` puts them into its table.

Each takes the graph and one node and yields what is wrong. Unknown shapes or types are not errors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.ops.quant import ROUNDING
from rubicc.ir.ops.recurrent import GATES
from rubicc.ir.shapes import Dim, dims_of, infer_shapes
from rubicc.ir.types import constant_of

_BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}
    | {"And", "Or", "Xor", "Where", "Min", "Max", "Sum", "Mean", "PRelu", "BitwiseAnd", "BitwiseOr"}
)
_MAX_BITS = 32
_SETTINGS_BYTES = 1 << 20  # settings tensors above this are not read


def _type_text(dtype: ir.DataType) -> str:
    name = onnx.TensorProto.DataType.Name(int(dtype)).lower()
    return f"tensor({name})"


def types_agree(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Inputs and outputs bound to one type parameter of the schema have one allowed element type."""
    if node.domain == QONNX_DOMAIN:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype is not None and not value.dtype.is_floating_point():
                yield f"{value.name!r} is {value.dtype.name}, quantisers work on floats"
        return
    schema = onnx.defs.get_schema(node.op_type, graph.opset, "")
    bound: dict[str, ir.DataType] = {}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            if value is None or value.dtype is None or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            if formal.types and _type_text(value.dtype) not in formal.types:
                yield f"{value.name!r} is {value.dtype.name}, not allowed for {formal.name}"
            elif formal.is_homogeneous and bound.setdefault(formal.type_str, value.dtype) != value.dtype:
                other = bound[formal.type_str]
                yield f"{value.name!r} is {value.dtype.name} where another operand is {other.name}"


def broadcastable(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Known dims of elementwise operands are equal or 1, from the end."""
    if node.domain or node.op_type not in _BROADCASTING:
        return
    shapes = [dims_of(v) for v in node.inputs if v is not None]
    known = [s for s in shapes if s is not None]
    for place in range(1, max((len(s) for s in known), default=0) + 1):
        sizes = {s[-place] for s in known if len(s) >= place}
        fixed = sorted(n for n in sizes if isinstance(n, int) and n != 1)
        if len(fixed) > 1:
            yield f"axis -{place} has sizes {fixed}"


def _shape(node: ir.Node, index: int) -> tuple[Dim, ...] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else dims_of(value)


def convolution(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Ranks, channels, groups, kernel_shape, pads and bias of a convolution."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "ConvInteger"):
        return
    x, weight = _shape(node, 0), _shape(node, 1)
    if weight is None:
        return
    group = node.attributes.get_int("group", 1) or 1
    transposed = node.op_type == "ConvTranspose"
    if len(weight) < 3 or (x is not None and len(x) != len(weight)):
        yield f"input {x} and weight {weight} differ in rank or have no spatial axis"
        return
    channels = weight[0] if transposed else weight[1]
    wanted = channels if transposed or not isinstance(channels, int) else channels * group
    if x is not None and isinstance(x[1], int) and isinstance(wanted, int) and x[1] != wanted:
        yield f"input has {x[1]} channels, weight {weight} with group {group} needs {wanted}"
    if isinstance(weight[0], int) and weight[0] % group:
        yield f"{weight[0]} filters do not divide into {group} groups"
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None and list(kernel) != list(weight[2:]):
        yield f"kernel_shape {list(kernel)} is not the weight's {list(weight[2:])}"
    rank = len(weight) - 2
    for name, length in (("pads", 2 * rank), ("strides", rank), ("dilations", rank)):
        given = node.attributes.get_ints(name)
        if given is not None and (len(given) != length or any(n < (name != "pads") for n in given)):
            yield f"{name} {list(given)} must be {length} numbers, not negative"
    bias = _shape(node, 2) if node.op_type != "ConvInteger" else None
    filters = weight[1] if transposed else weight[0]
    count = filters * group if transposed and isinstance(filters, int) else filters
    if bias is not None and bias != (count,):
        yield f"bias {bias} for {count} filters"


def recurrent(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Weight, recurrence and bias shapes of LSTM, GRU and RNN."""
    if node.domain or node.op_type not in GATES:
        return
    gates, hidden = GATES[node.op_type], node.attributes.get_int("hidden_size", 0) or 0
    directions = 2 if node.attributes.get_string("direction") == "bidirectional" else 1
    x, w, r, b = (_shape(node, i) for i in range(4))
    rows = gates * hidden
    if w is not None and (len(w) != 3 or w[:2] != (directions, rows)):
        yield f"W is {w}, expected ({directions}, {rows}, inputs)"
    elif w is not None and x is not None and isinstance(x[-1], int) and x[-1] != w[2]:
        yield f"input width {x[-1]}, W takes {w[2]}"
    if r is not None and r != (directions, rows, hidden):
        yield f"R is {r}, expected ({directions}, {rows}, {hidden})"
    if b is not None and b != (directions, 2 * rows):
        yield f"B is {b}, expected ({directions}, {2 * rows})"


def norms(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Parameters of batch normalisation have one number per channel; variances are not negative."""
    if node.domain or node.op_type != "BatchNormalization":
        return
    x = _shape(node, 0)
    sizes = {_shape(node, i) for i in range(1, 5)} - {None}
    channels = x[1] if x is not None and len(x) > 1 and isinstance(x[1], int) else None
    if len(sizes) > 1 or (channels is not None and any(s != (channels,) for s in sizes)):
        yield f"parameters {sorted(map(str, sizes))} for {channels} channels"
    variance = _setting(node, 4)
    if variance is not None and not (np.isfinite(variance).all() and (variance >= 0).all()):
        yield "a variance is negative or not finite"


def products(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Inner sizes of MatMul and Gemm agree."""
    if node.domain or node.op_type not in ("MatMul", "Gemm", "MatMulInteger"):
        return
    a, b = _shape(node, 0), _shape(node, 1)
    if not a or not b:
        return
    left, right = a[-1], b[-2] if len(b) > 1 else b[0]
    if node.op_type == "Gemm" and len(a) == 2 and len(b) == 2:
        left = a[0] if node.attributes.get_int("transA", 0) else a[1]
        right = b[1] if node.attributes.get_int("transB", 0) else b[0]
    if isinstance(left, int) and isinstance(right, int) and left != right:
        yield f"inner sizes {left} and {right} of {a} and {b}"


def _setting(node: ir.Node, index: int) -> np.ndarray | None:
    """A small constant input."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or (value.const_value is not None and value.const_value.nbytes > _SETTINGS_BYTES):
        return None
    array = constant_of(value)
    return None if array is None else np.asarray(array)


def quantisers(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Scale, zero point, bits and attributes of QONNX quantisers."""
    if node.domain != QONNX_DOMAIN:
        return
    scale = _setting(node, 1)
    if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
        yield "scale must be positive and finite"
    x = _shape(node, 0)
    if scale is not None and x is not None and not _fits(scale.shape, x):
        yield f"scale of shape {scale.shape} does not broadcast to {x}"
    if node.op_type == "BipolarQuant":
        return
    zero = _setting(node, 2)
    if zero is not None and not np.isfinite(zero).all():
        yield "zero point is not finite"
    for index in (3, 4, 5) if node.op_type == "Trunc" else (3,):
        is_scale = node.op_type == "Trunc" and index == 4 and len(node.inputs) > 5
        bits = _setting(node, index)
        if (
            bits is not None
            and not is_scale
            and not ((bits >= 1) & (bits <= _MAX_BITS) & (bits % 1 == 0)).all()
        ):
            yield f"bit width {bits.reshape(-1)[:4].tolist()} is not a whole number from 1 to {_MAX_BITS}"
    mode = node.attributes.get_string("rounding_mode", "ROUND") or ""
    if mode.upper() not in ROUNDING:
        yield f"unknown rounding mode {mode!r}"
    for name in ("signed", "narrow"):
        if node.attributes.get_int(name, 0) not in (0, 1):
            yield f"{name} must be 0 or 1"


def _fits(shape: tuple[int, ...], x: tuple[Dim, ...]) -> bool:
    if len(shape) > len(x) and any(n != 1 for n in shape[: len(shape) - len(x)]):
        return False
    tail = zip(reversed(shape), reversed(x), strict=False)
    return all(n == 1 or not isinstance(d, int) or n == d for n, d in tail)


def linear_quantisation(graph: Graph, node: ir.Node) -> Iterator[str]:
    """Scales of QuantizeLinear and DequantizeLinear are positive; zero points match them in shape."""
    if node.domain or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale = _setting(node, 1)
    if scale is not None and not (np.isfinite(scale.astype(np.float32)).all() and (scale > 0).all()):
        yield "scale must be positive and finite"
    shapes = _shape(node, 1), _shape(node, 2)
    if None not in shapes and shapes[0] != shapes[1]:
        yield f"scale {shapes[0]} and zero point {shapes[1]} differ in shape"


def shapes_hold(graph: Graph) -> Iterator[tuple[str, str]]:
    """Declared numeric dims of values do not contradict what follows from the inputs."""
    try:
        inferred = infer_shapes(graph)
    except VerificationFailed as err:
        yield "graph", err.what
        return
    for node, fresh in zip(graph.nodes, inferred.nodes, strict=True):
        for value, other in zip(node.outputs, fresh.outputs, strict=True):
            declared, found = dims_of(value), dims_of(other)
            if declared is None or found is None:
                continue
            pairs = zip(declared, found, strict=False)
            clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
            if clash or len(declared) != len(found):
                yield f"value {value.name!r} of {node.name!r}", f"declared {declared}, follows {found}"
            elif value.dtype is not None and other.dtype is not None and value.dtype != other.dtype:
                yield f"value {value.name!r}", f"declared {value.dtype.name}, follows {other.dtype.name}"
