"""The audit: a script that runs on a Mac alone, its dump beside the rules, and dumps nobody should trust."""

from __future__ import annotations

import ast
import copy
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lint_cases import IMAGE
from lint_programs import half, read

from rubicc.backends.coreml.lint import (
    SCRIPT,
    audit,
    check_dump,
    compared,
    merge,
    planned,
    read_dump,
    write_audit_script,
)
from rubicc.backends.coreml.run.program import Block, Package
from rubicc.errors import ModelRefused
from rubicc.evidence.report import decode_placement

ENGINE, GPU, CPU = "ANE", "GPU", "CPU"


def network(mb: Any, x: Any) -> Any:
    """Three eligible operations, one that is not, one unknown."""
    y = mb.conv(x=x, weight=half(64, 64, 1, 3), pad_type="same", name="fits")
    y = mb.conv(x=y, weight=half(64, 64, 1, 17), pad_type="same", name="wide")
    y = mb.sin(x=mb.relu(x=y, name="moved"), name="sine")
    return mb.relu(x=y, name="absent")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return read(tmp_path_factory.mktemp("net"), {"x": IMAGE}, network)


@pytest.fixture(scope="module")
def ane(package: Package) -> dict[str, Any]:
    return audit(package)


def row(name: str, kind: str, preferred: str | None, supported: str, cost: float | None) -> dict[str, Any]:
    return {
        "path": "main",
        "name": name,
        "type": kind,
        "preferred": preferred,
        "supported": supported.split(),
        "cost": cost,
    }


def synthetic() -> dict[str, Any]:
    """What ane_audit might write for :func:`network`."""
    return {
        "format": "rubicc-ane-audit",
        "schema_version": 1,
        "package": "Small.mlpackage",
        "units": "ALL",
        "system": {"macos": "15.0.1", "machine": "arm64", "coremltools": "9.0"},
        "functions": {
            "main": [
                row("fits", "conv", ENGINE, "CPU GPU ANE", 0.25),
                row("wide", "conv", ENGINE, "CPU GPU ANE", 0.5),
                row("moved", "relu", CPU, "CPU ANE", 0.05),
                row("sine", "sin", GPU, "CPU GPU", 0.2),
            ]
        },
    }


def test_rules_beside_reality(ane: dict[str, Any]) -> None:
    before = copy.deepcopy(ane)
    merged = merge(ane, check_dump(synthetic()))
    assert ane == before and {key: merged[key] for key in ane} == ane
    found = merged["audit"]
    assert found["agreement"] == {
        "eligible": {"preferred": 1, "supported": 1, "elsewhere": 0, "no data": 1},
        "not": {"preferred": 1, "supported": 0, "elsewhere": 0, "no data": 0},
        "unknown": {"preferred": 0, "supported": 0, "elsewhere": 1, "no data": 0},
    }
    assert [op["name"] for op in found["contradictions"]] == ["wide"]
    assert found["contradictions"][0]["rule"] == "RUB-COREML-440"
    assert [op["name"] for op in found["not_preferred"]] == ["moved"]
    assert [op["name"] for op in found["resolved"]] == ["sine"]
    assert found["unmatched"] == 1
    assert found["engine_share_of_operations"] == 0.5 and found["engine_share_of_cost"] == 0.75
    json.dumps(merged, allow_nan=False)


def test_picture_of_the_plan(ane: dict[str, Any]) -> None:
    placed = decode_placement(planned(merge(ane, check_dump(synthetic()))))
    assert [status for status, _ in placed.ops] == [
        "preferred",
        "preferred",
        "supported",
        "elsewhere",
        "no data",
    ]
    assert [(row.status, row.op, row.code) for row in placed.outside] == [
        ("preferred", "conv", "RUB-COREML-440"),
        ("supported", "relu", "RUB-COREML-410"),
    ]
    assert "macos 15.0.1" in placed.caption and "75.00% of the cost" in placed.caption
    assert all(status in placed.statuses for status, _ in placed.ops)


def test_a_plan_against_an_eligible_verdict_is_a_contradiction(ane: dict[str, Any]) -> None:
    dump = synthetic()
    dump["functions"]["main"][0] |= {"preferred": CPU, "supported": [CPU]}
    found = merge(ane, check_dump(dump))["audit"]
    assert {op["name"] for op in found["contradictions"]} == {"fits", "wide"}


def test_text(ane: dict[str, Any]) -> None:
    head, columns, *rest = compared(merge(ane, check_dump(synthetic())))
    assert "macOS 15.0.1" in head and "ALL" in head and columns.split()[:2] == ["rules", "preferred"]
    assert [line.split() for line in rest[:3]] == [
        ["eligible", "1", "1", "0", "1"],
        ["not", "1", "0", "0", "0"],
        ["unknown", "0", "0", "1", "0"],
    ]
    assert [line.split(":")[0].strip() for line in rest[3:6]] == [
        "contradiction",
        "not preferred",
        "resolved",
    ]
    assert "75.00% of the cost" in rest[-1] and "1 operation" in rest[-1]


def test_a_plan_without_data_has_no_shares(ane: dict[str, Any]) -> None:
    dump = synthetic()
    for each in dump["functions"]["main"]:
        each |= {"preferred": None, "supported": [], "cost": None}
    found = merge(ane, check_dump(dump))["audit"]
    assert found["engine_share_of_cost"] is None and found["engine_share_of_operations"] is None
    assert not found["contradictions"] and compared({"audit": found})


def test_a_dump_of_another_package_is_refused(ane: dict[str, Any]) -> None:
    dump = synthetic()
    for each in dump["functions"]["main"]:
        each["name"] = "other_" + each["name"]
    with pytest.raises(ModelRefused, match="0 of 5") as err:
        merge(ane, check_dump(dump))
    assert err.value.code == "RUB-COREML-402"


def spoilt(key: str, value: Any) -> dict[str, Any]:
    return synthetic() | {key: value}


def spoilt_row(key: str, value: Any) -> dict[str, Any]:
    dump = synthetic()
    dump["functions"]["main"][1][key] = value
    return dump


def without(key: str) -> dict[str, Any]:
    dump = synthetic()
    del dump["functions"]["main"][2][key]
    return dump


@pytest.mark.parametrize(
    "dump",
    [
        None,
        [],
        "text",
        {},
        spoilt("format", "other"),
        spoilt("schema_version", 2),
        spoilt("package", None),
        spoilt("units", 3),
        spoilt("system", "macOS"),
        spoilt("functions", []),
        spoilt("functions", {"main": {}}),
        spoilt("functions", {"main": [None]}),
        spoilt_row("name", 3),
        spoilt_row("path", None),
        spoilt_row("type", []),
        spoilt_row("preferred", 1),
        spoilt_row("supported", "ANE"),
        spoilt_row("supported", [1]),
        spoilt_row("cost", "0.5"),
        spoilt_row("cost", float("nan")),
        spoilt_row("cost", -0.5),
        spoilt_row("cost", 10**400),
        spoilt_row("cost", True),
        *(without(key) for key in ("path", "name", "type", "preferred", "supported", "cost")),
    ],
)
def test_hostile_dumps(dump: Any, ane: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused) as err:
        merge(ane, check_dump(dump, "audit.json"))
    assert err.value.code == "RUB-COREML-401" and err.value.where == "audit.json" and err.value.hint


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN", b'{"format": 1e999}'])
def test_hostile_files(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "audit.json").write_bytes(text)
    with pytest.raises(ModelRefused) as err:
        read_dump(tmp_path / "audit.json")
    assert err.value.code == "RUB-COREML-401"


def test_missing_and_enormous_files(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="No such file"):
        read_dump(tmp_path / "none.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(ModelRefused, match="larger than 256 MiB"):
        read_dump(tmp_path / "large.json")


class FakeMac:
    """A coremltools with a compute plan: everything on the engine but gather and control flow."""

    def __init__(self, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package = package
        self.loaded: list[tuple[str, str]] = []
        coremltools, models, plans, utils = (
            ModuleType(name)
            for name in (
                "coremltools",
                "coremltools.models",
                "coremltools.models.compute_plan",
                "coremltools.models.utils",
            )
        )
        coremltools.__version__ = "9.0"  # type: ignore[attr-defined]
        coremltools.ComputeUnit = {name: name for name in ("ALL", "CPU_AND_NE", "CPU_ONLY")}  # type: ignore[attr-defined]
        coremltools.models, models.utils = models, utils  # type: ignore[attr-defined]
        utils.compile_model = lambda source, target: Path(target).mkdir()  # type: ignore[attr-defined]
        plans.MLComputePlan = SimpleNamespace(load_from_path=self.plan)  # type: ignore[attr-defined]
        for module in (coremltools, models, plans, utils):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))

    def plan(self, path: str, units: str) -> Any:
        assert Path(path).is_dir()
        self.loaded.append((Path(path).name, units))
        functions = {"main": SimpleNamespace(block=self.block(self.package.main.block))}
        return SimpleNamespace(
            model_structure=SimpleNamespace(program=SimpleNamespace(functions=functions)),
            get_compute_device_usage_for_mlprogram_operation=self.usage,
            get_estimated_cost_for_mlprogram_operation=lambda op: SimpleNamespace(weight=0.125),
        )

    def block(self, block: Block) -> Any:
        """Operations as coremltools' model structure shows them: ``ios17.conv``, outputs, nested blocks."""
        return SimpleNamespace(
            operations=[
                SimpleNamespace(
                    operator_name=op.type if op.type == "const" else f"ios17.{op.type}",
                    outputs=[SimpleNamespace(name=value.name) for value in op.outputs],
                    blocks=[self.block(inner) for inner in op.blocks],
                )
                for op in block.operations
            ]
        )

    def usage(self, operation: Any) -> Any:
        kinds = {name: type(name, (), {}) for name in ("MLNeuralEngineComputeDevice", "MLCPUComputeDevice")}
        kind = operation.operator_name.split(".")[-1]
        if kind == "const":
            return None
        cpu, engine = kinds["MLCPUComputeDevice"](), kinds["MLNeuralEngineComputeDevice"]()
        if kind in ("gather", "cond"):
            return SimpleNamespace(preferred_compute_device=cpu, supported_compute_devices=[cpu])
        return SimpleNamespace(preferred_compute_device=engine, supported_compute_devices=[cpu, engine])


def shipped(folder: Path) -> Path:
    assert write_audit_script(folder) == SCRIPT
    return folder / SCRIPT


def start(script: Path, *words: str) -> int:
    """The script as a program of its own."""
    before = sys.argv
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, int):
            return stop.code
        raise
    finally:
        sys.argv = before
    raise AssertionError("the script did not end by sys.exit")


def test_the_script_needs_nothing_of_rubicc(tmp_path: Path) -> None:
    tree = ast.parse(shipped(tmp_path).read_text("utf-8"))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        (node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert "rubicc" not in names and names <= {*sys.stdlib_module_names, "coremltools"}
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all("coremltools" not in ast.dump(node) for node in outside), "its help works without coremltools"


def test_the_script_writes_what_merge_reads(
    package: Package,
    ane: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, output = shipped(tmp_path), tmp_path / "audit.json"
    mac = FakeMac(package, monkeypatch)
    assert start(script, str(package.path), "-o", str(output), "--units", "CPU_AND_NE") == 0
    assert "5 of 5 operations prefer the Neural Engine" in capsys.readouterr().out
    assert mac.loaded == [("Small.mlmodelc", "CPU_AND_NE")]
    dump = read_dump(output)
    assert dump["system"] == {"macos": "15.1", "machine": dump["system"]["machine"], "coremltools": "9.0"}
    assert [each["type"] for each in dump["functions"]["main"]] == ["conv", "conv", "relu", "sin", "relu"]
    found = merge(ane, dump)["audit"]
    assert found["agreement"]["eligible"]["preferred"] == 3 and found["unmatched"] == 0
    assert [op["name"] for op in found["contradictions"]] == ["wide"]


def test_nested_blocks_have_the_paths_of_the_lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(mb: Any, x: Any, flag: Any) -> Any:
        return mb.cond(
            pred=mb.cast(x=mb.squeeze(x=flag, axes=[0]), dtype="bool"),
            _true_fn=lambda: mb.tanh(x=x, name="inside"),
            _false_fn=lambda: mb.sigmoid(x=x, name="otherwise"),
            name="branch",
        )

    made = read(tmp_path, {"x": IMAGE, "flag": ((1,), "int32")}, build)
    FakeMac(made, monkeypatch)
    output = tmp_path / "audit.json"
    assert start(shipped(tmp_path), str(made.path), "-o", str(output)) == 0
    merged = merge(audit(made), read_dump(output))
    assert merged["audit"]["unmatched"] == 0
    assert {op["name"] for op in merged["audit"]["contradictions"]} >= {"inside", "otherwise"}


@pytest.mark.parametrize(
    ("system", "release", "words"),
    [("linux", "", "where Core ML is"), ("darwin", "14.3", "needs macOS 14.4"), ("darwin", "13.6.1", "14.4")],
)
def test_the_script_refuses_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, release: str, words: str
) -> None:
    script = shipped(tmp_path)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.mac_ver", lambda: (release, ("", "", ""), ""))
    with pytest.raises(SystemExit, match=words):
        start(script, str(tmp_path))


def test_the_script_names_a_missing_package(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeMac(package, monkeypatch)
    with pytest.raises(SystemExit, match="no package folder"):
        start(shipped(tmp_path), str(tmp_path / "None.mlpackage"))
