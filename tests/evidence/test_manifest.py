"""Manifest: strict reading, deterministic writing, integrity of every byte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rubicc.errors import ModelRefused, VerificationFailed
from rubicc.evidence import manifest as manifests
from rubicc.evidence.decision import Decision
from rubicc.evidence.manifest import Manifest, PassEntry

FULL = Manifest(
    target="cpu",
    model={"name": "demo", "kind": "checkpoint"},
    inputs={"model": "ab" * 32},
    versions={"rubicc": "0.1.0"},
    cpu={"architecture": "x86_64", "flags": ["avx2"]},
    seeds={"seed": 3},
    passes=(PassEntry("cleanup.fold", {"max_bytes": 1}, True),),
    decisions=(Decision("RUB-CPU-D01", "runtime", "openvino", "faster"),),
    evidence={"snr_db": 120.5},
)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    (folder / "verify").mkdir(parents=True)
    (folder / "verify" / "gap.json").write_text("{}")
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "report.html").write_text("<p>12 ms")
    manifests.seal(folder, FULL, {"seconds": 1.5})
    return folder


def test_round_trip(artefact: Path) -> None:
    found = manifests.read(artefact)
    assert found.passes == FULL.passes and found.decisions == FULL.decisions
    assert set(found.files) == {"model.onnx", "verify/gap.json"}
    assert found.volatile == ("measured.json", "report.html")
    assert Manifest.from_json(found.to_json()) == found
    assert manifests.read_measured(artefact) == {"seconds": 1.5}
    check = manifests.verify_files(artefact)
    assert check.ok and check.checked == 5


@pytest.mark.parametrize("name", ["model.onnx", "verify/gap.json", "report.html", "measured.json"])
def test_every_changed_byte_is_found(artefact: Path, name: str) -> None:
    path = artefact / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert name in manifests.verify_files(artefact).changed
    with pytest.raises(VerificationFailed) as error:
        manifests.verify_files(artefact).require_ok("a")
    assert error.value.code == "RUB-ART-011" and error.value.exit_code == 5


def test_missing_and_extra_are_found(artefact: Path) -> None:
    (artefact / "model.onnx").unlink()
    (artefact / "report.html").unlink()
    (artefact / "numpy.py").write_text("print('surprise')")
    check = manifests.verify_files(artefact)
    assert check.missing == ("model.onnx", "report.html") and check.extra == ("numpy.py",)


def test_links_and_devices_are_refused(artefact: Path) -> None:
    (artefact / "model.onnx").unlink()
    (artefact / "model.onnx").symlink_to("/etc/hostname")
    with pytest.raises(ModelRefused) as error:
        manifests.verify_files(artefact)
    assert error.value.code == "RUB-ART-012"
    (artefact / "model.onnx").unlink()
    os.mkfifo(artefact / "model.onnx")
    with pytest.raises(ModelRefused):
        manifests.verify_files(artefact)


def test_manifest_that_is_a_link_or_a_pipe_is_refused(artefact: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    os.rename(artefact / "manifest.json", real)
    (artefact / "manifest.json").symlink_to(real)
    with pytest.raises(ModelRefused):
        manifests.read(artefact)
    (artefact / "manifest.json").unlink()
    os.mkfifo(artefact / "manifest.json")
    with pytest.raises(ModelRefused):
        manifests.read(artefact)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", "a\\b", "a\nb", "x" * 2000, "a\x1b[31m"],
)
def test_hostile_paths(path: str) -> None:
    with pytest.raises(ModelRefused) as error:
        Manifest.from_json(json.dumps(FULL.to_dict() | {"files": {path: "0" * 64}}))
    assert error.value.code == "RUB-ART-012"


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": True},
        {"tool": "other"},
        {"surprise": 1},
        {"files": []},
        {"files": {"a": 5}},
        {"files": {"a": "zz"}},
        {"files": {"report.html": "0" * 64}},
        {"volatile": ["model.onnx"]},
        {"volatile": 3},
        {"passes": [{"id": "x", "odd": 1}]},
        {"passes": "abc"},
        {"decisions": [1]},
        {"seeds": {"seed": "1"}},
        {"cpu": []},
        {"target": 4},
    ],
)
def test_malformed_manifests(change: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused) as error:
        Manifest.from_json(json.dumps(FULL.to_dict() | change))
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"tool": NaN}', '{"tool":"rubicc","tool":"rubicc"}', "[" * 100_000]
)
def test_malformed_json(text: str) -> None:
    with pytest.raises(ModelRefused) as error:
        Manifest.from_json(text)
    assert error.value.code == "RUB-ART-010"


def test_text_is_deterministic_and_free_of_paths() -> None:
    shuffled = Manifest(**dict(reversed(list(vars(FULL).items()))))
    assert shuffled.to_json() == FULL.to_json()
    assert FULL.to_json().isascii() and FULL.to_json().endswith("}\n")
