"""The package on disk: layout, identifiers, metadata, equal bytes, tied weights, flexible shapes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.description import package_name
from rubicc.backends.coreml.package import (
    MANIFEST_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    Facts,
    content_digest,
    write_package,
)
from rubicc.errors import ModelRefused, ToolMissing
from rubicc.shapes import Shapes, resolve_shapes
from rubicc.spec import TensorSpec

FACTS = Facts(
    "a small net", "the author", "MIT", {"x": "the input"}, {"y": "the output"}, {"rubicc.alphabet": "ACGT"}
)
SPEC = (TensorSpec("x", ("N", 4, "T")),)


def program(length: Any = 20, scale: float = 1.0) -> Any:
    """conv -> relu on (1, 4, T)."""
    ct = tools.coremltools()
    from coremltools.converters.mil.mil import Builder as mb

    weight = scale * np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    mb.name_count.clear()  # it numbers nameless constants for the whole process

    @mb.program(input_specs=[mb.TensorSpec((1, 4, length))], opset_version=ct.target.iOS17)
    def net(x: Any) -> Any:
        held = mb.const(val=weight, name="weight")
        return mb.relu(x=mb.conv(x=x, weight=held, pad_type="same", name="conv"), name="y")

    return net


def write(folder: Path, made: Any, shapes: Shapes, facts: Facts = FACTS) -> str:
    given = {item.name: item for item in shapes.inputs}
    return write_package(folder, made, tools.OPSETS["iOS17"], given, facts, hash_key="hash")


def fixed() -> Shapes:
    return resolve_shapes(SPEC, None, "x=1x4x20")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_layout_and_identifiers_are_those_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "A.mlpackage", program(), fixed())
    found = contents(tmp_path / "A.mlpackage")
    assert sorted(found) == sorted([MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE])
    manifest = json.loads(found[MANIFEST_FILE])
    assert manifest["fileFormatVersion"] == "1.0.0"
    entries = manifest["itemInfoEntries"]
    assert {uuid.UUID(key).version for key in entries} == {5}
    root = entries[manifest["rootModelIdentifier"]]
    assert (root["name"], root["path"]) == ("model.mlmodel", "com.apple.CoreML/model.mlmodel")
    assert all((tmp_path / "A.mlpackage" / "Data" / entry["path"]).exists() for entry in entries.values())


def test_coremltools_reads_it_and_finds_the_metadata(tmp_path: Path) -> None:
    digest = write(tmp_path / "A.mlpackage", program(), fixed())
    ct = tools.coremltools()
    with tools.quiet():
        model = ct.models.MLModel(str(tmp_path / "A.mlpackage"), skip_model_load=True)
    spec = model.get_spec()
    assert spec.specificationVersion == 8
    assert (model.author, model.license, model.short_description) == ("the author", "MIT", "a small net")
    assert (model.input_description["x"], model.output_description["y"]) == ("the input", "the output")
    user = dict(model.user_defined_metadata)
    assert user == {"rubicc.alphabet": "ACGT", "hash": digest} and model.version == digest[:16]
    assert list(spec.description.input[0].type.multiArrayType.shape) == [1, 4, 20]
    assert list(spec.description.output[0].type.multiArrayType.shape) == [1, 4, 20]


def test_equal_content_gives_equal_bytes_and_other_content_other_identifiers(tmp_path: Path) -> None:
    first = write(tmp_path / "1" / "A.mlpackage", program(), fixed())
    again = write(tmp_path / "2" / "A.mlpackage", program(), fixed())
    other = write(tmp_path / "3" / "A.mlpackage", program(scale=1.001), fixed())
    assert first == again != other
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    manifests = [json.loads((tmp_path / n / "A.mlpackage" / MANIFEST_FILE).read_text()) for n in "13"]
    assert manifests[0]["rootModelIdentifier"] != manifests[1]["rootModelIdentifier"]


@pytest.mark.parametrize("part", [MODEL_FILE, WEIGHTS_FILE])
def test_the_hash_covers_program_metadata_and_weights(tmp_path: Path, part: str) -> None:
    digest = write(tmp_path / "A.mlpackage", program(), fixed())
    assert content_digest(tmp_path / "A.mlpackage", "hash") == digest
    path = tmp_path / "A.mlpackage" / part
    data = path.read_bytes()
    place = data.index(b"ACGT") if part == MODEL_FILE else len(data) - 9
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert content_digest(tmp_path / "A.mlpackage", "hash") != digest


def test_a_missing_or_unreadable_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "A.mlpackage", program(), fixed())
    (tmp_path / "A.mlpackage" / MODEL_FILE).write_bytes(b"\xff" * 40)
    for path in (tmp_path / "A.mlpackage", tmp_path / "B.mlpackage"):
        with pytest.raises(ModelRefused) as caught:
            content_digest(path, "hash")
        assert caught.value.code == "RUB-COREML-012"


def test_tied_weights_stand_in_the_file_once(tmp_path: Path) -> None:
    ct = tools.coremltools()
    from coremltools.converters.mil.mil import Builder as mb

    table = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 16))], opset_version=ct.target.iOS17)
    def tied(x: Any) -> Any:
        first = mb.linear(x=x, weight=mb.const(val=table, name="a"), name="l1")
        square = mb.const(val=table.reshape(16, 500).copy(), name="b")
        return mb.linear(x=first, weight=square, name="y")

    shapes = resolve_shapes((TensorSpec("x", (1, 16)),), None, "fixed")
    write(tmp_path / "A.mlpackage", tied, shapes, Facts("", "", ""))
    assert (tmp_path / "A.mlpackage" / WEIGHTS_FILE).stat().st_size < 1.2 * table.nbytes


def test_flexible_shapes_are_described(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import get_new_symbol
    from coremltools.proto import Model_pb2

    def described(text: str, name: str) -> Any:
        shapes = resolve_shapes(SPEC, None, text)
        write(tmp_path / name, program(get_new_symbol()), shapes)
        model = Model_pb2.Model()
        model.ParseFromString((tmp_path / name / MODEL_FILE).read_bytes())
        assert not model.description.output[0].type.multiArrayType.shape  # it depends on the input
        return model.description.input[0].type.multiArrayType

    listed = described("x=1x4x20,1x4x40", "list.mlpackage")
    assert [list(one.shape) for one in listed.enumeratedShapes.shapes] == [[1, 4, 20], [1, 4, 40]]
    ranged = described("x=1x4x20..80", "range.mlpackage")
    found = [(size.lowerBound, size.upperBound) for size in ranged.shapeRange.sizeRanges]
    assert found == [(1, 1), (4, 4), (20, 80)] and list(ranged.shape) == [1, 4, 80]


def test_a_program_of_small_constants_has_no_weight_file(tmp_path: Path) -> None:
    ct = tools.coremltools()
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((2,))], opset_version=ct.target.iOS17)
    def small(x: Any) -> Any:
        return mb.mul(x=x, y=np.float32(3.0), name="y")

    shapes = resolve_shapes((TensorSpec("x", (2,)),), None, "fixed")
    write(tmp_path / "A.mlpackage", small, shapes, Facts("", "", ""))
    assert sorted(contents(tmp_path / "A.mlpackage")) == sorted([MANIFEST_FILE, MODEL_FILE])
    assert len(json.loads((tmp_path / "A.mlpackage" / MANIFEST_FILE).read_text())["itemInfoEntries"]) == 1
    with tools.quiet():
        ct.models.MLModel(str(tmp_path / "A.mlpackage"), skip_model_load=True)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dna-bert", "DnaBert"),
        ("model.pt", "ModelPt"),
        ("9lives", "Model9lives"),
        ("", "Model"),
        ("../../etc", "Etc"),
        ("é\x1b[2J", "2J"),
        ("a" * 99, "A" + "a" * 63),
    ],
)
def test_names_are_those_of_swift_types(name: str, wanted: str) -> None:
    found = package_name(name)
    assert found == (wanted if not wanted[:1].isdigit() else f"Model{wanted}") and found.isidentifier()


def test_import_noise_is_held_back_and_loggers_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    logger = logging.getLogger("coremltools")
    level = logger.level
    with tools.quiet():
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.level == level and tools.coremltools().__version__.startswith("9.")
    monkeypatch.setitem(__import__("sys").modules, "coremltools", None)
    monkeypatch.delitem(__import__("sys").modules, "coremltools")
    monkeypatch.setattr("importlib.import_module", _absent)
    with pytest.raises(ToolMissing) as caught:
        tools.coremltools()
    assert caught.value.code == "RUB-COREML-001"


def _absent(name: str) -> Any:
    raise ImportError(f"No module named {name!r}")
