"""Data for trainings, in the forms that they are read from, shared by this room's tests."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from rubicc.genomics.simulate import SimulatedRead
from rubicc.models import registry
from rubicc.training.data.store import Store, open_store
from rubicc.training.data.taught import Teacher
from rubicc.training.objective import Objective

META = registry.get("demo-ctc").meta()
OBJECTIVE = Objective.of(META)


def chunk_folder(folder: Path, count: int = 40, samples: int = 300, most: int = 30) -> Path:
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    lengths = rng.integers(10, most, count).astype(np.uint16)
    references = np.zeros((count, most), np.uint8)
    for row, length in zip(references, lengths, strict=True):
        row[:length] = rng.integers(1, 5, length)
    np.save(folder / "chunks.npy", rng.normal(size=(count, samples)).astype(np.float16))
    np.save(folder / "references.npy", references)
    np.save(folder / "reference_lengths.npy", lengths)
    return folder


def hdf5(path: Path, reads: list[SimulatedRead], batched: bool = False, alphabet: str = "ACGT") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["alphabet"], file.attrs["collapse_alphabet"], file.attrs["version"] = alphabet, alphabet, 8
        columns = {
            "Dacs": [r.dac for r in reads],
            "Reference": [r.reference.astype(np.int16) - 1 for r in reads],
            "Ref_to_signal": [r.ref_to_signal for r in reads],
        }
        facts = ("offset", "range", "digitisation")
        if batched:
            group = file.create_group("Batches/Batch_0")
            for name, values in columns.items():
                group[name] = np.concatenate(values)
                group[f"{name}_lengths"] = np.array([len(v) for v in values])
            for name in facts:
                group[name] = np.array([getattr(r, name) for r in reads])
            group["read_id"] = np.array([r.read_id.encode() for r in reads])
            return path
        for i, read in enumerate(reads):
            group = file.create_group(f"Reads/{read.read_id}")
            for name, values in columns.items():
                group.create_dataset(name, data=values[i], compression="gzip")
            for name in facts:
                group.attrs[name] = getattr(read, name)
    return path


def store_of(path: Path, folder: Path, mapped: bool = True) -> Store:
    return open_store([path], META, folder, letters="ACGT", mapped=mapped)


def counting(meta=META) -> tuple[Teacher, list[int]]:
    """A teacher whose scores show which sample a frame starts at: a ramp of the signal's own values."""
    calls: list[int] = []

    def score(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        frames = x[:, 0, : x.shape[2] // 3 * 3 : 3].T[..., None]
        return np.repeat(frames, 5, 2).astype(np.float32) * 0 + np.log(0.2) + 1e-3 * frames

    return Teacher(meta, score, "sha"), calls
