"""``rubicc train``: MODEL in, MODEL out, evidence beside it; every wrong call named with its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training_files import chunk_folder

import rubicc
from rubicc.cli.main import main
from rubicc.errors import ModelRefused
from rubicc.evidence import change, manifest
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.graph_tensors import GRAPH_KEY, from_tensors, to_tensors
from rubicc.frontend.lower import lower
from rubicc.frontend.source import Source
from rubicc.genomics.simulate import simulate_reads, write_reads
from rubicc.ir.graph import Graph
from rubicc.models import registry
from rubicc.shrink.plain import train_settings
from rubicc.training.data.augment import OFF

ROOT = Path(__file__).parents[2]
CONFIG = {
    "blocks": [
        {"filters": 8, "kernel": 9, "stride": 3, "separable": False, "dropout": 0.0},
        {"filters": 8, "kernel": 5, "repeat": 2, "residual": True, "dropout": 0.1},
    ],
    "channels_per_group": 1,
}
FEW = ("--steps", "3", "--batch", "2", "--chunk", "150", "--validate-every", "2", "--validation-items", "4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    entry = registry.get("demo-ctc")
    checkpoint.save(folder / "model.pt", entry.build(CONFIG, seed=1), entry.meta(CONFIG))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    mgru = registry.get("taiyaki-mgru")
    small = {"size": 8, "layers": 2}
    checkpoint.save(folder / "teacher.pt", mgru.build(small, seed=1), mgru.meta(small))
    write_reads(folder / "mapped.npz", simulate_reads(4, seed=3, length=150))
    with np.load(folder / "mapped.npz") as archive:
        np.savez(folder / "raw.npz", **{k: v for k, v in archive.items() if not k.startswith("ref")})
    chunk_folder(folder / "chunks", samples=150, most=20)
    return folder


def train(home: Path, out: Path, *words: str, model: str = "model.pt", data: str = "simulated") -> int:
    given = data if data == "simulated" else str(home / data)
    source = str(home / model) if (home / model).exists() else model
    return main(["train", source, "--data", given, "-o", str(out), *FEW, *words, "-q"])


@pytest.fixture(scope="module")
def made(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    assert train(home, out) == 0
    return out


def test_the_result_is_whole_and_sealed(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == [
        *("checkpoint.pt", "manifest.json", "measured.json", "model.onnx", "report.html", "report.json"),
        "training",
    ]
    assert manifest.verify_files(made).ok and manifest.read(made).target == "model"
    assert not made.with_name("out.partial").exists()
    report = change.read(made)
    assert change.ChangeReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    same = report.figure("parameters")
    assert same is not None and same.relative == 0 and "identity" in {f.what for f in report.figures}
    page = (made / "report.html").read_text()
    assert page.count("<svg") == 2 and "3 steps (all steps)" in page and "<script" not in page
    rows = (made / "training" / "steps.csv").read_text().splitlines()
    assert len(rows) == 4 and "seconds" not in rows[0]


def test_the_result_is_a_model_in_every_form(made: Path) -> None:
    """Folder, graph and checkpoint give the same outputs, and differ from the network before training."""
    from rubicc.ir.executor import execute

    signal = np.random.default_rng(0).normal(size=(2, 1, 150)).astype(np.float32)
    graph = read_model(made).graph
    assert graph is not None and read_model(made).name == "out"
    scores = execute(graph, {"x": signal})["y"]
    source = read_model(made / "checkpoint.pt")
    module = source.module
    assert module is not None and source.meta is not None and source.meta.arch == "demo-ctc"
    with torch.no_grad():
        assert np.abs(module(torch.from_numpy(signal)).numpy() - scores).max() < 1e-4
    assert main(["inspect", str(made), "-q"]) == 0


@pytest.mark.slow
def test_the_result_compiles_and_calls(made: Path, home: Path, tmp_path: Path) -> None:
    words = ["compile", str(made), "--target", "cpu", "--runtime", "onnxruntime", "--tune", "0", "-q"]
    assert main([*words, "-o", str(tmp_path / "art")]) == 0
    reads = ["basecall", str(made), str(home / "raw.npz"), "-q", "-o"]
    assert main([*reads, str(tmp_path / "calls.fastq")]) in (0, 3)  # it may call nothing yet


def test_a_graph_is_trained_through_its_twin(made: Path, home: Path, tmp_path: Path) -> None:
    """The result of a run is trained again, its first form as teacher; the checkpoint holds the graph."""
    from rubicc.ir.executor import execute

    out = tmp_path / "again"
    assert main(["train", str(made), "--teacher", str(home / "model.pt"), "--data", "simulated",
                 "-o", str(out), *FEW, "--lr", "0.01", "-q"]) == 0  # fmt: skip
    graph, again = read_model(out).graph, read_model(out / "checkpoint.pt")
    assert graph is not None and again.graph is not None and again.kind == "checkpoint"
    signal = np.random.default_rng(0).normal(size=(1, 1, 150)).astype(np.float32)
    scores = execute(graph, {"x": signal})["y"]
    assert np.array_equal(execute(again.graph, {"x": signal})["y"], scores)
    before = read_model(made).graph
    assert before is not None and np.abs(execute(before, {"x": signal})["y"] - scores).max() > 1e-4
    rows = (out / "training" / "steps.csv").read_text().splitlines()
    assert rows[1].split(",")[2] and rows[1].split(",")[3]  # task and distillation
    assert {d.code for d in change.read(out).decisions} == {"RUB-SHRINK-D05"}


def test_graph_checkpoints_are_read_with_care(tmp_path: Path, lowered_zoo: Callable[[str], Graph]) -> None:
    """Round trip in both forms; a damaged, foreign or lying graph is refused as an ONNX file would be."""
    graph = lowered_zoo("demo-ctc")
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"g{suffix}"
        checkpoint.save_graph(path, graph)
        found = read_model(path)
        assert found.graph is not None and found.meta == graph.meta
        assert [n.name for n in found.graph.nodes] == [n.name for n in graph.nodes]
        wanted = {n: v.const_value.numpy() for n, v in graph.ir.initializers.items()}  # type: ignore[union-attr]
        for name, value in found.graph.ir.initializers.items():
            assert np.array_equal(value.const_value.numpy(), wanted.pop(name))  # type: ignore[union-attr]
        assert not wanted
    tensors = to_tensors(graph)
    content = tensors[GRAPH_KEY]
    name = next(key for key in tensors if key != GRAPH_KEY)
    for change_of in (
        {GRAPH_KEY: content[: len(content) // 2]},
        {GRAPH_KEY: torch.zeros(100, dtype=torch.uint8)},
        {GRAPH_KEY: torch.zeros(0, dtype=torch.uint8)},
        {name: torch.zeros(1)},
    ):
        given = {**tensors, **change_of}
        with pytest.raises(ModelRefused) as caught:
            broken = from_tensors(given, graph.meta, tmp_path / "x.pt")  # type: ignore[arg-type]
            lower(Source("checkpoint", "x", "", meta=graph.meta, graph=broken), (), 0)
        assert caught.value.code.startswith(("RUB-READ-030", "RUB-IR-0"))


@pytest.mark.parametrize("data", ["chunks", "mapped.npz"])
def test_forms_of_data(home: Path, tmp_path: Path, data: str) -> None:
    assert train(home, tmp_path / "out", data=data) == 0


def test_raw_reads_and_a_teacher_of_another_kind(home: Path, tmp_path: Path) -> None:
    """A flip-flop teacher labels reads; a CTC student learns its calls, and both choices are said."""
    out = tmp_path / "out"
    assert train(home, out, "--teacher", str(home / "teacher.pt"), "--copies", "1", data="raw.npz") == 0
    report = change.read(out)
    assert {d.code for d in report.decisions} == {"RUB-SHRINK-D02", "RUB-SHRINK-D04"}
    assert "the teacher's calls" in report.figure("identity").how  # type: ignore[union-attr]
    assert manifest.read(out).inputs["teacher"] == read_model(home / "teacher.pt").sha256


def test_a_network_of_the_zoo_by_name(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(home, out, "--arch-config", str(home / "config.json"), model="demo-ctc") == 0
    assert change.read(out).decisions[0].code == "RUB-SHRINK-D01"


def test_from_python(home: Path, tmp_path: Path) -> None:
    settings = train_settings({"steps": 2, "batch": 2, "chunk": 150, "validation_items": 2}, off=True)
    assert settings.augment == OFF
    made = rubicc.train(home / "model.pt", out=tmp_path / "o", data=["simulated"], settings=settings)
    assert made is not None and made.path == tmp_path / "o" and "2 steps" in made.report.headline


def test_settings_from_a_file_and_flags_over_them(home: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("steps: 9\nlr: 0.5\nema: 0.9\naugment: {noise: 0.5}\n")
    out = tmp_path / "out"
    assert train(home, out, "--settings", str(tmp_path / "s.yaml"), "--lr", "0.01") == 0
    said = change.read(out).settings
    assert (said["steps"], said["lr"], said["ema"], said["augment noise"]) == (3, 0.01, 0.9, 0.5)


def test_json(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(home, tmp_path / "out", "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and document["result"]["verb"] == "train"


# ---- wrong calls


def nan_chunks(home: Path, tmp_path: Path) -> list[str]:
    folder = chunk_folder(tmp_path / "nan", samples=150, most=20)
    np.save(folder / "chunks.npy", np.full((40, 150), np.nan, np.float16))
    return ["--data", str(folder)]


def no_chunks(home: Path, tmp_path: Path) -> list[str]:
    return ["--data", str(chunk_folder(tmp_path / "none", count=0))]


def rna(home: Path, tmp_path: Path) -> list[str]:
    folder = chunk_folder(tmp_path / "rna", samples=150, most=20)
    np.save(folder / "references.npy", np.full((40, 20), 7, np.uint8))
    return ["--data", str(folder)]


def other_stride(home: Path, tmp_path: Path) -> list[str]:
    return ["--data", "simulated", "--teacher", str(home / "teacher.pt"), "--labels", "scores"]


def words(*given: str) -> Callable[[Path, Path], list[str]]:
    return lambda home, tmp_path: [text.replace("HOME", str(home)) for text in given]


def taken(home: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    return ["--data", "simulated"]


def foreign_partial(home: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    return ["--data", "simulated"]


CASES: dict[str, tuple[Callable[[Path, Path], list[str]], str, int, str]] = {
    "NaN in the data": (nan_chunks, "RUB-TRAIN-040", 5, "nan"),
    "no data": (no_chunks, "RUB-TRAIN-031", 2, "no usable chunks"),
    "another alphabet": (rna, "RUB-TRAIN-032", 2, "code 7"),
    "teacher of another stride": (other_stride, "RUB-TRAIN-025", 2, "--labels calls"),
    "no such data": (words("--data", "HOME/none"), "RUB-TRAIN-033", 2, "no such file"),
    "raw reads without teacher": (words("--data", "HOME/raw.npz"), "RUB-TRAIN-033", 2, "--teacher"),
    "reads too short": (
        words("--data", "HOME/mapped.npz", "--chunk", "90000"), "RUB-TRAIN-031", 2, "--chunk"
    ),
    "no such teacher": (words("--data", "simulated", "--teacher", "HOME/x"), "RUB-READ-001", 3, "x"),
    "no such layer": (
        words("--data", "simulated", "--teacher", "HOME/model.pt", "--feature", "blokcs.0=blocks.0"),
        "RUB-TRAIN-022", 2, "blocks.0",
    ),
    "features without teacher": (
        words("--data", "simulated", "--feature", "a=b"), "RUB-TRAIN-025", 2, "--teacher"
    ),
    "steps": (words("--data", "simulated", "--steps", "0"), "RUB-TRAIN-024", 2, "--steps"),
    "not a number": (words("--data", "simulated", "--lr", "fast"), "RUB-SHRINK-003", 2, "lr"),
    "a wrong word": (words("--data", "simulated", "--best", "luck"), "RUB-SHRINK-003", 2, "identity"),
    "stretch": (words("--data", "simulated", "--stretch", "2"), "RUB-TRAIN-023", 2, "stretch"),
    "output taken": (taken, "RUB-ART-001", 8, "out"),
    "foreign partial folder": (foreign_partial, "RUB-TRAIN-042", 8, "move it away"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_calls_are_named(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, code, exit_code, hint = CASES[name]
    given = make(home, tmp_path)
    out = tmp_path / "out"
    before = sorted(p.name for p in out.iterdir()) if out.exists() else None
    assert main(["train", str(home / "model.pt"), *FEW, *given, "-o", str(out), "-q"]) == exit_code
    said = capsys.readouterr().err
    assert code in said and hint in said, said
    assert (sorted(p.name for p in out.iterdir()) if out.exists() else None) == before


def test_unknown_keys_of_a_settings_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text("stepz: 9\n")
    assert train(home, tmp_path / "out", "--settings", str(tmp_path / "s.yaml")) == 2
    said = capsys.readouterr().err
    assert "RUB-SHRINK-003" in said and "'steps'" in said


def test_what_is_missing_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(home / "model.pt"), "-o", "x", "-q"]) == 2
    assert main(["train", str(home / "model.pt"), "--data", "simulated", "-q"]) == 2
    said = capsys.readouterr().err
    assert "--data" in said and "-o OUT" in said


def test_a_locked_folder_is_left_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train(home, tmp_path / "out") == 8
    assert "RUB-SHRINK-002" in capsys.readouterr().err


def test_other_settings_do_not_take_over_an_unfinished_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["train", str(home / "model.pt"), *FEW, *nan_after_two(home, tmp_path), "-o", str(out), "-q"])
        == 5
    )
    kept = (tmp_path / "out.partial" / "run" / "state.safetensors").read_bytes()
    assert train(home, out, "--lr", "0.5") == 8
    assert "RUB-TRAIN-042" in capsys.readouterr().err
    assert (tmp_path / "out.partial" / "run" / "state.safetensors").read_bytes() == kept
    assert train(home, out, "--lr", "0.5", "--force") == 0 and not (tmp_path / "out.partial").exists()
    assert train(home, out) == 8 and train(home, out, "--force") == 0


def nan_after_two(home: Path, tmp_path: Path) -> list[str]:
    """One chunk of four is not a number, and comes third or fourth: two steps of one item are done before."""
    folder = chunk_folder(tmp_path / "some", count=4, samples=150, most=20)
    chunks = np.load(folder / "chunks.npy")
    chunks[np.random.default_rng([0, 0]).permutation(4)[3]] = np.nan
    np.save(folder / "chunks.npy", chunks)
    valid = chunk_folder(tmp_path / "valid", count=4, samples=150, most=20)
    return [
        "--data",
        str(folder),
        "--validation",
        str(valid),
        "--batch",
        "1",
        "--steps",
        "4",
        "--save-every",
        "0",
    ]


@pytest.mark.slow
def test_a_killed_command_goes_on(home: Path, tmp_path: Path) -> None:
    """kill -9 of ``rubicc train`` itself; the same command ends with the files of an undisturbed run."""
    given = [
        str(home / "model.pt"),
        "--data",
        str(home / "mapped.npz"),
        *FEW,
        "--steps",
        "60",
        "--save-every",
        "0",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "rubicc", "train", *given, "-q", "-o"]
    out = tmp_path / "killed"
    process = subprocess.Popen([*words, str(out)], env=env)
    log = tmp_path / "killed.partial" / "run" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    for name in ("killed", "whole"):
        assert subprocess.run([*words, str(tmp_path / name)], env=env, timeout=240).returncode == 0
    for name in ("model.onnx", "checkpoint.pt", "training/steps.csv", "training/validation.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
