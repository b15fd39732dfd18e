"""Small ONNX graphs made node by node, for the tests of native lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rubicc.ir.graph import SOURCE_KEY, Graph


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node called after its first output; ``-`` leaves an input out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=outputs.split()[0], **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    *,
    x: Sequence[int | str] = ("N", 1, "T"),
    y: Sequence[int | str] = ("A", "B", "C"),
    opset: int = 20,
    dtype: int = TensorProto.FLOAT,
) -> Graph:
    """A graph from ``x`` to ``y``; float64 constants become float32."""
    arrays = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in constants.items()}
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", dtype, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    made = Graph.from_proto(proto)
    for one in made.nodes:
        one.metadata_props[SOURCE_KEY] = f"net.{one.name}"
    return made


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers that keep the size of what they multiply."""
    rng = np.random.default_rng((seed, *shape))
    return rng.standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5


def int8(*shape: int, seed: int = 0) -> np.ndarray:
    """Whole numbers from -127 to 127."""
    return np.random.default_rng((seed, *shape)).integers(-127, 128, shape).astype(np.int8)


def shape_of(*numbers: int) -> np.ndarray:
    """A constant operand that lists integers."""
    return np.array(numbers, np.int64)


def signal(frames: int, items: int = 2, channels: int = 1) -> np.ndarray:
    """Noise (items, channels, frames), float32."""
    return np.random.default_rng(frames).standard_normal((items, channels, frames)).astype(np.float32)
