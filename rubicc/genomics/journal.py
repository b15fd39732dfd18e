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
from dataclasses import dataclass, field, replace
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
    """What a journal says is safe; ``done`` are the reads that were when it was opened."""

    offset: int = 0
    journal_bytes: int = 0
    reads: int = 0
    samples: int = 0
    bases: int = 0
    done: set[int] = field(default_factory=set)
    finished: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Record:
    read_id: str
    record: bytes
    samples: int
    bases: int


class Spool:
    """An output in the making. Open with :meth:`open`, then ``append``, ``commit`` and at last ``finish``."""

    def __init__(self, out: Path, state: State, journal: IO[bytes], data: IO[bytes] | None) -> None:
        self.out = out
        self.state = state
        self.pending_bytes = 0
        self._journal = journal
        self._data = data
        self._pending: list[_Record] = []

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
        self._pending.append(_Record(read_id, record, samples, bases))
        self.pending_bytes += len(record)

    def start(self, header: bytes) -> None:
        """Write ``header`` if nothing has been written yet."""
        if self.state.offset == 0 and header:
            self.state = self._extended(header, {"ids": [], "samples": 0, "bases": 0})

    def take_pending(self) -> bytes:
        """The appended records in one piece, for packing; :meth:`commit` must follow."""
        return b"".join(item.record for item in self._pending)

    def commit(self, packed: bytes) -> None:
        """Make the appended reads, whose file form is ``packed``, safe.

        Interrupted anywhere (Ctrl-C), it may be called again: either nothing of it happened or all did.
        """
        if not self._pending:
            return
        facts = {
            "ids": [item.read_id for item in self._pending],
            "samples": sum(item.samples for item in self._pending),
            "bases": sum(item.bases for item in self._pending),
        }
        made = self._extended(packed, facts)
        # Two stores without a call between them: Python handles signals at calls.
        self.state, self._pending = made, []
        self.pending_bytes = 0

    def finish(self, trailer: bytes, totals: Mapping[str, Any]) -> None:
        """Complete the file, give it its name and remove the journal."""
        self.state = self._extended(trailer, {"finished": dict(totals)})
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

    def _extended(self, data: bytes, entry: Mapping[str, Any]) -> State:
        """The state once ``data`` and then the journal line that vouches for it are on the disk.

        Both are written behind what the present state vouches for, over whatever an interrupted call left.
        """
        assert self._data is not None
        made = _with_entry(self.state, {"offset": self.state.offset + len(data), **entry})
        line = _line({"offset": made.offset, **entry})
        made.journal_bytes += len(line)
        for file, at, new in (
            (self._data, self.state.offset, data),
            (self._journal, self.state.journal_bytes, line),
        ):
            file.seek(at)
            file.truncate()
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        return made


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
        first = _line({"format": _FORMAT, "version": 1, "identity": dict(identity)})
        _rewrite(journal, first)
        state.journal_bytes = len(first)
        return state
    state.journal_bytes = len(first)
    for raw in journal:
        entry = _parse(raw)
        if entry is None:
            break
        state.done.update(map(read_key, entry.get("ids", ())))
        state = _with_entry(state, entry)
        state.journal_bytes += len(raw)
    _verify_data(home, state)
    journal.seek(state.journal_bytes)
    journal.truncate()
    return state


def _with_entry(state: State, entry: Mapping[str, Any]) -> State:
    return replace(
        state,
        offset=entry["offset"],
        finished=entry.get("finished"),
        reads=state.reads + len(entry.get("ids", ())),
        samples=state.samples + entry.get("samples", 0),
        bases=state.bases + entry.get("bases", 0),
    )


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
