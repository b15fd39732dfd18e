"""Shape and type inference that knows QONNX quantisers and never touches the weights.

onnx's inference runs on a skeleton: quantisers shown as Identity, large initializers as typed inputs. What it
cannot see through (shape arithmetic beyond its data propagation) is evaluated with the reference kernels and
fed back, until nothing new is learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.ops import KERNEL_FAILURES, KERNELS, Call
from rubicc.ir.skeleton import skeleton
from rubicc.text import first_line

_SMALL_BYTES = 1024  # constants up to this size may carry shapes; larger ones are weights
_MAX_ROUNDS = 12
_LONG_VECTOR = 1 << 16
_NOT_EVALUATED = frozenset({"If", "Loop", "Scan"})
KNOWN = "rubicc.known"  # ``Value.meta`` key of small arrays that follow from shapes and constants
Dim = int | str | None


def infer_shapes(graph: Graph, bind: Mapping[str, int] | None = None) -> Graph:
    """A clone of ``graph`` (weights shared) with shapes and types on every value that can be known.

    Small values that follow from shapes and constants stand in the clone's ``value.meta[KNOWN]``.

    Args:
        graph: any legal graph; left as it is.
        bind: numbers for symbolic dims, e.g. ``{"N": 1, "T": 1200}``; unbound symbols stay.

    Raises:
        VerificationFailed: ``RUB-IR-004``, the shapes of the graph contradict each other.
    """
    clone = graph.clone()
    bind = dict(bind or {})
    known: dict[str, np.ndarray] = {}
    for value in _all_values(clone.ir):
        _bind(value, bind)
    proto = _proto(clone)
    complete = False
    for propagate in (False, True):
        if complete or (propagate and not _worth_propagating(clone)):
            break
        for _ in range(_MAX_ROUNDS):
            complete = _infer_once(clone, proto, bind, known, propagate)
            for value in _all_values(clone.ir):
                _bind(value, bind)
            if not _evaluate(clone, known) or complete:
                break
    for value in _all_values(clone.ir):
        if value.name in known:
            value.meta[KNOWN] = known[value.name]
    return clone


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Shape of ``value`` when every dim is a number."""
    if value is None or value.shape is None:
        return None
    dims = [d for d in value.shape if isinstance(d, int)]
    return tuple(dims) if len(dims) == len(value.shape) else None


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """Dims of ``value`` as numbers, symbol names and ``None``; ``None`` when the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def _all_values(body: ir.Graph) -> list[ir.Value]:
    values = [*body.inputs, *body.outputs]
    for node in body:
        values += node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                values += _all_values(attribute.value)
    return values


def _bind(value: ir.Value, bind: Mapping[str, int]) -> None:
    dims = dims_of(value)
    if dims is not None and any(d in bind for d in dims if isinstance(d, str)):
        value.shape = ir.Shape([bind.get(d, d) if isinstance(d, str) else d for d in dims])


def _worth_propagating(clone: Graph) -> bool:
    """Whether shapes are missing, and onnx's data propagation would meet only short vectors.

    It lists every element of a vector, so one long vector costs gigabytes.
    """
    computed = [static_shape(value) for value in _all_values(clone.ir)]
    shapes = [*computed, *(static_shape(value) for value in clone.ir.initializers.values())]
    return None in computed and all(
        shape[0] <= _LONG_VECTOR for shape in shapes if shape is not None and len(shape) == 1
    )


def _infer_once(
    clone: Graph,
    proto: onnx.ModelProto,
    bind: Mapping[str, int],
    known: Mapping[str, np.ndarray],
    propagate: bool,
) -> bool:
    """One round of onnx's inference; True when it alone gave numbers to every value, so that none is left."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_with_known(proto, known), data_prop=propagate)
    except (onnx.shape_inference.InferenceError, RuntimeError) as err:
        raise VerificationFailed("RUB-IR-004", f"shape inference: {first_line(err, 300)}") from err
    return _copy_back(clone.ir, inferred.graph, bind)


def _proto(clone: Graph) -> onnx.ModelProto:
    """The graph as onnx's inference gets it, large weights as inputs."""
    proto, weights = skeleton(clone)
    graph = proto.graph
    graph.ClearField("value_info")
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    _plain_ops(graph)
    for name, tensor in weights:
        if tensor.nbytes <= _SMALL_BYTES:
            graph.initializer.append(ir.serde.serialize_tensor(tensor))
            graph.initializer[-1].name = name
        else:
            dims = tensor.shape.numpy()
            graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), dims))
    return proto


def _with_known(proto: onnx.ModelProto, known: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """``proto``, or a copy of it with constants in place of the nodes whose results are known."""
    kept = [node for node in proto.graph.node if not any(name in known for name in node.output)]
    if len(kept) == len(proto.graph.node):
        return proto
    made = {name for node in proto.graph.node for name in node.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    copy.graph.node.extend(
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array, name))
        for name, array in known.items()
        if name in made
    )
    copy.graph.node.extend(kept)
    return copy


def _plain_ops(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain == QONNX_DOMAIN:
            del node.input[1:]
            node.ClearField("attribute")
            node.op_type, node.domain = "Identity", ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _plain_ops(attribute.g)


def _copy_back(body: ir.Graph, proto: onnx.GraphProto, bind: Mapping[str, int]) -> bool:
    complete = True
    found = {info.name: info for info in (*proto.value_info, *proto.output)}
    nested = {n.name: n for n in proto.node if any(a.HasField("g") for a in n.attribute)}
    for node in body:
        for value in node.outputs:
            if value.name in found:
                _merge(value, found[value.name], bind)
                complete &= static_shape(value) is not None and _numbers(found[value.name])
            elif value.name:
                complete = False
        if node.name in nested:
            graphs = {a.name: a.g for a in nested[node.name].attribute if a.HasField("g")}
            for name, graph in graphs.items():
                complete &= _copy_back(node.attributes[name].value, graph, bind)
    return complete


def _numbers(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)


def _merge(value: ir.Value, info: onnx.ValueInfoProto, bind: Mapping[str, int]) -> None:
    """Inferred facts win; a declared symbol survives where inference only invented a name."""
    tensor = info.type.tensor_type
    if tensor.elem_type:
        value.dtype = ir.DataType(tensor.elem_type)
    if not tensor.HasField("shape"):
        return
    new: list[Dim] = [
        d.dim_value if d.HasField("dim_value") else bind.get(d.dim_param, d.dim_param) or None
        for d in tensor.shape.dim
    ]
    old = dims_of(value)
    if old is not None and len(old) == len(new):
        new = [o if n is None or str(n).startswith("unk__") else n for n, o in zip(new, old, strict=True)]
    value.shape = ir.Shape([None if str(n).startswith("unk__") else n for n in new])


def _evaluate(clone: Graph, known: dict[str, np.ndarray]) -> bool:
    """Compute small values that follow from static shapes and constants; True when something was learned."""
    learned = False
    for node in clone.ir:
        if node.domain or node.op_type in _NOT_EVALUATED or ("", node.op_type) not in KERNELS:
            continue
        if any(v.name in known for v in node.outputs):
            continue
        arrays = _arguments(node, known)
        if arrays is None:
            continue
        call = Call(node, arrays, clone.opset, None, lambda body, inputs: [])
        try:
            with np.errstate(all="ignore"):
                result = KERNELS[("", node.op_type)](call)
        except KERNEL_FAILURES:
            continue
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        for value, array in zip(node.outputs, results, strict=False):
            if value.name and np.asarray(array).nbytes <= _SMALL_BYTES:
                known[value.name] = np.ascontiguousarray(array).reshape(np.shape(array))
                learned |= not value.is_graph_output()
    return learned


def _arguments(node: ir.Node, known: Mapping[str, np.ndarray]) -> list[np.ndarray | None] | None:
    """Input arrays of a node, or ``None`` when one is not known."""
    if node.op_type in ("Shape", "Size"):
        shape = static_shape(node.inputs[0])
        return None if shape is None else [np.broadcast_to(np.zeros((), np.int8), shape)]
    arrays: list[np.ndarray | None] = []
    for value in node.inputs:
        if value is None:
            arrays.append(None)
        elif value.name and value.name in known:
            arrays.append(known[value.name])
        elif value.const_value is not None and value.const_value.nbytes <= _SMALL_BYTES:
            arrays.append(value.const_value.numpy())
        else:
            return None
    return arrays
