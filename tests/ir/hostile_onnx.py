"""Writers of malformed and hostile ONNX files, with the code each must be refused with.

``CORPUS`` maps a name to (writer, code). A writer gets an empty folder and returns the file to read. Nothing
here executes anything; where a file tries to reach outside its folder, ``canary.txt`` beside the folder is
what it would read. Importing this module fills the table from its sibling files too.
"""

from __future__ import annotations

import os

import hostile_onnx_content
import hostile_onnx_external
import numpy as np
import onnx
from hostile_onnx_base import CORPUS, ModelProto, case, model, weight, with_weight, write
from onnx import helper, numpy_helper

__all__ = ["CORPUS", "hostile_onnx_content", "hostile_onnx_external", "model", "write"]


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
