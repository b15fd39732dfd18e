"""fast5 (HDF5) reads: single- and multi-read files, plain, gzip or VBZ, one read in memory at a time.

What a hostile HDF5 file can do, and what is done about it: reach other files (external links, soft links,
virtual datasets, external storage: refused), declare more than it stores (length, chunk count and stored
bytes are checked before anything is read), name a filter to load (only those sequencers use are allowed).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import vbz_h5py_plugin  # noqa: F401  (registers the VBZ filter; must come before h5py)

import h5py  # isort: skip

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
from rubicc.text import first_line, printable

_VBZ = 32020
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", _VBZ: "vbz"}
_QUOTES = "'\""  # KeyError puts its text in quotes
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)


def read_fast5(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Read | Problem]:
    """The reads of one file in the order of their names; what cannot be read is a :class:`Problem`."""
    found = False
    try:
        with h5py.File(path, "r", locking=False) as file:
            for slot in _slots(file):
                found = True
                item = _guarded(path, file, slot, wanted, limits)
                if item is not None:
                    yield item
            if not found:
                yield Problem(str(path), "", "RUB-GEN-118", "holds no reads (no read_* group, no Raw/Reads)")
    except ReadRefused as err:
        yield err.problem(str(path))
    except _BROKEN as err:
        yield Problem(str(path), "", "RUB-GEN-102", f"damaged HDF5: {first_line(err).strip(_QUOTES)}")


@dataclass(frozen=True)
class _Slot:
    """Where one read lies: its raw group, and the group that holds channel_id and tracking_id."""

    read_id: str
    raw: tuple[str, ...]
    facts: tuple[str, ...]


def _slots(file: h5py.File) -> Iterator[_Slot]:
    """Every read of a multi-read file (groups named by read id) or of a single-read one (read id inside)."""
    multi = False
    for name in file:
        if name.startswith("read_"):
            multi = True
            yield _Slot(name.removeprefix("read_"), (name, "Raw"), (name,))
    if not multi and "Raw" in file:
        for name in _follow(file, ("Raw", "Reads")):
            yield _Slot("", ("Raw", "Reads", name), ("UniqueGlobalKey",))


def _guarded(
    path: Path, file: h5py.File, slot: _Slot, wanted: Wanted, limits: Limits
) -> Read | Problem | None:
    shown = printable(slot.read_id)
    try:
        raw = _follow(file, slot.raw)
        read_id = shown = check_read_id(slot.read_id or _text(raw, "read_id"))
        return _read(path, read_id, raw, _follow(file, slot.facts), limits) if wanted(read_id) else None
    except ReadRefused as err:
        return err.problem(str(path), shown)
    except _BROKEN as err:
        return Problem(str(path), shown, "RUB-GEN-102", f"damaged read: {first_line(err).strip(_QUOTES)}")


def _read(path: Path, read_id: str, raw: Any, facts: Any, limits: Limits) -> Read:
    channel = child(facts, "channel_id")
    tracking = child(facts, "tracking_id") if "tracking_id" in facts else None
    digitisation = number(channel, "digitisation")
    span = number(channel, "range")
    return make_read(
        read_id,
        _signal(child(raw, "Signal", h5py.Dataset), limits),
        offset=number(channel, "offset"),
        scale=span / digitisation if digitisation else math.nan,
        sampling_rate=number(channel, "sampling_rate"),
        source=str(path),
        run_id=_text(tracking, "run_id", "") if tracking is not None else "",
        channel=_whole(_text(channel, "channel_number", "0")),
        mux=_whole(_text(raw, "start_mux", "0")),
        read_number=_whole(_text(raw, "read_number", "0")),
        start_sample=_whole(_text(raw, "start_time", "0")),
        run_start=_text(tracking, "exp_start_time", "") if tracking is not None else "",
    )


def child(group: Any, name: str, kind: type = h5py.Group) -> Any:
    """Member ``name`` of ``group``, only through a hard link: every other kind can leave the file."""
    link = group.get(name, getlink=True)
    if link is None:
        raise ReadRefused("RUB-GEN-103", f"{group.name} has no {name!r}")
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "filename", "") or getattr(link, "path", "")
        raise ReadRefused(
            "RUB-GEN-108", f"{name!r} is a {type(link).__name__} to {str(target)[:80]!r}, not followed"
        )
    found = group[name]
    if not isinstance(found, kind):
        raise ReadRefused("RUB-GEN-105", f"{name!r} is a {type(found).__name__}, not a {kind.__name__}")
    return found


def _follow(group: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        group = child(group, name)
    return group


def attribute(owner: Any, name: str) -> Any:
    """The single value of attribute ``name``, or None; arrays are refused before they are read."""
    if name not in owner.attrs:
        return None
    identity = owner.attrs.get_id(name)
    if math.prod(identity.shape or ()) != 1 or identity.get_storage_size() > 4096:
        raise ReadRefused("RUB-GEN-104", f"attribute {name!r} is not a single value")
    value = owner.attrs[name]
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) else value


def number(owner: Any, name: str) -> float:
    """Attribute ``name`` of ``owner`` as a number; refused where it is missing or none."""
    value = attribute(owner, name)
    if value is None:
        raise ReadRefused("RUB-GEN-103", f"{owner.name} lacks attribute {name!r}")
    try:
        return float(value)
    except (TypeError, ValueError) as err:
        raise ReadRefused("RUB-GEN-104", f"attribute {name!r} is {str(value)[:40]!r}, not a number") from err


def _text(owner: Any, name: str, default: str | None = None) -> str:
    value = attribute(owner, name)
    if value is None:
        if default is None:
            raise ReadRefused("RUB-GEN-103", f"{owner.name} lacks attribute {name!r}")
        return default
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _signal(dataset: Any, limits: Limits) -> np.ndarray:
    """All samples of ``dataset``, after every claim it makes has been checked against what it stores."""
    if dataset.dtype.kind != "i" or dataset.dtype.itemsize != 2 or len(dataset.shape or ()) != 1:
        raise ReadRefused(
            "RUB-GEN-105", f"Signal is {dataset.dtype} of shape {dataset.shape}, not int16 of rank 1"
        )
    return stored(dataset, limits)


def stored(dataset: Any, limits: Limits) -> np.ndarray:
    """All values of a dataset of rank 1, after its claims have been checked; its type is the caller's care.

    Raises:
        ReadRefused: ``RUB-GEN-106`` to ``-109``, ``RUB-GEN-111``.
    """
    name = dataset.name.rpartition("/")[2]
    count = check_samples(dataset.shape[0], limits)
    plan = dataset.id.get_create_plist()
    if dataset.is_virtual or plan.get_external_count():
        raise ReadRefused(
            "RUB-GEN-108", f"{name} is stored in another file (virtual or external), not followed"
        )
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    unknown = [kind for kind in filters if kind not in _FILTERS]
    if unknown:
        known = ", ".join(_FILTERS.values())
        raise ReadRefused("RUB-GEN-109", f"{name} uses HDF5 filter {unknown[0]}; allowed: {known}")
    if dataset.chunks is None:
        if plan.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is None:
            raise ReadRefused("RUB-GEN-111", f"declares {count} samples and stores none")
    else:
        _check_chunks(dataset, dataset.chunks[0], count, limits)
    return dataset[:]


def _check_chunks(dataset: Any, chunk: int, count: int, limits: Limits) -> None:
    needed = -(-count // chunk)
    if chunk > limits.max_samples or needed > limits.max_stored_chunks:
        raise ReadRefused("RUB-GEN-107", f"Signal is cut into {needed} chunks of {chunk} samples")
    stored = dataset.id.get_num_chunks()
    if stored != needed:
        raise ReadRefused("RUB-GEN-111", f"declares {needed} chunks of signal and stores {stored}")
    # A compressed chunk larger than its plain form is no compressor's work but can inflate a thousandfold.
    most = needed * (dataset.dtype.itemsize * chunk * 1.1 + 4096)
    if dataset.id.get_storage_size() > most:
        raise ReadRefused("RUB-GEN-111", f"stores {dataset.id.get_storage_size()} bytes for {count} samples")
