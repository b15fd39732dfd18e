"""Every kernel agrees with ONNX Runtime and onnx's reference implementation, in float32 and float64."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from op_cases import CASES, Case

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.ops import KERNELS

onnxruntime.set_default_logger_severity(4)


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0))) if want.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance * scale
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees(case: Case):
    proto = case.model()
    graph = Graph.from_proto(proto)
    names = [v.name for v in graph.outputs]
    got = execute(graph, case.feeds())
    if case.runtime:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        for name, want in zip(names, session.run(names, case.feeds()), strict=True):
            close(got[name], np.asarray(want), case.tolerance)
    if case.reference:
        for name, want in zip(names, ReferenceEvaluator(proto).run(names, case.feeds()), strict=True):
            close(got[name], np.asarray(want), max(case.tolerance, 1e-5))
    double = execute(graph, case.feeds(), dtype=np.float64)
    for name in names:
        assert double[name].dtype == (np.float64 if got[name].dtype.kind == "f" else got[name].dtype)
        loose = 1e-2 if got[name].dtype == np.float16 else 1e-4
        np.testing.assert_allclose(double[name], got[name].astype(double[name].dtype), rtol=loose, atol=loose)


def test_every_kernel_is_compared_or_tested_by_name():
    elsewhere = {"Quant", "IntQuant", "BipolarQuant", "Trunc", "If", "Loop", "Scan", "Constant"}
    elsewhere |= {"BitwiseOr", "BitwiseXor", "BitwiseNot"}  # one numpy call each, like BitwiseAnd
    assert {name for _, name in KERNELS} - {case.op for case in CASES} == elsewhere


def test_a_long_convolution_keeps_what_is_not_finite_where_it_is():
    case = next(one for one in CASES if one.note == "long")
    feeds = case.feeds()
    clean = execute(graph := Graph.from_proto(case.model()), feeds)["y0"]
    feeds["x0"][1, 3, 30] = np.inf
    got = execute(graph, feeds)["y0"]
    touched = np.zeros(clean.shape, bool)
    touched[1, :6, 30 - 9 : 30 + 10] = True  # first group, frames whose kernel reaches sample 30
    assert not np.isfinite(got[touched]).any()
    np.testing.assert_allclose(got[~touched], clean[~touched], rtol=1e-5, atol=1e-5)


def test_integer_convolution_is_exact():
    case = next(c for c in CASES if c.op == "ConvInteger")
    got = execute(Graph.from_proto(case.model()), case.feeds())["y0"]
    x = np.pad(case.inputs[0].astype(np.int64) - 7, ((0, 0), (0, 0), (1, 1)))
    w = case.constants[0].astype(np.int64)
    want = np.array([[[(x[0, :, t : t + 3] * w[m]).sum() for t in range(12)] for m in range(2)]])
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_batch_first_layout_is_the_transpose():
    """Neither ONNX Runtime nor the reference runs ``layout=1``, so it is compared with ``layout=0``."""
    case = next(c for c in CASES if c.note == "layout")
    plain = Case("LSTM", [case.inputs[0].swapaxes(0, 1).copy()], case.constants, {"hidden_size": 4}, 3)
    got = execute(Graph.from_proto(case.model()), case.feeds())
    want = execute(Graph.from_proto(plain.model()), plain.feeds())
    np.testing.assert_array_equal(got["y0"], want["y0"].transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(got["y1"], want["y1"].swapaxes(0, 1))
