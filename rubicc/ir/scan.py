"""Checks on a freshly parsed ModelProto, before any other code (onnx's C++ included) looks at it.

The order matters: cheap structural facts first (versions, depth, counts), then names, then tensors, then
what literal shapes would make an executor allocate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from rubicc.errors import ModelRefused
from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.ir.limits import Limits, bounded_elements

KNOWN_DOMAINS = frozenset({"", "ai.onnx", QONNX_DOMAIN})
MIN_IR, MAX_IR = 4, 13
MIN_OPSET, MAX_OPSET = 9, 27

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
_TYPED_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_ALL_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_SHAPED_BY_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1}


def scan(proto: ModelProto, limits: Limits) -> None:
    """Refuse a malformed or hostile model.

    Raises:
        ModelRefused: codes ``RUB-IR-040`` to ``RUB-IR-047``.
    """
    _scan_header(proto)
    bodies = [proto.graph.node, *(f.node for f in proto.functions)]
    for nodes in bodies:
        _scan_depth(nodes, limits)
    total = sum(1 for nodes in bodies for _ in all_nodes(nodes))
    if total > limits.nodes:
        raise ModelRefused("RUB-IR-041", f"{total} nodes, limit {limits.nodes}")
    _scan_names(proto, limits)
    _scan_domains(proto)
    _scan_functions(proto, limits)
    for graph in all_graphs(proto):
        _scan_graph(graph)
    for tensor, where in all_tensors(proto):
        scan_tensor(tensor, limits, where)
    for graph in all_graphs(proto):
        _scan_literal_shapes(graph, limits)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Graphs held by a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and the nodes of their nested graphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def all_graphs(proto: ModelProto) -> Iterator[GraphProto]:
    """Main graph and every nested one."""
    yield proto.graph
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            yield from subgraphs(node)


def all_tensors(proto: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    """Every tensor of the file, with the words that place it."""
    for graph in all_graphs(proto):
        kind = "initializer" if graph is proto.graph else "nested initializer"
        for tensor in graph.initializer:
            yield tensor, f"{kind} {tensor.name!r}"
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            for attribute in node.attribute:
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    yield tensor, f"attribute {attribute.name!r} of node {node.name!r}"


def _scan_header(proto: ModelProto) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelRefused("RUB-IR-040", "the file is not an ONNX model: no graph or no IR version")
    if not MIN_IR <= proto.ir_version <= MAX_IR:
        raise ModelRefused(
            "RUB-IR-044",
            f"IR version {proto.ir_version}, supported {MIN_IR} to {MAX_IR}",
            hint="re-export with onnx 1.22 or older",
        )
    seen: set[str] = set()
    for opset in proto.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        if domain in seen:
            raise ModelRefused("RUB-IR-044", f"operator set {domain!r} is imported twice")
        seen.add(domain)
        if domain == "" and not MIN_OPSET <= opset.version <= MAX_OPSET:
            raise ModelRefused(
                "RUB-IR-044",
                f"opset {opset.version}, supported {MIN_OPSET} to {MAX_OPSET}",
                hint="export with opset_version=20",
            )
    if "" not in seen:
        raise ModelRefused("RUB-IR-044", "no version of the ONNX operator set is imported")
    if proto.training_info:
        raise ModelRefused("RUB-IR-043", "the file holds training information", hint="export for inference")


def _scan_depth(nodes: Sequence[NodeProto], limits: Limits, depth: int = 0) -> None:
    if depth > limits.nesting:
        raise ModelRefused("RUB-IR-041", f"graphs nested deeper than {limits.nesting}")
    for node in nodes:
        for graph in subgraphs(node):
            _scan_depth(graph.node, limits, depth + 1)


def _texts(proto: ModelProto) -> Iterator[object]:
    """Free text: metadata of any length (bytes where it is not UTF-8)."""
    entries = [proto.metadata_props, *(g.metadata_props for g in all_graphs(proto))]
    entries += [n.metadata_props for n in all_nodes(proto.graph.node)]
    for props in entries:
        for entry in props:
            yield from (entry.key, entry.value)
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            for attribute in node.attribute:
                yield from (_decoded(text) for text in (attribute.s, *attribute.strings))


def _decoded(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _names(proto: ModelProto) -> Iterator[str]:
    for opset in proto.opset_import:
        yield opset.domain
    for function in proto.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (a.name for a in node.attribute)
    for graph in all_graphs(proto):
        yield graph.name
        yield from (t.name for t in graph.initializer)
        for info in (*graph.input, *graph.output, *graph.value_info):
            yield info.name
            yield from (d.dim_param for d in info.type.tensor_type.shape.dim)


def _scan_names(proto: ModelProto, limits: Limits) -> None:
    for text in (*_texts(proto), *_names(proto)):
        if not isinstance(text, str):
            raise ModelRefused("RUB-IR-040", f"text that is not UTF-8: {text!r:.60}")
    for name in _names(proto):
        if "\0" in name or len(name) > limits.name_length:
            raise ModelRefused("RUB-IR-041", f"a name has {len(name)} characters or a NUL: {name[:40]!r}")


def _scan_domains(proto: ModelProto) -> None:
    local = {(f.domain, f.name) for f in proto.functions}
    unknown = set()
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in all_nodes(nodes):
            if node.domain not in KNOWN_DOMAINS and (node.domain, node.op_type) not in local:
                unknown.add(f"{node.domain}::{node.op_type}")
    if unknown:
        raise ModelRefused(
            "RUB-IR-045",
            f"operators of unknown domains: {', '.join(sorted(unknown)[:8])}",
            hint="export with standard ONNX or QONNX operators (optimised runtime files cannot be compiled)",
        )


def _scan_functions(proto: ModelProto, limits: Limits) -> None:
    """Count what inlining would make; a call cycle or an exponential chain is refused before it happens."""
    if not proto.functions:
        return
    bodies: dict[tuple[str, str], Sequence[NodeProto]] = {}
    for function in proto.functions:
        key = (function.domain, function.name)
        if key in bodies:
            raise ModelRefused("RUB-IR-046", f"function {function.name!r} is defined twice")
        if function.domain in ("", "ai.onnx", QONNX_DOMAIN):
            raise ModelRefused("RUB-IR-046", f"function {function.name!r} redefines a standard operator")
        bodies[key] = function.node
    sizes: dict[tuple[str, str], int] = {}

    def inlined(nodes: Sequence[NodeProto], path: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in all_nodes(nodes):
            key = (node.domain, node.op_type)
            if key in path or len(path) > 64:
                raise ModelRefused("RUB-IR-046", f"function {key[1]!r} calls itself or calls nest too deep")
            if key in bodies and key not in sizes:
                sizes[key] = inlined(bodies[key], (*path, key))
            total += sizes.get(key, 1)
        return total

    total = inlined(proto.graph.node, ())
    if total > limits.nodes:
        raise ModelRefused("RUB-IR-046", f"functions inline to {total} nodes, limit {limits.nodes}")


def _scan_graph(graph: GraphProto) -> None:
    if graph.sparse_initializer:
        raise ModelRefused("RUB-IR-043", "sparse initializers are not supported", hint="store them densely")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ModelRefused("RUB-IR-043", f"sparse tensor in node {node.name!r}")
            if attribute.type in (AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS):
                raise ModelRefused("RUB-IR-043", f"type attribute in node {node.name!r}")
    for what, names in (
        ("initializer", [t.name for t in graph.initializer]),
        ("input", [v.name for v in graph.input]),
        ("output", [v.name for v in graph.output]),
        ("node result", [o for n in graph.node for o in n.output if o]),
    ):
        seen: set[str] = set()
        for name in names:
            if not name or name in seen:
                raise ModelRefused("RUB-IR-040", f"{what} name {name!r} is empty or given twice")
            seen.add(name)
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise ModelRefused("RUB-IR-043", f"value {info.name!r} is a {kind}", hint="tensors only")
        element = info.type.tensor_type.elem_type
        if kind and element not in _BITS and element != TensorProto.UNDEFINED:
            raise ModelRefused("RUB-IR-043", f"value {info.name!r} has element type {_type_name(element)}")
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value")]
        bounded_elements([max(d, 0) for d in dims], 1 << 48, f"value {info.name!r}")
        if any(d < 0 for d in dims):
            raise ModelRefused("RUB-IR-047", f"value {info.name!r} has a negative dimension: {dims}")


def _type_name(code: int) -> str:
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)


def tensor_bytes(tensor: TensorProto, limits: Limits, where: str) -> int:
    """Bytes the dims and type of a tensor stand for.

    Raises:
        ModelRefused: element type, rank or dims are not acceptable.
    """
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise ModelRefused(
            "RUB-IR-043", f"element type {_type_name(tensor.data_type)} is not supported", where=where
        )
    if len(tensor.dims) > limits.rank:
        raise ModelRefused("RUB-IR-041", f"{len(tensor.dims)} axes, limit {limits.rank}", where=where)
    return (bounded_elements(tensor.dims, 1 << 40, where) * bits + 7) // 8


def scan_tensor(tensor: TensorProto, limits: Limits, where: str) -> None:
    """Check that the bytes of a tensor are exactly what its dims and type ask for."""
    expected = tensor_bytes(tensor, limits, where)
    filled = [name for name in _ALL_TYPED if len(getattr(tensor, name))]
    if tensor.HasField("segment"):
        raise ModelRefused("RUB-IR-043", "segmented tensors are not supported", where=where)
    if tensor.data_location == TensorProto.EXTERNAL:
        if filled or tensor.HasField("raw_data"):
            raise ModelRefused("RUB-IR-040", "external tensor that also holds data", where=where)
        if not where.startswith("initializer"):
            raise ModelRefused("RUB-IR-042", "external data outside the main graph's weights", where=where)
        return
    if tensor.external_data:
        raise ModelRefused(
            "RUB-IR-042", "external data entries on a tensor that is not external", where=where
        )
    if tensor.HasField("raw_data"):
        got, unit = len(tensor.raw_data), "bytes"
        if filled:
            raise ModelRefused("RUB-IR-040", f"raw data beside {filled[0]}", where=where)
    else:
        field = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
        if [name for name in filled if name != field]:
            raise ModelRefused("RUB-IR-040", f"data in {filled[0]}, expected {field}", where=where)
        got, unit = len(getattr(tensor, field)), "values"
        bits = _BITS[tensor.data_type]
        expected = expected if bits == 4 else expected * 8 // bits
    if got != expected:
        raise ModelRefused(
            "RUB-IR-040",
            f"dims {list(tensor.dims)} of {_type_name(tensor.data_type)} need {expected} {unit}, got {got}",
            where=where,
        )


def _literals(graph: GraphProto) -> dict[str, TensorProto]:
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    found[node.output[0]] = attribute.t
    return found


def _values(tensor: TensorProto | None) -> list[float] | None:
    """Values of a small inline tensor."""
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > 64:
        return None
    if tensor.data_type not in (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE):
        return None
    return list(onnx.numpy_helper.to_array(tensor).reshape(-1).tolist())


def _scan_literal_shapes(graph: GraphProto, limits: Limits) -> None:
    """Refuse nodes whose literal arguments ask for a tensor far larger than any network's."""
    literal = _literals(graph)
    most = limits.tensor_bytes // 4
    for node in graph.node:
        where = f"node {node.name!r} ({node.op_type})"
        inputs = [_values(literal.get(name)) for name in node.input]
        if node.op_type in _SHAPED_BY_INPUT and len(inputs) > _SHAPED_BY_INPUT[node.op_type]:
            dims = inputs[_SHAPED_BY_INPUT[node.op_type]]
            if dims is not None:
                bounded_elements([max(int(d), 1) for d in dims], most, where)
        elif node.op_type in ("Tile", "Pad") and len(inputs) > 1 and inputs[1] is not None:
            bounded_elements([max(int(d), 1) for d in inputs[1]], most, where)
        elif node.op_type == "Range" and len(inputs) == 3 and all(v for v in inputs[::2]):
            limit, delta = (inputs[1] or [0.0])[0], (inputs[2] or [1.0])[0]
            start = (inputs[0] or [0.0])[0]
            if delta and math.isfinite((limit - start) / delta):
                bounded_elements([max(int((limit - start) / delta), 0)], most, where)
