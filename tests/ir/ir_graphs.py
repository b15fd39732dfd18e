"""Small graphs shared by the tests of this room."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rubicc.ir.graph import QONNX_DOMAIN, Graph

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX_DOMAIN, 1)]


def info(name, shape, dtype=np.float32):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def proto(nodes, inputs, outputs, constants=None, opsets=None, **extra) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=opsets or OPSETS, ir_version=10, **extra)


def graph(*args, **kwargs) -> Graph:
    return Graph.from_proto(proto(*args, **kwargs))


def quant_node(x, y, prefix="q", **attrs):
    attrs = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attrs
    inputs = [x, f"{prefix}_scale", f"{prefix}_zero", f"{prefix}_bits"]
    return helper.make_node("Quant", inputs, [y], name=f"{prefix}", domain=QONNX_DOMAIN, **attrs)


def quant_constants(prefix="q", scale=0.1, zero=0.0, bits=8.0):
    values = {"scale": scale, "zero": zero, "bits": bits}
    return {f"{prefix}_{k}": np.asarray(v, np.float32) for k, v in values.items()}


def conv_quant(seed=0, batch="N", time="T") -> Graph:
    """Quantised input and weight, grouped strided convolution, batch norm, residual ReLU."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(8, 2, 5)).astype(np.float32)
    constants = {
        "w": weight,
        "b": rng.normal(size=8).astype(np.float32),
        "one": rng.normal(size=(8, 8, 1)).astype(np.float32),
        "gamma": rng.uniform(0.5, 1.5, 8).astype(np.float32),
        "beta": rng.normal(size=8).astype(np.float32),
        "mean": rng.normal(size=8).astype(np.float32),
        "var": rng.uniform(0.5, 1.5, 8).astype(np.float32),
        **quant_constants("qx", 0.05),
        **quant_constants("qw", np.abs(weight).max(axis=(1, 2), keepdims=True) / 7, bits=4.0),
        **quant_constants("qa", 0.1, bits=6.0),
    }
    nodes = [
        quant_node("x", "xq", "qx"),
        quant_node("w", "wq", "qw", narrow=1),
        helper.make_node("Conv", ["xq", "wq", "b"], ["c"], name="conv", group=2, strides=[3], pads=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], name="bn"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        quant_node("r", "rq", "qa", signed=0),
        helper.make_node("Conv", ["rq", "one"], ["p"], name="point"),
        helper.make_node("Add", ["p", "rq"], ["y"], name="add"),
    ]
    return graph(nodes, [info("x", [batch, 4, time])], [info("y", [batch, 8, None])], constants)
