"""Graphs that each break one rule of ``verify`` and no other: ``MUTANTS`` maps rule code to makers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from ir_graphs import conv_quant, graph, info, quant_constants, quant_node
from onnx import helper

from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.spec import ModelMeta, TensorSpec

MUTANTS: dict[str, list] = {}


def breaks(code: str):
    def add(make):
        MUTANTS.setdefault(code, []).append(make)
        return make

    return add


def small(*nodes, constants=None, shape=(2, 4), out=(2, 4), dtype=np.float32) -> Graph:
    nodes = nodes or (helper.make_node("Relu", ["x"], ["y"], name="relu"),)
    return graph(list(nodes), [info("x", shape, dtype)], [info("y", out)], constants)


def tensor(array) -> ir.Tensor:
    return ir.Tensor(np.asarray(array))


@breaks("RUB-IR-010")
def qonnx_first():
    g = conv_quant()
    imports = g.model.opset_imports
    version = imports.pop("")
    imports[""] = version
    return g


@breaks("RUB-IR-010")
def opset_unsupported():
    g = small(helper.make_node("Relu", ["x"], ["y"]))
    g.model.opset_imports[""] = 99
    return g


@breaks("RUB-IR-011")
def unknown_domain():
    g = small()
    g.nodes[0].domain = "com.microsoft"
    return g


@breaks("RUB-IR-011")
def domain_not_imported():
    g = conv_quant()
    del g.model.opset_imports[QONNX_DOMAIN]
    return g


@breaks("RUB-IR-012")
def unknown_operator():
    return small(helper.make_node("Frobnicate", ["x"], ["y"]))


@breaks("RUB-IR-012")
def operator_newer_than_opset():
    g = small(helper.make_node("Gelu", ["x"], ["y"]))
    g.model.opset_imports[""] = 17
    return g


@breaks("RUB-IR-013")
def input_too_many():
    return small(helper.make_node("Relu", ["x", "x"], ["y"]))


@breaks("RUB-IR-013")
def required_input_missing():
    return small(helper.make_node("Add", ["x", ""], ["y"]))


@breaks("RUB-IR-013")
def quant_without_bits():
    node = helper.make_node("Quant", ["x", "s", "s"], ["y"], domain=QONNX_DOMAIN)
    return small(node, constants={"s": np.float32(1)})


@breaks("RUB-IR-014")
def attribute_unknown():
    return small(helper.make_node("Relu", ["x"], ["y"], slope=0.1))


@breaks("RUB-IR-014")
def attribute_of_wrong_type():
    return small(helper.make_node("Softmax", ["x"], ["y"], axis=1.5))


@breaks("RUB-IR-014")
def attribute_missing():
    return small(helper.make_node("Cast", ["x"], ["y"]))


@breaks("RUB-IR-014")
def quantiser_attribute_of_wrong_type():
    return small(quant_node("x", "y", rounding_mode=1), constants=quant_constants())


@breaks("RUB-IR-015")
def two_values_of_one_name():
    g = small(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]))
    g.nodes[0].outputs[0].name = "x"
    return g


@breaks("RUB-IR-015")
def nameless_value():
    g = small(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]))
    g.nodes[0].outputs[0].name = ""
    return g


@breaks("RUB-IR-016")
def two_nodes_of_one_name():
    g = small(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]))
    g.nodes[1].name = g.nodes[0].name
    return g


@breaks("RUB-IR-017")
def read_before_made():
    g = small(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]))
    first = g.nodes[0]
    g.ir.remove(first)
    g.ir.append(first)
    return g


@breaks("RUB-IR-017")
def cycle():
    g = small(helper.make_node("Add", ["x", "x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]))
    g.nodes[0].replace_input_with(1, g.nodes[1].outputs[0])
    return g


@breaks("RUB-IR-018")
def from_another_graph():
    g, other = small(), conv_quant()
    g.nodes[0].replace_input_with(0, other.nodes[0].outputs[0])
    return g


@breaks("RUB-IR-019")
def no_outputs():
    g = small()
    g.ir.outputs.clear()
    return g


@breaks("RUB-IR-019")
def output_nobody_makes():
    g = small()
    stray = ir.Value(name="stray", shape=ir.Shape([2, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    g.ir.outputs.append(stray)
    return g


@breaks("RUB-IR-020")
def untyped_input():
    g = small()
    g.inputs[0].type = None
    return g


@breaks("RUB-IR-020")
def output_of_unknown_rank():
    g = small()
    g.outputs[0].shape = None
    return g


def with_weight() -> Graph:
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    return small(node, constants={"w": np.ones(4, np.float32)}, out=(2, 4))


@breaks("RUB-IR-021")
def weight_of_other_type():
    g = with_weight()
    g.ir.initializers["w"].const_value = tensor(np.ones(4, np.float64))
    return g


@breaks("RUB-IR-021")
def weight_of_other_shape():
    g = with_weight()
    g.ir.initializers["w"].const_value = tensor(np.ones((2, 4), np.float32))
    return g


@breaks("RUB-IR-021")
def weight_without_data():
    g = with_weight()
    g.ir.initializers["w"].const_value = None
    return g


@breaks("RUB-IR-022")
def weight_as_input():
    g = with_weight()
    g.ir.inputs.append(g.ir.initializers["w"])
    return g


@breaks("RUB-IR-023")
def nested_nine_deep():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r0"], name="n0")], "b0", [], [info("r0", [2, 4])]
    )
    for level in range(1, 10):
        other = helper.make_graph(
            [helper.make_node("Neg", ["x"], [f"e{level}"], name=f"e{level}")],
            "b",
            [],
            [info(f"e{level}", [2, 4])],
        )
        name = "y" if level == 9 else f"r{level}"
        node = helper.make_node("If", ["c"], [name], name=f"n{level}", then_branch=inner, else_branch=other)
        inner = helper.make_graph([node], f"b{level}", [], [info(name, [2, 4])])
    inputs = [info("x", [2, 4]), info("c", [], bool)]
    return graph(list(inner.node), inputs, [info("y", [2, 4])])


@breaks("RUB-IR-024")
def parameter_reference():
    g = small(helper.make_node("Softmax", ["x"], ["y"]))
    g.nodes[0].attributes.add(ir.RefAttr("axis", "outer", ir.AttributeType.INT))
    return g


@breaks("RUB-IR-025")
def metadata_of_another_model():
    g = small(out=(2, 4))
    g.meta = ModelMeta("custom", (TensorSpec("signal", (2, 4)),), (TensorSpec("y", (2, 4)),))
    return g


@breaks("RUB-IR-026")
def operands_of_two_types():
    return small(
        helper.make_node("Add", ["x", "w"], ["y"]), constants={"w": np.ones(4, np.float64)}, out=(2, 4)
    )


@breaks("RUB-IR-026")
def type_the_operator_does_not_take():
    return small(
        helper.make_node("Erf", ["b"], ["e"]), helper.make_node("Relu", ["x"], ["y"]), constants={"b": [True]}
    )


@breaks("RUB-IR-026")
def quantiser_on_integers():
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=7), quant_node("i", "y")]
    g = small(*nodes, constants=quant_constants(), out=(2, 4))
    g.nodes[0].outputs[0].dtype = ir.DataType.INT64
    return g


@breaks("RUB-IR-027")
def operands_do_not_broadcast():
    return small(
        helper.make_node("Add", ["x", "w"], ["y"]), constants={"w": np.ones(3, np.float32)}, out=(2, 4)
    )


def convolution(shape=(4, 2, 3), bias=4, **attrs) -> Graph:
    constants = {"w": np.ones(shape, np.float32), "b": np.ones(bias, np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", **({"group": 2} | attrs))
    return small(node, constants=constants, shape=(1, 4, 9), out=(None, None, None))


@breaks("RUB-IR-028")
def channels_do_not_fit():
    return convolution(shape=(4, 3, 3))


@breaks("RUB-IR-028")
def filters_do_not_divide():
    return convolution(shape=(5, 2, 3), bias=5)


@breaks("RUB-IR-028")
def kernel_shape_lies():
    return convolution(kernel_shape=[5])


@breaks("RUB-IR-028")
def pads_too_few():
    return convolution(pads=[1])


@breaks("RUB-IR-028")
def stride_zero():
    return convolution(strides=[0])


@breaks("RUB-IR-028")
def bias_of_other_size():
    return convolution(bias=3)


def lstm(rows=16, bias=32, width=3, hidden=4) -> Graph:
    constants = {
        "w": np.ones((1, rows, width), np.float32),
        "r": np.ones((1, 16, 4), np.float32),
        "b": np.ones((1, bias), np.float32),
    }
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], name="lstm", hidden_size=hidden)
    return small(node, constants=constants, shape=(5, 2, 3), out=(None, None, None, None))


@breaks("RUB-IR-029")
def gates_missing():
    return lstm(rows=12)


@breaks("RUB-IR-029")
def width_differs():
    return lstm(width=5)


@breaks("RUB-IR-029")
def bias_halved():
    return lstm(bias=16)


def batch_norm(variance) -> Graph:
    names = ("g", "b", "m", "v")
    constants = {n: np.ones(4, np.float32) for n in names} | {"v": np.asarray(variance, np.float32)}
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], name="bn")
    return small(node, constants=constants, shape=(1, 4, 9), out=(1, 4, 9))


@breaks("RUB-IR-030")
def variance_negative():
    return batch_norm([1, 1, -1, 1])


@breaks("RUB-IR-030")
def variance_of_other_size():
    return batch_norm([1, 1, 1])


@breaks("RUB-IR-031")
def inner_sizes_differ():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return small(node, constants={"w": np.ones((5, 3), np.float32)}, out=(2, 3))


@breaks("RUB-IR-031")
def gemm_transposed_wrongly():
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    return small(node, constants={"w": np.ones((4, 3), np.float32)}, out=(2, 3))


def quantiser(**changes) -> Graph:
    attrs = {k: v for k, v in changes.items() if k in ("signed", "narrow", "rounding_mode")}
    numbers = {k: v for k, v in changes.items() if k not in attrs}
    return small(quant_node("x", "y", **attrs), constants=quant_constants(**numbers), out=(2, 4))


for _changes in (
    {"scale": 0.0},
    {"scale": -0.1},
    {"scale": np.nan},
    {"scale": np.inf},
    {"scale": np.ones((3, 1))},
    {"zero": np.nan},
    {"bits": 0.0},
    {"bits": 2.5},
    {"bits": 64.0},
    {"rounding_mode": "SOMEHOW"},
    {"signed": 2},
):
    breaks("RUB-IR-032")(lambda changes=_changes: quantiser(**changes))


def linear(scale=0.1, zero=0) -> Graph:
    constants = {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["i"], name="q"),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["y"], name="d"),
    ]
    return small(*nodes, constants=constants, out=(2, 4))


@breaks("RUB-IR-033")
def linear_scale_zero():
    return linear(scale=0.0)


@breaks("RUB-IR-033")
def linear_zero_point_of_other_shape():
    return linear(scale=[0.1] * 4, zero=0)


@breaks("RUB-IR-034")
def stale_shape():
    g = small(helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"]), out=(2, 4))
    g.nodes[0].outputs[0].shape = ir.Shape([2, 5])
    return g


@breaks("RUB-IR-034")
def stale_type():
    g = small(helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Relu", ["x"], ["y"]), out=(2, 4))
    g.nodes[0].outputs[0].shape = ir.Shape([3])
    return g
