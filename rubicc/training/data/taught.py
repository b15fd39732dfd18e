"""Raw reads labelled by a teacher beforehand: copies of each read, changed in time, with its scores.

The scores of whole copies lie in one memory-mapped file (float16), the teacher's calls beside them, so a
training step costs no run of the teacher. Items are cut at frames of the copy: its scores there are what the
teacher says with all of the read around it. A killed labelling goes on at the read where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics import chunks
from rubicc.genomics.decode import decode_read
from rubicc.spec import ModelMeta
from rubicc.training.data.augment import Augment, resample
from rubicc.training.data.store import Store
from rubicc.training.data.stream import Item, generator, letter_codes
from rubicc.training.objective import Objective, bases_of

Score = Callable[[np.ndarray], np.ndarray]
_ROW = np.dtype(
    [
        ("read", "<i8"),
        ("speed", "<f8"),
        ("phase", "<f8"),
        ("frame", "<i8"),
        ("frames", "<i8"),
        ("base", "<i8"),
        ("bases", "<i8"),
    ]
)
_BATCH = 32


@dataclass(frozen=True)
class Teacher:
    """A teacher as the data sees it: ``score`` takes ``(N, 1, T)`` and gives ``(frames, N, C)``."""

    meta: ModelMeta
    score: Score
    sha256: str


class TaughtSet:
    """Stretches of copies of reads with a teacher's scores and calls.

    Args:
        store: of raw reads.
        teacher: labels them, once.
        folder: for its scores.
        copies: of each read; the first is the read itself, the others are drawn from ``augment``.
        augment: time is changed before the teacher sees the signal, the rest after it.
        scores: give the teacher's scores (its frames are the student's); calls are given always.
        reads: of the store; None = all.
        told: called with (copies done, of how many) while labelling.

    Raises:
        UsageError: ``RUB-TRAIN-031``: no copy is as long as a chunk.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        objective: Objective,
        teacher: Teacher,
        folder: Path,
        *,
        chunk: int,
        copies: int,
        augment: Augment,
        seed: int,
        scores: bool = True,
        reads: np.ndarray | None = None,
        told: Callable[[int, int], None] = lambda done, whole: None,
    ) -> None:
        self.name = name
        self.store = store
        self.objective = objective
        self.teacher = teacher
        self.augment = augment
        self.scores = scores
        self.input = objective.meta.inputs[0].name
        self.stride = _stride(teacher.meta)
        self.samples = chunk // (lcm := int(np.lcm(objective.stride, self.stride))) * lcm
        reads = np.arange(len(store)) if reads is None else reads
        _Labelling(store, teacher, folder, reads, copies, augment, seed).run(told)
        self.rows, self._scores, self._calls, self._frames = _open(folder, teacher.meta)
        self._width = self.samples // self.stride
        self._ends = np.cumsum(np.maximum(self.rows["frames"] - self._width + 1, 0))
        if self.samples < 1 or not len(self._ends) or self._ends[-1] < 1:
            hint = "give a smaller --chunk"
            what = f"no read is long enough for chunks of {chunk} samples"
            raise UsageError("RUB-TRAIN-031", what, where=name, hint=hint)
        self.facts: dict[str, object] = {
            "reads": len(reads),
            "samples": int(store.index["samples"][reads].sum()),
            "copies of each read": copies,
            "chunk": self.samples,
            "bytes of teacher scores": self._scores.nbytes,
        }

    def __len__(self) -> int:
        """Chunks that the copies would fill."""
        return max(1, int(self.rows["frames"].sum()) // self._width)

    def item(self, position: int, seed: int) -> Item:
        """A stretch of a copy."""
        rng = generator(seed, position)
        at = int(rng.integers(self._ends[-1]))
        row = int(np.searchsorted(self._ends, at, side="right"))
        first = at - int(self._ends[row - 1] if row else 0)
        return self._item(row, first, rng)

    def in_order(self) -> Iterator[Item]:
        """Stretches end to end through the unchanged copy of every read."""
        for row in np.flatnonzero((self.rows["speed"] == 1) & (self.rows["phase"] == 0)):
            for first in range(0, int(self.rows["frames"][row]) - self._width + 1, self._width):
                yield self._item(int(row), first, None)

    def _item(self, row: int, first: int, rng: np.random.Generator | None) -> Item:
        facts = self.rows[row]
        begin = float(facts["phase"]) + float(facts["speed"]) * first * self.stride
        start = int(begin)
        last = int(np.ceil(begin + float(facts["speed"]) * self.samples)) + 1
        piece = self.store.signal(int(facts["read"]), start, last)
        if facts["speed"] == 1 and facts["phase"] == 0:
            signal = piece[: self.samples]
        else:
            signal = resample(piece, begin - start, float(facts["speed"]), self.samples)
        signal = _filled(signal, self.samples)
        if rng is not None:
            signal = self.augment.change(signal, rng)
        frame = int(facts["frame"]) + first
        scores = np.asarray(self._scores[frame : frame + self._width], np.float32) if self.scores else None
        return Item({self.input: signal[None]}, self._target(facts, first), scores)

    def _target(self, facts: np.void, first: int) -> np.ndarray:
        base, count = int(facts["base"]), int(facts["bases"])
        frames = self._frames[base : base + count]
        low, high = np.searchsorted(frames, (first, first + self._width))
        table = letter_codes(bases_of(self.teacher.meta), bases_of(self.objective.meta))
        return table[self._calls[base + low : base + high]].astype(np.int64)


class _Labelling:
    """Runs the teacher over every copy and writes what it says, row by row."""

    def __init__(
        self,
        store: Store,
        teacher: Teacher,
        folder: Path,
        reads: np.ndarray,
        copies: int,
        augment: Augment,
        seed: int,
    ) -> None:
        self.store = store
        self.teacher = teacher
        self.folder = folder
        self.augment = augment
        self.seed = seed
        self.todo = [(int(read), copy) for copy in range(copies) for read in reads]
        facts = f"{teacher.sha256} {teacher.meta.to_json()} {augment} {seed} {self.todo}"
        said = json.loads((store.folder / "store.json").read_text("utf-8"))["identity"]
        self.identity = hashlib.sha256(f"{facts} {said}".encode()).hexdigest()
        self.plan = chunks.plan_for(teacher.meta)

    def run(self, told: Callable[[int, int], None]) -> None:
        """Label what is not labelled yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / "teacher.json"
        if not stamp.is_file() or stamp.read_text("utf-8") != self.identity:
            for old in self.folder.glob("*.bin"):
                old.unlink()
            stamp.write_text(self.identity, encoding="utf-8")
        names = ("rows", "scores", "calls", "frames")
        files = {name: (self.folder / f"{name}.bin").open("ab") for name in names}
        try:
            done, frame, base = self._resume(files)
            for count, (read, copy) in enumerate(self.todo[done:], done + 1):
                row, scores, codes, at = self._label(read, copy, frame, base)
                files["scores"].write(scores.astype("<f2").tobytes())
                files["calls"].write(codes.tobytes())
                files["frames"].write(at.astype("<i4").tobytes())
                for name in ("scores", "calls", "frames"):
                    files[name].flush()
                files["rows"].write(np.array([row], _ROW).tobytes())
                files["rows"].flush()
                frame, base = frame + len(scores), base + len(codes)
                told(count, len(self.todo))
        finally:
            for file in files.values():
                file.close()

    def _resume(self, files: dict) -> tuple[int, int, int]:
        """Cut every file to the last whole row; (rows, frames, bases) that are there."""
        whole = files["rows"].tell() // _ROW.itemsize
        rows = np.fromfile(self.folder / "rows.bin", _ROW, whole)
        frame = int(rows["frames"].sum())
        base = int(rows["bases"].sum())
        columns = self.teacher.meta.outputs[0].shape[-1]
        ends = {
            "rows": whole * _ROW.itemsize,
            "scores": frame * int(columns) * 2,
            "calls": base,
            "frames": base * 4,
        }
        for name, end in ends.items():
            os.truncate(self.folder / f"{name}.bin", end)
            files[name].seek(end)
        return whole, frame, base

    def _label(
        self, read: int, copy: int, frame: int, base: int
    ) -> tuple[tuple, np.ndarray, np.ndarray, np.ndarray]:
        signal, speed, phase = self.store.signal(read), 1.0, 0.0
        if copy:
            rng = generator(self.seed, read, copy)
            speed, phase = self.augment.window(rng)
            signal = resample(signal, phase, speed, int((len(signal) - 1 - phase) / speed))
        scores = self._scores(signal)
        call = decode_read(scores, self.teacher.meta)
        letters = bases_of(self.teacher.meta)
        codes = np.array([letters.index(letter) + 1 for letter in call.sequence], np.uint8)
        row = (read, speed, phase, frame, len(scores), base, len(codes))
        return row, scores, codes, np.flatnonzero(call.moves)

    def _scores(self, signal: np.ndarray) -> np.ndarray:
        """The teacher's scores of a whole read, ``(frames, C)``, computed in chunks."""
        pieces, cuts = chunks.chunk(signal, self.plan)
        found = [self.teacher.score(pieces[i : i + _BATCH]) for i in range(0, len(pieces), _BATCH)]
        return chunks.stitch(np.concatenate(found, axis=1), cuts, self.plan)


def _open(folder: Path, meta: ModelMeta) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = np.fromfile(folder / "rows.bin", _ROW)
    columns = int(meta.outputs[0].shape[-1])
    scores = np.memmap(folder / "scores.bin", "<f2", "r").reshape(-1, columns)
    calls = np.fromfile(folder / "calls.bin", np.uint8)
    return rows, scores, calls, np.fromfile(folder / "frames.bin", "<i4")


def _stride(meta: ModelMeta) -> int:
    assert meta.stride is not None  # chunks.plan_for has refused a teacher without one
    return meta.stride


def _filled(signal: np.ndarray, samples: int) -> np.ndarray:
    """The last frame of a read may reach beyond its samples, where there is nothing."""
    short = samples - len(signal)
    return np.pad(signal, (0, short)) if short > 0 else signal
