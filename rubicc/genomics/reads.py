"""Reads of raw current: the one form every reader yields, the limits they keep, and walking over files.

A read file is hostile until shown otherwise. Every reader yields :class:`Read` for what it could read and
:class:`Problem` for what it could not; nothing else leaves it. fast5 and pod5 files are parsed in a child
process (:mod:`rubicc.genomics.isolation`), because the C++ libraries under both can abort the process.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.errors import ModelRefused, UsageError

READ_SUFFIXES = (".fast5", ".pod5", ".npz")
_MAGIC = {b"\x89HDF\r\n\x1a\n": "fast5", b"\x8bPOD\r\n\x1a\n": "pod5"}
_READ_ID = re.compile(r"[!-?A-~][!-~]{0,253}\Z")


@dataclass(frozen=True)
class Limits:
    """What one read may cost before it is refused.

    Attributes:
        max_samples: samples in one read. The longest DNA read published (4.2 Mb) has about 47 million.
        max_stored_chunks: storage chunks of one signal; genuine files stay in the hundreds.
        busy_seconds: processor time a child reader may spend without sending anything: some damaged HDF5
            files make the library loop for ever. The largest read allowed takes about 3.
        silence_seconds: wall time it may, which also ends it when the disk is what hangs.
        memory_bytes: memory a child reader may allocate.
    """

    max_samples: int = 64 << 20
    max_stored_chunks: int = 100_000
    busy_seconds: float = 20.0
    silence_seconds: float = 300.0
    memory_bytes: int = 4 << 30


@dataclass(frozen=True)
class Read:
    """One read as the sequencer stored it.

    Attributes:
        read_id: printable ASCII without spaces, at most 254 characters (the SAM rule for names).
        signal: raw samples, int16, shape ``(T,)``.
        offset, scale: ``picoampere = (signal + offset) * scale``.
        sampling_rate: Hz.
        source: path of the file it came from.
        start_sample: samples between the start of the run and the read, where the file says so.
        run_start: start of the run in ISO 8601, empty where unknown.
    """

    read_id: str
    signal: np.ndarray
    offset: float
    scale: float
    sampling_rate: float
    source: str = ""
    run_id: str = ""
    channel: int = 0
    mux: int = 0
    read_number: int = 0
    start_sample: int = 0
    run_start: str = ""

    def picoampere(self) -> np.ndarray:
        """The signal in picoampere, float32, shape ``(T,)``."""
        return (self.signal.astype(np.float32) + np.float32(self.offset)) * np.float32(self.scale)


@dataclass(frozen=True)
class Problem:
    """A file (``read_id`` empty) or a read that was left out, and why."""

    path: str
    read_id: str
    code: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.path} read {self.read_id}" if self.read_id else self.path
        return f"[{self.code}] {where}: {self.reason}"


class ReadRefused(ModelRefused):
    """A read or read file that cannot be used; carries what a :class:`Problem` says."""

    def problem(self, path: str, read_id: str = "") -> Problem:
        """The same facts as a :class:`Problem` of ``path``."""
        return Problem(path, read_id, self.code, self.what)


Wanted = Callable[[str], bool]
WantedFrom = Callable[[str, str], bool]
OnProblem = Callable[[Problem], None]


def make_read(
    read_id: str,
    signal: np.ndarray,
    *,
    offset: float,
    scale: float,
    sampling_rate: float,
    **facts: object,
) -> Read:
    """A checked :class:`Read`.

    Raises:
        ReadRefused: ``RUB-GEN-104`` (calibration or rate impossible), ``-105`` (not int16, not 1-D),
            ``-106`` (no samples), ``-110`` (unusable read id).
    """
    check_read_id(read_id)
    for name, value, low in (
        ("offset", offset, -1e9),
        ("scale", scale, 1e-9),
        ("sampling rate", sampling_rate, 1),
    ):
        if not np.isfinite(value) or not low <= value <= 1e9:
            raise ReadRefused("RUB-GEN-104", f"{name} is {value}, which no sequencer writes")
    if signal.dtype.kind != "i" or signal.dtype.itemsize != 2 or signal.ndim != 1:
        raise ReadRefused(
            "RUB-GEN-105", f"signal is {signal.dtype} of rank {signal.ndim}, not int16 of rank 1"
        )
    if signal.size == 0:
        raise ReadRefused("RUB-GEN-106", "signal has no samples")
    native = np.ascontiguousarray(signal, dtype=np.int16)
    return Read(read_id, native, float(offset), float(scale), float(sampling_rate), **facts)  # type: ignore[arg-type]


def check_read_id(read_id: str) -> str:
    """``read_id`` if it can stand in FASTQ and SAM, where a line break or space would forge records.

    Raises:
        ReadRefused: ``RUB-GEN-110``.
    """
    if not _READ_ID.match(read_id):
        raise ReadRefused("RUB-GEN-110", f"read id {read_id[:60]!r} is empty, too long or not printable")
    return read_id


def check_samples(count: int, limits: Limits) -> int:
    """``count`` if a read may hold so many samples.

    Raises:
        ReadRefused: ``RUB-GEN-106`` (none) or ``RUB-GEN-107`` (more than ``limits.max_samples``).
    """
    if count <= 0:
        raise ReadRefused("RUB-GEN-106", "signal has no samples")
    if count > limits.max_samples:
        raise ReadRefused("RUB-GEN-107", f"declares {count} samples, limit {limits.max_samples}")
    return count


def find_files(paths: Iterable[str | Path], *, recursive: bool = True) -> list[Path]:
    """Read files under ``paths``, in the order given, folders sorted by name, each file once.

    A folder contributes files with a read suffix or with the magic bytes of fast5 or pod5; a file named
    outright is always kept, so that it is read or refused by name.

    Raises:
        UsageError: ``RUB-GEN-100``: a path does not exist, or nothing at all was found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found.extend(_walk(path, recursive))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(
                "RUB-GEN-100", f"{path} does not exist", hint="give fast5, pod5 or npz files, or folders"
            )
    unique: dict[str, Path] = {}
    for path in found:
        unique.setdefault(os.path.realpath(path), path)
    if not unique:
        raise UsageError(
            "RUB-GEN-100",
            "no read files found under " + ", ".join(map(str, paths)),
            hint="fast5, pod5 and npz files are looked for"
            + ("" if recursive else "; --no-recursive was given"),
        )
    return list(unique.values())


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in READ_SUFFIXES or (_is_regular(path) and sniff(path) in _MAGIC.values()):
                yield path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def sniff(path: Path) -> str:
    """``fast5``, ``pod5``, ``npz`` or ``""``, by the first eight bytes of ``path``."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return ""
    return "npz" if head[:4] == b"PK\x03\x04" else _MAGIC.get(head, "")


def iter_reads(
    paths: Iterable[str | Path],
    *,
    recursive: bool = True,
    read_ids: Collection[str] | WantedFrom | None = None,
    on_problem: OnProblem | None = None,
    limits: Limits | None = None,
    isolate: bool = True,
) -> Iterator[Read]:
    """Every read under ``paths``, in a fixed order, holding one read in memory at a time.

    Args:
        read_ids: ids to yield, or a predicate of read id and path; other reads are passed over without
            decoding their signal.
        on_problem: told of every file and read left out. Without it the first problem raises.
        isolate: parse fast5 and pod5 in a child process, so that a file that crashes its library costs one
            file and not the run.

    Raises:
        UsageError: ``RUB-GEN-100``.
        ReadRefused: the first problem, when ``on_problem`` is None.
    """
    from rubicc.genomics.isolation import ReaderProcess

    choose = _predicate(read_ids)
    limits = limits or Limits()
    with ReaderProcess(limits) as child:
        for path in find_files(paths, recursive=recursive):
            kind = sniff(path) if _is_regular(path) else ""
            wanted = functools.partial(_choose, choose, str(path))
            items = child.read(path, kind, wanted) if isolate and kind in _MAGIC.values() else None
            for item in items or read_file(path, kind, wanted, limits):
                if isinstance(item, Read):
                    yield item
                elif on_problem is not None:
                    on_problem(item)
                else:
                    raise ReadRefused(item.code, item.reason, where=f"{item.path} {item.read_id}".strip())


def _predicate(read_ids: Collection[str] | WantedFrom | None) -> WantedFrom:
    if read_ids is None:
        return lambda read_id, path: True
    if callable(read_ids):
        return read_ids
    chosen = frozenset(read_ids)
    return lambda read_id, path: read_id in chosen


def _choose(choose: WantedFrom, path: str, read_id: str) -> bool:
    return choose(read_id, path)


def read_file(path: Path, kind: str, wanted: Wanted, limits: Limits) -> Iterator[Read | Problem]:
    """Reads and problems of one file of a sniffed ``kind``, parsed in this process."""
    if kind == "fast5":
        from rubicc.genomics.fast5 import read_fast5

        return read_fast5(path, wanted, limits)
    if kind == "pod5":
        from rubicc.genomics.pod5_reader import read_pod5

        return read_pod5(path, wanted, limits)
    if kind == "npz":
        from rubicc.genomics.npz_reads import read_npz

        return read_npz(path, wanted, limits)
    return iter((Problem(str(path), "", "RUB-GEN-101", _not_reads(path)),))


def _not_reads(path: Path) -> str:
    if not _is_regular(path):
        return "is not a regular file"
    if not os.access(path, os.R_OK):
        return "may not be read (permissions)"
    return f"is not a fast5, pod5 or npz file by its content ({path.stat().st_size} bytes)"
