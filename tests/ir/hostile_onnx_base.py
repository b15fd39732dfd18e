"""What the writers of hostile ONNX files share: the table, a legal model to break, and helpers.

``CORPUS`` maps a name to (writer, code). A writer gets an empty folder and returns the file to read. Nothing
here executes anything; where a file tries to reach outside its folder, ``canary.txt`` beside the folder is
what it would read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

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
