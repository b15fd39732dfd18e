"""Reads on disk in the one form the data sets draw from: flat memory-mapped arrays, exact and small.

Signal files are parsed once (fast5 and pod5 in a child process, as everywhere), and their raw samples written
end to end as int16 with two numbers per read: ``x = (sample - centre) * gain`` is the network's input. Mapped
reads add their bases and edges. What is there is reused when it was made from the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.genomics import normalise
from rubicc.genomics.reads import Problem, Read, ReadRefused, iter_reads
from rubicc.spec import ModelMeta, SignalSpec
from rubicc.training.data.mapped import MappedRead, is_mapped, iter_mapped
from rubicc.training.data.stream import letter_codes

_INDEX = np.dtype(
    [
        ("start", "<i8"),
        ("samples", "<i8"),
        ("centre", "<f8"),
        ("gain", "<f8"),
        ("base", "<i8"),
        ("bases", "<i8"),
    ]
)
_PARTS: dict[str, np.dtype] = {
    "dac": np.dtype("<i2"),
    "reference": np.dtype("u1"),
    "edges": np.dtype("<i8"),
    "index": _INDEX,
}
_DONE = "store.json"


@dataclass(frozen=True)
class Store:
    """The arrays of :mod:`rubicc.training.data.store`, mapped.

    Attributes:
        index: per read: first sample and number of samples, centre and gain, first base and number of bases.
        mapped: whether bases are known.
        problems: files and reads left out.
    """

    folder: Path
    index: np.ndarray
    dac: np.ndarray
    reference: np.ndarray
    edges: np.ndarray
    mapped: bool
    problems: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def samples(self) -> int:
        """Of all reads."""
        return len(self.dac)

    def signal(self, read: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """Normalised samples ``[first, last)`` of a read, float32."""
        row = self.index[read]
        start, stop = int(row["start"]), int(row["start"] + row["samples"])
        raw = self.dac[start + first : stop if last is None else min(start + last, stop)]
        return (raw.astype(np.float32) - np.float32(row["centre"])) * np.float32(row["gain"])

    def bases(self, read: int) -> tuple[np.ndarray, np.ndarray]:
        """Bases of a read (1 = first letter) and their edges in samples."""
        row = self.index[read]
        first, count = int(row["base"]), int(row["bases"])
        # Each read has one more edge than bases, so its edges begin as much later as there are reads before.
        place = first + read
        return self.reference[first : first + count], self.edges[place : place + count + 1]


def open_store(
    paths: list[Path],
    meta: ModelMeta,
    folder: Path,
    *,
    letters: str,
    mapped: bool,
    decisions: list[Decision] | None = None,
) -> Store:
    """The store of ``paths`` in ``folder``, made first where it is not there or was made of other files.

    Args:
        paths: read files (folders are walked), or mapped files.
        letters: bases of the network, in its order.
        mapped: take bases and edges.
        decisions: told what was left out.

    Raises:
        UsageError: ``RUB-TRAIN-031`` no usable reads, ``RUB-TRAIN-032`` bases the network has no letter for.
    """
    assert meta.signal is not None
    said = _identity(paths, meta.signal, letters, mapped)
    done = folder / _DONE
    if not done.is_file() or json.loads(done.read_text("utf-8")).get("identity") != said:
        problems = _write(paths, meta.signal, folder, letters, mapped)
        partial = done.with_suffix(".tmp")
        partial.write_text(json.dumps({"identity": said, "problems": problems}), encoding="utf-8")
        os.replace(partial, done)
    problems = int(json.loads(done.read_text("utf-8"))["problems"])
    parts = {name: _map(folder / f"{name}.bin", dtype) for name, dtype in _PARTS.items()}
    if not len(parts["index"]):
        raise UsageError(
            "RUB-TRAIN-031",
            f"no usable reads ({problems} left out)",
            where=", ".join(path.name for path in paths)[:200],
            hint="give fast5, pod5, npz or mapped-signal files of the network's sampling rate",
        )
    if problems and decisions is not None:
        what = f"{problems} reads or files left out, {len(parts['index'])} used"
        decisions.append(
            Decision("RUB-TRAIN-D21", paths[0].name, what, "they could not be read; see the log")
        )
    return Store(folder, parts["index"], parts["dac"], parts["reference"], parts["edges"], mapped, problems)


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")


def _identity(paths: list[Path], spec: SignalSpec, letters: str, mapped: bool) -> str:
    text = f"{spec} {letters} {mapped}"
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            facts = file.stat()
            text += f"\n{file.name} {facts.st_size} {facts.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def _write(paths: list[Path], spec: SignalSpec, folder: Path, letters: str, mapped: bool) -> int:
    """Write the arrays; the number of reads and files left out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    problems: list[Problem] = []
    normalise.check_spec(spec)
    samples = bases = 0
    files = {name: (folder / f"{name}.bin").open("wb") for name in _PARTS}
    try:
        for found in _found(paths, spec, mapped, problems):
            read = found.read if isinstance(found, MappedRead) else found
            try:
                normalise.check_rate(read, spec)
                scaling = normalise.scaling(read, spec)
            except ReadRefused as err:
                problems.append(err.problem(read.source, read.read_id))
                continue
            centre, gain = scaling.shift / read.scale - read.offset, read.scale / scaling.scale
            count = 0
            if isinstance(found, MappedRead):
                codes = _codes(found.letters, letters, paths)
                count = len(found.reference)
                files["reference"].write(codes[found.reference].tobytes())
                files["edges"].write(found.edges.astype("<i8").tobytes())
            row = (samples, len(read.signal), centre, gain, bases, count)
            files["index"].write(np.array([row], _INDEX).tobytes())
            files["dac"].write(read.signal.astype("<i2").tobytes())
            samples, bases = samples + len(read.signal), bases + count
    finally:
        for file in files.values():
            file.close()
    _log(problems)
    return len(problems)


def _found(
    paths: list[Path], spec: SignalSpec, mapped: bool, problems: list[Problem]
) -> Iterable[MappedRead | Read]:
    if not mapped:
        yield from iter_reads(paths, on_problem=problems.append)
        return
    for path in mapped_files(paths):
        for found in iter_mapped(path, spec.sampling_rate):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                yield found


def mapped_files(paths: list[Path]) -> list[Path]:
    """The mapped-signal files among ``paths``, folders walked by name."""
    inside = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths]
    return [file for files in inside for file in files if is_mapped(file)]


def _codes(theirs: str, mine: str, paths: list[Path]) -> np.ndarray:
    if not set(theirs) <= set(mine):
        raise UsageError(
            "RUB-TRAIN-032",
            f"the data holds bases of {theirs!r}, the network's alphabet is {mine!r}",
            where=paths[0].name,
            hint="give data or a network of the other alphabet",
        )
    return letter_codes(theirs, mine)


def _log(problems: list[Problem]) -> None:
    import logging

    log = logging.getLogger("rubicc.training")
    for problem in problems[:20]:
        log.warning("left out: %s", problem)
