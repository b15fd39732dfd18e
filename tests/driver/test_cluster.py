"""``basecall --engine ray``: refusals without Ray, and a real cluster of two workers, one of them killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from rubicc.cli.main import main
from rubicc.genomics.simulate import simulate_reads, write_reads

MODEL = Path(__file__).parents[2] / "rubicc" / "data" / "demo_ctc.pt"
FILES = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact and six files of reads, the last of which repeats one of the first."""
    home = tmp_path_factory.mktemp("cluster")
    words = ["compile", str(MODEL), "--target", "cpu", "--runtime", "onnxruntime", "--tune", "0", "-q"]
    assert main([*words, "-o", str(home / "art")]) == 0
    reads = simulate_reads(4 * FILES, seed=9, length=(400, 1500))
    (home / "reads").mkdir()
    for index in range(FILES):
        part = reads[4 * index : 4 * index + 4]
        write_reads(home / "reads" / f"{index}.npz", part if index < FILES - 1 else [reads[0], *part])
    return home


def test_without_ray_it_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["basecall", str(home / "art"), str(home / "reads"), "-o", str(tmp_path / "x.fastq")]
    assert main([*words, "--engine", "ray"]) == 7
    said = capsys.readouterr().err
    assert "RUB-DRV-012" in said and "pip install 'rubicc[ray]'" in said
    assert not (tmp_path / "x.fastq").exists()


def test_flags_of_ray_need_ray(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["basecall", str(home / "art"), str(home / "reads"), "-o", "x.fastq", "--workers", "2"]) == 2
    assert "RUB-CLI-016" in capsys.readouterr().err


def _basecall(home: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "rubicc",
        "basecall",
        str(home / "art"),
        str(home / "reads"),
        "-o",
        str(out),
    ]
    tail = ["--threads", "1", "--format", "json", *words]
    return subprocess.Popen([*command, *tail], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _kill_a_busy_worker(run: subprocess.Popen[str], killed: list[int]) -> None:
    """kill -9 for the first worker of ``run`` that holds an unfinished file of the output."""
    while run.poll() is None and not killed:
        for child in _children(run.pid):
            try:
                busy = any("calls" in Path(file.path).name for file in child.open_files())
                if busy and "ray::" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    return
            except (psutil.Error, ProcessLookupError):
                continue
        time.sleep(0.002)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["fastq", "bam"])
def test_two_workers_write_what_one_machine_writes_though_one_is_killed(
    home: Path, tmp_path: Path, suffix: str
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'rubicc[ray]')")
    one = _basecall(home, tmp_path / f"one.{suffix}")
    said, err = one.communicate(timeout=200)
    assert one.returncode == 3, err
    many = _basecall(home, tmp_path / f"many.{suffix}", "--engine", "ray", "--workers", "2")
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_busy_worker, args=(many, killed))
    killer.start()
    told, err = many.communicate(timeout=200)
    killer.join()
    assert many.returncode == 3, err
    assert killed, "no worker was caught at work"
    first, second = json.loads(said)["result"], json.loads(told)["result"]
    for name in ("reads", "samples", "bases", "problem_count"):
        assert first[name] == second[name], name
    assert first["reads"] == 4 * FILES and first["problem_count"] == 1
    if suffix == "fastq":
        assert (tmp_path / "many.fastq").read_bytes() == (tmp_path / "one.fastq").read_bytes()
    else:
        assert _records(tmp_path / "many.bam") == _records(tmp_path / "one.bam")


def _records(path: Path) -> list[str]:
    import pysam

    with pysam.AlignmentFile(str(path), check_sq=False) as bam:
        return [record.to_string() for record in bam]
