"""Packages written byte by byte, for programs that no tool would make: messages, manifest, weight file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.coreml import tools

Shape = Sequence[int | None]
Result = tuple[str, str, Shape]
ENTRY = 64
DTYPES = {"fp16": 10, "fp32": 11, "int8": 21, "uint8": 31, "int32": 23, "bool": 1, "string": 2}
ARRAYS = {"fp32": 65568, "int32": 131104}


def messages() -> tuple[Any, Any]:
    """The modules of Model and MILSpec messages."""
    tools.coremltools()
    with tools.quiet():
        from coremltools.proto import MIL_pb2, Model_pb2
    return Model_pb2, MIL_pb2


def set_type(message: Any, dtype: str, shape: Shape) -> None:
    """Fill a ValueType with a tensor type."""
    held = message.tensorType
    held.dataType = DTYPES[dtype]
    held.rank = len(shape)
    for size in shape:
        dimension = held.dimensions.add()
        if size is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size


def set_value(message: Any, value: Any) -> None:
    """Fill a Value with a number, text or array; a tuple (dtype, shape, offset) refers to the weight file."""
    if isinstance(value, tuple):
        dtype, shape, offset = value
        set_type(message.type, dtype, shape)
        message.blobFileValue.fileName = "@model_path/weights/weight.bin"
        message.blobFileValue.offset = offset
        return
    if isinstance(value, str):
        set_type(message.type, "string", ())
        message.immediateValue.tensor.strings.values.append(value)
        return
    array = np.asarray(value)
    kind = {"f": "fp32", "i": "int32", "b": "bool", "u": "uint8"}[array.dtype.kind]
    set_type(message.type, kind, array.shape)
    held = message.immediateValue.tensor
    if kind == "uint8":
        held.bytes.values = array.tobytes()
    else:
        field = {"fp32": held.floats, "int32": held.ints, "bool": held.bools}[kind]
        field.values.extend(array.reshape(-1).tolist())
        field.SetInParent()


def add(block: Any, kind: str, results: Sequence[Result], /, **given: Any) -> Any:
    """Append an operation; texts beginning with % are names, lists of these or of arrays are several."""
    made = block.operations.add(type=kind)
    for name, value in given.items():
        argument = made.inputs[name]
        several = value if isinstance(value, list) and isinstance(value[0], str | np.ndarray) else [value]
        for item in several:
            binding = argument.arguments.add()
            if isinstance(item, str) and item.startswith("%"):
                binding.name = item[1:]
            else:
                set_value(binding.value, item)
    for name, dtype, shape in results:
        result = made.outputs.add(name=name)
        set_type(result.type, dtype, shape)
    return made


def constant(block: Any, name: str, value: Any) -> Any:
    """Append a ``const``."""
    made = block.operations.add(type="const")
    set_value(made.attributes["val"], value)
    made.outputs.add(name=name).type.CopyFrom(made.attributes["val"].type)
    return made


def bare(shape: Shape = (2, 3), output: str = "y", opset: str = "CoreML7", specification: int = 8) -> Any:
    """A model of one function ``main``, input ``x`` of fp32, no operations; and its block."""
    model_pb, _ = messages()
    model = model_pb.Model(specificationVersion=specification)
    feature = model.description.input.add(name="x")
    feature.type.multiArrayType.dataType = ARRAYS["fp32"]
    feature.type.multiArrayType.shape.extend(size or 1 for size in shape)
    made = model.description.output.add(name=output)
    made.type.multiArrayType.dataType = ARRAYS["fp32"]
    function = model.mlProgram.functions["main"]
    function.opset = opset
    set_type(function.inputs.add(name="x").type, "fp32", shape)
    block = function.block_specializations[opset]
    block.outputs.append(output)
    return model


def main_block(model: Any) -> Any:
    """The outermost block of the one function."""
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def weights(*records: tuple[int, bytes], version: int = 2) -> bytearray:
    """A weight file of records (element type number, data); the first lies at 64."""
    data = bytearray(struct.pack("<II56x", len(records), version))
    for kind, held in records:
        start = len(data) + ENTRY
        data += struct.pack("<IIQQQ32x", 0xDEADBEEF, kind, len(held), start, 0)
        data += held + bytes(-len(held) % ENTRY)
    return data


def written(
    folder: Path, model: Any, weight: bytes | None = None, manifest: Mapping[str, Any] | None = None
) -> Path:
    """Write a package; ``model`` may be bytes."""
    package = folder / "bare.mlpackage"
    home = package / "Data" / "com.apple.CoreML"
    (home / "weights").mkdir(parents=True)
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    (home / "model.mlmodel").write_bytes(data)
    if weight is not None:
        (home / "weights" / "weight.bin").write_bytes(weight)
    held = manifest or {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {"1": {"path": "com.apple.CoreML/model.mlmodel"}},
        "rootModelIdentifier": "1",
    }
    (package / "Manifest.json").write_text(json.dumps(held))
    return package
