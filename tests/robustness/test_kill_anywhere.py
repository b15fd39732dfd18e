"""kill -9 and Ctrl-C at random moments of the real command: nothing half-written, nothing lost or repeated.

Moments are drawn from a seed; half of those of ``compile`` fall where its files are sealed and swapped in,
those of ``basecall`` before, at and between commits. Two each here, ten each under ``-m slow``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rubicc.evidence import manifest as manifests

RUBICC = [sys.executable, "-m", "rubicc"]
FLAGS = ("--target", "cpu", "--runtime", "onnxruntime", "--threads", "1")
READS, LENGTH = 120, 1300
COMMIT_SECONDS = 2.0  # what rubicc.genomics.settings.Settings says


def environment(home: Path) -> dict[str, str]:
    (home / "tmp").mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RUBICC_")}
    return kept | {"TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}


def ok(home: Path, *args: str) -> dict[str, Any]:
    result = subprocess.run(
        [*RUBICC, *args, "--format", "json"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout)["result"]


def start(home: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*RUBICC, *args], cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> tuple[int, str]:
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.decode()


def wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    while process.poll() is None and not ready():
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network, compiled; its ONNX file is a MODEL that is read without torch."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "model.pt").write_bytes((files("rubicc") / "data" / "demo_ctc.pt").read_bytes())
    ok(folder, "compile", "model.pt", *FLAGS, "-o", "artefact")
    return folder


# ---- compile


def compile_line(seed: int = 0) -> tuple[str, ...]:
    return ("compile", "artefact/cpu_gpu/model.onnx", *FLAGS, "--seed", str(seed), "-o", "out", "--force")


def sealing(home: Path) -> bool:
    """Whether the manifest, which is written last, is there and the swap is about to happen."""
    return any((path / "manifest.json").exists() for path in home.glob(".out.tmp-*"))


def kill_compile(home: Path, points: int, *, verify_each: bool) -> int:
    rng = random.Random(20)
    began = time.monotonic()
    digests = {ok(home, *compile_line())["content_sha256"]}
    whole = time.monotonic() - began
    landed = 0
    for point in range(points):
        if point % 2 == 0:  # over nothing; else over what the last run left
            shutil.rmtree(home / "out", ignore_errors=True)
        old = manifests.read(home / "out").content_sha256 if (home / "out").exists() else None
        process = start(home, *compile_line(seed=point % 2))
        if point % 2 == (point // 2) % 2:
            time.sleep(rng.uniform(0.1, 0.9) * whole)
        else:
            wait(process, lambda: sealing(home))
            time.sleep(rng.uniform(0.0, 0.02))
        landed += end(process, signal.SIGKILL)[0] == -signal.SIGKILL
        if (home / "out").exists():
            assert manifests.verify_files(home / "out").ok
            if verify_each:
                assert ok(home, "verify", "out")["gaps"]
        else:
            assert old is None, "the older artefact is lost"
    final = ok(home, *compile_line())
    assert final["content_sha256"] in digests
    assert ok(home, "verify", "out")["files"]["checked"] >= 9
    assert not list(home.glob(".*")), "the next run removes what killed ones left"
    assert not [path for path in (home / "tmp").iterdir() if "torchinductor" not in path.name]
    return landed


def test_compile_killed_at_two_points(home: Path) -> None:
    assert kill_compile(home, 2, verify_each=False) >= 1


@pytest.mark.slow
def test_compile_killed_at_ten_points(home: Path) -> None:
    assert kill_compile(home, 10, verify_each=True) >= 6


def test_compile_interrupted_leaves_nothing(home: Path) -> None:
    before = sorted(os.listdir(home))
    for _ in range(6):
        process = start(home, "compile", "artefact/cpu_gpu/model.onnx", *FLAGS, "-o", "never")
        wait(process, lambda: any(home.glob(".never.tmp-*")))
        code, errors = end(process, signal.SIGINT)
        if not (home / "never").exists():
            break
        shutil.rmtree(home / "never")  # it had been done before the signal came: the rest takes 0.1 s
    assert (code, "error[RUB-CLI-022]" in errors) == (130, True), errors
    assert "Traceback" not in errors
    assert sorted(os.listdir(home)) == before


def test_an_interrupt_of_an_import_is_an_exit_code() -> None:
    """A plain KeyboardInterrupt that passes an exec would end the interpreter by the signal afterwards."""
    lines = "import sys; from rubicc.cli import main as m\ntry: exec('m._interrupt(2, None)')\n"
    lines += "except KeyboardInterrupt: sys.exit(130)"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 130


# ---- basecall


@pytest.fixture(scope="module")
def reads(home: Path) -> Path:
    """Three files of simulated reads, and the calls of a run that nothing disturbs."""
    from rubicc.genomics.simulate import simulate_reads, write_reads

    folder = home / "reads"
    folder.mkdir()
    simulated = simulate_reads(READS, seed=3, length=(LENGTH - 300, LENGTH + 300))
    for index in range(3):
        write_reads(folder / f"{index}.npz", simulated[index::3])
    ok(home, *basecall_line("expected.fastq"))
    return folder


def basecall_line(out: str) -> tuple[str, ...]:
    return ("basecall", "artefact", "reads", "-o", out, "--threads", "1")


def commits(home: Path, out: str) -> int:
    path = home / f"{out}.partial" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def writing(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether the process has ``path`` open (an earlier, killed run may have left the file)."""
    handles = Path(f"/proc/{process.pid}/fd")
    try:
        return any(os.readlink(handle) == str(path.resolve()) for handle in handles.iterdir())
    except OSError:  # a handle or the process has gone meanwhile
        return False


def stop_basecall(home: Path, out: str, after: int, delay: float, how: signal.Signals) -> tuple[int, str]:
    """End a run ``delay`` seconds after it has made ``after`` commits of its own (0: after it has begun).

    A commit is due when some seconds have passed since the last, however little was done in them, so the run
    is held for that long instead of being given more to do.
    """
    before = commits(home, out) or 1  # the journal's head is a line too
    process = start(home, *basecall_line(out))
    wait(process, lambda: writing(process, home / f"{out}.partial" / "calls"))
    while process.poll() is None and commits(home, out) < before + after:
        time.sleep(0.1)  # some work, and time to notice that a commit is due
        if commits(home, out) < before + after:
            process.send_signal(signal.SIGSTOP)
            time.sleep(COMMIT_SECONDS + 0.05)
            process.send_signal(signal.SIGCONT)
    time.sleep(delay)
    result = end(process, how)
    if (home / out).exists():  # an output appears when it is complete
        assert (home / out).read_bytes() == (home / "expected.fastq").read_bytes()
    return result


def names(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()[::4]]


def finish(home: Path, out: str) -> dict[str, Any]:
    """Let the run end and compare it with the undisturbed one."""
    value = ok(home, *basecall_line(out))
    assert (home / out).read_bytes() == (home / "expected.fastq").read_bytes()
    assert len(names(home / out)) == len(set(names(home / out))) == value["reads"] == READS
    assert not (home / f"{out}.partial").exists()
    return value


@pytest.mark.slow
def test_basecall_killed_twice_and_interrupted(home: Path, reads: Path) -> None:
    rng = random.Random(21)
    out = "killed.fastq"
    assert stop_basecall(home, out, 0, rng.uniform(0.0, 0.3), signal.SIGKILL)[0] == -signal.SIGKILL
    assert stop_basecall(home, out, 1, rng.uniform(0.0, 0.1), signal.SIGKILL)[0] == -signal.SIGKILL
    assert sorted(os.listdir(home / f"{out}.partial")) == ["calls", "journal.jsonl"]
    code, errors = stop_basecall(home, out, 0, 0.05, signal.SIGINT)
    assert (code, "error[RUB-CLI-022]" in errors) == (130, True), errors
    assert "Traceback" not in errors
    assert finish(home, out)["resumed_reads"] > 0


def test_basecall_interrupted_at_once_leaves_nothing_or_what_can_go_on(home: Path, reads: Path) -> None:
    before = sorted(os.listdir(home))
    code, _ = stop_basecall(home, "never.fastq", 0, 0.0, signal.SIGINT)
    assert code == 130 and sorted(set(os.listdir(home)) - set(before)) in ([], ["never.fastq.partial"])
    finish(home, "never.fastq")


@pytest.mark.slow
def test_basecall_killed_at_ten_points(home: Path, reads: Path) -> None:
    rng = random.Random(22)
    for attempt, plan in enumerate([(0, 0, 1), (1, 0, 0), (0, 1), (0, 0)]):
        out = f"slow{attempt}.fastq"
        for after in plan:
            code, _ = stop_basecall(home, out, after, rng.uniform(0.0, 0.3), signal.SIGKILL)
            assert code in (-signal.SIGKILL, 0)
        if not (home / out).exists():
            finish(home, out)
        assert (home / out).read_bytes() == (home / "expected.fastq").read_bytes()
