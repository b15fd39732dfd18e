"""Reading and writing ONNX / QONNX files.

Reading trusts nothing: the file is measured, parsed, scanned against :class:`Limits`, its external data
mapped without following links, and only then shown to onnx's checker (without the big weights) and onnx_ir.
Writing streams: weights go from their arrays to the file one by one, so a model is never held twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass

from rubicc.errors import ModelRefused, UsageError
from rubicc.ir.external import ExternalData
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.limits import DEFAULT, Limits
from rubicc.ir.scan import scan
from rubicc.ir.skeleton import skeleton
from rubicc.text import first_line

EXTERNAL_FROM = 3 << 29  # 1.5 GiB: protobuf itself ends at 2 GiB
_SMALL = 1024  # tensors up to this many bytes are shown to onnx's checker
_ALIGN = 64


def load_graph(path: str | Path, limits: Limits = DEFAULT) -> Graph:
    """Read an ONNX or QONNX file from a stranger.

    Args:
        path: the file; external data must lie beside it.
        limits: budgets.

    Returns:
        The graph, functions inlined, static inputs removed, ``''`` opset first.

    Raises:
        ModelRefused: ``RUB-IR-040`` to ``RUB-IR-048``; the message says what the file wanted.
    """
    path = Path(path)
    return graph_of(_parsed(path, limits), path, limits)


def graph_of(proto: onnx.ModelProto, path: Path, limits: Limits = DEFAULT) -> Graph:
    """The graph in a proto that a stranger wrote; ``path`` is the file it stood in.

    Raises:
        ModelRefused: ``RUB-IR-040`` to ``RUB-IR-048``.
    """
    scan(proto, limits)
    external = ExternalData(path.parent, limits)
    tensors = {
        t.name: external.tensor(t)
        for t in proto.graph.initializer
        if t.data_location == onnx.TensorProto.EXTERNAL
    }
    _check(proto)
    try:
        graph = Graph.from_proto(proto)
        if graph.model.functions:
            InlinePass()(graph.model)
            graph = Graph(graph.model)
    except UsageError as err:
        raise ModelRefused("RUB-IR-048", f"model metadata: {err.what}", where=path.name) from err
    except (RuntimeError, ValueError, TypeError, KeyError) as err:
        raise ModelRefused("RUB-IR-048", first_line(err, 300), where=path.name) from err
    for name, tensor in tensors.items():
        graph.ir.initializers[name].const_value = tensor
    return graph


def _parsed(path: Path, limits: Limits) -> onnx.ModelProto:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise ModelRefused("RUB-IR-040", f"cannot open: {err.strerror or err}", where=path.name) from err
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ModelRefused("RUB-IR-040", "not a regular file", where=path.name)
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limits.file_bytes:
            raise ModelRefused(
                "RUB-IR-041", f"{status.st_size} bytes, limit {limits.file_bytes}", where=path.name
            )
        data = file.read(limits.file_bytes + 1)
    if not data:
        raise ModelRefused("RUB-IR-040", "the file is empty", where=path.name)
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as err:
        raise ModelRefused(
            "RUB-IR-040",
            "the file is not an ONNX model (protobuf cannot parse it)",
            where=path.name,
            hint="is it complete? PyTorch files are .pt, Core ML ones .mlpackage",
        ) from err


def _check(proto: onnx.ModelProto) -> None:
    """onnx's own checker on a copy without big weights (they were checked by :func:`scan`)."""
    light = without_weights(proto)
    if QONNX_DOMAIN not in {o.domain for o in light.opset_import}:
        light.opset_import.add(domain=QONNX_DOMAIN, version=1)  # qonnx itself does not insist on the import
    try:
        onnx.checker.check_model(light)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as err:
        raise ModelRefused("RUB-IR-048", f"onnx's checker refuses it: {first_line(err, 300)}") from err


def without_weights(proto: onnx.ModelProto, small: int = _SMALL) -> onnx.ModelProto:
    """A copy in which every initializer above ``small`` bytes is an input of the same type."""
    light = onnx.ModelProto(
        ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions
    )
    graph, out = proto.graph, light.graph
    out.name = graph.name or "graph"
    out.node.extend(graph.node)
    out.input.extend(graph.input)
    out.output.extend(graph.output)
    out.value_info.extend(graph.value_info)
    inputs = {v.name for v in graph.input}
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() <= small:
            out.initializer.append(tensor)
        elif tensor.name not in inputs:
            out.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def save_graph(graph: Graph, path: str | Path) -> None:
    """Write ``graph``: equal graphs give equal bytes, and an older file survives any failure.

    Above 1.5 GiB of weights they go to ``<name>.<digest>.data`` beside the model.

    Raises:
        UsageError: ``RUB-IR-049``, the place cannot be written.
    """
    path = Path(path)
    try:
        if weight_bytes(graph) <= EXTERNAL_FROM:
            _staged(path, _inline_chunks(graph))
        else:
            _save_external(graph, path)
    except OSError as err:
        what, hint = f"cannot write: {err.strerror or err}", "free space or choose another place"
        raise UsageError("RUB-IR-049", what, where=path.name, hint=hint) from err


def weight_bytes(graph: Graph) -> int:
    """Bytes of all initializers of the main graph as stored."""
    return sum(v.const_value.nbytes for v in graph.ir.initializers.values() if v.const_value is not None)


def graph_sha256(graph: Graph) -> str:
    """Digest of the bytes :func:`save_graph` writes for a graph with inline weights."""
    digest = hashlib.sha256()
    for chunk in _inline_chunks(graph):
        digest.update(chunk)
    return digest.hexdigest()


def _inline_chunks(graph: Graph) -> Iterator[bytes | memoryview]:
    """The serialised model in pieces: skeleton first, then one initializer after the other.

    Protobuf fields may come in any order, so appending initializers (field 5) to the bytes of a graph
    without them is the same message as serialising the whole at once.
    """
    proto, weights = skeleton(graph)
    body = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [_tensor_head(name, tensor) for name, tensor in weights]
    sizes = [len(head) + tensor.nbytes for head, (_, tensor) in zip(heads, weights, strict=True)]
    total = len(body) + sum(1 + len(_varint(size)) + size for size in sizes)
    yield proto.SerializeToString(deterministic=True)
    yield b"\x3a" + _varint(total) + body  # ModelProto.graph = 7
    for head, size, (_, tensor) in zip(heads, sizes, weights, strict=True):
        yield b"\x2a" + _varint(size) + head  # GraphProto.initializer = 5
        yield _bytes(tensor)


def _tensor_head(name: str, tensor: ir.TensorProtocol) -> bytes:
    """TensorProto fields before the data, ending in the key and length of ``raw_data`` (field 9)."""
    head = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
    return head.SerializeToString(deterministic=True) + b"\x4a" + _varint(tensor.nbytes)


def _bytes(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """Stored bytes of a tensor, without a copy where its array holds them already."""
    if tensor.dtype.bitwidth < 8:
        return tensor.tobytes()
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _save_external(graph: Graph, path: Path) -> None:
    proto, weights = skeleton(graph)
    name = f"{path.name}.{graph_sha256(graph)[:16]}.data"
    offset = 0
    for label, tensor in weights:
        entry = proto.graph.initializer.add(name=label, data_type=int(tensor.dtype))
        entry.dims.extend(tensor.shape.numpy())
        entry.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", offset), ("length", tensor.nbytes)):
            entry.external_data.add(key=key, value=str(value))
        offset += -(-tensor.nbytes // _ALIGN) * _ALIGN
    _staged(path.parent / name, _aligned(tensor for _, tensor in weights))
    _staged(path, [proto.SerializeToString(deterministic=True)])
    ours = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    for old in path.parent.iterdir():
        if ours.fullmatch(old.name) and old.name != name:
            old.unlink()


def _aligned(tensors: Iterable[ir.TensorProtocol]) -> Iterator[bytes | memoryview]:
    for tensor in tensors:
        yield _bytes(tensor)
        yield b"\0" * (-tensor.nbytes % _ALIGN)


def _staged(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write beside the target, flush to disk, rename."""
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
