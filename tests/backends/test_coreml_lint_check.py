"""``rubicc check Name.mlpackage``: a package of any origin, by rules and beside a Mac's own plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_programs import half, read, save

from rubicc import api
from rubicc.backends import registry
from rubicc.backends.coreml import lint
from rubicc.cli.main import main
from rubicc.errors import UsageError


def build(mb: Any, x: Any) -> Any:
    return mb.conv(x=mb.relu(x=x, name="first"), weight=half(8, 512, 1, 17), pad_type="same", name="second")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("package"), {"x": ((1, 512, 1, 512), "fp16")}, build)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = main(["check", *words, "--format", "json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_warnings_and_details(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, _ = check(capsys, str(package), "--target", "coreml")
    result = document["result"]
    assert code == 0 and result["supported"] is True
    assert [(f["rule"], f["severity"], f["node"]) for f in result["findings"]] == [
        ("RUB-COREML-440", "warning", "second")
    ]
    assert result["details"] == json.loads(json.dumps(lint.audit(read_back(package))))


def read_back(package: Path) -> Any:
    from rubicc.backends.coreml.run.load import load

    return load(package)


def test_strict_refuses(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, _ = check(capsys, str(package), "--target", "coreml:iOS17", "--strict")
    assert code == 4 and document["result"]["supported"] is False
    assert document["result"]["findings"][0]["severity"] == "error"


def test_strict_takes_a_package_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = save(tmp_path, {"x": ((1, 512, 1, 512), "fp16")}, lambda mb, x: mb.relu(x=x, name="y"))
    code, document, _ = check(capsys, str(fits), "--target", "coreml", "--strict")
    assert code == 0 and document["result"]["findings"] == []


def test_text_names_what_is_outside(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(package), "--target", "coreml"]) == 0
    out = capsys.readouterr().out
    assert "2 operations: 1 eligible for the Neural Engine, 1 not, 0 unknown" in out
    assert (
        "[RUB-COREML-440]" in out and "remedy:" in out and "activations in float16 for x 1x512x1x512" in out
    )
    assert out.rstrip().endswith("0 refusal(s), 1 warning(s) for coreml")


def test_a_package_newer_than_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = save(tmp_path, {"x": ((1, 8), "fp16")}, lambda mb, x: mb.relu(x=x), target="iOS18")
    code, document, _ = check(capsys, str(newer), "--target", "coreml:iOS17")
    first = document["result"]["findings"][0]
    assert code == 4 and first["rule"] == "RUB-COREML-404" and "iOS18" in first["reason"]
    for target in ("coreml:iOS18", "coreml:iOS26", "coreml"):
        assert check(capsys, str(newer), "--target", target)[0] == 0


def plan_of(package: Path) -> dict[str, Any]:
    """A dump in which everything is on the engine."""
    engine = {"preferred": "ANE", "supported": ["CPU", "ANE"], "cost": 0.5}
    return {
        "format": "rubicc-ane-audit",
        "schema_version": 1,
        "package": package.name,
        "units": "ALL",
        "system": {"macos": "15.0"},
        "functions": {
            "main": [{"path": "main", "name": name, "type": "t"} | engine for name in ("first", "second")]
        },
    }


def test_an_audit_is_set_beside_the_rules(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(plan_of(package)), "utf-8")
    words = (str(package), "--target", "coreml", "--audit", str(path))
    code, document, _ = check(capsys, *words)
    found = document["result"]["details"]["audit"]
    assert code == 0 and [op["name"] for op in found["contradictions"]] == ["second"]
    assert main(["check", *words]) == 0
    assert "contradiction: conv second is not [RUB-COREML-440], prefers ANE" in capsys.readouterr().out
    path.write_text("{}", "utf-8")
    code, document, _ = check(capsys, *words)
    assert code == 3 and document["error"]["code"] == "RUB-COREML-401"


def test_a_page_draws_rules_and_plan(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, words = tmp_path / "page.html", [str(package), "--target", "coreml"]
    assert check(capsys, *words, "--page", str(page))[0] == 0
    text = page.read_text("utf-8")
    assert text.count("<svg") == 1 and text.count("<rect") == 2 and "Where it would run" in text
    assert "<h1>Small.mlpackage</h1>" in text and "default-src 'none'" in text
    code, document, _ = check(capsys, *words, "--page", str(page))
    assert code == 8 and document["error"]["code"].startswith("RUB-ART-")
    dump = tmp_path / "audit.json"
    dump.write_text(json.dumps(plan_of(package)), "utf-8")
    assert check(capsys, *words, "--page", str(page), "--force", "--audit", str(dump))[0] == 0
    text = page.read_text("utf-8")
    assert text.count("<svg") == 2 and "Where Core ML has placed it" in text


def test_damaged_and_missing_packages(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document, _ = check(capsys, str(tmp_path / "None.mlpackage"), "--target", "coreml")
    assert code == 3 and document["error"]["code"].startswith("RUB-COREML-2")
    (tmp_path / "Empty.mlpackage").mkdir()
    code, document, _ = check(capsys, str(tmp_path / "Empty.mlpackage"), "--target", "coreml")
    assert code == 3 and document["error"]["code"].startswith("RUB-COREML-2")


def test_an_audit_needs_a_package(tmp_path: Path, package: Path) -> None:
    for model, target in ((tmp_path / "m.onnx", "coreml"), (package, "cpu")):
        with pytest.raises(UsageError) as err:
            api.check_files(model, audit=tmp_path / "audit.json", target=target)
        assert err.value.code == "RUB-DRV-018"
    assert api.check_files(tmp_path / "m.onnx", target="coreml") is None
    assert api.check_files(package, target="cpu") is None


def test_names_of_strangers_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = read(tmp_path, {"x": ((1, 8), "fp16")}, lambda mb, x: mb.sin(x=x, name="y"))
    evil = "y\x1b[31m\n\u202eevil"
    from dataclasses import replace

    from lint_programs import edited

    value = package.main.block.operations[-1].outputs[0]
    spoilt = edited(package, kinds={"y": "sin"})
    op = replace(spoilt.main.block.operations[-1], outputs=(replace(value, name=evil),))
    block = replace(spoilt.main.block, operations=(*spoilt.main.block.operations[:-1], op), outputs=(evil,))
    function = replace(spoilt.main, block=block)
    spoilt = replace(spoilt, program=replace(spoilt.program, functions={"main": function}))
    monkeypatch.setattr("rubicc.backends.coreml.run.load.load", lambda path: spoilt)
    assert main(["check", str(package.path), "--target", "coreml"]) == 0
    out = capsys.readouterr().out
    assert "evil" in out and "\x1b" not in out and "\u202e" not in out


def test_the_registry_offers_it() -> None:
    backend: Any = registry.get("coreml")
    assert backend.suffix == ".mlpackage" and np.all([not hasattr(registry.get("cpu"), "suffix")])
