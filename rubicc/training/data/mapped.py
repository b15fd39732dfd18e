"""Reads with their bases and where each base lies on the signal: taiyaki's mapped-signal HDF5, and ``.npz``.

HDF5 (taiyaki, versions 7 and 8): ``/Reads/<id>/`` with ``Dacs``, ``Reference`` (0 = first letter) and
``Ref_to_signal``, attributes ``offset, range, digitisation``; or ``/Batches/<n>/`` with the same arrays end
to end and ``<name>_lengths``. File attributes: ``alphabet`` and, for modified bases, ``collapse_alphabet``.
``.npz``: one read or many, as :func:`rubicc.genomics.simulate.write_reads` writes them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.npy import UNREADABLE
from rubicc.genomics.npz_reads import array, read_npz
from rubicc.genomics.reads import Limits, Problem, Read, ReadRefused, make_read
from rubicc.text import first_line

LETTERS = "ACGT"
_NAMES = ("Dacs", "Reference", "Ref_to_signal")
_MOST_BASES = 1 << 26
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)


@dataclass(frozen=True)
class MappedRead:
    """A read whose bases are known.

    Attributes:
        reference: uint8, 1 = first letter of ``letters``.
        edges: int64, one more than bases; base ``i`` lies on samples ``[edges[i], edges[i + 1])``.
        letters: what the codes mean.
    """

    read: Read
    reference: np.ndarray
    edges: np.ndarray
    letters: str = LETTERS


def iter_mapped(
    path: Path, sampling_rate: float, limits: Limits | None = None
) -> Iterator[MappedRead | Problem]:
    """The mapped reads of one ``.hdf5`` or ``.npz`` file; what cannot be used is a Problem."""
    limits = limits or Limits()
    try:
        if zipfile.is_zipfile(path):
            yield from _npz(path, limits)
        else:
            yield from _hdf5(path, sampling_rate, limits)
    except ReadRefused as err:
        yield err.problem(str(path))
    except (*_BROKEN, *UNREADABLE) as err:
        yield Problem(str(path), "", "RUB-GEN-102", f"damaged: {first_line(err)}")


def is_mapped(path: Path) -> bool:
    """Whether a file holds mapped reads."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {"ref_to_signal.npy", "reference.npy", "dac.npy"} <= set(archive.namelist())
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return "alphabet" in file.attrs and ("Reads" in file or "Batches" in file)
    except OSError:
        return False


def _mapped(read: Read, reference: np.ndarray, edges: np.ndarray, letters: str) -> MappedRead:
    """A checked mapped read.

    Raises:
        ReadRefused: ``RUB-GEN-105``: the arrays do not fit each other.
    """
    edges = np.clip(edges.astype(np.int64), 0, len(read.signal))
    wrong = len(edges) != len(reference) + 1 or (np.diff(edges) < 0).any() or not len(reference)
    if wrong or reference.min() < 1 or reference.max() > len(letters):
        raise ReadRefused(
            "RUB-GEN-105",
            f"{len(reference)} bases with {len(edges)} places on {len(read.signal)} samples do not fit",
        )
    return MappedRead(read, reference.astype(np.uint8), edges, letters)


def _npz(path: Path, limits: Limits) -> Iterator[MappedRead | Problem]:
    with zipfile.ZipFile(path) as archive:
        reference = array(archive, "reference", "iu", _MOST_BASES)
        edges = array(archive, "ref_to_signal", "iu", 2 * _MOST_BASES)
        many = "reference_lengths.npy" in archive.namelist()
        lengths = array(archive, "reference_lengths", "iu").tolist() if many else [len(reference)]
    if sum(lengths) != len(reference) or min(lengths, default=0) < 0:
        raise ReadRefused("RUB-GEN-105", "reference_lengths do not add up to the reference")
    bases = np.cumsum([0, *lengths])
    for index, found in enumerate(read_npz(path, lambda _: True, limits)):
        if isinstance(found, Problem):
            yield found
            continue
        if index >= len(lengths):
            raise ReadRefused("RUB-GEN-105", f"more reads than the {len(lengths)} references")
        first, last = int(bases[index]), int(bases[index + 1])
        places = edges[first + index : last + index + 1]
        yield _or_problem(path, found.read_id, found, reference[first:last], places, LETTERS)


def _or_problem(
    path: Path, read_id: str, read: Read, reference: np.ndarray, edges: np.ndarray, letters: str
) -> MappedRead | Problem:
    try:
        return _mapped(read, reference, edges, letters)
    except ReadRefused as err:
        return err.problem(str(path), read_id)


def _hdf5(path: Path, rate: float, limits: Limits) -> Iterator[MappedRead | Problem]:
    from rubicc.genomics import fast5  # registers the VBZ filter

    with fast5.h5py.File(path, "r", locking=False) as file:
        letters = _letters(file)
        for name in file.get("Reads", ()):
            yield _one(
                path,
                name,
                lambda name=name: _single(fast5.child(file["Reads"], name), name, rate, limits),
                letters,
            )
        for name in file.get("Batches", ()):
            for read_id, parts in _batched(fast5.child(file["Batches"], name), rate, limits):
                yield _one(path, read_id, lambda parts=parts: parts, letters)


def _one(path: Path, read_id: str, parts: Any, letters: str) -> MappedRead | Problem:
    try:
        read, reference, edges = parts()
        return _mapped(read, reference.astype(np.int64) + 1, edges, letters)
    except ReadRefused as err:
        return err.problem(str(path), read_id)
    except _BROKEN as err:
        return Problem(str(path), read_id, "RUB-GEN-102", f"damaged read: {first_line(err)}")


def _letters(file: Any) -> str:
    """What the codes of a file mean; modified bases count as the base they come from."""
    from rubicc.genomics.fast5 import attribute

    texts = []
    for name in ("collapse_alphabet", "alphabet"):
        value = attribute(file, name)
        texts.append(value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or ""))
    letters = texts[0] or texts[1]
    if not letters.isalpha() or len(letters) > 16:
        raise UsageError(
            "RUB-TRAIN-032",
            f"mapped-signal file with alphabet {letters[:20]!r}",
            hint="convert it with taiyaki to an alphabet of letters",
        )
    return letters


def _single(group: Any, read_id: str, rate: float, limits: Limits) -> tuple[Read, np.ndarray, np.ndarray]:
    from rubicc.genomics import fast5

    dacs, reference, edges = (_whole(group, name, limits) for name in _NAMES)
    offset, span, digits = (fast5.number(group, name) for name in ("offset", "range", "digitisation"))
    return _read(read_id, dacs, offset, span, digits, rate), reference, edges


def _read(read_id: str, dacs: np.ndarray, offset: float, span: float, digits: float, rate: float) -> Read:
    if dacs.dtype != np.int16:
        raise ReadRefused("RUB-GEN-105", f"Dacs is {dacs.dtype}, not int16")
    scale = span / digits if digits else float("nan")
    return make_read(read_id, dacs, offset=offset, scale=scale, sampling_rate=rate)


def _whole(group: Any, name: str, limits: Limits) -> np.ndarray:
    from rubicc.genomics import fast5

    dataset = fast5.child(group, name, fast5.h5py.Dataset)
    if dataset.dtype.kind not in "iu" or len(dataset.shape or ()) != 1:
        raise ReadRefused("RUB-GEN-105", f"{name} is {dataset.dtype} of shape {dataset.shape}")
    return fast5.stored(dataset, limits)


def _batched(
    group: Any, rate: float, limits: Limits
) -> Iterator[tuple[str, tuple[Read, np.ndarray, np.ndarray]]]:
    """Reads of one batch, whose arrays lie end to end."""
    from rubicc.genomics import fast5

    whole = {name: _whole(group, name, limits) for name in _NAMES}
    ends = {name: np.cumsum([0, *_whole(group, f"{name}_lengths", limits)]) for name in _NAMES}
    facts = {
        name: np.asarray(fast5.child(group, name, fast5.h5py.Dataset)[:], np.float64)
        for name in ("offset", "range", "digitisation")
    }
    count = len(ends["Dacs"]) - 1
    ids = fast5.child(group, "read_id", fast5.h5py.Dataset)[:] if "read_id" in group else np.arange(count)
    if any(int(ends[name][-1]) != len(whole[name]) or len(ends[name]) != count + 1 for name in _NAMES):
        raise ReadRefused("RUB-GEN-105", "the lengths of a batch do not add up to its arrays")
    for i in range(count):
        read_id = ids[i].decode("ascii", "replace") if isinstance(ids[i], bytes) else str(ids[i])
        dacs, reference, edges = (whole[name][ends[name][i] : ends[name][i + 1]] for name in _NAMES)
        offset, span, digits = (float(facts[name][i]) for name in ("offset", "range", "digitisation"))
        yield read_id, (_read(read_id, dacs, offset, span, digits, rate), reference, edges)
