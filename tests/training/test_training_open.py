"""Opening the data of a training: forms are found by content, what is wrong is refused by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from training_files import META, OBJECTIVE, chunk_folder, counting, hdf5, store_of

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.decision import Decision
from rubicc.genomics.simulate import SimulatedRead
from rubicc.models import registry
from rubicc.spec import SignalSpec
from rubicc.training.data import arrays
from rubicc.training.data.chunks import ChunkSet
from rubicc.training.data.crops import CropSet
from rubicc.training.data.opening import Wanted, open_data
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.data.store import open_store
from rubicc.training.data.taught import TaughtSet
from rubicc.training.objective import Objective
from rubicc.training.settings import TrainSettings

FLIPFLOP = Objective.of(registry.get("taiyaki-mgru").meta())


def wanted(tmp_path: Path, **changes: object) -> Wanted:
    settings = TrainSettings(chunk=300, batch=2, copies=1)
    return replace(Wanted(OBJECTIVE, settings, tmp_path / "work"), **changes)  # type: ignore[arg-type]


def test_forms_are_found_by_content(tmp_path: Path, npz: Path) -> None:
    teacher, _ = counting()
    raw = tmp_path / "raw.npz"
    with np.load(npz) as archive:
        np.savez(raw, **{k: v for k, v in archive.items() if not k.startswith("ref")})
    for paths, kind, truth in (
        (["simulated"], SimulatedSet, "reference"),
        ([str(chunk_folder(tmp_path / "c"))], ChunkSet, "reference"),
        ([str(npz)], CropSet, "reference"),
        ([str(raw)], TaughtSet, "teacher"),
    ):
        found = open_data(paths, [], wanted(tmp_path, teacher=teacher))
        assert type(found.train) is kind and found.truth == truth and found.validation is not None
    held = open_data([str(npz)], [], wanted(tmp_path))
    assert isinstance(held.train, CropSet) and isinstance(held.validation, CropSet)
    assert not set(held.train.reads) & set(held.validation.reads) and len(held.validation.reads) == 1
    live = replace(wanted(tmp_path, teacher=teacher), settings=TrainSettings(chunk=300, copies=0))
    assert type(open_data([str(raw)], [], live).train) is CropSet


def broken_chunks(tmp_path: Path, name: str, array: np.ndarray) -> Path:
    folder = chunk_folder(tmp_path / name)
    np.save(folder / f"{name}.npy", array)
    return folder


def test_wrong_data_are_refused_by_name(tmp_path: Path, npz: Path, reads: list[SimulatedRead]) -> None:
    raw = tmp_path / "raw.npz"
    with np.load(npz) as archive:
        np.savez(raw, **{k: v for k, v in archive.items() if not k.startswith("ref")})
    (tmp_path / "empty").mkdir()
    truncated = chunk_folder(tmp_path / "truncated")
    os.truncate(truncated / "chunks.npy", 500)
    pickled = chunk_folder(tmp_path / "pickled")
    np.save(pickled / "references.npy", np.array([{}], object), allow_pickle=True)
    missing = chunk_folder(tmp_path / "missing")
    (missing / "references.npy").unlink()
    none = chunk_folder(tmp_path / "none", count=0)
    cases = [
        (tmp_path / "nowhere", "RUB-TRAIN-033", "no such file"),
        (raw, "RUB-TRAIN-033", "--teacher"),
        (tmp_path / "empty", "RUB-TRAIN-033", "--teacher"),
        (truncated, "RUB-TRAIN-030", "chunks.npy"),
        (pickled, "RUB-TRAIN-030", "references.npy"),
        (missing, "RUB-TRAIN-030", "references.npy"),
        (none, "RUB-TRAIN-031", "no usable chunks"),
        (broken_chunks(tmp_path, "reference_lengths", np.zeros(39, np.uint16)), "RUB-TRAIN-030", "fit"),
        (broken_chunks(tmp_path, "references", np.full((40, 30), 5, np.uint8)), "RUB-TRAIN-032", "code 5"),
        (broken_chunks(tmp_path, "chunks", np.zeros((40, 300), np.int16)), "RUB-TRAIN-030", "int16"),
        (hdf5(tmp_path / "rna.hdf5", reads, alphabet="ACGU"), "RUB-TRAIN-032", "ACGU"),
        (hdf5(tmp_path / "none.hdf5", []), "RUB-TRAIN-033", "--teacher"),
    ]
    for path, code, words in cases:
        with pytest.raises((UsageError, ModelRefused)) as caught:
            open_data([str(path)], [], wanted(tmp_path))
        assert caught.value.code == code and words in str(caught.value), (path.name, str(caught.value))
        assert caught.value.hint, path.name


def test_damaged_reads_cost_themselves(tmp_path: Path, reads: list[SimulatedRead]) -> None:
    path = hdf5(tmp_path / "a.hdf5", reads)
    with h5py.File(path, "r+") as file:
        group = file["Reads"][reads[1].read_id]
        del group["Ref_to_signal"]
        group["Ref_to_signal"] = np.zeros(3, np.int32)
        file["Reads"][reads[2].read_id].attrs["digitisation"] = 0.0
    decisions: list[Decision] = []
    store = open_store([path], META, tmp_path / "s", letters="ACGT", mapped=True, decisions=decisions)
    assert len(store) == 2 and store.problems == 2
    assert decisions[0].code == "RUB-TRAIN-D21" and "2 reads or files left out, 2 used" in decisions[0].what


def test_reads_of_another_rate_or_too_short_are_refused(tmp_path: Path, npz: Path) -> None:
    other = replace(META, signal=SignalSpec("med-mad", sampling_rate=5000))
    with pytest.raises(UsageError, match="RUB-TRAIN-031"):
        open_store([npz], other, tmp_path / "s", letters="ACGT", mapped=True)
    with pytest.raises(UsageError, match=r"RUB-TRAIN-031.*--chunk"):
        CropSet("m", store_of(npz, tmp_path / "t"), OBJECTIVE, 100_000)


def test_arrays_of_any_network(tmp_path: Path) -> None:
    meta = registry.get("dna-bert").meta()
    objective = Objective.of(meta)
    names = [spec.name for spec in meta.inputs]
    ids = np.arange(40).reshape(10, 4)
    np.savez(tmp_path / "t.npz", **dict.fromkeys(names, ids), labels=np.where(ids % 3, -1, ids))
    data = arrays.ArraySet(tmp_path / "t.npz", objective, "train")
    assert arrays.fits(tmp_path / "t.npz", objective) and len(data) == 9
    item = data.item(2, 0)
    assert set(item.feeds) == set(names) and item.labels is not None and item.labels.dtype == np.int64
    np.savez(tmp_path / "bad.npz", **dict.fromkeys(names, ids), labels=ids[:3])
    with pytest.raises(ModelRefused, match="RUB-TRAIN-030"):
        arrays.ArraySet(tmp_path / "bad.npz", objective)


@pytest.mark.real_data
def test_real_mapped_reads_and_chunks(shared_data: Path, tmp_path: Path) -> None:
    """The chunk set was cut from the mapped reads: the same window holds the same bases and signal."""
    import json

    data = ChunkSet(shared_data / "chunks", FLIPFLOP)
    assert len(data) == 199 and len(ChunkSet(shared_data / "chunks", FLIPFLOP, "validation")) == 15
    (row,) = json.loads((shared_data / "chunks" / "chunks_index.json").read_text())[:1]
    path = shared_data / "mapped" / f"{row['read_id']}.npz"
    store = open_store([path], FLIPFLOP.meta, tmp_path / "s", letters="ACGT", mapped=True)
    crop = CropSet("m", store, FLIPFLOP, 3600)
    start = row.get("start", row.get("start_sample"))
    target = crop._target(0, start, start + 3600)
    stored = data._item(0, None)
    assert np.array_equal(target, stored.target)
    assert np.abs(store.signal(0, start, start + 3600) - stored.feeds["x"][0]).max() < 5e-3  # float16
