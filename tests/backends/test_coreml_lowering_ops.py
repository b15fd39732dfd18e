"""Every operator of the table on every target: saved, read back, run, held to the executor in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from coreml_graphs import TARGETS, Build, Feeds, Net, compiled, normal

from rubicc.backends.coreml.lowering import supported
from rubicc.backends.coreml.lowering.converters import FUSED
from rubicc.ir.graph import Graph, op_key

FAMILIES: dict[str, Callable[[], Build]] = {}
HALF = 2e-2  # relative to the largest value: three decimal digits, and sums of some terms
ALWAYS = frozenset({"const", "cast", "identity", *FUSED})  # a fusion takes the place of its last node


def family(make: Callable[[], Build]) -> Callable[[], Build]:
    FAMILIES[make.__name__] = make
    return make


@cache
def case(name: str) -> tuple[Graph, Feeds]:
    build = FAMILIES[name]()
    return build.graph(opset=24 if name == "late" else 20), build.feeds


@cache
def made(name: str, target: str, precision: str = "fp32") -> Net:
    return compiled(case(name)[0], target=target, precision=precision)


def uniform(*shape: int, low: float = 0.1, high: float = 0.9) -> np.ndarray:
    return np.random.default_rng(shape).uniform(low, high, shape).astype(np.float32)


@family
def unary() -> Build:
    b = Build(x=uniform(2, 3, 5), z=np.arange(-7, 8, dtype=np.float32).reshape(3, 5) / 2)
    for op in (
        "Acos",
        "Asin",
        "Atan",
        "Atanh",
        "Cos",
        "Cosh",
        "Erf",
        "Exp",
        "Sin",
        "Sinh",
        "Sqrt",
        "Tan",
        "Log",
        "Reciprocal",
    ):
        b(op, "x")
    for op in ("Ceil", "Floor", "Round", "Abs", "Sign", "Neg"):
        b(op, "z")
    b("IsNaN", b("Sqrt", "z"))
    b("Not", b("Greater", "x", np.float32(0.5)))
    b("Dropout", b("Identity", b("Neg", "x")))
    return b


@family
def arithmetic() -> Build:
    b = Build(x=uniform(2, 3, 5), y=-uniform(3, 5), i=np.array([[7, -7, 5]]), j=np.array([[2, 2, -3]]))
    for op in ("Add", "Sub", "Mul", "Div"):
        b(op, "x", "y")
        b(op, "x", uniform(1, 5))
        b(op, "i", "j")
    for op in ("Max", "Min", "Sum", "Mean"):
        b(op, "x", "y", np.float32(0.25))
    b("Mod", "i", "j")
    for exponent in (1.0, 2.0, 0.5, -0.5, -1.0, 3.0, 2.5):
        b("Pow", "x", np.float32(exponent))
    b("Pow", "x", uniform(5, high=3.0))
    b("Div", np.float32(2.0), "x")
    return b


@family
def comparisons() -> Build:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    b = Build(x=x, y=np.float32([4.0, 5.0, 2.0, 7.0]), flag=x > 5)
    for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        b(op, "x", "y")
    other = b("Less", "x", "y")
    for op in ("And", "Or", "Xor", "Equal"):
        b(op, "flag", other)
    return b


@family
def selection() -> Build:
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    b = Build(x=x, y=np.ones((2, 3, 4), np.float32), flag=x > 0, i=np.array([3, -2, 0, 9]))
    b("Where", "flag", "x", np.float32(-7.0))
    b("Where", "flag", "x", "y")
    b("Where", "flag", np.float32(1.0), np.float32(0.0))
    b("Where", b("Greater", "i", np.array(1)), "i", np.array(5))
    top = b("ReduceMax", "i", np.array([0]), keepdims=0)
    b("Clip", "x", np.float32(-2.5), np.float32(1.5))
    b("Clip", "x", np.float32(0.0), None)
    b("Clip", "x", None, np.float32(1.5))
    b("Clip", "x", np.float32(0.0), np.float32(6.0))
    b("Clip", "x", np.float32(2.0), np.float32(1.0))
    b("Clip", "x", None, b("Cast", top, to=1))
    b("Cast", b("Cast", "x", to=9), to=1)
    b("Cast", "flag", to=7)
    b("CastLike", "x", "i")
    return b


@family
def activations() -> Build:
    b = Build(x=np.concatenate([normal(2, 3, 4), np.float32([[[-3, 0, 1, 3]] * 3] * 2)]))
    for op in (
        "Relu",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign",
        "Gelu",
        "Mish",
        "HardSigmoid",
        "HardSwish",
        "Selu",
        "Elu",
    ):
        b(op, "x")
    b("Gelu", "x", approximate="tanh")
    b("HardSigmoid", "x", alpha=0.3, beta=0.6)
    b("LeakyRelu", "x", alpha=0.2)
    b("Elu", "x", alpha=0.7)
    b("Celu", "x", alpha=1.4)
    b("ThresholdedRelu", "x", alpha=1.0)
    b("PRelu", "x", np.float32([0.3]))
    b("PRelu", "x", uniform(3, 1))
    for axis in (1, -1):
        b("Softmax", "x", axis=axis)
        b("LogSoftmax", "x", axis=axis)
    return b


@family
def late() -> Build:
    b = Build(x=normal(2, 3, 4))
    b("Swish", "x")
    b("Swish", "x", alpha=1.5)
    b("RMSNormalization", "x", uniform(4), axis=-1, epsilon=1e-3)
    return b


@family
def convolution() -> Build:
    b = Build(x=normal(2, 4, 11), y=normal(1, 4, 7, 8))
    b("Conv", "x", normal(6, 4, 3), normal(6), pads=[1, 1])
    b("Conv", "x", normal(6, 2, 4), None, group=2, strides=[3], pads=[2, 1])
    b("Conv", "x", normal(4, 1, 3), normal(4, seed=1), group=4, dilations=[2], pads=[2, 2])
    b("Conv", "x", normal(5, 4, 5), strides=[2], auto_pad="SAME_UPPER")
    b("Conv", "x", normal(5, 4, 4), auto_pad="SAME_LOWER")
    b("Conv", "x", normal(5, 4, 4), auto_pad="VALID")
    b("Conv", "y", normal(3, 4, 1, 1), normal(3))
    b("Conv", "y", normal(4, 2, 3, 2), group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2])
    return b


@family
def transposed() -> Build:
    b = Build(x=normal(2, 4, 6), y=normal(1, 4, 3, 5))
    b("ConvTranspose", "x", normal(4, 3, 3), normal(3))
    b("ConvTranspose", "x", normal(4, 2, 4), strides=[3], pads=[1, 2], group=2)
    b("ConvTranspose", "x", normal(4, 3, 3), strides=[2], pads=[1, 1], output_padding=[1])
    b("ConvTranspose", "x", normal(4, 3, 3), dilations=[2], pads=[1, 0])
    b("ConvTranspose", "y", normal(4, 2, 2, 3), normal(2), strides=[2, 1], pads=[0, 1, 1, 1])
    return b


@family
def pooling() -> Build:
    b = Build(x=normal(2, 3, 11), y=normal(1, 2, 6, 7))
    b("MaxPool", "x", kernel_shape=[3], strides=[2], pads=[1, 1])
    b("MaxPool", "x", kernel_shape=[4], strides=[3], ceil_mode=1)
    b("MaxPool", "y", kernel_shape=[2, 3], pads=[0, 1, 1, 2])
    b("AveragePool", "x", kernel_shape=[3], strides=[2], pads=[1, 1])
    b("AveragePool", "x", kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1)
    b("AveragePool", "y", kernel_shape=[3, 2], strides=[1, 2])
    b("GlobalAveragePool", "x")
    b("GlobalMaxPool", "y")
    return b


@family
def products() -> Build:
    b = Build(x=normal(2, 3, 4), y=normal(2, 4, 5), m=normal(6, 4), v=normal(4), w=normal(6, 5))
    b("MatMul", "x", normal(4, 5))
    b("Add", b("MatMul", "x", normal(4, 5, seed=1)), normal(5))
    b("MatMul", "x", "y")
    b("MatMul", "x", b("Transpose", "m", perm=[1, 0]))
    b("MatMul", "m", "v")
    b("MatMul", "v", "y")
    b("MatMul", "v", normal(4, seed=3))
    b("MatMul", normal(5, 3), "x")
    b("Gemm", "m", normal(4, 3), normal(3), alpha=0.5, beta=2.0)
    b("Gemm", "m", normal(3, 4), transB=1)
    b("Gemm", "m", normal(3, 4), normal(6, 1), transB=1)
    b("Gemm", "m", "w", transA=1)
    b("Gemm", "w", "w", normal(6, 6), transB=1, alpha=1.5, beta=0.5)
    return b


@family
def contractions() -> Build:
    b = Build(k=normal(2, 5, 3, 4), q=normal(2, 4, 3, 6), p=normal(2, 3, 5, 4), s=normal(3, 5, 4))
    b("Einsum", "k", "q", equation="bkhc,bchq->bkhq")
    b("Einsum", "q", "k", equation="bchq,bkhc->bkhq")
    b("Einsum", "p", "p", equation="bhqd,bhkd->bhqk")
    b("Einsum", "p", "s", equation="bhqd,hqk->bkhq")
    b("Einsum", "s", normal(4, 5, 2), equation="hqd,dqe->hqe")
    b("Einsum", "p", equation="bhqd->qdb")
    b("Einsum", "s", "s", equation="hqd,hqd")
    b("Einsum", "s", normal(5, 4), equation="hqd,qd->h")
    return b


@family
def norms() -> Build:
    b = Build(x=normal(2, 4, 6), y=normal(2, 4, 3, 5), z=normal(3, 4))
    for axis, shape in ((-1, (6,)), (1, (4, 6))):
        b("LayerNormalization", "x", uniform(*shape), normal(*shape), axis=axis, epsilon=1e-3)
    b("LayerNormalization", "x", uniform(6))
    for name in "xyz":
        b("BatchNormalization", name, uniform(4), normal(4), normal(4, seed=1), uniform(4, high=2.0))
    b("InstanceNormalization", "y", uniform(4), normal(4), epsilon=1e-2)
    b("GroupNormalization", "y", uniform(2), normal(2), num_groups=2)
    return b


@family
def reductions() -> Build:
    b = Build(x=uniform(2, 3, 4), i=np.array([[4, 1, 3], [2, 9, 9]]))
    for op in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
        b(f"Reduce{op}", "x", np.array([1, -1]), keepdims=1)
        b(f"Reduce{op}", "x", np.array([0]), keepdims=0)
    b("ReduceSum", "x")
    b("Add", b("ReduceSum", "x", noop_with_empty_axes=1), np.float32(1))
    for op in ("ArgMax", "ArgMin"):
        b(op, "x", axis=1)
        b(op, "i", axis=-1, keepdims=0)
    b("CumSum", "x", np.array(1))
    b("CumSum", "x", np.array(-1), exclusive=1, reverse=1)
    b("TopK", "x", np.array([2]), axis=1, outputs=2)
    b("TopK", "x", np.array([3]), axis=-1, largest=0, outputs=2)
    b("Trilu", "x", np.array(1), upper=0)
    b("Trilu", "x", upper=0)
    b("Trilu", "x", np.array(-1), upper=1)
    return b


@family
def shapes() -> Build:
    b = Build(x=normal(2, 3, 4), one=normal(1, 3, 1, 2))
    b("Reshape", "x", np.array([0, -1, 2]))
    b("Reshape", b("Relu", "x"), np.array([2, 3, 4]))
    b("Flatten", "x", axis=2)
    b("Squeeze", "one", np.array([0]))
    b("Squeeze", "one")
    b("Unsqueeze", "x", np.array([0, -1]))
    b("Transpose", "x", perm=[2, 0, 1])
    b("Transpose", "x")
    b("Concat", "x", normal(2, 1, 4), "x", axis=1)
    b("Split", "x", np.array([1, 3]), axis=2, outputs=2)
    b("Split", "x", axis=1, num_outputs=2, outputs=2)
    b("Expand", "one", np.array([2, 3, 5, 2]))
    b("Expand", "x", np.array([2, 1, 3, 4]))
    b("Tile", "x", np.array([2, 1, 3]))
    b("Add", "x", b("Cast", b("Size", "x"), to=1))
    b("Add", "x", b("Cast", b("Shape", "x", start=2), to=1))
    b("Add", "x", b("Constant", value_floats=[1.0, 2.0, 3.0, 4.0]))
    b("Mul", "x", b("ConstantOfShape", np.array([3, 4])))
    b("Add", b("Cast", b("Range", np.array(0), np.array(4), np.array(1)), to=1), "x")
    return b


@family
def slices() -> Build:
    b = Build(x=normal(3, 4, 9))
    for starts, ends, axes, steps in (
        ([1], [3], [1], [1]), ([0, 2], [2, 9], [0, 2], [1, 3]), ([-3], [2**62], [2], [1]),
        ([-1], [-(2**62)], [2], [-1]), ([7], [1], [2], [-2]), ([3], [-10], [1], [-3]),
        ([-6], [-1], [-1], [2]),
    ):  # fmt: skip
        b("Slice", "x", *(np.array(one) for one in (starts, ends, axes, steps)))
    b("Slice", b("Slice", "x", np.array([0]), np.array([9]), np.array([2])), np.array([1]), np.array([2]))
    b("Pad", "x", np.array([0, 1, 2, 0, 0, 1]), np.float32(1.5))
    b("Pad", "x", np.array([2, 1]), None, np.array([2]), mode="reflect")
    b("Pad", "x", np.array([1, 2, 0, 1]), None, np.array([1, 2]), mode="edge")
    return b


@family
def indices() -> Build:
    x, rows = normal(3, 4, 5), np.array([[2, 0, 1], [1, 1, 2]])
    b = Build(x=x, i=rows, f=np.array([[[0, 1], [2, 3]]]))
    b("Gather", "x", "i", axis=0)
    b("Gather", "x", np.array([-1, 0, 2]), axis=2)
    b("Gather", "x", np.array(-2), axis=1)
    b("Gather", normal(7, 3), "i")
    b("GatherElements", "x", np.array(x[:, :2] > 0).astype(np.int64) - 2, axis=1)
    b("GatherND", "x", "f")
    b("ScatterND", "x", np.array([[1, 0], [2, 3]]), normal(2, 5))
    b("ScatterND", "x", np.array([[1, 0], [2, 3]]), normal(2, 5), reduction="add")
    b("ScatterElements", "x", np.tile([4, 0, 2], (3, 4, 1)), normal(3, 4, 3), axis=2)
    b("OneHot", "i", np.array([4]), np.float32([-1.0, 2.0]))
    b("OneHot", "i", np.array([3]), np.float32([0.0, 1.0]), axis=1)
    b("ReverseSequence", "x", np.array([1, 3, 2, 3]), time_axis=0, batch_axis=1)
    return b


@family
def pixels() -> Build:
    b = Build(x=normal(1, 8, 4, 6))
    b("DepthToSpace", "x", blocksize=2)
    b("DepthToSpace", "x", blocksize=2, mode="CRD")
    b("SpaceToDepth", "x", blocksize=2)
    return b


@family
def recurrence() -> Build:
    b = Build(x=normal(5, 2, 3))
    for op, gates in (("LSTM", 4), ("RNN", 1), ("GRU", 3)):
        w, r, bias = normal(1, gates * 4, 3), normal(1, gates * 4, 4), normal(1, gates * 8)
        b(op, "x", w, r, bias, hidden_size=4, outputs=2)
    return b


@family
def quantisers() -> Build:
    b = Build(x=3 * normal(2, 4, 5))
    zero, scales = np.float32(0.0), np.float32([[0.1], [0.2], [0.05], [0.3]])
    for bits in (8.0, 4.0):
        for scale in (np.float32(0.125), scales):
            b("Quant", "x", scale, zero, np.float32(bits), signed=1, narrow=0, rounding_mode="ROUND")
    b("IntQuant", "x", np.float32(0.25), np.float32(3.0), np.float32(8.0), signed=0, narrow=0)
    b("BipolarQuant", "x", np.float32(0.5))
    grid = b("Quant", "x", np.float32(0.125), zero, np.float32(8.0), signed=1, narrow=0)
    b("Trunc", grid, np.float32(0.125), zero, np.float32(8.0), np.float32(5.0), rounding_mode="FLOOR")
    for kind, shift in (("int8", 3), ("uint8", 128)):
        step, offset = np.float32(0.05), np.array(shift, kind)
        b("DequantizeLinear", b("QuantizeLinear", "x", step, offset), step, offset)
    return b


def test_the_families_hold_every_operator_of_the_table() -> None:
    written = {op_key(node) for name in FAMILIES for node in case(name)[0].ir}
    assert set(supported()) - written == set() and written - set(supported()) == set()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_program_in_fp32_computes_what_the_graph_says(name: str, target: str) -> None:
    assert made(name, target).gap(case(name)[1]) < 2e-6


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_program_in_fp16_stays_near(name: str, target: str) -> None:
    assert made(name, target, "fp16").gap(case(name)[1], "fp16") < HALF


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_names_every_operation_that_is_written(name: str, target: str) -> None:
    found = made(name, target)
    kinds = {node.name: op_key(node) for node in found.graph.ir}
    rows = supported()
    for operation in found.package.main.operations():
        kind = kinds.get(found.lowered.provenance.get(operation.name, ""))
        if kind is not None and operation.type not in ALWAYS:
            assert operation.type in rows[kind].mil, kind
