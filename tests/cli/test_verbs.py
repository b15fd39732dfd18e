"""Every verb that needs a model, through the real command, on one small artefact.

Most commands run in this process, with the streams of a process caught; ``fresh`` ones start their own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc.backends import registry
from rubicc.cli.console import decision_line
from rubicc.cli.main import main
from rubicc.driver.compile import check_options
from rubicc.evidence import manifest as manifests
from rubicc.evidence import report as reports
from rubicc.evidence.decision import Decision
from rubicc.settings import resolve

RUBICC = [sys.executable, "-m", "rubicc"]
FLAGS = ("--target", "cpu", "--runtime", "onnxruntime", "--threads", "1")
ONNX = "out/cpu_gpu/model.onnx"  # as a MODEL it needs no torch, so what does not concern torch reads it


def run(home: Path, *args: str, fresh: bool = False) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RUBICC_")}
    if fresh:
        command = [*RUBICC, *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=home, env=env, timeout=300)
    with pytest.MonkeyPatch.context() as patch, streams() as caught:
        for key in os.environ.keys() - env.keys():
            patch.delenv(key)
        patch.chdir(home)
        code = main(args)
    return subprocess.CompletedProcess(args, code, *caught)


@contextmanager
def streams() -> Iterator[list[str]]:
    """At the end, what was written inside to descriptors 1 and 2, by Python or by a library in C."""
    caught: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = (Path(folder, "stdout"), Path(folder, "stderr"))
        with ExitStack() as stack:
            for number, path in enumerate(paths, start=1):
                before = os.dup(number)
                stack.callback(os.close, before)
                stack.callback(os.dup2, before, number)
                file = stack.enter_context(path.open("w"))
                os.dup2(file.fileno(), number)
                stack.callback(setattr, sys, path.name, getattr(sys, path.name))
                setattr(sys, path.name, file)
            yield caught
        caught += [path.read_text() for path in paths]


def ok(home: Path, *args: str, fresh: bool = False) -> Any:
    result = run(home, *args, "--format", "json", fresh=fresh)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is True and document["schema_version"] == 1
    return document["result"]


def refused(home: Path, exit_code: int, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    before = sorted(os.listdir(home))
    result = run(home, *args)
    assert (result.returncode, f"error[{code}]" in result.stderr) == (exit_code, True), result.stderr
    assert "Traceback" not in result.stderr and sorted(os.listdir(home)) == before
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.pt`` and the artefact ``out`` compiled from it."""
    folder = tmp_path_factory.mktemp("verbs")
    ok(folder, "models", "create", "demo-ctc", "--seed", "5", "-o", "model.pt")
    value = ok(folder, "compile", "model.pt", *FLAGS, "-o", "out", fresh=True)
    assert value["path"] == "out" and value["verdict"] == "verified"
    return folder


@pytest.fixture(scope="module")
def reads(home: Path) -> Path:
    """Two simulated reads."""
    from rubicc.genomics.simulate import simulate_reads, write_reads

    folder = home / "reads"
    folder.mkdir()
    write_reads(folder / "good.npz", simulate_reads(2, seed=1, length=(300, 320)))
    return folder


def test_compile_leaves_a_whole_readable_artefact(home: Path) -> None:
    assert manifests.verify_files(home / "out").ok
    report = reports.read(home / "out")
    assert report.layers and report.passes and report.not_measured and report.signal is not None
    assert all(gap.ok and gap.snr_db > 80 for gap in report.gaps.values())
    text = (home / "out" / "manifest.json").read_text() + (home / "out" / "recipe.yaml").read_text()
    assert str(home) not in text and os.environ.get("HOME", "/root") + "/" not in text
    assert not [name for name in os.listdir(home) if name.startswith(".")]


@pytest.mark.slow
def test_compiling_again_with_its_recipe_gives_the_same_bytes(home: Path) -> None:
    ok(home, "compile", "model.pt", "--recipe", "out/recipe.yaml", "-o", "again")
    first, second = home / "out", home / "again"
    assert manifests.read(first).files == manifests.read(second).files
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    changes = ok(home, "diff", "out", "again")["changes"]
    assert {change["section"] for change in changes} <= {"measured"}


def test_inspect_model_and_artefact_agree(home: Path) -> None:
    model, artefact = ok(home, "inspect", "model.pt"), ok(home, "inspect", "out")
    assert model["macs"] == artefact["macs"] > 0 and model["sha256"] == artefact["sha256"]
    assert model["receptive_field"] == artefact["receptive_field"]
    assert "BatchNormalization" in model["operators"] and "BatchNormalization" not in artefact["operators"]


def test_verify_passes_and_finds_tampering(home: Path) -> None:
    value = ok(home, "verify", "out")
    assert value["files"]["checked"] >= 9 and value["gaps"]
    copy = home / "tampered"
    shutil.copytree(home / "out", copy)
    path = copy / "cpu_gpu" / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    result = refused(home, 5, "RUB-ART-011", "verify", "tampered")
    assert "cpu_gpu/model.onnx" in result.stderr and result.stdout == ""


def test_check_prints_the_table(home: Path) -> None:
    assert ok(home, "check", ONNX, "--target", "cpu")["supported"] is True
    result = run(home, "check", ONNX, "--target", "gpu", "--format", "json")
    value = json.loads(result.stdout)["result"]
    if value["supported"]:
        pytest.skip("this machine has a GPU runtime")
    assert result.returncode == 4 and value["findings"][0]["remedy"]


def test_exit_2_usage(home: Path) -> None:
    refused(home, 2, "RUB-CLI-004", "compile", ONNX, *FLAGS, "--precision", "fp61", "-o", "x")
    refused(home, 2, "RUB-CLI-003", "compile", ONNX, *FLAGS, "--input", "x=?", "-o", "x")


def test_exit_3_unreadable(home: Path) -> None:
    (home / "garbage.pt").write_bytes(b"\x00garbage")
    result = run(home, "inspect", "garbage.pt")
    assert result.returncode == 3 and "error[RUB-READ-" in result.stderr
    refused(home, 3, "RUB-ART-010", "verify", "reads_that_are_not_there")


def test_exit_7_without_a_gpu_leaves_nothing(home: Path) -> None:
    result = run(home, "compile", ONNX, "--target", "gpu", "-o", "gpu-out")
    if result.returncode == 0:
        pytest.skip("this machine has a GPU runtime")
    assert result.returncode == 7 and "pip install" in result.stderr and not (home / "gpu-out").exists()


def test_exit_5_gap_leaves_nothing(home: Path) -> None:
    refused(home, 5, "RUB-DRV-001", "compile", ONNX, *FLAGS, "--max-gap", "snr=399dB", "-o", "x")


def test_exit_6_budget_leaves_nothing(home: Path) -> None:
    refused(home, 6, "RUB-DRV-005", "compile", ONNX, *FLAGS, "--budget", "size=1kB", "-o", "x")


def test_exit_8_existing_output_survives(home: Path) -> None:
    (home / "mine").mkdir(exist_ok=True)
    (home / "mine" / "thesis.txt").write_text("years")
    refused(home, 8, "RUB-ART-001", "compile", ONNX, *FLAGS, "-o", "mine", "--force")
    before = (home / "out" / "manifest.json").stat().st_mtime_ns
    refused(home, 8, "RUB-ART-002", "compile", ONNX, *FLAGS, "-o", "out")
    assert (home / "out" / "manifest.json").stat().st_mtime_ns == before
    assert (home / "mine" / "thesis.txt").read_text() == "years"


def test_basecall_and_evaluate(home: Path, reads: Path) -> None:
    value = ok(home, "basecall", "out", "reads", "-o", "calls.fastq", fresh=True)
    assert value["reads"] == 2 and value["problem_count"] == 0
    assert (home / "calls.fastq").read_text().count("\n+\n") == 2
    refused(home, 8, "RUB-GEN-140", "basecall", "out", "reads", "-o", "calls.fastq")
    (home / "truth.fasta").write_text(">t\n" + "ACGT" * 200 + "\n")
    scored = ok(home, "evaluate", "calls.fastq", "--reference", "truth.fasta")
    assert scored["reads"] == 2


def test_basecall_names_what_it_left_out(home: Path, reads: Path) -> None:
    (home / "mixed").mkdir()
    shutil.copy(reads / "good.npz", home / "mixed" / "good.npz")
    (home / "mixed" / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    result = run(home, "basecall", "out", "mixed", "-o", "mixed.fasta", "--format", "json")
    value = json.loads(result.stdout)["result"]
    assert result.returncode == 3 and value["reads"] == 2 and value["problem_count"] == 1
    assert "bad.npz" in result.stderr and "bad.npz" in value["problems"][0]["path"]


def test_bench_measures(home: Path) -> None:
    value = ok(home, "bench", "out", "--seconds", "0.3", "--batch", "1", "--length", "1200")
    row = value["rows"][0]
    assert row["positions_per_second"] > 0 and row["timing"]["median_ms"] > 0 and "1x1x1200" in row["shapes"]


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--precision", "fp32,int9"], "int8"),
        (["--layout", "plain,polyphas"], "polyphase"),
        (["--runtime", "openvino,nativ"], "native"),
        (["--streams", "0"], "1"),
    ],
)
def test_bench_lists_are_checked(home: Path, flags: list[str], hint: str) -> None:
    assert hint in refused(home, 2, "RUB-CLI-004", "bench", "out", *flags).stderr


def test_json_result_is_alone_on_stdout_and_numbers_are_json(home: Path) -> None:
    np.savez(home / "new.npz", x=np.zeros((1, 1, 600), np.float32))
    value = ok(home, "verify", "out", "--data", "new.npz", fresh=True)
    assert any("new" in name or "executor" in name for name in value["gaps"])


def test_a_setting_that_nothing_reads_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("rubicc"), "propagate", True)  # the command switches it off
    settings = resolve({"calib": "calib.npz"})
    with caplog.at_level("WARNING", logger="rubicc.compile"):
        check_options(settings, registry.get("cpu"))
    assert "calibration data is not used at precision fp32" in caplog.text


def test_a_decision_cannot_drive_the_terminal() -> None:
    shown = decision_line(Decision("RUB-READ-D03", "a\x1b[2J", "used 'x\n'", "because"))
    assert shown.isprintable() and "\\x1b[2J" in shown
