"""Small graphs for the tests of passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rubicc.ir.graph import QONNX_DOMAIN, SOURCE_KEY, Graph
from rubicc.passes.registry import get

Dims = Sequence[int | str]
OPSET = 20


def node(
    op: str, inputs: str, outputs: str, source: str = "", domain: str = "", **attrs: Any
) -> onnx.NodeProto:
    """``node("Conv", "x w b", "y", source="stem.conv", group=2)``; ``-`` stands for an omitted input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    if op in ("Quant", "BipolarQuant", "Trunc"):
        domain = QONNX_DOMAIN
    made = helper.make_node(
        op, names, outputs.split(), name=f"n_{outputs.split()[0]}", domain=domain, **attrs
    )
    made.metadata_props.add(key=SOURCE_KEY, value=source or f"m.{outputs.split()[0]}")
    return made


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    constants: Mapping[str, Any] | None = None,
    *,
    types: Mapping[str, int] | None = None,
    infer: bool = True,
) -> Graph:
    """A Graph of ``nodes``; constants given as floats become float32; typed unless ``infer=False``."""
    kinds = dict(types or {})

    def info(name: str, dims: Dims) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), list(dims))

    arrays = {name: _array(value) for name, value in (constants or {}).items()}
    proto = helper.make_graph(
        list(nodes),
        "test",
        [info(n, d) for n, d in inputs.items()],
        [info(n, d) for n, d in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    imports = [helper.make_opsetid("", OPSET)]
    if any(n.domain == QONNX_DOMAIN for n in nodes):
        imports.append(helper.make_opsetid(QONNX_DOMAIN, 2))
    built = Graph.from_proto(helper.make_model(proto, opset_imports=imports, ir_version=10))
    if infer:
        get("cleanup.infer-shapes")().run(built)
    return built


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def norm_constants(channels: int, stem: str = "bn", seed: int = 5) -> dict[str, np.ndarray]:
    """Parameters of a BatchNormalization under ``<stem>_{scale,bias,mean,var}``."""
    rng = np.random.default_rng([seed, channels])
    return {
        f"{stem}_scale": rng.uniform(0.5, 2.0, channels).astype(np.float32),
        f"{stem}_bias": rng.normal(size=channels).astype(np.float32),
        f"{stem}_mean": rng.normal(size=channels).astype(np.float32),
        f"{stem}_var": rng.uniform(0.1, 3.0, channels).astype(np.float32),
    }


def norm(source: str, out: str, stem: str = "bn", **attrs: Any) -> onnx.NodeProto:
    """A BatchNormalization with the parameters of :func:`norm_constants`."""
    return node(
        "BatchNormalization", f"{source} {stem}_scale {stem}_bias {stem}_mean {stem}_var", out, **attrs
    )


def conv_norm(
    *, group: int = 1, bias: bool = True, out: int = 6, kernel: int = 3, transpose: bool = False
) -> Graph:
    """x -> Conv (or ConvTranspose) -> BatchNormalization -> Relu -> y."""
    cin = 4
    shape = (cin, out // group, kernel) if transpose else (out, cin // group, kernel)
    constants = {"w": weights(*shape), **norm_constants(out), **({"b": weights(out)} if bias else {})}
    op = "ConvTranspose" if transpose else "Conv"
    nodes = [
        node(op, "x w b" if bias else "x w", "c", group=group, pads=[1, 1], strides=[2]),
        norm("c", "z"),
        node("Relu", "z", "y"),
    ]
    return graph(nodes, {"x": ("N", cin, "T")}, {"y": ("N", out, "U")}, constants)


def initializer(one: Graph, name: str) -> np.ndarray:
    """The array of an initializer."""
    tensor = one.ir.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
