"""Where calls wait until a run is complete: ``OUT.partial/`` with a data file and a journal beside it.

A commit makes the data durable first and then adds one journal line with the length of the data and the reads
in it, so after any kill the last whole journal line says what is safe: the data is cut there and the run goes
on with the reads it does not name. ``OUT`` itself appears once, by a rename, when everything is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rubicc.errors import OutputExists, UsageError

_FORMAT = "rubicc-journal"
_JOURNAL = "journal.jsonl"
_DATA = "calls"


def read_key(read_id: str) -> int:
    """16 bytes that stand for a read id in sets of millions."""
    return int.from_bytes(hashlib.blake2b(read_id.encode(), digest_size=16).digest(), "little")


@dataclass
class State:
    """What a journal says is safe."""

    offset: int = 0
    journal_bytes: int = 0
    reads: int = 0
    samples: int = 0
    bases: int = 0
    done: set[int] = field(default_factory=set)
    finished: dict[str, Any] | None = None


class Spool:
    """An output in the making. Open with :meth:`open`, then ``append``, ``commit`` and at last ``finish``."""

    def __init__(self, out: Path, state: State, journal: IO[bytes], data: IO[bytes] | None) -> None:
        self.out = out
        self.state = state
        self._journal = journal
        self._data = data
        self._pending: list[bytes] = []
        self._ids: list[str] = []
        self._samples = 0
        self._bases = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of records appended since the last commit."""
        return sum(map(len, self._pending))

    @classmethod
    def open(cls, out: Path, identity: Mapping[str, str], *, force: bool = False) -> Spool:
        """Start ``out``, or go on where an earlier run with the same ``identity`` was stopped.

        Args:
            identity: names of what must not change between the parts of one output, with a hash each.
            force: replace an existing ``out``; throw away an unfinished run with another identity.

        Raises:
            OutputExists: ``RUB-GEN-140`` (``out`` exists), ``-141`` (``OUT.partial`` is not ours), ``-142``
                (it belongs to a different run), ``-143`` (another process is writing it).
            UsageError: ``RUB-GEN-145``: the folder of ``out`` does not exist or takes no files.
        """
        home = partial_folder(out)
        if (out.exists() or out.is_symlink()) and not out.is_file():
            raise OutputExists("RUB-GEN-140", f"{out} is not a regular file", hint="choose another output")
        if not home.exists() or _is_empty(home):
            _refuse_existing(out, force)
            _create(home, out)
        elif not (home / _JOURNAL).is_file() or home.is_symlink():
            hint = "move it away, or choose another output"
            raise OutputExists("RUB-GEN-141", f"{home} exists and is no unfinished run of rubicc", hint=hint)
        journal = _locked(home / _JOURNAL)
        try:
            state = _recover(journal, identity, home, force)
            if state.finished is None:
                _refuse_existing(out, force)
        except BaseException:
            journal.close()
            raise
        spool = cls(out, state, journal, None)
        if state.finished is None:
            spool._data = _cut(home / _DATA, state.offset)
        return spool

    def append(self, read_id: str, record: bytes, samples: int, bases: int) -> None:
        """One read's record; safe only after the next :meth:`commit`."""
        self._pending.append(record)
        self._ids.append(read_id)
        self._samples += samples
        self._bases += bases

    def start(self, header: bytes) -> None:
        """Write ``header`` if nothing has been written yet."""
        if self.state.offset == 0 and header:
            self._extend(header)
            self._log({"offset": self.state.offset, "ids": [], "samples": 0, "bases": 0})

    def take_pending(self) -> bytes:
        """The appended records in one piece, for packing; :meth:`commit` must follow."""
        return b"".join(self._pending)

    def commit(self, packed: bytes) -> None:
        """Make the appended reads, whose file form is ``packed``, safe."""
        if not self._ids:
            return
        self._extend(packed)
        self._log(
            {"offset": self.state.offset, "ids": self._ids, "samples": self._samples, "bases": self._bases}
        )
        self.state.reads += len(self._ids)
        self.state.samples += self._samples
        self.state.bases += self._bases
        self._pending, self._ids, self._samples, self._bases = [], [], 0, 0

    def finish(self, trailer: bytes, totals: Mapping[str, Any]) -> None:
        """Complete the file, give it its name and remove the journal."""
        self._extend(trailer)
        self.state.finished = dict(totals)
        self._log({"offset": self.state.offset, "finished": self.state.finished})
        self.publish()

    def publish(self) -> None:
        """Rename the finished data to ``out``; also finishes what a kill interrupted right here."""
        home = partial_folder(self.out)
        self.close()
        if (home / _DATA).exists():
            os.replace(home / _DATA, self.out)
            _sync_folder(self.out.parent)
        shutil.rmtree(home)

    def close(self) -> None:
        """Let go of the files; what is committed stays."""
        if self._data is not None:
            self._data.close()
        self._journal.close()

    def abandon(self) -> None:
        """Close after a failure. Where no read is safe there is nothing to go on with, so nothing is left."""
        try:
            if self.state.reads == 0:
                shutil.rmtree(partial_folder(self.out))
        finally:
            self.close()

    def _extend(self, data: bytes) -> None:
        assert self._data is not None
        self._data.write(data)
        self._data.flush()
        os.fsync(self._data.fileno())
        self.state.offset += len(data)

    def _log(self, entry: Mapping[str, Any]) -> None:
        self._journal.write(_line(entry))
        self._journal.flush()
        os.fsync(self._journal.fileno())


def partial_folder(out: Path) -> Path:
    """Where ``out`` is prepared."""
    return out.with_name(out.name + ".partial")


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _refuse_existing(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise OutputExists(
            "RUB-GEN-140", f"{out} exists", hint="choose another name, or --force to replace it"
        )


def _is_empty(home: Path) -> bool:
    """An empty folder is what a kill leaves in the instant before the journal exists."""
    return home.is_dir() and not home.is_symlink() and not any(home.iterdir())


def _create(home: Path, out: Path) -> None:
    try:
        home.mkdir(exist_ok=True)
        (home / _JOURNAL).touch()
        _sync_folder(home)
        _sync_folder(home.parent)
    except OSError as err:
        what = f"cannot write beside {out}: {err.strerror}"
        raise UsageError("RUB-GEN-145", what, hint="create the folder, or choose another output") from err


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(path: Path) -> IO[bytes]:
    journal = path.open("r+b")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        journal.close()
        raise OutputExists("RUB-GEN-143", f"another process is writing {path.parent}") from err
    return journal


def _recover(journal: IO[bytes], identity: Mapping[str, str], home: Path, force: bool) -> State:
    """Read the journal, cut what a kill left half-written, and leave it open at its end."""
    first = journal.readline()
    head = _parse(first)
    state = State()
    if head is not None and head.get("format") != _FORMAT:
        raise OutputExists("RUB-GEN-141", f"{home} exists and is no unfinished run of rubicc")
    if head is None or _is_other(head, identity, home, force):
        if head is None and journal.read(1):
            raise OutputExists(
                "RUB-GEN-141", f"{home} holds a damaged journal", hint="remove the folder to start over"
            )
        _rewrite(journal, _line({"format": _FORMAT, "version": 1, "identity": dict(identity)}))
        return state
    state.journal_bytes = len(first)
    for raw in journal:
        entry = _parse(raw)
        if entry is None:
            break
        state.journal_bytes += len(raw)
        state.offset = entry["offset"]
        state.finished = entry.get("finished")
        ids = entry.get("ids", [])
        state.reads += len(ids)
        state.done.update(map(read_key, ids))
        state.samples += entry.get("samples", 0)
        state.bases += entry.get("bases", 0)
    _verify_data(home, state)
    journal.seek(state.journal_bytes)
    journal.truncate()
    return state


def _parse(raw: bytes) -> dict[str, Any] | None:
    """A journal line, or None when a kill cut it short."""
    if not raw.endswith(b"\n"):
        return None
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _is_other(head: Mapping[str, Any], identity: Mapping[str, str], home: Path, force: bool) -> bool:
    known = head.get("identity", {})
    changed = [name for name in sorted({*known, *identity}) if known.get(name) != identity.get(name)]
    if changed and not force:
        raise OutputExists(
            "RUB-GEN-142",
            f"{home} is an unfinished run with other {', '.join(changed)}",
            hint="give what it was started with to go on, or --force to throw it away and start over",
        )
    return bool(changed)


def _rewrite(journal: IO[bytes], line: bytes) -> None:
    journal.seek(0)
    journal.truncate()
    journal.write(line)
    journal.flush()
    os.fsync(journal.fileno())


def _verify_data(home: Path, state: State) -> None:
    data = home / _DATA
    if state.finished is None and state.offset and (not data.is_file() or data.stat().st_size < state.offset):
        raise OutputExists(
            "RUB-GEN-141",
            f"{data} is shorter than the {state.offset} bytes its journal promises",
            hint="remove the folder to start over",
        )


def _cut(path: Path, offset: int) -> IO[bytes]:
    data = path.open("r+b" if path.exists() else "w+b")
    data.truncate(offset)
    data.seek(offset)
    return data
