"""Killed by kill -9 and run again, or shared by two processes: the same result as of one quiet run."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rubicc.cli.main import main
from rubicc.ir.io import save_graph
from rubicc.shrink.chain_record import LOCK
from tests.training.twin_zoo import net

TOGETHER = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="needs the extra train-distributed"
)
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
RUBICC = ("-m", "rubicc")
PAIR = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *RUBICC)
TRAIN = ("--chunk", "120", "--warmup", "1", "--validation-items", "2")
LONG = ("--data", "simulated", *TRAIN, "--batch", "2", "--steps", "40", "--validate-every", "20")

# What is run, and the part of OUT.partial in which it is killed.
KILLED = {
    "train": (("train", "ctc.onnx"), "run"),
    "skipclip": (("skipclip", "ctc.onnx", "--recalibrate", "1"), "stage2"),
    "skipclip by importance": (("skipclip", "ctc.onnx", "--order", "importance"), "stage1"),
    "prune": (("prune", "ctc.onnx", "--macs", "60%", "--rounds", "2"), "round2"),
    "prune weights": (("prune", "gru.onnx", "--sparsity", "60%", "--rounds", "2"), "round1"),
    "quantize": (("quantize", "ctc.onnx", "--bits", "4"), "run"),
    "quantize by budget": (("quantize", "ctc.onnx", "--weights-mean-bits", "5", "--widths", "4,8"), "run"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for name, short in (("demo-ctc", "ctc"), ("taiyaki-mgru", "gru"), ("dna-bert", "bert")):
        save_graph(net(name).raw, folder / f"{short}.onnx")
    save_graph(net("dna-bert").cleaned, folder / "teacher.onnx")
    rng = np.random.default_rng(0)
    tokens = {"input_ids": rng.integers(0, 50, (32, 24)), "attention_mask": np.ones((32, 24), np.int64)}
    np.savez(folder / "rows.npz", **tokens, labels=rng.integers(0, 50, (32, 24)))
    return folder


def run(home: Path, out: Path, *words: str) -> None:
    """A command in this process, where torch has been imported."""
    with contextlib.chdir(home):
        assert main([*words, "--threads", "1", "-q", "-o", str(out)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", KILLED)
def test_a_killed_run_ends_as_one_that_was_not(what: str, home: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a part of the training; the same command then gives the same bytes."""
    words, part = KILLED[what]
    out, whole = tmp_path / "out", tmp_path / "whole"
    state = tmp_path / "out.partial" / part / "state.safetensors"
    command = [sys.executable, *RUBICC, *words, *LONG, "--save-every", "0", "--threads", "1", "-o", str(out)]
    process = subprocess.Popen(command, cwd=home, env=ENV, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    log = (state.parent / "steps.csv").read_text().splitlines()
    assert 2 <= len(log) < 40 and not out.exists(), "in the middle of a part"
    for place in (out, whole):
        run(home, place, *words, *LONG)
    assert not (tmp_path / "out.partial").exists()
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    same = [name for name in names if name not in ("manifest.json", "measured.json")]
    same = [name for name in same if not name.startswith("report.")]  # they hold times
    assert {"model.onnx", "checkpoint.pt"} < set(same) and any(name.startswith("training/") for name in same)
    for name in same:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


ROWS = ("--data", "rows.npz", "--validation", "rows.npz", "--teacher", "teacher.onnx", "--alpha", "0.5")
NOISE = ("--data", "simulated")
SHARED = {
    "prune": ("prune", "gru.onnx", "--ratio", "50%", "--rounds", "2", *NOISE),
    "prune by taylor": (
        *("prune", "gru.onnx", "--ratio", "50%", "--rounds", "2", *NOISE),
        *("--importance", "taylor", "--taylor-items", "8"),
    ),
    "prune weights": ("prune", "gru.onnx", "--sparsity", "50%", *NOISE),
    "prune by movement": (
        *("prune", "gru.onnx", "--sparsity", "50%", *NOISE),
        *("--weights", "movement", "--movement-steps", "3"),
    ),
    "skipclip": ("skipclip", "bert.onnx", "--stride", "2", *ROWS),
    "skipclip by importance": ("skipclip", "bert.onnx", "--order", "importance", *ROWS),
    "quantize": ("quantize", "gru.onnx", "--bits", "4", *NOISE),
    "quantize by budget": (
        *("quantize", "gru.onnx", "--weights-mean-bits", "5", *NOISE),
        *("--widths", "4,8", "--no-refine"),
    ),
}


def torchrun(home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A command in two processes."""
    command = [sys.executable, *PAIR, *words, "--threads", "1", "-q"]
    return subprocess.run(command, cwd=home, env=ENV, capture_output=True, timeout=280)


@pytest.mark.slow
@TOGETHER
@pytest.mark.parametrize("what", SHARED)
def test_two_processes_are_one_with_twice_the_batch(what: str, home: Path, tmp_path: Path) -> None:
    """torchrun (gloo): one result, and the weights of one process with the doubled batch."""
    words = (*SHARED[what], *TRAIN, "--steps", "6", "--validate-every", "3", "--lr", "0.003")
    done = torchrun(home, *words, "--batch", "2", "-o", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    run(home, tmp_path / "one", *words, "--batch", "4")
    run(home, tmp_path / "half", *words, "--batch", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "one", "two"]
    two, one, half = (weights(tmp_path / name / "model.onnx") for name in ("two", "one", "half"))
    assert two.keys() == one.keys() and sum(array.size for array in one.values()) > 500
    assert gap(two, one) < 5e-6
    assert gap(half, one) > 50 * gap(two, one), "the check sees a difference"


RECIPE = """\
version: 1
model: gru.onnx
data: simulated
training: {{batch: {batch}, chunk: 120, steps: 4, warmup: 1, validate_every: 2, validation_items: 2}}
steps:
  - prune: {{name: plain, data: null, ratio: 25%}}
  - prune: {{ratio: 50%, importance: taylor, taylor_items: 8}}
  - quantize: {{bits: 6}}
  - compile: {{target: cpu, runtime: onnxruntime, tune: 0}}
"""


@pytest.mark.slow
@TOGETHER
def test_a_chain_in_two_processes_is_one_with_twice_the_batch(home: Path, tmp_path: Path) -> None:
    for batch in (2, 4):
        (home / f"chain{batch}.yaml").write_text(RECIPE.format(batch=batch))
    two, one = tmp_path / "two", tmp_path / "one"
    for did in ("ran", "reused"):
        done = torchrun(home, "chain", "chain2.yaml", "-o", str(two), "--format", "json")
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        told = json.loads(done.stdout)["result"]["steps"]  # one document, of one process
        assert [step["did"] for step in told] == [did] * 4
    run(home, one, "chain", "chain4.yaml")
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    assert (two / LOCK).is_file() and (two / "4-compile" / "manifest.json").is_file()
    for folder in ("1-plain", "2-prune", "3-quantize"):
        found, expected = (weights(out / folder / "model.onnx") for out in (two, one))
        assert found.keys() == expected.keys() and gap(found, expected) < 5e-6


@pytest.mark.slow
@TOGETHER
def test_a_fault_of_one_process_ends_all(home: Path, tmp_path: Path) -> None:
    """What only the first process meets is told once, and the others wait for nothing."""
    partial = tmp_path / "out.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = torchrun(home, *SHARED["prune"], *TRAIN, "--steps", "4", "-o", str(tmp_path / "out"))
    said = done.stderr.decode()
    assert done.returncode == 1 and said.count("error[RUB-SHRINK-002]") == 1
    assert "RUB-CLI-900" not in said and "exitcode  : 8" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


def weights(path: Path) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.float32}


def gap(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """Root mean square. (AdamW blows the rounding of a gradient near 0 up to its rate, in single weights.)"""
    apart = [(some[name] - others[name]).ravel() for name in some if name in others]
    return float(np.sqrt(np.mean(np.concatenate(apart, dtype=np.float64) ** 2)))
