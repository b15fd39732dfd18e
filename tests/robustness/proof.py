"""Runs a trial and judges it: exit code, error, nothing executed, nothing left, no traceback, bounded cost.

A worker forks twice per trial: one child writes the input, one per command line runs the command. Both come
from a process that has imported torch and the rest but started no thread, so a trial costs what the command
itself does. With ``fresh`` the command is a new ``python -m rubicc`` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
import resource
import runpy
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trials import CANARY, Bench, Trial

MAX_PEAK_MB = 1500
MAX_DATA = 4 << 30
MAX_SECONDS = 60.0
WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
CODE = re.compile(r"(?:error\[|left out: \[)(RUB-[A-Z]+-\d+)\]")
REACHES = frozenset(
    [
        *("socket.connect", "socket.getaddrinfo", "urllib.Request", "subprocess.Popen"),
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"),
    ]
)
Snapshot = dict[str, tuple[Any, ...]]


@dataclass
class Outcome:
    """What a trial got; it passed when ``wrong`` is empty."""

    name: str
    form: str
    verbs: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    message: str = ""
    executed: bool = False
    live: bool | None = None
    left: list[str] = field(default_factory=list)
    traceback: bool = False
    peak_mb: float = 0.0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True)
class Ended:
    """A child that ended: exit status (negative = signal), peak memory in MB, seconds, its streams."""

    status: int
    peak_mb: float
    seconds: float
    out: str = ""
    err: str = ""
    late: bool = False


def prove(trial: Trial, home: Path, shared: Bench, *, fresh: bool = False) -> Outcome:
    """Run ``trial`` in the new folder ``home`` and judge it."""
    bench = Bench(home / "cwd", shared.artefact, shared.good, shared.calls)
    for name in ("cwd/input", "tmp", "user", "log"):
        (home / name).mkdir(parents=True)
    (bench.cwd / "canary.txt").write_bytes(CANARY)
    outcome = Outcome(trial.name, trial.form)
    made = _in_child(lambda: json.dumps([list(line) for line in trial.make(bench)]), home, "make")
    if made.status != 0:
        outcome.wrong.append(f"the trial could not be made: {made.err.strip().splitlines()[-1:]}")
        return outcome
    before = snapshot(home)
    for line in json.loads((home / "log" / "make.result").read_text()):
        ended = (_fresh if fresh else _forked)(trial, home, line)
        _judge(trial, line, ended, outcome)
    _judge_folder(trial, bench, home, before, outcome)
    if trial.live is not None:
        _in_child(lambda: str(trial.live and trial.live(bench)), home, "live")
        outcome.live = bench.marker.is_dir()
        if not outcome.live:
            outcome.wrong.append("control: the payload does not work")
    return outcome


def snapshot(home: Path) -> Snapshot:
    """Every path below ``home`` but the logs, with type, size, time and digest."""
    found: Snapshot = {}
    for folder, folders, files in os.walk(home):
        if folder == str(home):
            folders.remove("log")
        for name in [*folders, *files]:
            path = Path(folder, name)
            facts = path.lstat()
            kind = stat.S_IFMT(facts.st_mode)
            key = str(path.relative_to(home))
            if kind == stat.S_IFREG:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha1").hexdigest()
                found[key] = (kind, facts.st_size, facts.st_mtime_ns, digest)
            else:
                found[key] = (kind, os.readlink(path) if kind == stat.S_IFLNK else "")
    return found


def _judge(trial: Trial, line: Sequence[str], ended: Ended, outcome: Outcome) -> None:
    verb = line[0] if line else "(none)"
    codes = CODE.findall(ended.err)
    outcome.verbs.append(verb)
    outcome.exits.append(ended.status)
    outcome.codes += [code for code in codes if code not in outcome.codes]
    outcome.peak_mb = max(outcome.peak_mb, ended.peak_mb)
    outcome.seconds = max(outcome.seconds, ended.seconds)
    errors = [text for text in ended.err.splitlines() if CODE.search(text)]
    outcome.message = outcome.message or (errors[-1] if errors else "")
    wrong: list[str] = []
    if ended.late:
        wrong.append(f"still running after {MAX_SECONDS:g} s")
    if ended.status != trial.exit_code:
        wrong.append(f"exit {ended.status}, not {trial.exit_code}")
    if trial.codes and not trial.codes & set(codes):
        wrong.append(f"printed {codes or 'no code'}, not {' or '.join(sorted(trial.codes))}")
    if not trial.codes and codes:
        wrong.append(f"printed {codes}")
    if "Traceback (most recent call last)" in ended.err + ended.out:
        outcome.traceback = True
        wrong.append("a traceback")
    if CANARY.decode() in ended.err + ended.out:
        wrong.append("the canary's content came out")
    if any((ord(c) < 32 and c not in "\n\t") or c in "\x7f\u202e" for c in ended.err + ended.out):
        wrong.append("control characters reached the terminal")
    if ended.peak_mb > MAX_PEAK_MB:
        wrong.append(f"{ended.peak_mb:.0f} MB")
    wrong += _judge_document(trial, ended)
    outcome.wrong += [f"{verb}: {text}" for text in wrong]


def _judge_document(trial: Trial, ended: Ended) -> list[str]:
    """Under --format json stdout is one document, whose error says what is wrong and how to mend it."""
    try:
        document = json.loads(ended.out)
    except ValueError:
        return [] if ended.late else [f"stdout is no JSON document: {ended.out[:80]!r}"]
    if document.get("ok") is not (ended.status == 0) and "result" not in document:
        return ["the document contradicts the exit code"]
    error = document.get("error")
    if error is None:
        return []
    wrong = []
    if error["exit_code"] != ended.status:
        wrong.append("the document contradicts the exit code")
    if not error["what"] or not error["hint"]:
        wrong.append(f"the message does not say how to mend it: {error['what'][:90]}")
    return wrong


def _judge_folder(trial: Trial, bench: Bench, home: Path, before: Snapshot, outcome: Outcome) -> None:
    after = snapshot(home)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    # torch makes this empty folder for its compiler, once per user, when some of its modules are imported.
    changed = [key for key in changed if not re.fullmatch(r"tmp/torchinductor_\w+", key)]
    results = {f"cwd/{name}" for name in trial.leaves}
    outcome.left = [
        key for key in changed if not any(key == path or key.startswith(path + "/") for path in results)
    ]
    outcome.executed = bench.marker.exists() or any("EXECUTED" in key for key in outcome.left)
    if outcome.executed:
        outcome.wrong.append("THE PAYLOAD RAN")
    if outcome.left:
        outcome.wrong.append(f"left or changed {', '.join(outcome.left[:4])}")
    if (reached := home / "log" / "reached").exists():
        outcome.wrong.append("reached out: " + reached.read_text().splitlines()[0])
    if complaint := trial.after(bench):
        outcome.wrong.append(complaint)


def _environment(trial: Trial, home: Path) -> dict[str, str]:
    # Not what importing rubicc here has set either: a command must switch telemetry off by itself.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RUBICC_", "ORT_"))}
    own = {
        "HOME": str(home / "user"),
        "XDG_CACHE_HOME": str(home / "user"),
        # The two things that are kept for the user by intent: measured choices and compiled kernels.
        "RUBICC_CACHE": "0",
        "CXX": "no-compiler",
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(home / "cwd" / "input"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    return kept | own | {key: value.replace("{cwd}", str(home / "cwd")) for key, value in trial.env.items()}


def _limit(trial: Trial) -> None:
    """A command that would eat the machine fails its trial and spares the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA, MAX_DATA))
    if trial.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trial.file_bytes, trial.file_bytes))


def _watch(record: Path) -> None:
    """Note every attempt to reach the network or to start a program; the read parser is the one allowed."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in REACHES or (event == "subprocess.Popen" and "rubicc.genomics.read_worker" in args[1]):
            return
        with open(record, "a") as file:
            file.write(f"{event} {str(args)[:200]}\n")

    sys.addaudithook(hook)


def _command(line: Sequence[str]) -> list[str]:
    return [*line, "--format", "json"]


def _fresh(trial: Trial, home: Path, line: Sequence[str]) -> Ended:
    with open(home / "log/out", "wb") as out, open(home / "log/err", "wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "rubicc", *_command(line)],
            cwd=home / "cwd",
            env=_environment(trial, home),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=lambda: _limit(trial),
        )
    return _await(child.pid, home, "")


def _forked(trial: Trial, home: Path, line: Sequence[str]) -> Ended:
    def run() -> None:
        os.environ.clear()
        os.environ.update(_environment(trial, home))
        tempfile.tempdir = None
        os.chdir(home / "cwd")
        # As `python -m rubicc` in that folder with that PYTHONPATH would have it.
        sys.path[:] = [str(home / "cwd"), str(home / "cwd" / "input"), *sys.path]
        sys.dont_write_bytecode = True
        _limit(trial)
        _watch(home / "log" / "reached")
        sys.argv = ["rubicc", *_command(line)]
        runpy.run_module("rubicc", run_name="__main__", alter_sys=True)

    return _await(_fork(run, home, ""), home, "")


def _in_child(work: Callable[[], str], home: Path, name: str) -> Ended:
    """Run ``work`` in a child, its text into ``log/NAME.result``: writing a case imports and warns."""

    def run() -> None:
        text = work()
        (home / "log" / f"{name}.result").write_text(text)

    return _await(_fork(run, home, name + "."), home, name + ".")


def _fork(run: Callable[[], None], home: Path, prefix: str) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # what the parent must clean up
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(
                os.open(home / "log" / (prefix + name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number
            )
        try:
            run()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _await(pid: int, home: Path, prefix: str) -> Ended:
    """Wait for a child, ending its whole session when it is late; memory is its and its children's peak."""
    start = time.perf_counter()
    handle = os.pidfd_open(pid)
    late = not select.select([handle], [], [], MAX_SECONDS)[0]
    os.close(handle)
    if late:
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # a reader child that outlived its parent
    out, err = ((home / "log" / (prefix + name)).read_text(errors="replace") for name in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024, seconds, out, err, late)


def remove(home: Path) -> None:
    """Delete a trial's folder."""
    shutil.rmtree(home, ignore_errors=True)
