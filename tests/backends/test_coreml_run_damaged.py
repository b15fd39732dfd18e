"""Packages whose files are damaged or lead elsewhere: a catalogued error, bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_bare import add, constant, main_block, weights, written
from coreml_hostile import DATA, X, Y, refused, relu_of_x, weighted

from rubicc.backends.coreml.run.load import load


def test_what_the_cases_start_from_is_sound(tmp_path: Path) -> None:
    """Otherwise every case below could fail for another reason than its own."""
    (tmp_path / "a").mkdir()
    package = load(written(tmp_path, weighted(), bytes(weights((2, DATA)))))
    assert np.array_equal(package.run(X, semantics="fp32")["y"], 1 + np.arange(6).reshape(2, 3))
    package = load(written(tmp_path / "a", relu_of_x()))
    assert np.array_equal(package.run(X, semantics="fp32")["y"], X["x"])


def no_folder(folder: Path) -> Path:
    return folder / "nothing.mlpackage"


def no_manifest(folder: Path) -> Path:
    package = written(folder, relu_of_x())
    (package / "Manifest.json").unlink()
    return package


def manifest_of(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        package = written(folder, relu_of_x())
        (package / "Manifest.json").write_text(text)
        return package

    return make


def manifest_path(path: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "secret").write_bytes(relu_of_x().SerializeToString())
        held = {"itemInfoEntries": {"1": {"path": path.format(folder=folder)}}, "rootModelIdentifier": "1"}
        return written(folder, relu_of_x(), manifest=held)

    return make


def model_linked_out(folder: Path) -> Path:
    package = written(folder, relu_of_x())
    model = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model.rename(folder / "elsewhere")
    model.symlink_to(folder / "elsewhere")
    return package


def weights_linked_out(folder: Path) -> Path:
    package = written(folder, weighted())
    home = package / "Data" / "com.apple.CoreML" / "weights"
    home.rmdir()
    (folder / "outside").mkdir()
    (folder / "outside" / "weight.bin").write_bytes(weights((2, DATA)))
    home.symlink_to(folder / "outside")
    return package


def weight_name(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = weighted()
        main_block(model).operations[0].attributes["val"].blobFileValue.fileName = name
        return written(folder, model, bytes(weights((2, DATA))))

    return make


def weights_a_pipe(folder: Path) -> Path:
    package = written(folder, weighted())
    os.mkfifo(package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin")
    return package


def weight_bytes(change: Callable[[bytearray], Any], **options: Any) -> Callable[[Path], Path]:
    """A weight file after ``change``, in place or by what it gives."""

    def make(folder: Path) -> Path:
        data = weights((2, DATA))
        data = change(data) or data
        return written(folder, weighted(**options), bytes(data))

    return make


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at : at + len(value)] = value

    return change


def overlapping(folder: Path) -> Path:
    """A record whose data run into the next record."""
    data = weights((2, DATA), (2, DATA))
    data[64 + 16 : 64 + 24] = (192).to_bytes(8, "little")
    model = weighted()
    block = main_block(model)
    del block.operations[1:]
    constant(block, "v", ("fp32", (2, 3), 192))
    add(block, "add", [("s", "fp32", (2, 3))], x="%x", y="%w")
    add(block, "add", Y, x="%s", y="%v")
    return written(folder, model, bytes(data))


def raw(data: bytes) -> Callable[[Path], Path]:
    return lambda folder: written(folder, data)


def truncated(folder: Path) -> Path:
    return written(folder, relu_of_x().SerializeToString()[:-7])


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (no_folder, "RUB-COREML-201"),
    "no manifest": (no_manifest, "RUB-COREML-201"),
    "manifest is no JSON": (manifest_of("{"), "RUB-COREML-201"),
    "manifest is a list": (manifest_of("[]"), "RUB-COREML-201"),
    "manifest nested without end": (manifest_of("[" * 100_000), "RUB-COREML-201"),
    "manifest names a file outside": (manifest_path("../../secret"), "RUB-COREML-202"),
    "manifest names an absolute path": (manifest_path("/{folder}/secret"), "RUB-COREML-201"),
    "manifest names a folder": (manifest_path("com.apple.CoreML"), "RUB-COREML-201"),
    "model file is a link out": (model_linked_out, "RUB-COREML-202"),
    "weights are a link out": (weights_linked_out, "RUB-COREML-202"),
    "weights named outside": (weight_name("@model_path/../../../secret"), "RUB-COREML-202"),
    "weights named absolutely": (weight_name("/etc/passwd"), "RUB-COREML-202"),
    "weights are a pipe": (weights_a_pipe, "RUB-COREML-201"),
    "weights missing": (lambda folder: written(folder, weighted()), "RUB-COREML-201"),
    "weights shorter than a header": (weight_bytes(lambda data: data[:50]), "RUB-COREML-220"),
    "weights of version 1": (weight_bytes(put(4, b"\1")), "RUB-COREML-220"),
    "weights truncated in the data": (weight_bytes(lambda data: data[:140]), "RUB-COREML-221"),
    "weights truncated in a record": (weight_bytes(lambda data: data[:100]), "RUB-COREML-221"),
    "offset past the end": (weight_bytes(lambda data: None, offset=1 << 40), "RUB-COREML-221"),
    "offset into the header": (weight_bytes(lambda data: None, offset=0), "RUB-COREML-221"),
    "offset where no record is": (weight_bytes(lambda data: None, offset=128), "RUB-COREML-221"),
    "data past the end": (weight_bytes(put(64 + 16, b"\xff" * 7)), "RUB-COREML-221"),
    "record of another type": (weight_bytes(put(64 + 4, b"\1")), "RUB-COREML-222"),
    "record of another size": (weight_bytes(put(64 + 8, b"\x0c")), "RUB-COREML-222"),
    "constant of another shape": (weight_bytes(lambda data: None, shape=(3, 3)), "RUB-COREML-222"),
    "records overlap": (overlapping, "RUB-COREML-221"),
    "model file truncated": (truncated, "RUB-COREML-210"),
    "model file of noise": (raw(np.random.default_rng(0).bytes(5000)), "RUB-COREML-210"),
    "model file empty": (raw(b""), "RUB-COREML-211"),
    "messages in messages without end": (raw(b"\x0a\x80\x80\x80\x80\x10" * 400_000), "RUB-COREML-210"),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    make, code = FILES[name]
    refused(make(tmp_path), code)


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(FILES) >= 25
