"""Reads in ``.npz``: one mapped read (the training form) or many simulated ones, never through pickle.

One read: ``dac`` int16, scalars ``offset, range, digitisation, sampling_rate`` and optionally ``read_id``
(the file's name stands in for it). Many reads: ``dac`` concatenated, ``dac_lengths``, and one value per read
(or one for all) of the rest; ``read_id`` is then required. Other arrays (reference, ...) are left alone.

numpy allocates what an array header declares before it has seen a byte, so headers are read here and only as
many bytes are inflated as a checked length asks for.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from rubicc.evidence.npy import UNREADABLE, PickledError, header
from rubicc.genomics.reads import (
    Limits,
    Problem,
    Read,
    ReadRefused,
    Wanted,
    check_read_id,
    check_samples,
    make_read,
)

MAX_READS = 1 << 20
_SCALARS = ("offset", "range", "digitisation", "sampling_rate")


def read_npz(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Read | Problem]:
    """The reads of one file; a file that is not in one of the two forms is one :class:`Problem`."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _reads(archive, path, wanted, limits)
    except ReadRefused as err:
        yield err.problem(str(path))
    except UNREADABLE as err:
        yield Problem(str(path), "", "RUB-GEN-102", f"damaged npz: {err or type(err).__name__}")


def _reads(archive: zipfile.ZipFile, path: Path, wanted: Wanted, limits: Limits) -> Iterator[Read | Problem]:
    names = {info.filename for info in archive.infolist()}
    for name in ("dac", *_SCALARS):
        if f"{name}.npy" not in names:
            raise ReadRefused("RUB-GEN-103", f"has no array {name!r}")
    many = "dac_lengths.npy" in names
    lengths = array(archive, "dac_lengths", "iu").astype(np.int64) if many else None
    ids = array(archive, "read_id", "US") if "read_id.npy" in names else np.array([path.stem])
    columns = {name: array(archive, name, "iuf").astype(np.float64) for name in _SCALARS}
    count = 1 if lengths is None else len(lengths)
    if len(ids) != count or any(len(column) not in (1, count) for column in columns.values()):
        raise ReadRefused(
            "RUB-GEN-104", f"{count} signals, but {len(ids)} ids or ill-fitting calibration arrays"
        )
    with archive.open("dac.npy") as file:
        total = _signal_length(file)
        if lengths is None:
            lengths = np.array([total])
        if (lengths < 0).any() or int(lengths.sum()) != total:
            raise ReadRefused(
                "RUB-GEN-105", f"dac holds {total} samples, dac_lengths say {int(lengths.sum())}"
            )
        for row, length in enumerate(lengths.tolist()):
            read_id = _text(ids[row])
            values = {name: column[row if len(column) > 1 else 0] for name, column in columns.items()}
            try:
                check_samples(length, limits)
                raw = _exactly(file, 2 * length)
                if not wanted(check_read_id(read_id)):
                    continue
                scale = values["range"] / values["digitisation"] if values["digitisation"] else math.nan
                yield make_read(
                    read_id,
                    np.frombuffer(raw, "<i2"),
                    offset=values["offset"],
                    scale=scale,
                    sampling_rate=values["sampling_rate"],
                    source=str(path),
                )
            except ReadRefused as err:
                yield err.problem(str(path), read_id if err.code != "RUB-GEN-110" else "")
                if err.code == "RUB-GEN-107":
                    return


def _text(value: np.str_ | np.bytes_) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _signal_length(file: IO[bytes]) -> int:
    shape, dtype = _header(file)
    if dtype != np.dtype("<i2") or len(shape) != 1:
        raise ReadRefused("RUB-GEN-105", f"dac is {dtype} of shape {shape}, not int16 of rank 1")
    return shape[0]


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    try:
        shape, _, dtype = header(file)
    except PickledError as err:
        raise ReadRefused("RUB-GEN-116", str(err)) from err
    return shape, dtype


def array(archive: zipfile.ZipFile, name: str, kinds: str, most: int = MAX_READS) -> np.ndarray:
    """Array ``name``, at least 1-D, refused when it has more than ``most`` items or a wrong kind."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(file)
        count = math.prod(shape)
        if len(shape) > 1 or count > most or dtype.kind not in kinds or dtype.itemsize > 4 * 256:
            raise ReadRefused("RUB-GEN-104", f"array {name!r} is {dtype} of shape {shape}")
        return np.frombuffer(_exactly(file, count * dtype.itemsize), dtype).reshape(-1)


def _exactly(file: IO[bytes], count: int) -> bytes:
    """``count`` bytes, taken in pieces: a lying header must not make us allocate what is not there."""
    parts = io.BytesIO()
    while parts.tell() < count:
        piece = file.read(min(count - parts.tell(), 1 << 20))
        if not piece:
            raise ReadRefused("RUB-GEN-102", f"ends after {parts.tell()} of {count} bytes")
        parts.write(piece)
    return parts.getvalue()
