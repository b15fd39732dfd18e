"""Writes ``Name.mlpackage``: equal program, shapes and metadata give equal bytes.

coremltools' own writer gives every package new identifiers. Here they follow from the content::

    Name.mlpackage/
      Manifest.json                               identifiers of the two items below
      Data/com.apple.CoreML/model.mlmodel         protobuf ``Model``: interface, metadata, program
      Data/com.apple.CoreML/weights/weight.bin    values of constants from ten elements on

The layout is that of coremltools' ``ModelPackage``; messages are those of Apple's Model.proto and MIL.proto.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.coreml.compress.parameters import share
from rubicc.backends.coreml.tools import Opset, coremltools, quiet
from rubicc.errors import ModelRefused
from rubicc.shapes import InputShape

VENDOR = "com.apple.CoreML"
MODEL_FILE = f"Data/{VENDOR}/model.mlmodel"
WEIGHTS_FOLDER = f"Data/{VENDOR}/weights"
WEIGHTS_FILE = f"{WEIGHTS_FOLDER}/weight.bin"
MANIFEST_FILE = "Manifest.json"
_NAMESPACE = uuid.UUID("6f0d36a4-6b0c-5c5e-9d9a-3d1b8f6a1c42")  # any fixed one: identifiers differ by content
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Facts:
    """What the model description says beside names and types.

    Attributes:
        inputs, outputs: one line each, by name.
        user: user-defined metadata.
    """

    summary: str
    author: str
    licence: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    user: Mapping[str, str] = field(default_factory=dict)


def write_package(
    folder: Path,
    program: Any,
    opset: Opset,
    shapes: Mapping[str, InputShape],
    facts: Facts,
    *,
    hash_key: str,
) -> str:
    """Write ``program`` as the package ``folder``, which must not exist.

    Args:
        program: a ``coremltools`` MIL program with one function, ``main``.
        shapes: of its inputs, by name.
        hash_key: user-defined metadata key of the hash of the content, which is the version, too.

    Returns:
        sha256 of program, weights and description (without that hash itself).

    Raises:
        ToolMissing: ``RUB-COREML-001``.
    """
    weights = folder / WEIGHTS_FOLDER
    weights.mkdir(parents=True)
    model = _model(program, opset, shapes, facts, weights)
    stored = folder / WEIGHTS_FILE
    if not stored.exists():  # every constant was small enough for the model file
        weights.rmdir()
    whole = hashlib.sha256(model.SerializeToString(deterministic=True))
    _feed(whole, stored)
    digest = whole.hexdigest()
    model.description.metadata.versionString = digest[:16]
    model.description.metadata.userDefined[hash_key] = digest
    (folder / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    (folder / MANIFEST_FILE).write_text(_manifest(digest, stored.exists()), encoding="utf-8")
    return digest


def content_digest(folder: Path, hash_key: str) -> str:
    """The hash that :func:`write_package` would give the package as it is on disk.

    Raises:
        ModelRefused: ``RUB-COREML-012`` its files cannot be read.
    """
    coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    model = Model_pb2.Model()
    try:
        model.ParseFromString((folder / MODEL_FILE).read_bytes())
        model.description.metadata.ClearField("versionString")
        model.description.metadata.userDefined.pop(hash_key, None)
        whole = hashlib.sha256(model.SerializeToString(deterministic=True))
        _feed(whole, folder / WEIGHTS_FILE)
    except (OSError, DecodeError) as err:
        what = f"the package cannot be read: {err}"
        hint = "restore the artefact, or compile again"
        raise ModelRefused("RUB-COREML-012", what[:300], where=folder.name, hint=hint) from err
    return whole.hexdigest()


def _feed(whole: Any, path: Path) -> None:
    if path.exists():
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)


def _model(program: Any, opset: Opset, shapes: Mapping[str, InputShape], facts: Facts, weights: Path) -> Any:
    """The protobuf ``Model``; the values of its constants go into ``weights``."""
    coremltools()
    from coremltools.proto import Model_pb2

    with quiet():
        proto = _exported(program, weights, opset)
    model = Model_pb2.Model(specificationVersion=opset.specification)
    model.mlProgram.CopyFrom(proto)
    main = program.functions["main"]
    for name, var in main.inputs.items():
        feature = model.description.input.add(name=name, shortDescription=facts.inputs.get(name, ""))
        _describe_input(feature, var, shapes[name])
    for var in main.outputs:
        feature = model.description.output.add(name=var.name)
        feature.shortDescription = facts.outputs.get(var.name, "")
        _describe_output(feature, var)
    described = model.description.metadata
    described.shortDescription = facts.summary
    described.author = facts.author
    described.license = facts.licence
    for key, value in facts.user.items():
        described.userDefined[key] = value
    return model


def _exported(program: Any, weights: Path, opset: Opset) -> Any:
    """The protobuf program; equal values of one type stand in ``weights`` once."""
    from coremltools.converters.mil.backend.mil import helper, load

    class Exporter(load.MILProtoExporter):
        """coremltools writes a tensor twice when a program has it in two shapes (tied embeddings)."""

        def __init__(self) -> None:
            super().__init__(program, str(weights), opset.specification)
            self.places: dict[tuple[str, str, str], Any] = {}

        def create_file_value(self, var: Any) -> Any:
            values = np.ascontiguousarray(var.val)
            digest = hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()
            key = (str(var.dtype), str(values.dtype), digest)
            if key not in self.places:
                self.places[key] = super().create_file_value(var)
            first = self.places[key]
            place = first.blobFileValue
            data_type = first.type.tensorType.dataType
            return helper.create_file_value_tensor(place.fileName, place.offset, values.shape, data_type)

    exporter = Exporter()
    proto = exporter.export()
    exporter.blob_writers.clear()  # closes the file
    for function in proto.functions.values():
        share(function.block_specializations[function.opset])
    return proto


def _describe_input(feature: Any, var: Any, item: InputShape) -> None:
    array = feature.type.multiArrayType
    array.dataType = _array_type(var, is_output=False)
    array.shape.extend(item.default)
    if item.choices:
        for shape in item.choices:
            array.enumeratedShapes.shapes.add().shape.extend(shape)
    elif any(low != high for low, high in item.bounds):
        for low, high in item.bounds:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)


def _describe_output(feature: Any, var: Any) -> None:
    """Sizes of an output are left out when one of them depends on the input, as coremltools does."""
    array = feature.type.multiArrayType
    array.dataType = _array_type(var, is_output=True)
    dims = list(var.shape)
    if all(isinstance(dim, int) or type(dim).__module__ == "numpy" for dim in dims):
        array.shape.extend(int(dim) for dim in dims)


def _array_type(var: Any, *, is_output: bool) -> Any:
    from coremltools.converters.mil.backend.mil.helper import cast_to_framework_io_dtype

    return cast_to_framework_io_dtype(var, is_output)


def _manifest(digest: str, has_weights: bool) -> str:
    """``Manifest.json`` with identifiers that follow from the content."""
    items = {"model.mlmodel": ("CoreML Model Specification", f"{VENDOR}/model.mlmodel")}
    if has_weights:
        items["weights"] = ("CoreML Model Weights", f"{VENDOR}/weights")
    identifiers = {name: str(uuid.uuid5(_NAMESPACE, f"{digest} {name}")).upper() for name in items}
    data = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[name]: {"author": VENDOR, "description": text, "name": name, "path": path}
            for name, (text, path) in items.items()
        },
        "rootModelIdentifier": identifiers["model.mlmodel"],
    }
    return json.dumps(data, indent=4, sort_keys=True) + "\n"
