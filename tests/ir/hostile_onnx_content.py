"""Constructs and versions that are not read, functions, small files that ask for much, illegal graphs."""

from __future__ import annotations

import numpy as np
from hostile_onnx_base import ModelProto, case, model, weight, with_weight, write
from onnx import TensorProto, helper, numpy_helper

# --- constructs that are not read -----------------------------------------------------------------------


@case("sparse-initializer", "RUB-IR-043")
def sparse_initializer(folder):
    proto = model()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    return write(folder, proto)


@case("sparse-constant", "RUB-IR-043")
def sparse_constant(folder):
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [4])
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    return write(folder, model([node, helper.make_node("Add", ["x", "w"], ["y"])]))


@case("string-tensor", "RUB-IR-043")
def string_tensor(folder):
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    return write(folder, with_weight(tensor))


@case("string-input", "RUB-IR-043")
def string_input(folder):
    return write(folder, model(inputs=[helper.make_tensor_value_info("x", TensorProto.STRING, [1])]))


@case("sequence-input", "RUB-IR-043")
def sequence_input(folder):
    info = helper.make_tensor_sequence_value_info("x", 1, [1])
    return write(folder, model([helper.make_node("SequenceAt", ["x", "x"], ["y"])], inputs=[info]))


@case("complex-tensor", "RUB-IR-043")
def complex_tensor(folder):
    return write(folder, with_weight(numpy_helper.from_array(np.zeros(4, np.complex64), "w")))


@case("unknown-element-type", "RUB-IR-043")
def unknown_element_type(folder):
    return write(folder, with_weight(TensorProto(name="w", data_type=99, dims=[4], raw_data=bytes(16))))


@case("training-info", "RUB-IR-043")
def training_info(folder):
    proto = model()
    proto.training_info.add()
    return write(folder, proto)


# --- versions, domains, functions -----------------------------------------------------------------------


@case("ir-version-14", "RUB-IR-044")
def ir_version_high(folder):
    return write(folder, model(ir_version=14))


@case("opset-1", "RUB-IR-044")
def opset_low(folder):
    return write(folder, model(opset_imports=[helper.make_opsetid("", 1)]))


@case("opset-9999", "RUB-IR-044")
def opset_high(folder):
    return write(folder, model(opset_imports=[helper.make_opsetid("", 9999)]))


@case("opset-absent", "RUB-IR-044")
def opset_absent(folder):
    proto = model()
    del proto.opset_import[:]
    return write(folder, proto)


@case("opset-twice", "RUB-IR-044")
def opset_twice(folder):
    return write(
        folder, model(opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx", 9)])
    )


@case("unknown-domain", "RUB-IR-045")
def unknown_domain(folder):
    node = helper.make_node("PythonOp", ["x"], ["y"], domain="ai.onnx.contrib", code="import os")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.contrib", 1)]
    return write(folder, model([node], opset_imports=opsets))


def _functions(calls: dict[str, list[str]], start: str) -> ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    functions = []
    for name, callees in calls.items():
        nodes, last = [], "a"
        for index, callee in enumerate(callees):
            domain = "local" if callee in calls else ""
            nodes.append(helper.make_node(callee, [last], [f"t{index}"], domain=domain))
            last = f"t{index}"
        functions.append(helper.make_function("local", name, ["a"], [last], nodes, opsets))
    call = helper.make_node(start, ["x"], ["y"], domain="local")
    return model([call], opset_imports=opsets, functions=functions)


@case("function-recursive", "RUB-IR-046")
def function_recursive(folder):
    return write(folder, _functions({"F": ["G"], "G": ["F"]}, "F"))


@case("function-billion-laughs", "RUB-IR-046")
def function_billion_laughs(folder):
    calls = {f"F{i}": [f"F{i + 1}"] * 10 for i in range(12)} | {"F12": ["Relu"]}
    return write(folder, _functions(calls, "F0"))


@case("function-redefines-standard", "RUB-IR-046")
def function_redefines_standard(folder):
    proto = _functions({"F": ["Relu"]}, "F")
    proto.functions[0].domain = ""
    proto.functions[0].name = "Relu"
    proto.graph.node[0].domain = ""
    proto.graph.node[0].op_type = "Relu"
    return write(folder, proto)


# --- small files that ask for much ----------------------------------------------------------------------


@case("negative-dim", "RUB-IR-047")
def negative_dim(folder):
    return write(folder, with_weight(weight(dims=(-4,), raw_data=bytes(16))))


@case("dims-overflow", "RUB-IR-047")
def dims_overflow(folder):
    return write(folder, with_weight(weight(dims=(1 << 32, 1 << 32), raw_data=b"")))


@case("input-dims-overflow", "RUB-IR-047")
def input_dims_overflow(folder):
    return write(folder, model(inputs=[helper.make_tensor_value_info("x", 1, [1 << 62, 1 << 62])]))


def _asks(op: str, *arguments: np.ndarray) -> ModelProto:
    names = [f"a{i}" for i in range(len(arguments))]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for a, n in zip(arguments, names, strict=True)]
    inputs = names if op in ("ConstantOfShape", "Range") else ["x", *names]
    node = helper.make_node(op, inputs, ["z"], name="bomb")
    return model([node, helper.make_node("Relu", ["x"], ["y"])], tensors)


@case("constant-of-shape-16-gib", "RUB-IR-047")
def constant_of_shape_bomb(folder):
    return write(folder, _asks("ConstantOfShape", np.array([1 << 32], np.int64)))


@case("expand-bomb", "RUB-IR-047")
def expand_bomb(folder):
    return write(folder, _asks("Expand", np.array([1 << 20, 1 << 20, 1, 4], np.int64)))


@case("tile-bomb", "RUB-IR-047")
def tile_bomb(folder):
    return write(folder, _asks("Tile", np.array([1 << 40, 1], np.int64)))


@case("pad-bomb", "RUB-IR-047")
def pad_bomb(folder):
    return write(folder, _asks("Pad", np.array([0, 1 << 40, 0, 0], np.int64)))


@case("range-bomb", "RUB-IR-047")
def range_bomb(folder):
    return write(folder, _asks("Range", np.int64(0), np.int64(1 << 50), np.int64(1)))


@case("constant-node-bomb", "RUB-IR-047")
def constant_node_bomb(folder):
    shape = numpy_helper.from_array(np.array([1 << 33], np.int64), "s")
    nodes = [
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    return write(folder, model(nodes))


# --- illegal graphs -------------------------------------------------------------------------------------


@case("cycle", "RUB-IR-048")
def cycle(folder):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return write(folder, model([*nodes, helper.make_node("Relu", ["b"], ["y"])]))


@case("dangling-input", "RUB-IR-048")
def dangling_input(folder):
    return write(folder, model([helper.make_node("Add", ["x", "nowhere"], ["y"])]))


@case("output-not-made", "RUB-IR-048")
def output_not_made(folder):
    return write(folder, model(outputs=[helper.make_tensor_value_info("never", 1, [4])]))


@case("unknown-operator", "RUB-IR-048")
def unknown_operator(folder):
    return write(folder, model([helper.make_node("Frobnicate", ["x"], ["y"])]))


@case("unknown-attribute", "RUB-IR-048")
def unknown_attribute(folder):
    return write(folder, model([helper.make_node("Relu", ["x"], ["y"], surprise=1)]))


@case("bad-rubicc-metadata", "RUB-IR-048")
def bad_metadata(folder):
    proto = model()
    proto.metadata_props.add(key="rubicc.meta", value='{"arch": "x", "inputs": 3, "evil": {}}')
    return write(folder, proto)
