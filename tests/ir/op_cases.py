"""One-node graphs the executor is compared on with ONNX Runtime and onnx's reference implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

RNG = np.random.default_rng(3)


def f32(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Case:
    """``inputs`` become graph inputs, ``constants`` initializers (None: omitted input), in node order."""

    op: str
    inputs: list[np.ndarray]
    constants: list[np.ndarray | None] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 20
    note: str = ""
    tolerance: float = 2e-6
    runtime: bool = True  # compare with ONNX Runtime
    reference: bool = True  # compare with onnx.reference

    def __str__(self) -> str:
        shown = {k: v for k, v in self.attrs.items() if k != "value"}
        return f"{self.op}-{self.opset}-{self.note or shown}"[:70]

    def model(self) -> onnx.ModelProto:
        names, tensors, given = [], [], []
        for index, array in enumerate(self.inputs):
            given.append((f"x{index}", array))
            names.append(f"x{index}")
        for index, array in enumerate(self.constants):
            names.append("" if array is None else f"c{index}")
            if array is not None:
                tensors.append(numpy_helper.from_array(np.asarray(array), f"c{index}"))
        node = helper.make_node(
            self.op, names, [f"y{i}" for i in range(self.outputs)], name="n", **self.attrs
        )
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in given
            ],
            [onnx.ValueInfoProto(name=f"y{i}") for i in range(self.outputs)],
            tensors,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(proto)
        for output, info in zip(proto.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(info)
        return proto

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": a for i, a in enumerate(self.inputs)}


def unary() -> list[Case]:
    anywhere = "Neg Abs Exp Sin Cos Atan Sinh Asinh Tanh Floor Ceil Round Sign Reciprocal Relu Softsign Erf"
    anywhere += (
        " Sigmoid Softplus Mish HardSwish HardSigmoid Selu Elu Celu LeakyRelu ThresholdedRelu Identity"
    )
    cases = [Case(op, [f32(3, 40, low=-6, high=6)], opset=20, tolerance=1e-5) for op in anywhere.split()]
    for op in ("Sqrt", "Log", "Acosh"):
        cases.append(Case(op, [f32(3, 40, low=1.0, high=9.0)]))
    for op in ("Asin", "Acos", "Atanh", "Tan"):
        cases.append(Case(op, [f32(3, 40, low=-0.9, high=0.9)]))
    cases += [
        Case("Cosh", [f32(5)]),
        Case("Round", [np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)], note="half-even"),
        Case(
            "Erf", [np.array([-40, -5.99, 0, -0.0, 1e-30, 3.3, 7, np.inf, -np.inf], np.float32)], note="ends"
        ),
        Case("Sigmoid", [np.array([-200, -1, 0, 1, 200], np.float32)], note="ends"),
        Case("Gelu", [f32(4, 30)], attrs={"approximate": "none"}),
        Case("Gelu", [f32(4, 30)], attrs={"approximate": "tanh"}),
        Case("Elu", [f32(9)], attrs={"alpha": 0.3}),
        Case("Selu", [f32(9)], attrs={"alpha": 1.1, "gamma": 0.9}),
        Case("LeakyRelu", [f32(9)], attrs={"alpha": 0.3}),
        Case("HardSigmoid", [f32(9)], attrs={"alpha": 0.3, "beta": 0.4}),
        Case("ThresholdedRelu", [f32(9)], attrs={"alpha": 0.5}),
        Case("IsNaN", [np.array([1, np.nan, np.inf], np.float32)]),
        Case("IsInf", [np.array([1, np.nan, np.inf, -np.inf], np.float32)]),
        Case("IsInf", [np.array([1, -np.inf, np.inf], np.float32)], attrs={"detect_negative": 0}),
        Case("Not", [np.array([True, False])]),
        Case("PRelu", [f32(2, 3, 4)], [f32(3, 1)]),
        Case("Swish", [f32(9)], attrs={"alpha": 0.7}, opset=24, runtime=False),
    ]
    return cases


def binary() -> list[Case]:
    pairs = [([f32(2, 3, 4)], [f32(3, 1)]), ([f32(3, 1)], [f32(4)])]
    cases = [Case(op, x, c) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater") for x, c in pairs]
    ints = [np.array([-7, 7, -8, 9, 5], np.int64)]
    by = [np.array([2, -2, 3, 3, -5], np.int64)]
    flags = [np.array([True, True, False, False])], [np.array([True, False, True, False])]
    cases += [Case(op, ints, by, note="int") for op in ("Add", "Sub", "Mul", "Div", "Equal", "LessOrEqual")]
    cases += [Case(op, *flags) for op in ("And", "Or", "Xor", "Equal")]
    cases += [
        Case("GreaterOrEqual", [f32(3)], [f32(3)]),
        Case("Mod", ints, by),
        Case("Mod", [f32(5)], [f32(5)], {"fmod": 1}),
        Case("Pow", [f32(3, 4, low=0.1)], [np.float32(0.5)], tolerance=1e-5),
        Case("Pow", [f32(3, 4)], [np.int64(2)], note="int-exponent"),
        Case("Min", [f32(3, 4), f32(4)], [f32(1)]),
        Case("Max", [f32(3, 4), f32(4)]),
        Case("Sum", [f32(3, 4), f32(4), f32(3, 1)]),
        Case("Mean", [f32(3, 4), f32(3, 4)]),
        Case(
            "BitShift",
            [np.array([1, 2, 255], np.uint8)],
            [np.array([1, 2, 3], np.uint8)],
            {"direction": "LEFT"},
        ),
        Case("BitwiseAnd", [np.array([5, 6], np.int32)], [np.array([3, 3], np.int32)]),
        Case("Clip", [f32(9)], [np.float32(-0.5), np.float32(0.7)]),
        Case("Clip", [f32(9)], [None, np.float32(0.7)], note="max"),
        Case("Clip", [f32(9)], attrs={"min": -0.5, "max": 0.2}, opset=10, note="attributes"),
        Case("Where", [np.array([[True], [False]])], [f32(2, 3), f32(3)]),
    ]
    return cases


def casts() -> list[Case]:
    x = np.array([-2.7, -0.5, 0.0, 0.5, 3.9], np.float32)
    cases = [Case("Cast", [x], attrs={"to": t}) for t in (6, 7, 9, 10, 11)]
    return [*cases, Case("CastLike", [x], [i64(1)]), Case("Cast", [i64(0, 3)], attrs={"to": 1})]


def convolutions() -> list[Case]:
    cases = [
        Case("Conv", [f32(2, 6, 30)], [f32(4, 6, 5), f32(4)], {"pads": [2, 2]}),
        Case("Conv", [f32(1, 1, 60)], [f32(8, 1, 9)], {"pads": [4, 4], "strides": [3]}),
        Case("Conv", [f32(2, 8, 30)], [f32(8, 1, 7)], {"group": 8, "pads": [3, 3]}, note="depthwise"),
        Case("Conv", [f32(2, 8, 40)], [f32(12, 2, 5)], {"group": 4, "dilations": [3], "pads": [2, 5]}),
        Case("Conv", [f32(2, 16, 53)], [f32(24, 4, 19), f32(24)], {"group": 4, "pads": [9, 9]}, note="long"),
        Case("Conv", [f32(2, 5, 40)], [f32(5, 1, 33)], {"group": 5, "pads": [16, 2]}, note="long depthwise"),
        Case("Conv", [f32(1, 2, 12)], [f32(3, 2, 12)], note="one frame"),
        Case("Conv", [f32(2, 4, 20)], [f32(3, 4, 1)], note="pointwise"),
        Case("Conv", [f32(1, 4, 21)], [f32(3, 4, 4)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
        Case("Conv", [f32(1, 4, 21)], [f32(3, 4, 4)], {"auto_pad": "SAME_LOWER"}),
        Case("Conv", [f32(1, 4, 21)], [f32(3, 4, 4)], {"auto_pad": "VALID"}, reference=False),
        Case("Conv", [f32(2, 4, 9, 11)], [f32(6, 2, 3, 4), f32(6)], {"group": 2, "pads": [1, 2, 0, 1]}),
        Case("Conv", [f32(1, 3, 12, 10)], [f32(4, 3, 3, 3)], {"strides": [2, 3], "dilations": [2, 1]}),
        Case("Conv", [f32(1, 2, 5, 6, 7)], [f32(3, 2, 2, 3, 2)], note="3-D"),
        Case("ConvTranspose", [f32(2, 4, 9)], [f32(4, 3, 5), f32(3)], {"strides": [2], "pads": [1, 2]}),
        Case(
            "ConvTranspose",
            [f32(1, 4, 9)],
            [f32(4, 3, 3)],
            {"group": 2, "strides": [3], "output_padding": [1]},
            reference=False,
        ),
        Case("ConvTranspose", [f32(1, 4, 5, 6)], [f32(4, 2, 3, 2)], {"dilations": [2, 1]}, reference=False),
        Case(
            "ConvInteger",
            [RNG.integers(0, 255, (1, 3, 12), dtype=np.uint8)],
            [RNG.integers(0, 255, (2, 3, 3), dtype=np.uint8), np.uint8(7)],
            {"pads": [1, 1]},
            runtime=False,
            reference=False,
            note="checked below",
        ),
    ]
    pools = [
        {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
        {"kernel_shape": [4], "strides": [3], "ceil_mode": 1},
        {"kernel_shape": [3], "strides": [2], "pads": [0, 1], "ceil_mode": 1},
        {"kernel_shape": [3], "auto_pad": "SAME_UPPER"},
    ]
    cases += [Case("MaxPool", [f32(2, 3, 17)], attrs=a, reference=False) for a in pools]
    cases += [Case("AveragePool", [f32(2, 3, 17)], attrs=a, reference=False) for a in pools]
    cases += [
        Case("AveragePool", [f32(2, 3, 17)], attrs=pools[0] | {"count_include_pad": 1}),
        Case(
            "AveragePool",
            [f32(1, 2, 8, 9)],
            attrs={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]},
            reference=False,
        ),
        Case("MaxPool", [f32(1, 2, 17)], attrs={"kernel_shape": [3], "dilations": [2]}),
        Case("GlobalAveragePool", [f32(2, 3, 17)]),
        Case("GlobalMaxPool", [f32(2, 3, 5, 4)]),
    ]
    return cases


def linear() -> list[Case]:
    cases = [
        Case("MatMul", [f32(2, 3, 4, 5), f32(5, 6)]),
        Case("MatMul", [f32(4), f32(4, 3)], note="vector"),
        Case("MatMul", [f32(3, 4), f32(2, 4, 5)], note="broadcast"),
        Case("Gemm", [f32(3, 4)], [f32(4, 5), f32(5)]),
        Case(
            "Gemm", [f32(4, 3)], [f32(5, 4), f32(3, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
        ),
        Case("Einsum", [f32(2, 3, 4), f32(2, 4, 5)], attrs={"equation": "bij,bjk->bik"}),
        Case("Einsum", [f32(2, 3, 4), f32(5, 3, 4)], attrs={"equation": "nhd , mhd -> hnm"}),
        Case(
            "MatMulInteger",
            [RNG.integers(0, 255, (3, 8), dtype=np.uint8)],
            [RNG.integers(-127, 127, (8, 4), dtype=np.int8), np.uint8(9), np.int8(0)],
        ),
        Case("Softmax", [f32(2, 3, 4)], attrs={"axis": 1}),
        Case("Softmax", [f32(2, 3, 4)], attrs={"axis": 1}, opset=11, reference=False),
        Case("LogSoftmax", [f32(2, 3, 4, low=-50, high=50)], attrs={"axis": -1}, tolerance=1e-5),
        Case(
            "BatchNormalization", [f32(2, 3, 7)], [f32(3), f32(3), f32(3), f32(3, low=0.1)], {"epsilon": 1e-3}
        ),
        Case("LayerNormalization", [f32(2, 3, 8)], [f32(8), f32(8)], tolerance=5e-6),
        Case("LayerNormalization", [f32(2, 3, 8)], [f32(3, 8)], {"axis": 1}, tolerance=5e-6),
        Case("InstanceNormalization", [f32(2, 3, 8)], [f32(3), f32(3)], tolerance=5e-6),
        Case(
            "GroupNormalization",
            [f32(2, 4, 8)],
            [f32(4), f32(4)],
            {"num_groups": 2},
            opset=21,
            tolerance=5e-6,
        ),
        Case("RMSNormalization", [f32(2, 3, 8)], [f32(8)], opset=23, runtime=False),
        Case("LpNormalization", [f32(2, 3, 8)], attrs={"axis": 1, "p": 2}),
        Case("CumSum", [f32(3, 6)], [np.int64(1)]),
        Case("CumSum", [f32(3, 6)], [np.int64(0)], {"exclusive": 1, "reverse": 1}),
        Case("TopK", [f32(3, 9)], [i64(4)], outputs=2),
        Case("TopK", [np.array([[1, 3, 3, 2, 3]], np.float32)], [i64(3)], outputs=2, note="ties"),
        Case("TopK", [f32(3, 9)], [i64(2)], {"largest": 0, "axis": 0}, outputs=2),
        Case("Trilu", [f32(2, 4, 5)], [np.int64(1)]),
        Case("Trilu", [f32(4, 5)], attrs={"upper": 0}),
        Case("Dropout", [f32(4, 5)], note="inference"),
        Case("ArgMax", [f32(3, 5)], attrs={"axis": 1, "keepdims": 0}),
        Case("ArgMin", [np.array([[1, 0, 0]], np.float32)], attrs={"axis": 1, "select_last_index": 1}),
    ]
    reductions = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")
    for name in reductions:
        cases.append(Case(f"Reduce{name}", [f32(2, 3, 4)], [i64(1, -1)], {"keepdims": 0}, tolerance=1e-5))
    cases += [
        Case("ReduceLogSum", [f32(2, 3, low=0.1)], [i64(1)]),
        Case("ReduceSum", [f32(2, 3)], note="all"),
        Case("ReduceSum", [f32(2, 3)], attrs={"noop_with_empty_axes": 1}),
        Case("ReduceMean", [f32(2, 3, 4)], attrs={"axes": [2]}, opset=13),
        Case("ReduceMax", [np.array([[1, 5], [7, 2]], np.int64)], [i64(0)], note="int"),
    ]
    return cases


def shapes() -> list[Case]:
    x = f32(2, 3, 4)
    cases = [
        Case("Reshape", [x], [i64(0, -1)]),
        Case("Reshape", [f32(0, 3)], [i64(3, 0)], {"allowzero": 1}),
        Case("Flatten", [x], attrs={"axis": 2}),
        Case("Flatten", [x], attrs={"axis": -1}),
        Case("Squeeze", [f32(1, 3, 1)], [i64(0, -1)]),
        Case("Squeeze", [f32(1, 3, 1)], attrs={"axes": [2]}, opset=11),
        Case("Unsqueeze", [f32(3)], [i64(0, -1)]),
        Case("Unsqueeze", [f32(3)], attrs={"axes": [0, 2]}, opset=11),
        Case("Transpose", [x], attrs={"perm": [2, 0, 1]}),
        Case("Transpose", [x], note="default"),
        Case("Concat", [x, f32(2, 1, 4)], attrs={"axis": 1}),
        Case("Split", [f32(2, 7)], [i64(3, 4)], {"axis": 1}, outputs=2),
        Case("Split", [f32(2, 7)], attrs={"axis": 1, "num_outputs": 3}, outputs=3),
        Case("Split", [f32(2, 6)], attrs={"axis": 1}, outputs=3, opset=13),
        Case("Slice", [f32(5, 9)], [i64(1, -100), i64(100, 100), i64(0, 1), i64(2, 3)]),
        Case("Slice", [f32(9)], [i64(-1), i64(-(1 << 62)), i64(0), i64(-1)], note="flip"),
        Case("Slice", [f32(9)], [i64(7), i64(1), i64(0), i64(-2)], note="backwards"),
        Case("Slice", [f32(9)], [i64(20), i64(-20), i64(0), i64(-1)], note="clamped"),
        Case("Slice", [f32(9)], [i64(5), i64(2)], note="empty"),
        Case("Slice", [f32(5, 9)], attrs={"starts": [1], "ends": [3], "axes": [1]}, opset=9),
        Case("Gather", [x], [i64(1, -1)], {"axis": 1}),
        Case("Gather", [x], [np.int64(0)], {"axis": 2}, note="scalar"),
        Case(
            "GatherElements",
            [f32(3, 3)],
            [np.array([[0, -1], [1, 2]], np.int64)],
            {"axis": 1},
            reference=False,
        ),
        Case("GatherND", [x], [np.array([[0, 1], [1, 2]], np.int64)]),
        Case("GatherND", [x], [np.array([[1], [2]], np.int64)], {"batch_dims": 1}),
        Case("ScatterND", [f32(5, 3)], [np.array([[1], [3]], np.int64), f32(2, 3)]),
        Case("ScatterND", [f32(5)], [np.array([[1], [1]], np.int64), f32(2)], {"reduction": "add"}),
        Case("ScatterElements", [f32(3, 3)], [np.array([[1, 0]], np.int64), f32(1, 2)], {"axis": 1}),
        Case("ScatterElements", [f32(3)], [i64(1, 1), f32(2)], {"reduction": "add"}),
        Case("Expand", [f32(3, 1)], [i64(2, 1, 4)]),
        Case("Tile", [f32(2, 3)], [i64(2, 3)]),
        Case("Shape", [x]),
        Case("Shape", [x], attrs={"start": 1, "end": -1}),
        Case("Size", [x]),
        Case("Range", [np.array(v, np.int64) for v in (1, 9, 3)]),
        Case("Range", [np.array(v, np.float32) for v in (1, 0, -0.3)]),
        Case("ConstantOfShape", [i64(2, 3)]),
        Case("ConstantOfShape", [i64(4)], attrs={"value": numpy_helper.from_array(i64(7))}, note="int"),
        Case("NonZero", [np.array([[1, 0], [2, 3]], np.float32)]),
        Case("OneHot", [i64(0, 2, -1)], [np.int64(4), np.array([0.5, 2.0], np.float32)], {"axis": 0}),
        Case("EyeLike", [f32(3, 4)], attrs={"k": 1}),
        Case("ReverseSequence", [f32(5, 3, 2)], [i64(1, 5, 3)], {"time_axis": 0, "batch_axis": 1}),
        Case("DepthToSpace", [f32(1, 8, 2, 3)], attrs={"blocksize": 2, "mode": "DCR"}),
        Case("DepthToSpace", [f32(1, 8, 2, 3)], attrs={"blocksize": 2, "mode": "CRD"}),
        Case("SpaceToDepth", [f32(1, 2, 4, 6)], attrs={"blocksize": 2}),
    ]
    pads = i64(0, 1, 2, 3)
    cases += [Case("Pad", [f32(3, 5)], [pads], {"mode": m}) for m in ("constant", "edge", "reflect", "wrap")]
    cases += [
        Case("Pad", [f32(3, 5)], [i64(0, -1, 1, -2), np.float32(1.5)], note="crop", reference=False),
        Case("Pad", [f32(3, 5)], [i64(1, 2), None, i64(-1)], note="axes"),
        Case("Pad", [f32(3, 5)], attrs={"pads": [0, 1, 0, 1], "value": 0.5}, opset=10, note="attributes"),
    ]
    return cases


def quantisation() -> list[Case]:
    per_axis = [np.array([0.02, 0.05, 0.1], np.float32)]
    cases = []
    for dtype in (np.uint8, np.int8):
        zero = np.array([3, 0, -5 if dtype == np.int8 else 9], dtype)
        cases += [
            Case("QuantizeLinear", [f32(2, 3, 5)], [*per_axis, zero], {"axis": 1}, note=f"{dtype.__name__}"),
            Case(
                "QuantizeLinear",
                [f32(2, 5, low=-90)],
                [np.float32(0.1), dtype(3)],
                note=f"{dtype.__name__}-1",
            ),
            Case(
                "DequantizeLinear",
                [RNG.integers(0, 100, (2, 3, 5)).astype(dtype)],
                [*per_axis, zero],
                {"axis": 1},
                note=f"{dtype.__name__}",
            ),
        ]
    cases += [
        Case("QuantizeLinear", [f32(4)], [np.float32(1e-4), np.int16(0)], opset=21, note="int16"),
        Case("DequantizeLinear", [np.array([1, -7], np.int32)], [np.float32(0.5)], note="int32"),
        Case("DequantizeLinear", [np.array([1, 700], np.uint16)], [np.float32(0.5), np.uint16(5)], opset=21),
        Case("DynamicQuantizeLinear", [f32(4, 6)], outputs=3),
    ]
    return cases


def recurrent() -> list[Case]:
    t, n, i, h = 5, 2, 3, 4
    cases = []
    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction in ("forward", "reverse", "bidirectional"):
            d = 2 if direction == "bidirectional" else 1
            weights = [f32(d, gates * h, i), f32(d, gates * h, h), f32(d, 2 * gates * h)]
            attrs = {"hidden_size": h, "direction": direction}
            outs = 3 if kind == "LSTM" else 2
            cases.append(Case(kind, [f32(t, n, i)], weights, attrs, outs, reference=False))
            lengths = np.array([3, 5], np.int32)
            state = [f32(d, n, h)] * (2 if kind == "LSTM" else 1)
            cases.append(
                Case(
                    kind,
                    [f32(t, n, i)],
                    [*weights, lengths, *state],
                    attrs,
                    outs,
                    note=f"lengths-{direction}",
                    reference=False,
                )
            )
    weights = [f32(1, 12, i), f32(1, 12, h), f32(1, 24)]
    cases.append(
        Case("GRU", [f32(t, n, i)], weights, {"hidden_size": h, "linear_before_reset": 1}, 2, reference=False)
    )
    lstm = [f32(1, 16, i), f32(1, 16, h), f32(1, 32)]
    peep = [None, None, None, f32(1, 12)]
    cases.append(
        Case("LSTM", [f32(t, n, i)], [*lstm, *peep], {"hidden_size": h}, 3, note="peephole", reference=False)
    )
    batch_first = {"hidden_size": h, "layout": 1}
    cases.append(
        Case("LSTM", [f32(n, t, i)], lstm, batch_first, 3, note="layout", runtime=False, reference=False)
    )
    acts = {"hidden_size": h, "activations": ["Relu"]}
    cases.append(
        Case("RNN", [f32(t, n, i)], [f32(1, h, i), f32(1, h, h)], acts, 2, note="relu", reference=False)
    )
    return cases


CASES = [
    *unary(),
    *binary(),
    *casts(),
    *convolutions(),
    *linear(),
    *shapes(),
    *quantisation(),
    *recurrent(),
]
