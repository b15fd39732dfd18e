"""kill -9 at random points of a compilation: the older artefact or the new one, whole; nothing piles up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rubicc.evidence import manifest as manifests

RUBICC = [sys.executable, "-m", "rubicc"]


@pytest.mark.slow
def test_kill_at_ten_random_points_of_compile(tmp_path: Path) -> None:
    flags = ["--target", "cpu", "--runtime", "onnxruntime", "--threads", "1", "-q"]
    subprocess.run([*RUBICC, "models", "create", "demo-ctc", "-o", "m.pt"], cwd=tmp_path, check=True)
    subprocess.run([*RUBICC, "compile", "m.pt", *flags, "-o", "first"], cwd=tmp_path, check=True)
    model = "first/cpu_gpu/model.onnx"
    command = [*RUBICC, "compile", model, *flags, "-o", "out", "--force"]
    start = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True)
    whole = time.monotonic() - start
    digest = manifests.read(tmp_path / "out").content_sha256
    rng, killed = random.Random(11), 0
    for i in range(10):
        # Half of the kills fall into the last fifth, where the files are written and swapped.
        delay = rng.uniform(0.8, 1.02) * whole if i % 2 else rng.uniform(0.05, 0.8) * whole
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert manifests.verify_files(tmp_path / "out").ok
        assert manifests.read(tmp_path / "out").content_sha256 == digest
    assert killed >= 5
    subprocess.run(command, cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path)) == ["first", "m.pt", "out"]


@pytest.mark.slow
def test_kill_before_there_is_an_artefact_leaves_none(tmp_path: Path) -> None:
    subprocess.run([*RUBICC, "models", "create", "demo-ctc", "-o", "m.pt"], cwd=tmp_path, check=True)
    for delay in (0.1, 1.0, 2.5):
        process = subprocess.Popen(
            [*RUBICC, "compile", "m.pt", "--target", "cpu", "-o", "out"],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out").exists()
