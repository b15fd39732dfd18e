"""Data streams: what they give is true, and item p hangs on the seed and p alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_files import META, OBJECTIVE, chunk_folder, counting, hdf5, store_of

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.decision import Decision
from rubicc.genomics.simulate import SimulatedRead, simulate_reads, write_reads
from rubicc.training.data import arrays
from rubicc.training.data.augment import OFF, Augment, resample
from rubicc.training.data.chunks import ChunkSet
from rubicc.training.data.crops import CropSet
from rubicc.training.data.mapped import is_mapped, iter_mapped
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.data.stream import DataSet, batch
from rubicc.training.data.taught import TaughtSet, Teacher

# ---- every stream


def streams(tmp_path: Path, npz: Path) -> dict[str, DataSet]:
    augment = Augment(stretch=0.1, phase=True, gain=0.1, offset=0.1, noise=0.2)
    teacher = Teacher(META, lambda x: np.zeros((x.shape[2] // 3, len(x), 5), np.float32) - np.log(5), "t")
    raw = store_of(npz, tmp_path / "raw", mapped=False)
    np.savez(tmp_path / "a.npz", x=np.arange(60, dtype=np.float32).reshape(10, 1, 6))
    return {
        "chunks": ChunkSet(chunk_folder(tmp_path / "chunks"), OBJECTIVE, augment=augment),
        "mapped": CropSet("m", store_of(npz, tmp_path / "mapped"), OBJECTIVE, 300, augment),
        "raw": CropSet("r", raw, OBJECTIVE, 300, augment),
        "taught": TaughtSet(
            "t", raw, OBJECTIVE, teacher, tmp_path / "t", chunk=300, copies=2, augment=augment, seed=0
        ),
        "simulated": SimulatedSet(OBJECTIVE, 300, augment, labels=True),
        "arrays": arrays.ArraySet(tmp_path / "a.npz", OBJECTIVE),
    }


def test_items_hang_on_seed_and_position_alone(tmp_path: Path, npz: Path) -> None:
    for name, data in streams(tmp_path, npz).items():
        first = [data.item(p, 3) for p in range(6)]
        again = [data.item(p, 3) for p in (5, 0, 3)]  # another order, nothing before them
        for one, other in zip([first[5], first[0], first[3]], again, strict=True):
            assert np.array_equal(one.feeds["x"], other.feeds["x"]), name
            for part in ("target", "teacher", "labels"):
                mine, theirs = getattr(one, part), getattr(other, part)
                assert (mine is None) == (theirs is None), name
                assert mine is None or np.array_equal(mine, theirs), (name, part)
        assert not np.array_equal(first[0].feeds["x"], data.item(0, 4).feeds["x"]), name
        assert len({item.feeds["x"].tobytes() for item in first}) == 6, name
        assert len(data) > 0 and data.facts and list(data.in_order()), name
        assert first[0].feeds["x"].dtype == np.float32 and first[0].feeds["x"].shape[0] == 1, name


def test_a_batch_is_its_items_side_by_side(tmp_path: Path, npz: Path) -> None:
    data = streams(tmp_path, npz)
    made = batch(data["taught"], range(4, 7), 1)
    items = [data["taught"].item(p, 1) for p in range(4, 7)]
    assert made.size == 3 and made.feeds["x"].shape == (3, 1, 300)
    assert made.teacher is not None and made.teacher.shape == (100, 3, 5)
    assert made.targets is not None and made.lengths is not None
    for i, item in enumerate(items):
        assert item.target is not None
        assert torch.equal(made.targets[i, : made.lengths[i]], torch.from_numpy(item.target))
    labelled = batch(data["simulated"], range(3), 1)
    assert labelled.labels is not None and labelled.labels.shape == (3, 100)


# ---- truth


def test_every_chunk_once_per_round(tmp_path: Path) -> None:
    folder = chunk_folder(tmp_path / "c", count=20)
    data = ChunkSet(folder, OBJECTIVE)
    stored = {row.astype(np.float32).tobytes() for row in np.load(folder / "chunks.npy")}
    for turn in (0, 1):
        seen = [data.item(p, 9).feeds["x"].tobytes() for p in range(20 * turn, 20 * turn + 20)]
        assert set(seen) == stored and len(seen) == 20
    assert [data.item(p, 9).feeds["x"].tobytes() for p in range(20)] != seen


def test_chunks_are_mapped_not_read(tmp_path: Path) -> None:
    data = ChunkSet(chunk_folder(tmp_path / "c"), OBJECTIVE)
    assert isinstance(data.chunks, np.memmap) and isinstance(data.references, np.memmap)


def test_parts_of_a_chunk_folder(tmp_path: Path) -> None:
    folder = chunk_folder(tmp_path / "c", count=100)
    sizes = [len(ChunkSet(folder, OBJECTIVE, part)) for part in ("train", "validation", "all")]
    assert sizes == [97, 3, 100]
    chunk_folder(folder / "validation", count=7)
    sizes = [len(ChunkSet(folder, OBJECTIVE, part)) for part in ("train", "validation", "all")]
    assert sizes == [100, 7, 100]
    np.save(folder / "indices.npy", np.array([4, 2, 9]))
    data = ChunkSet(folder, OBJECTIVE)
    assert len(data) == 3 and set(data.rows) == {4, 2, 9}
    np.save(folder / "indices.npy", np.array([4, 100]))
    with pytest.raises(ModelRefused, match=r"RUB-TRAIN-030.*0\.\.99"):
        ChunkSet(folder, OBJECTIVE)


def test_chunks_that_cannot_be_spelt_are_left_out_and_said(tmp_path: Path) -> None:
    folder = chunk_folder(tmp_path / "c", samples=60)  # 20 frames, up to 29 bases
    decisions: list[Decision] = []
    data = ChunkSet(folder, OBJECTIVE, decisions=decisions)
    references, lengths = np.load(folder / "references.npy"), np.load(folder / "reference_lengths.npy")
    need = OBJECTIVE.frames_needed(references, lengths.astype(np.int64))
    assert 0 < len(data) == int((need <= 20).sum()) < 40
    (said,) = decisions
    assert said.code == "RUB-TRAIN-D20" and f"{40 - len(data)} of 40" in said.what


def test_mapped_forms_agree(tmp_path: Path, npz: Path, reads: list[SimulatedRead]) -> None:
    files = [npz, hdf5(tmp_path / "a.hdf5", reads), hdf5(tmp_path / "b.hdf5", reads, batched=True)]
    found = [list(iter_mapped(path, 4000)) for path in files]
    for rows in found:
        assert len(rows) == len(reads)
        for row, read in zip(
            sorted(rows, key=lambda r: r.read.read_id), sorted(reads, key=lambda r: r.read_id), strict=True
        ):  # type: ignore[union-attr]
            assert np.array_equal(row.read.signal, read.dac)  # type: ignore[union-attr]
            assert np.array_equal(row.reference, read.reference)  # type: ignore[union-attr]
            assert np.array_equal(row.edges, read.ref_to_signal)  # type: ignore[union-attr]
    assert all(map(is_mapped, files)) and not is_mapped(tmp_path)


def test_crops_hold_the_bases_of_their_window(tmp_path: Path, npz: Path, reads: list[SimulatedRead]) -> None:
    store = store_of(npz, tmp_path / "s")
    data = CropSet("m", store, OBJECTIVE, 300)
    whole = store.signal(0)
    for position in range(20):
        item = data.item(position, 2)
        places = [
            (read, at)
            for read in range(len(store))
            for at in [_find(store.signal(read), item.feeds["x"][0])]
            if at >= 0
        ]
        ((read, at),) = places
        edges, bases = reads[read].ref_to_signal, reads[read].reference
        inside = (edges[:-1] >= at) & (edges[1:] <= at + 300)
        assert item.target is not None and np.array_equal(item.target, bases[inside])
    median = np.median(whole)
    assert abs(median) < 1e-6 and np.median(np.abs(whole - median)) * 1.4826 == pytest.approx(1, abs=1e-5)


def _find(signal: np.ndarray, piece: np.ndarray) -> int:
    starts = np.flatnonzero(signal[: len(signal) - len(piece) + 1] == piece[0])
    return next((int(at) for at in starts if np.array_equal(signal[at : at + len(piece)], piece)), -1)


def test_stretched_crops_keep_signal_and_bases_together(tmp_path: Path, npz: Path) -> None:
    """A stretched item holds about as many bases as its longer or shorter window should."""
    store = store_of(npz, tmp_path / "s")
    slow = CropSet("m", store, OBJECTIVE, 600, replace(OFF, stretch=0.9))
    counts = [len(slow.item(p, 0).target) for p in range(40)]  # type: ignore[arg-type]
    assert min(counts) < 50 and max(counts) > 90  # 600 samples hold 67 bases at 9 samples each
    line = np.arange(100, dtype=np.float32)
    assert np.allclose(resample(line, 0.25, 1.5, 40), 0.25 + 1.5 * np.arange(40), atol=1e-5)


def test_augmentation_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=20_000).astype(np.float32)
    assert OFF.change(signal, rng) is signal and not OFF.resamples
    changed = Augment(gain=0.5).change(signal, rng)
    assert np.ptp(changed[signal != 0] / signal[signal != 0]) < 1e-5
    noisy = [Augment(noise=0.3).change(signal, np.random.default_rng(i)) - signal for i in range(20)]
    assert 0.05 < np.mean([n.std() for n in noisy]) < 0.25 and max(n.std() for n in noisy) <= 0.31
    with pytest.raises(UsageError, match="RUB-TRAIN-023"):
        Augment(stretch=1.5)


# ---- teacher


def test_stored_scores_belong_to_their_signal(tmp_path: Path, npz: Path) -> None:
    store = store_of(npz, tmp_path / "raw", mapped=False)
    teacher, _ = counting()
    data = TaughtSet(
        "t", store, OBJECTIVE, teacher, tmp_path / "t", chunk=300, copies=3,
        augment=Augment(stretch=0.2, phase=True), seed=1,
    )  # fmt: skip
    for position in range(30):
        item = data.item(position, 0)
        assert item.teacher is not None
        wanted = np.log(0.2) + 1e-3 * item.feeds["x"][0, ::3]
        assert np.abs(item.teacher[:, 0] - wanted).max() < 2e-3  # float16, linear interpolation
    assert {float(s) for s in data.rows["speed"]} > {1.0} and len(data.rows) == 12


def test_killed_labelling_goes_on_where_it_stopped(tmp_path: Path, npz: Path) -> None:
    store = store_of(npz, tmp_path / "raw", mapped=False)

    def label(folder: Path, teacher: Teacher) -> TaughtSet:
        return TaughtSet(
            "t", store, OBJECTIVE, teacher, folder, chunk=300, copies=2, augment=Augment(stretch=0.1), seed=1
        )

    whole = label(tmp_path / "a", counting()[0])
    teacher, calls = counting()
    stopped: list[int] = []

    def dying(x: np.ndarray) -> np.ndarray:
        if len(stopped) == 5:
            raise KeyboardInterrupt
        stopped.append(1)
        return teacher.score(x)

    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "b", replace(teacher, score=dying))
    # What a kill leaves half-written behind the last whole row.
    for name in ("rows", "scores", "calls"):
        with (tmp_path / "b" / f"{name}.bin").open("ab") as file:
            file.write(b"half")
    calls.clear()
    resumed = label(tmp_path / "b", teacher)
    assert len(calls) == 3  # 8 copies, one call each
    for name in ("rows", "scores", "calls", "frames"):
        assert (tmp_path / "a" / f"{name}.bin").read_bytes() == (tmp_path / "b" / f"{name}.bin").read_bytes()
    assert np.array_equal(whole.item(7, 0).feeds["x"], resumed.item(7, 0).feeds["x"])
    label(tmp_path / "b", teacher)
    assert len(calls) == 3  # all there
    label(tmp_path / "b", replace(teacher, sha256="another"))
    assert len(calls) == 11


def test_a_store_is_made_again_when_its_files_change(tmp_path: Path, npz: Path) -> None:
    first = store_of(npz, tmp_path / "s")
    stamp = (tmp_path / "s" / "dac.bin").stat().st_mtime_ns
    assert store_of(npz, tmp_path / "s").samples == first.samples
    assert (tmp_path / "s" / "dac.bin").stat().st_mtime_ns == stamp
    write_reads(npz, simulate_reads(2, seed=12, length=200))
    assert len(store_of(npz, tmp_path / "s")) == 2


def test_taught_targets_are_the_teachers_calls(tmp_path: Path, npz: Path) -> None:
    """Of a teacher that calls A, C, G, T in turn, one base each ten frames."""

    def score(x: np.ndarray) -> np.ndarray:
        frames = x.shape[2] // 3
        best = np.where(np.arange(frames) % 10 == 0, 1 + np.arange(frames) // 10 % 4, 0)
        found = np.full((frames, len(x), 5), np.log(1e-4 / 4))
        found[np.arange(frames), :, best] = np.log(1 - 1e-4)
        return found.astype(np.float32)

    store = store_of(npz, tmp_path / "raw", mapped=False)
    data = TaughtSet(
        "t",
        store,
        OBJECTIVE,
        Teacher(META, score, "s"),
        tmp_path / "t",
        chunk=300,
        copies=1,
        augment=OFF,
        seed=0,
    )
    for item in data.in_order():
        assert item.target is not None and len(item.target) == 10
        assert (np.diff(item.target) % 4 == 1).all()
