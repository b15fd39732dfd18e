"""bonito's training folders: ``chunks.npy``, ``references.npy``, ``reference_lengths.npy``.

The arrays are memory-mapped and never read whole. ``indices.npy``, where there is one, chooses rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.decision import Decision
from rubicc.text import first_line
from rubicc.training.data.augment import OFF, Augment
from rubicc.training.data.stream import Item, Shuffle, generator, letter_codes
from rubicc.training.objective import Objective, bases_of

LETTERS = "ACGT"  # what codes 1 to 4 mean in bonito's files
FILES = ("chunks.npy", "references.npy", "reference_lengths.npy")
HELD_OUT = 0.03
_BLOCK = 1 << 14


def is_chunk_folder(path: Path) -> bool:
    """Whether ``path`` is one."""
    return path.is_dir() and (path / FILES[0]).is_file()


class ChunkSet:
    """Chunks of signal with their bases.

    Args:
        folder: of the arrays.
        objective: of the network to train; chunks whose bases it could not spell are left out.
        part: ``train``: all rows, or all but the last 3 % where there is no ``validation`` folder inside;
            ``validation``: the rest; ``all``.
        augment: gain, offset and noise; a chunk's bases end with its window, so time is left as it is.
        decisions: told which rows were left out.

    Raises:
        ModelRefused: ``RUB-TRAIN-030``: the arrays are damaged or do not fit each other.
        UsageError: ``RUB-TRAIN-031`` nothing usable, ``RUB-TRAIN-032`` bases the network has no letter for.
    """

    def __init__(
        self,
        folder: Path,
        objective: Objective,
        part: str = "all",
        augment: Augment = OFF,
        decisions: list[Decision] | None = None,
    ) -> None:
        self.name = folder.name
        self.objective = objective
        self.augment = augment
        self.input = objective.meta.inputs[0].name
        if part == "validation" and is_chunk_folder(folder / "validation"):
            folder, part = folder / "validation", "all"
        if part == "train" and is_chunk_folder(folder / "validation"):
            part = "all"
        self.chunks, self.references, self.lengths = (_mapped(folder / name) for name in FILES)
        self._check(folder)
        self.samples = self.chunks.shape[1] // objective.stride * objective.stride
        rows = self._rows(folder, part)
        good = self._spelt(rows, folder)
        self.rows = rows[good]
        if decisions is not None and len(self.rows) < len(rows):
            what = f"{len(rows) - len(self.rows)} of {len(rows)} chunks left out"
            reason = "their bases need more frames than the network gives for a chunk, or there are none"
            decisions.append(Decision("RUB-TRAIN-D20", folder.name, what, reason))
        if not len(self.rows):
            raise UsageError(
                "RUB-TRAIN-031",
                f"no usable chunks among {len(rows)}",
                where=str(folder),
                hint="give another data folder, or a network with a smaller stride",
            )
        self.shuffle = Shuffle(len(self.rows))
        self.facts: dict[str, object] = {"chunks": len(self.rows), "samples per chunk": self.samples}

    def _check(self, folder: Path) -> None:
        shapes = [array.shape for array in (self.chunks, self.references, self.lengths)]
        kinds = [array.dtype.kind for array in (self.chunks, self.references, self.lengths)]
        right = [len(shape) for shape in shapes] == [2, 2, 1] and len({shape[0] for shape in shapes}) == 1
        if not right or kinds[0] != "f" or not set(kinds[1:]) <= set("iu"):
            found = ", ".join(f"{n} {a.dtype} {a.shape}" for n, a in zip(FILES, self._arrays(), strict=True))
            raise ModelRefused(
                "RUB-TRAIN-030",
                f"the arrays do not fit each other: {found}",
                where=str(folder),
                hint="write them again: (N, samples) floats, (N, bases) and (N,) whole numbers",
            )

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.chunks, self.references, self.lengths

    def _rows(self, folder: Path, part: str) -> np.ndarray:
        rows = np.arange(len(self.chunks))
        if (folder / "indices.npy").is_file():
            rows = np.asarray(_mapped(folder / "indices.npy")).astype(np.int64)
            if rows.ndim != 1 or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self.chunks)):
                raise ModelRefused(
                    "RUB-TRAIN-030",
                    f"indices.npy names rows outside of 0..{len(self.chunks) - 1}",
                    where=str(folder),
                    hint="write it again, or remove it to use every chunk",
                )
        split = int(len(rows) * (1 - HELD_OUT))
        return {"train": rows[:split], "validation": rows[split:]}.get(part, rows)

    def _spelt(self, rows: np.ndarray, folder: Path) -> np.ndarray:
        """Which rows hold bases that the network can spell in its frames; one pass over the targets."""
        frames = self.samples // self.objective.stride
        letters = bases_of(self.objective.meta)
        good = np.zeros(len(rows), bool)
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            targets, lengths = self.references[block], self.lengths[block].astype(np.int64)
            top = int(targets.max(initial=0))
            if targets.min(initial=0) < 0 or top > len(LETTERS) or lengths.max(initial=0) > targets.shape[1]:
                raise UsageError(
                    "RUB-TRAIN-032",
                    f"references hold code {top} or lengths beyond their {targets.shape[1]} columns; "
                    f"codes are 0 (nothing) and 1 to {len(LETTERS)} ({LETTERS})",
                    where=str(folder),
                    hint="convert the references to bonito's codes",
                )
            if not set(LETTERS[:top]) <= set(letters):
                raise UsageError(
                    "RUB-TRAIN-032",
                    f"the data holds bases of {LETTERS!r}, the network's alphabet is {letters!r}",
                    where=str(folder),
                    hint="give data or a network of the other alphabet",
                )
            need = self.objective.frames_needed(targets, lengths)
            good[first : first + len(block)] = (lengths > 0) & (need <= frames)
        return good

    def __len__(self) -> int:
        """Chunks."""
        return len(self.rows)

    def item(self, position: int, seed: int) -> Item:
        """Chunk at ``position``, every chunk once per round."""
        return self._item(self.rows[self.shuffle.row(position, seed)], generator(seed, position))

    def in_order(self) -> Iterator[Item]:
        """Every chunk once, as it is stored."""
        return (self._item(row, None) for row in self.rows)

    def _item(self, row: Any, rng: np.random.Generator | None) -> Item:
        signal = np.asarray(self.chunks[row, : self.samples], np.float32)
        if rng is not None:
            signal = self.augment.change(signal, rng)
        target = np.asarray(self.references[row, : int(self.lengths[row])])
        codes = letter_codes(LETTERS, bases_of(self.objective.meta))[target]
        return Item({self.input: signal[None]}, codes.astype(np.int64))


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise ModelRefused(
            "RUB-TRAIN-030",
            f"{path.name} cannot be mapped: {first_line(err)}",
            where=str(path.parent),
            hint="write the folder again: chunks.npy, references.npy, reference_lengths.npy",
        ) from err
