"""fast5 and pod5 files are parsed in a child process.

The Arrow library under pod5 aborts the whole process on some damaged files (one in about 900 of our mutated
ones), and HDF5 has had its share. In a child with a memory limit that costs one file, named and counted, and
the next file gets a new child. As a side effect decompression runs beside the caller, free of its lock.

Frames on the pipe, both ways: length (uint32), JSON. The parent sends ``{"path", "kind"}`` per file and
``{"want": bool}`` per read; the child sends ``{"read_id"}`` (is it wanted?), ``{"read": facts, "bytes": n}``
followed by the samples, ``{"problem": [...]}``, and ``{"end": true}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from rubicc.genomics.reads import Limits, Problem, Read, Wanted

HEADER = struct.Struct("<I")


def _processor_seconds(pid: int) -> float:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


class ReaderDied(Exception):
    """The child ended or fell silent in the middle of a file."""


def send(file: IO[bytes], message: dict[str, Any], raw: bytes | memoryview = b"") -> None:
    """One frame, and the raw bytes that follow it."""
    text = json.dumps(message).encode()
    file.write(HEADER.pack(len(text)) + text)
    if raw:
        file.write(raw)
    file.flush()


class ReaderProcess:
    """A child that parses read files; started with the first file, replaced after a crash.

    Used as a context manager; leaving it ends the child.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> ReaderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> int | None:
        """End the child; its exit status, or None when there was none."""
        child, self._child = self._child, None
        if child is None:
            return None
        status = child.poll()
        if status is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        self._errors = None
        return status

    def read(self, path: Path, kind: str, wanted: Wanted) -> Iterator[Read | Problem]:
        """Reads and problems of ``path``; a crash or silence of the child becomes one :class:`Problem`."""
        try:
            child = self._start()
            assert child.stdin is not None
            send(child.stdin, {"path": str(path), "kind": kind})
            yield from self._items(child, wanted)
        except (ReaderDied, BrokenPipeError) as err:
            reason = self._autopsy(err)
            yield Problem(str(path), "", "RUB-GEN-112", f"reader failed on this file: {reason}")
        except BaseException:
            self.close()  # the two sides no longer agree on where they are in the file
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is not None:
            return self._child
        package_home = str(Path(__file__).resolve().parents[2])
        search = [package_home, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "rubicc.genomics.read_worker", json.dumps(asdict(self.limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            bufsize=0,
        )
        return self._child

    def _items(self, child: subprocess.Popen[bytes], wanted: Wanted) -> Iterator[Read | Problem]:
        """Asks for the next read before handing out this one, so that both sides work at the same time."""
        assert child.stdin is not None
        ready: Read | None = None
        while True:
            try:
                message = self._frame(child)
            except ReaderDied:
                if ready is not None:
                    yield ready
                raise
            if "read_id" in message:
                send(child.stdin, {"want": wanted(message["read_id"])})
            if ready is not None:
                yield ready
                ready = None
            if "read" in message:
                signal = np.empty(message["bytes"] // 2, np.int16)
                self._fill(child, signal.data.cast("B"))
                ready = Read(signal=signal, **message["read"])
            elif "problem" in message:
                yield Problem(*message["problem"])
            elif "end" in message:
                return

    def _frame(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        head = bytearray(HEADER.size)
        self._fill(child, memoryview(head))
        text = bytearray(HEADER.unpack(head)[0])
        self._fill(child, memoryview(text))
        return json.loads(text)

    def _fill(self, child: subprocess.Popen[bytes], target: memoryview) -> None:
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        while target:
            if not select.select([descriptor], [], [], 0)[0]:
                self._wait(descriptor, child.pid)
            got = os.readv(descriptor, [target])
            if got == 0:
                raise ReaderDied("")
            target = target[got:]

    def _wait(self, descriptor: int, pid: int) -> None:
        """Until there is something to read; gives up on a child that works or sleeps too long."""
        began, worked = time.monotonic(), _processor_seconds(pid)
        while not select.select([descriptor], [], [], min(1.0, self.limits.silence_seconds))[0]:
            for limit, spent, doing in (
                (self.limits.silence_seconds, time.monotonic() - began, "no progress"),
                (self.limits.busy_seconds, _processor_seconds(pid) - worked, "busy without a result"),
            ):
                if spent >= limit:
                    raise ReaderDied(f"{doing} for {limit:g} s")

    def _autopsy(self, err: Exception) -> str:
        if self._child is not None and not str(err):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
        words = self._last_words()
        status = self.close()
        if status is None:
            return str(err) or "ended"
        return (f"died of signal {-status}" if status < 0 else f"exit status {status}") + words

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1][:160]})" if lines else ""
