"""The exit codes that other tests of the command line do not produce: 0 to 8 and 130 are a contract.

2, 3, 5, 6, 7 and 8 from a real model are in ``tests/cli/test_verbs.py``, 2, 3 and 8 from hostile input in
:mod:`test_cli_hostile`, 130 in :mod:`test_kill_anywhere`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

RUBICC = [sys.executable, "-m", "rubicc"]


def network(path: Path, *nodes: onnx.NodeProto, output: list[str | int]) -> None:
    """An ONNX file with float input x (N, 3, 3)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def run(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUBICC, *args], cwd=home, capture_output=True, text=True, timeout=120)


def test_0_a_sound_model(tmp_path: Path) -> None:
    network(tmp_path / "m.onnx", helper.make_node("Relu", ["x"], ["y"]), output=["N", 3, 3])
    result = run(tmp_path, "check", "m.onnx", "--target", "cpu", "--format", "json")
    assert result.returncode == 0 and json.loads(result.stdout)["ok"] is True


def test_4_an_operator_no_runtime_has(tmp_path: Path) -> None:
    """Determinants of bfloat16: the whole table is printed, and nothing is written."""
    network(
        tmp_path / "m.onnx",
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16, name="narrow"),
        helper.make_node("Det", ["h"], ["d"], name="odd"),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT, name="wide"),
        output=["N"],
    )
    result = run(tmp_path, "compile", "m.onnx", "--target", "cpu", "-o", "out", "--format", "json")
    assert result.returncode == 4 and os.listdir(tmp_path) == ["m.onnx"]
    document = json.loads(result.stdout)
    assert document["ok"] is False and document["error"]["exit_code"] == 4
    refused = [finding for finding in document["error"]["findings"] if finding["severity"] == "error"]
    assert {finding["node"] for finding in refused} == {"odd"} and len(refused) == 2
    assert all(finding["remedy"] for finding in refused)
    assert result.stderr.count("remedy:") >= 2 and "Traceback" not in result.stderr


def test_1_a_bug_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A bug deep inside the driver: one line, how to report it, nothing left."""
    from rubicc.cli.main import main
    from rubicc.driver import compile as driver

    def broken(*args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(driver, "_emit", broken)
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "m.onnx", helper.make_node("Relu", ["x"], ["y"]), output=["N", 3, 3])
    line = ["compile", "m.onnx", "--target", "cpu", "-o", "out"]
    assert main(line) == 1
    shown = capsys.readouterr()
    assert "error[RUB-CLI-900]" in shown.err and "rubicc env" in shown.err and "Traceback" not in shown.err
    assert shown.out == "" and os.listdir(tmp_path) == ["m.onnx"]
    assert main([*line, "-vv"]) == 1 and "Traceback" in capsys.readouterr().err
