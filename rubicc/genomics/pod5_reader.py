"""pod5 reads through ONT's library, one read in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pod5

from rubicc.genomics.reads import Limits, Problem, Read, ReadRefused, Wanted, check_samples, make_read
from rubicc.text import first_line

_BROKEN = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    OverflowError,
)
# The library keeps every signal batch it has touched; dropped from time to time so that memory stays flat.
_BATCHES_KEPT = 8


def read_pod5(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Read | Problem]:
    """The reads of one file in stored order; what cannot be read is a :class:`Problem`."""
    found = False
    try:
        with pod5.Reader(path) as reader:
            for record in reader.reads():
                found = True
                item = _guarded(path, record, wanted, limits)
                if len(reader._cached_signal_batches) > _BATCHES_KEPT:
                    reader._cached_signal_batches.clear()
                if item is not None:
                    yield item
            if not found:
                yield Problem(str(path), "", "RUB-GEN-118", "holds no reads")
    except _BROKEN as err:
        yield Problem(str(path), "", "RUB-GEN-102", f"damaged pod5: {first_line(err)}")


def _guarded(path: Path, record: Any, wanted: Wanted, limits: Limits) -> Read | Problem | None:
    read_id = ""
    try:
        read_id = str(record.read_id)
        return _read(path, read_id, record, limits) if wanted(read_id) else None
    except ReadRefused as err:
        return err.problem(str(path), read_id)
    except _BROKEN as err:
        return Problem(str(path), read_id, "RUB-GEN-102", f"damaged read: {first_line(err)}")


def _read(path: Path, read_id: str, record: Any, limits: Limits) -> Read:
    stored = sum(row.sample_count for row in record.signal_rows)
    check_samples(stored, limits)
    if stored != record.num_samples:
        raise ReadRefused("RUB-GEN-111", f"declares {record.num_samples} samples and stores {stored}")
    run = record.run_info
    pore = record.pore
    return make_read(
        read_id,
        record.signal,
        offset=record.calibration.offset,
        scale=record.calibration.scale,
        sampling_rate=run.sample_rate,
        source=str(path),
        run_id=run.acquisition_id,
        channel=int(pore.channel),
        mux=int(pore.well),
        read_number=int(record.read_number),
        start_sample=int(record.start_sample),
        run_start=run.acquisition_start_time.isoformat(timespec="milliseconds"),
    )
