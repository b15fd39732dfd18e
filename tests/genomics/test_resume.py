"""Kill it anywhere: what was committed stays, and the output is the one of an uninterrupted run."""

from __future__ import annotations

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
from read_files import read_id, some_reads, write_multi, write_npz
from toy import META, decode, infer

from rubicc.errors import OutputExists
from rubicc.genomics import journal
from rubicc.genomics.engine import Settings, basecall
from rubicc.genomics.journal import Spool, partial_folder
from rubicc.genomics.reads import Limits

RUN = Path(__file__).with_name("toy_run.py")
READS = 24


@pytest.fixture
def reads(tmp_path) -> Path:
    folder = tmp_path / "reads"
    folder.mkdir()
    lengths = (1000 + 700 * (np.arange(READS) % 5)).tolist()
    write_multi(folder / "a.fast5", some_reads(lengths[:12]))
    write_npz(folder / "b.npz", some_reads(lengths[12:], first=12))
    (folder / "c.fast5").write_bytes(b"junk")
    return folder


def start(reads: Path, out: Path, seconds: float) -> subprocess.Popen[bytes]:
    search = [str(RUN.parent), str(RUN.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    return subprocess.Popen(
        [sys.executable, str(RUN), str(reads), str(out), str(seconds)], env=env, stderr=subprocess.PIPE
    )


def committed(out: Path) -> int:
    path = partial_folder(out) / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else -1


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


def end_after(process: subprocess.Popen[bytes], out: Path, commits: float, how: signal.Signals) -> None:
    """End it after so many whole commits and, for the fraction, at any time in the next one."""
    before = max(committed(out), 0)
    wait_for(lambda: process.poll() is not None or committed(out) >= before + int(commits))
    time.sleep(commits % 1 * 0.05)
    process.send_signal(how)
    process.communicate()


def uninterrupted(reads: Path, out: Path) -> bytes:
    basecall(infer, META, [reads], out, settings=Settings(batch=2), decode=decode, model_id="toy")
    return out.read_bytes()


def killed(reads: Path, out: Path, points: list[float], how: signal.Signals = signal.SIGKILL) -> None:
    """Ends the run after so many further commits, each time, checking what it leaves; then lets it finish."""
    landed = 0
    for point in points:
        process = start(reads, out, 0.03)
        end_after(process, out, point, how)
        if out.exists():  # it was quicker than we
            break
        landed += 1
        assert sorted(path.name for path in partial_folder(out).iterdir()) in (
            ["calls", "journal.jsonl"],
            ["journal.jsonl"],
        )
    process = start(reads, out, 0.0)
    _, errors = process.communicate()
    assert process.returncode == 0 or out.exists(), errors.decode()
    assert landed >= min(2, len(points)), "the run must be ended while it is under way"


@pytest.mark.parametrize("name", ["x.fastq", "x.bam"])
def test_kill_and_resume(reads, tmp_path, name) -> None:
    expected = uninterrupted(reads, tmp_path / f"expected.{name}")
    out = tmp_path / name
    killed(reads, out, [2, 5.5])
    assert sequences(out) == sequences(tmp_path / f"expected.{name}")
    if name.endswith("fastq"):
        assert out.read_bytes() == expected
    assert not partial_folder(out).exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kill_at_ten_random_points(reads, tmp_path, seed) -> None:
    expected = uninterrupted(reads, tmp_path / "expected.fastq")
    out = tmp_path / "x.fastq"
    rng = np.random.default_rng(seed)
    killed(reads, out, [*(rng.random(10) * 3).tolist()])
    assert out.read_bytes() == expected


def sequences(path: Path) -> list[tuple[str, str]]:
    from rubicc.genomics.evaluate import read_sequences

    return list(read_sequences(path))


def test_interrupt_leaves_a_resumable_state(reads, tmp_path) -> None:
    expected = uninterrupted(reads, tmp_path / "expected.fastq")
    out = tmp_path / "x.fastq"
    killed(reads, out, [3], signal.SIGINT)
    assert out.read_bytes() == expected


def _interrupted(reads: Path, out: Path, after: int = 8) -> None:
    """An unfinished run in this process."""
    calls = []

    def tired(x):
        calls.append(0)
        if len(calls) > after:
            wait_for(lambda: committed(out) >= 4)
            raise KeyboardInterrupt
        return infer(x)

    with pytest.raises(KeyboardInterrupt):
        basecall(
            tired,
            META,
            [reads],
            out,
            settings=Settings(batch=2, commit_seconds=0.0),
            decode=decode,
            model_id="toy",
        )
    assert partial_folder(out).is_dir() and not out.exists()


def _finish(reads: Path, out: Path, **changes):
    settings = changes.pop("settings", Settings(batch=2))
    meta = changes.pop("meta", META)
    changes.setdefault("model_id", "toy")
    return basecall(infer, meta, [reads], out, settings=settings, decode=decode, **changes)


@pytest.mark.parametrize("cut", ["data", "journal line", "whole line and data"])
def test_torn_writes_are_cut_off(reads, tmp_path, cut) -> None:
    expected = uninterrupted(reads, tmp_path / "expected.fastq")
    out = tmp_path / "x.fastq"
    _interrupted(reads, out)
    home = partial_folder(out)
    lines = (home / "journal.jsonl").read_bytes().splitlines(keepends=True)
    if cut == "data":
        with (home / "calls").open("ab") as file:
            file.write(b"@half a rec")
    elif cut == "journal line":
        (home / "journal.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:-7])
    else:
        (home / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    summary = _finish(reads, out)
    assert out.read_bytes() == expected and summary.resumed_reads > 0


def test_kill_between_last_commit_and_rename(reads, tmp_path, monkeypatch) -> None:
    expected = uninterrupted(reads, tmp_path / "expected.fastq")
    out = tmp_path / "x.fastq"
    for stage in ("before rename", "after rename"):
        real = journal.Spool.publish

        def die(spool, stage=stage):
            if stage == "after rename":
                os.replace(partial_folder(spool.out) / "calls", spool.out)
            raise KeyboardInterrupt

        monkeypatch.setattr(journal.Spool, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            _finish(reads, out)
        monkeypatch.setattr(journal.Spool, "publish", real)
        summary = _finish(reads, out)
        assert out.read_bytes() == expected and not partial_folder(out).exists()
        assert summary.reads == summary.resumed_reads == READS
        assert [problem.code for problem in summary.problems] == ["RUB-GEN-101"], "problems survive too"
        out.unlink()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_id": "other"}, "model"),
        ({"settings": Settings(batch=2, overlap=40)}, "settings"),
        ({"settings": Settings(batch=2, read_ids=[read_id(1)])}, "settings"),
        ({"settings": Settings(batch=2, limits=Limits(max_samples=10**6))}, "settings"),
        ({"inputs": "more"}, "inputs"),
    ],
)
def test_a_different_run_is_not_continued(reads, tmp_path, changes, named) -> None:
    out = tmp_path / "x.fastq"
    _interrupted(reads, out)
    if changes.pop("inputs", None):
        write_npz(reads / "z.npz", some_reads([500], first=90))
    before = (partial_folder(out) / "journal.jsonl").read_bytes()
    with pytest.raises(OutputExists) as caught:
        _finish(reads, out, **changes)
    assert caught.value.code == "RUB-GEN-142" and f"other {named}" in caught.value.what
    assert (partial_folder(out) / "journal.jsonl").read_bytes() == before
    summary = _finish(reads, out, force=True, **changes)
    assert summary.resumed_reads == 0 and len(sequences(out)) == summary.reads


def test_settings_that_do_not_change_calls_may_change(reads, tmp_path) -> None:
    out = tmp_path / "x.fastq"
    _interrupted(reads, out)
    assert _finish(reads, out, settings=Settings(batch=5, decode_threads=2)).resumed_reads > 0


def test_duplicates_are_still_found_after_a_resume(reads, tmp_path) -> None:
    write_multi(reads / "d.fast5", some_reads([1000]))
    out = tmp_path / "x.fastq"
    _interrupted(reads, out)
    summary = _finish(reads, out)
    assert [p.code for p in summary.problems] == ["RUB-GEN-101", "RUB-GEN-113"]
    names = [name for name, _ in sequences(out)]
    assert len(names) == len(set(names)) == READS


@pytest.mark.parametrize("content", ["a folder of ours", "another file's journal", "damaged journal"])
def test_a_folder_that_is_not_ours_is_left_alone(reads, tmp_path, content) -> None:
    out = tmp_path / "x.fastq"
    home = partial_folder(out)
    home.mkdir()
    (home / "precious.txt").write_text("keep")
    if content == "another file's journal":
        (home / "journal.jsonl").write_text(json.dumps({"format": "systemd"}) + "\n")
    elif content == "damaged journal":
        (home / "journal.jsonl").write_text("not json\nat all\n")
    for force in (False, True):
        with pytest.raises(OutputExists) as caught:
            _finish(reads, out, force=force)
        assert caught.value.code == "RUB-GEN-141"
    assert (home / "precious.txt").read_text() == "keep"


def test_data_shorter_than_promised(reads, tmp_path) -> None:
    out = tmp_path / "x.fastq"
    _interrupted(reads, out)
    os.truncate(partial_folder(out) / "calls", 10)
    with pytest.raises(OutputExists) as caught:
        _finish(reads, out)
    assert caught.value.code == "RUB-GEN-141"


@pytest.mark.parametrize("point", range(4))
def test_a_commit_interrupted_anywhere_is_repeated_whole(tmp_path, monkeypatch, point) -> None:
    """Ctrl-C before or after the data or the journal line is on the disk: the read stands there once."""
    out, calls = tmp_path / "x.fasta", []
    spool = Spool.open(out, {"a": "1"})
    spool.append("r0", b"zero", 1, 4)
    spool.commit(spool.take_pending())
    spool.append("r1", b"one", 1, 3)

    def interrupted(handle: int) -> None:
        calls.append(handle)
        if len(calls) == point // 2 + 1:
            if point % 2:
                fsync(handle)
            raise KeyboardInterrupt

    fsync = os.fsync
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.os, "fsync", interrupted)
        spool.commit(spool.take_pending())
    spool.commit(spool.take_pending())
    spool.append("r2", b"two", 1, 3)
    spool.commit(spool.take_pending())
    spool.close()
    again = Spool.open(out, {"a": "1"})
    assert (again.state.reads, again.state.samples, again.state.bases) == (3, 3, 10)
    assert again.state.done == {journal.read_key(f"r{i}") for i in range(3)}
    again.finish(b"", {})
    assert out.read_bytes() == b"zeroonetwo"


@pytest.mark.parametrize("left", ["empty folder", "empty journal", "torn first line"])
def test_a_kill_in_the_first_instant(reads, tmp_path, left) -> None:
    out = tmp_path / "x.fastq"
    home = partial_folder(out)
    home.mkdir()
    if left != "empty folder":
        (home / "journal.jsonl").write_text("" if left == "empty journal" else '{"format": "rub')
    assert _finish(reads, out).reads == READS


def test_two_processes_cannot_write_one_output(reads, tmp_path) -> None:
    out = tmp_path / "x.fastq"
    first = Spool.open(out, {"a": "1"})
    with pytest.raises(OutputExists) as caught:
        Spool.open(out, {"a": "1"})
    assert caught.value.code == "RUB-GEN-143"
    first.close()
    Spool.open(out, {"a": "1"}).close()


def test_a_full_disk_is_one_clean_error(reads, tmp_path, monkeypatch) -> None:
    from rubicc.errors import RubiccError

    def full(spool, data, entry):
        raise OSError(28, "No space left on device")

    out = tmp_path / "x.fastq"
    with monkeypatch.context() as patch, pytest.raises(RubiccError) as caught:
        patch.setattr(journal.Spool, "_extended", full)
        _finish(reads, out)
    assert caught.value.code == "RUB-GEN-146" and "No space" in caught.value.what
    assert _finish(reads, out).reads == READS
