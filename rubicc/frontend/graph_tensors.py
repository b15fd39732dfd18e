"""A graph as tensors, for checkpoints of networks that no architecture describes.

The weights are tensors under their own names; everything else of the graph, serialised as ONNX, is one tensor
of bytes. So a checkpoint of this form is opened by the same restricted reader, and read as carefully as an
ONNX file from a stranger.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.errors import ModelRefused
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

    from rubicc.ir.graph import Graph
    from rubicc.spec import ModelMeta

GRAPH_KEY = "rubicc.graph"
_NATIVE = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}


def to_tensors(graph: Graph) -> dict[str, torch.Tensor]:
    """Weights by name, and the rest under :data:`GRAPH_KEY`; types torch lacks stay in the rest."""
    import onnx_ir
    import torch

    from rubicc.ir.skeleton import skeleton

    proto, weights = skeleton(graph)
    tensors: dict[str, Any] = {}
    for name, tensor in weights:
        array = tensor.numpy()
        if array.dtype.name in _NATIVE and name != GRAPH_KEY:
            tensors[name] = torch.from_numpy(np.array(array))
        else:
            entry = proto.graph.initializer.add()
            entry.CopyFrom(onnx_ir.to_proto(tensor))
            entry.name = name
    tensors[GRAPH_KEY] = torch.frombuffer(
        bytearray(proto.SerializeToString(deterministic=True)), dtype=torch.uint8
    )
    return tensors


def from_tensors(tensors: Mapping[str, torch.Tensor], meta: ModelMeta, path: Path) -> Graph:
    """Inverse of :func:`to_tensors`, trusting nothing.

    Raises:
        ModelRefused: RUB-READ-030 it is no graph; what reading an ONNX file raises.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from rubicc.ir.io import graph_of

    stored = tensors[GRAPH_KEY]
    try:
        proto = onnx.ModelProto.FromString(stored.numpy().tobytes())
    except (DecodeError, TypeError, RuntimeError) as err:
        raise ModelRefused(
            "RUB-READ-030",
            f"rubicc checkpoint: its graph cannot be read: {first_line(err)}",
            where=path.name,
            hint="save it with this rubicc",
        ) from err
    for name, tensor in tensors.items():
        if name != GRAPH_KEY:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    graph = graph_of(proto, path)
    graph.meta = meta
    return graph
