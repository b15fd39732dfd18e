"""Writers of malformed and hostile ONNX files, with the code each must be refused with.

``CORPUS`` maps a name to (writer, code). A writer gets an empty folder and returns the file to read. Nothing
here executes anything; where a file tries to reach outside its folder, ``canary.txt`` beside the folder is
what it would read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

Writer = Callable[[Path], Path]
CORPUS: dict[str, tuple[Writer, str]] = {}


def case(name: str, code: str) -> Callable[[Writer], Writer]:
    def add(writer: Writer) -> Writer:
        CORPUS[name] = (writer, code)
        return writer

    return add


def model(nodes=None, initializers=(), inputs=None, outputs=None, **extra) -> ModelProto:
    """A one-node legal model that a case then breaks."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")] if nodes is None else nodes
    inputs = [helper.make_tensor_value_info("x", 1, ["N", 4])] if inputs is None else inputs
    outputs = [helper.make_tensor_value_info("y", 1, ["N", 4])] if outputs is None else outputs
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    options = {"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 10} | extra
    return helper.make_model(graph, **options)


def write(folder: Path, proto: ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def weight(name="w", dims=(4,), **fields) -> TensorProto:
    return TensorProto(name=name, data_type=1, dims=list(dims), **fields)


def with_weight(tensor: TensorProto) -> ModelProto:
    return model([helper.make_node("Add", ["x", tensor.name], ["y"], name="add")], [tensor])


def external(location: str, length="16", offset="0", dims=(4,), **more) -> ModelProto:
    tensor = weight(dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return with_weight(tensor)


def data_file(folder: Path, name="w.bin", size=16) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    return path


# --- not a model, or not whole --------------------------------------------------------------------------


@case("empty-file", "RUB-IR-040")
def empty_file(folder):
    return write(folder, b"")


@case("missing-file", "RUB-IR-040")
def missing_file(folder):
    return folder / "absent.onnx"


@case("folder-as-file", "RUB-IR-040")
def folder_as_file(folder):
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


@case("fifo", "RUB-IR-040")
def fifo(folder):
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@case("text", "RUB-IR-040")
def text(folder):
    return write(folder, b"hello, this is no model\n" * 20)


@case("truncated", "RUB-IR-040")
def truncated(folder):
    whole = with_weight(numpy_helper.from_array(np.zeros(4, np.float32), "w")).SerializeToString()
    return write(folder, whole[: len(whole) * 2 // 3])


@case("random-bytes", "RUB-IR-040")
def random_bytes(folder):
    return write(folder, np.random.default_rng(7).bytes(4096))


@case("no-graph", "RUB-IR-040")
def no_graph(folder):
    return write(folder, ModelProto(ir_version=8))


@case("name-not-utf8", "RUB-IR-040")
def name_not_utf8(folder):
    return write(folder, model().SerializeToString().replace(b"relu", b"\xff\xfe\xfd\xfc"))


@case("metadata-not-utf8", "RUB-IR-040")
def metadata_not_utf8(folder):
    proto = model()
    proto.metadata_props.add(key="note", value="ABCDEFGH")
    return write(folder, proto.SerializeToString().replace(b"ABCDEFGH", b"\xff" * 8))


@case("attribute-not-utf8", "RUB-IR-040")
def attribute_not_utf8(folder):
    node = helper.make_node("Gelu", ["x"], ["y"], approximate="none")
    return write(folder, model([node]).SerializeToString().replace(b"none", b"\xff\xfe\xfd\xfc"))


@case("duplicate-initializer", "RUB-IR-040")
def duplicate_initializer(folder):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    return write(folder, model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor, tensor]))


@case("duplicate-result", "RUB-IR-040")
def duplicate_result(folder):
    return write(
        folder, model([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])])
    )


@case("bytes-too-few", "RUB-IR-040")
def bytes_too_few(folder):
    return write(folder, with_weight(weight(raw_data=b"\0" * 12)))


@case("bytes-too-many", "RUB-IR-040")
def bytes_too_many(folder):
    return write(folder, with_weight(weight(raw_data=b"\0" * 20)))


@case("values-too-few", "RUB-IR-040")
def values_too_few(folder):
    return write(folder, with_weight(weight(float_data=[1.0, 2.0])))


@case("no-data", "RUB-IR-040")
def no_data(folder):
    return write(folder, with_weight(weight()))


@case("two-kinds-of-data", "RUB-IR-040")
def two_kinds_of_data(folder):
    return write(folder, with_weight(weight(raw_data=bytes(16), float_data=[0.0] * 4)))


@case("data-in-wrong-field", "RUB-IR-040")
def data_in_wrong_field(folder):
    return write(folder, with_weight(weight(int64_data=[0] * 4)))


# --- beyond limits --------------------------------------------------------------------------------------


def _nested(depth: int) -> onnx.GraphProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["r0"])], "b", [], [helper.make_tensor_value_info("r0", 1, None)]
    )
    for level in range(1, depth + 1):
        node = helper.make_node("If", ["c"], [f"r{level}"], then_branch=graph, else_branch=graph)
        out = helper.make_tensor_value_info(f"r{level}", 1, None)
        graph = helper.make_graph([node], "b", [], [out])
        del graph.node[0].attribute[1:]  # one branch: depth without doubling
    return graph


@case("nested-9", "RUB-IR-041")
def nested_nine(folder):
    proto = model(list(_nested(9).node), inputs=[helper.make_tensor_value_info("x", 1, [4])], outputs=[])
    return write(folder, proto)


@case("nested-200", "RUB-IR-040")
def nested_two_hundred(folder):
    """Deeper than protobuf parses: graph in attribute in node in graph, built as bytes."""
    body = b""
    for _ in range(200):
        node = (
            b"\x2a" + _varint(len(body) + 1 + len(_varint(len(body)))) + b"\x32" + _varint(len(body)) + body
        )
        body = b"\x0a" + _varint(len(node)) + node
    return write(folder, b"\x08\x0a\x3a" + _varint(len(body)) + body)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@case("many-nodes", "RUB-IR-041")
def many_nodes(folder):
    nodes = [helper.make_node("Identity", ["x"], ["a"])]
    proto = model(nodes)
    single = proto.graph.node[0].SerializeToString()
    graph = proto.graph
    del graph.node[:]
    body = graph.SerializeToString() + (b"\x0a" + _varint(len(single)) + single) * 200_001
    proto.ClearField("graph")
    return write(folder, proto.SerializeToString() + b"\x3a" + _varint(len(body)) + body)


@case("long-name", "RUB-IR-041")
def long_name(folder):
    return write(folder, model([helper.make_node("Relu", ["x"], ["y"], name="n" * 10_000)]))


@case("nul-in-name", "RUB-IR-041")
def nul_in_name(folder):
    return write(folder, model([helper.make_node("Relu", ["x"], ["y"], name="a\0b")]))


@case("rank-100", "RUB-IR-041")
def rank_hundred(folder):
    return write(folder, with_weight(weight(dims=[1] * 100, raw_data=bytes(4))))


# --- external data --------------------------------------------------------------------------------------


@case("external-parent", "RUB-IR-042")
def external_parent(folder):
    return write(folder, external("../canary.txt"))


@case("external-nested-parent", "RUB-IR-042")
def external_nested_parent(folder):
    (folder / "sub").mkdir()
    return write(folder, external("sub/../../canary.txt"))


@case("external-absolute", "RUB-IR-042")
def external_absolute(folder):
    return write(folder, external(str(folder.parent / "canary.txt")))


@case("external-symlink", "RUB-IR-042")
def external_symlink(folder):
    (folder / "w.bin").symlink_to(folder.parent / "canary.txt")
    return write(folder, external("w.bin"))


@case("external-symlinked-folder", "RUB-IR-042")
def external_symlinked_folder(folder):
    (folder / "sub").symlink_to(folder.parent)
    return write(folder, external("sub/canary.txt"))


@case("external-hard-link", "RUB-IR-042")
def external_hard_link(folder):
    os.link(folder.parent / "canary.txt", folder / "w.bin")
    return write(folder, external("w.bin"))


@case("external-fifo", "RUB-IR-042")
def external_fifo(folder):
    os.mkfifo(folder / "w.bin")
    return write(folder, external("w.bin"))


@case("external-backslash", "RUB-IR-042")
def external_backslash(folder):
    return write(folder, external("..\\canary.txt"))


@case("external-nul", "RUB-IR-042")
def external_nul(folder):
    return write(folder, external("w.bin\0.txt"))


@case("external-empty-location", "RUB-IR-042")
def external_empty_location(folder):
    return write(folder, external(""))


@case("external-missing", "RUB-IR-042")
def external_missing(folder):
    return write(folder, external("absent.bin"))


@case("external-huge-length", "RUB-IR-042")
def external_huge_length(folder):
    data_file(folder)
    return write(folder, external("w.bin", length="9999999999999"))


@case("external-huge-dims", "RUB-IR-042")
def external_huge_dims(folder):
    data_file(folder)
    return write(folder, external("w.bin", length=str(4 << 30), dims=(1 << 30,)))


@case("external-negative-offset", "RUB-IR-042")
def external_negative_offset(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="-4"))


@case("external-offset-beyond", "RUB-IR-042")
def external_offset_beyond(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="8"))


@case("external-offset-words", "RUB-IR-042")
def external_offset_words(folder):
    data_file(folder)
    return write(folder, external("w.bin", offset="0x0"))


@case("external-unknown-key", "RUB-IR-042")
def external_unknown_key(folder):
    data_file(folder)
    return write(folder, external("w.bin", __class__="os"))


@case("external-repeated-key", "RUB-IR-042")
def external_repeated_key(folder):
    data_file(folder)
    proto = external("w.bin")
    proto.graph.initializer[0].external_data.add(key="location", value="../canary.txt")
    return write(folder, proto)


@case("external-in-constant", "RUB-IR-042")
def external_in_constant(folder):
    tensor = external("../canary.txt").graph.initializer[0]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return write(folder, model(nodes))


@case("external-in-nested-graph", "RUB-IR-042")
def external_in_nested_graph(folder):
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    branch.initializer.append(external(str(folder.parent / "canary.txt")).graph.initializer[0])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    return write(folder, model([node], inputs=[helper.make_tensor_value_info("x", 1, [4]), flag]))


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
