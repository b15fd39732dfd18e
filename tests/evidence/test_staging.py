"""Staged output: an older artefact survives everything, and nothing half-written is ever visible."""

from __future__ import annotations

import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rubicc.errors import OutputExists, UsageError
from rubicc.evidence import manifest as manifests
from rubicc.evidence import staging
from rubicc.evidence.manifest import Manifest
from rubicc.evidence.staging import StagedDir, StagedFile, recover, scratch


def build(target: Path, text: str, *, force: bool = False) -> None:
    with StagedDir(target, force=force) as staged:
        (staged.path / "cpu_gpu").mkdir()
        (staged.path / "cpu_gpu" / "model.onnx").write_text(text)
        (staged.path / "report.html").write_text(f"took {time.time()}")
        staged.commit(Manifest(target="cpu"), {"seconds": time.time()})


def content(target: Path) -> str:
    assert manifests.verify_files(target).ok
    return (target / "cpu_gpu" / "model.onnx").read_text()


def litter(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_new_artefact_and_replacement(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, "one")
    assert content(out) == "one" and litter(tmp_path) == []
    build(out, "two", force=True)
    assert content(out) == "two" and litter(tmp_path) == []


def test_same_content_same_bytes_except_volatile(tmp_path: Path) -> None:
    build(tmp_path / "a", "x")
    build(tmp_path / "b", "x")
    for name in ("manifest.json", "cpu_gpu/model.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "measured.json").read_bytes() != (tmp_path / "b" / "measured.json").read_bytes()
    assert manifests.read(tmp_path / "a").content_sha256 == manifests.read(tmp_path / "b").content_sha256


def test_failure_and_missing_commit_keep_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, "old")
    with pytest.raises(KeyboardInterrupt), StagedDir(out, force=True) as staged:
        (staged.path / "half").write_text("half")
        raise KeyboardInterrupt
    with StagedDir(out, force=True) as staged:
        (staged.path / "half").write_text("half")
    assert content(out) == "old" and litter(tmp_path) == []


def test_refusals(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    ours = tmp_path / "ours"
    build(ours, "old")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(ours)
    for target, force, code in [
        (foreign, False, "RUB-ART-001"),
        (foreign, True, "RUB-ART-001"),
        (tmp_path / "file", True, "RUB-ART-001"),
        (tmp_path / "link", True, "RUB-ART-001"),
        (ours, False, "RUB-ART-002"),
    ]:
        with pytest.raises(OutputExists) as error:
            build(target, "new", force=force)
        assert (error.value.code, error.value.exit_code) == (code, 8)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert content(ours) == "old"


def test_manifest_of_another_tool_is_not_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text('{"tool": "webpack", "schema_version": 1, "files": {}}')
    with pytest.raises(OutputExists) as error:
        build(out, "new", force=True)
    assert error.value.code == "RUB-ART-001"


def test_files_somebody_added_are_not_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, "old")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists) as error:
        build(out, "new", force=True)
    assert error.value.code == "RUB-ART-003" and "notes.txt" in error.value.what
    assert (out / "notes.txt").read_text() == "mine"


def test_an_artefact_of_another_version_can_be_replaced(tmp_path: Path) -> None:
    """Its manifest cannot be read as ours, but it says which files are."""
    out = tmp_path / "out"
    build(out, "old")
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match=r"RUB-ART-003.*notes"):
        build(out, "new", force=True)
    (out / "notes.txt").unlink()
    build(out, "new", force=True)
    assert content(out) == "new"


def test_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build(tmp_path / "out", "new")
    assert content(tmp_path / "out") == "new"


def test_missing_and_readonly_parent(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        build(tmp_path / "no" / "out", "x")
    assert error.value.code == "RUB-ART-004"


def test_without_exchange_the_fallback_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_exchange", lambda a, b: False)
    build(tmp_path / "out", "old")
    build(tmp_path / "out", "new", force=True)
    assert content(tmp_path / "out") == "new" and litter(tmp_path) == []


def test_fallback_killed_between_renames_is_recovered(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, "old")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    aside = tmp_path / f".out.old-{dead.pid}-{staging._host_id()}00000000"
    os.rename(out, aside)
    assert recover(out) and content(out) == "old" and not recover(out)


def test_leftovers_of_dead_processes_go_and_of_live_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = staging._host_id()
    gone = tmp_path / f".out.tmp-{dead.pid}-{host}00000000"
    live = tmp_path / f".out.tmp-{os.getppid()}-{host}00000000"
    elsewhere = tmp_path / f".out.tmp-{dead.pid}-0123456700000000"
    users = tmp_path / ".out.tmp-mine"
    for folder in (gone, live, elsewhere, users):
        folder.mkdir()
    build(tmp_path / "out", "x")
    assert not gone.exists() and live.exists() and elsewhere.exists() and users.exists()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from evidence.test_staging import build
if {fallback}:
    from rubicc.evidence import staging
    staging._exchange = lambda a, b: False
print("ready", flush=True)
for i in range(100000):
    build(Path({out!r}), "new" * 1000, force=True)
"""


@pytest.mark.parametrize("fallback", [False, True])
def test_kill_at_random_points_leaves_a_whole_artefact(tmp_path: Path, fallback: bool) -> None:
    rng = random.Random(7)
    out = tmp_path / "out"
    build(out, "old")
    tests = str(Path(__file__).parents[1])
    code = KILLED.format(tests=tests, out=str(out), fallback=fallback)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if fallback:
            recover(out)
        assert content(out) in ("old", "new" * 1000)
    build(out, "last", force=True)
    assert content(out) == "last" and litter(tmp_path) == []


def test_staged_file(tmp_path: Path) -> None:
    out = tmp_path / "calls.fasta"
    with StagedFile(out, mode="w") as file:
        file.write(">r\nACGT\n")
        assert not out.exists()
    assert out.read_text() == ">r\nACGT\n"
    with pytest.raises(OutputExists) as error, StagedFile(out):
        pass
    assert error.value.code == "RUB-ART-002"
    with pytest.raises(RuntimeError), StagedFile(out, force=True) as file:
        file.write(b"half")
        raise RuntimeError
    assert out.read_text() == ">r\nACGT\n" and litter(tmp_path) == []
    with StagedFile(out, force=True) as file:
        file.write(b"whole")
    assert out.read_text() == "whole"


def test_staged_file_refuses_links_folders_and_late_arrivals(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(OutputExists) as error, StagedFile(tmp_path / name, force=True):
            pass
        assert error.value.code == "RUB-ART-001"
    late = tmp_path / "late"
    with pytest.raises(OutputExists), StagedFile(late) as file:
        file.write(b"ours")
        late.write_text("theirs")
    assert late.read_text() == "theirs"


def test_scratch_folders_of_killed_runs_are_removed_and_others_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = """if True:
        import os
        from rubicc.evidence.staging import scratch
        with scratch() as home:
            print(home, flush=True)
            os._exit(9)
    """
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    left = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    killed = Path(left.stdout.strip())
    assert killed.is_dir() and killed.parent == tmp_path
    other = tmp_path / "rubicc-1-elsewhere"
    other.mkdir()
    alive = tmp_path / re.sub(r"\d+", str(os.getpid()), killed.name, count=1)
    alive.mkdir()
    with scratch() as home:
        assert home.is_dir() and stat.S_IMODE(home.stat().st_mode) == 0o700
        assert not killed.exists() and other.exists() and alive.exists()
    assert not home.exists()
