"""Reading what ``torch.save`` wrote, as data: zip archives (PyTorch >= 1.6) and legacy streams.

The pickle is first interpreted without importing anything (:mod:`rubicc.frontend.pickles`); only a stream
that mentions tensors alone, each within the bytes stored for it, goes on to
``torch.load(weights_only=True)``. There is no fallback.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused
from rubicc.frontend import pickles, zips
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


def load_zip(path: Path, limits: Limits = DEFAULT) -> Any:
    """The object in a zip written by ``torch.save``: plain containers and tensors, memory-mapped.

    Raises:
        ModelRefused: RUB-READ-005, -006, -007, -008, -010, -011, -015.
    """
    check_zip(path, limits)
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as err:  # torch raises RuntimeError, UnpicklingError, EOFError, ...
        raise ModelRefused(
            "RUB-READ-006",
            f"torch.load refused it: {first_line(err)}",
            where=path.name,
            hint="save the file again",
        ) from err


def check_zip(path: Path, limits: Limits = DEFAULT) -> None:
    """All of :func:`load_zip` but the loading: nothing is imported or allocated."""
    with zips.open_zip(path, limits) as archive:
        names = archive.namelist()
        pickled = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ModelRefused(
                "RUB-READ-006",
                "no single data.pkl in the archive",
                where=path.name,
                hint="save the file again",
            )
        prefix = pickled[0].rpartition("/")[0]
        stream = pickles.interpret(
            zips.read_entry(archive, pickled[0], limits), where=path.name, limits=limits
        )
        refuse_wanted(stream.wanted, path.name)
        stored = {info.filename: info.file_size for info in archive.infolist()}
        for record in storages(stream.root, limits):
            entry = f"{prefix}/data/{record.key}"
            if stored.get(entry, -1) != record.numel * ITEM_BYTES[record.dtype]:
                raise ModelRefused(
                    "RUB-READ-011",
                    f"entry {entry!r} has {stored.get(entry, 0)} bytes, its tensor declares "
                    f"{record.numel} x {record.dtype}",
                    where=path.name,
                    hint="the file is damaged or hostile",
                )


def refuse_wanted(wanted: list[str], where: str) -> None:
    """RUB-READ-010 for a pickled module, RUB-READ-008 for any other name that is not data."""
    if not wanted:
        return
    listed = ", ".join(wanted[:6]) + (f" and {len(wanted) - 6} more" if len(wanted) > 6 else "")
    if any(name.startswith("torch.nn.modules.") for name in wanted):
        raise ModelRefused(
            "RUB-READ-010",
            f"a pickled module that wants {listed}",
            where=where,
            hint="save model.state_dict() and give --arch, or torch.export.save, or --trust",
        )
    raise ModelRefused(
        "RUB-READ-008",
        f"the pickle wants {listed}",
        where=where,
        hint="save model.state_dict() and give --arch, or --trust for a file of your own",
    )


def storages(root: Any, limits: Limits = DEFAULT) -> list[pickles.StorageRecord]:
    """Every storage that tensors reachable from ``root`` use, each container visited once."""
    found: dict[str, pickles.StorageRecord] = {}
    seen: set[int] = set()
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, pickles.TensorRecord):
            found[value.storage.key] = value.storage
        elif isinstance(value, pickles.StorageRecord):
            found[value.key] = value
        elif isinstance(value, dict | list | tuple | pickles.Inert) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(_children(value))
    return list(found.values())


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, pickles.Inert):
        return [*value.args, *value.items, value.state]
    return list(value)


def load_legacy(
    path: Path, *, allowed: frozenset[str] = pickles.TENSOR_GLOBALS, limits: Limits = DEFAULT
) -> tuple[Any, list[str]]:
    """The object of a legacy (before PyTorch 1.6) file, tensors as views of one private memory map.

    Returns:
        The object (:class:`~rubicc.frontend.pickles.Inert` records where ``allowed`` names classes) and the
        names it wanted beyond ``allowed``; when there are any, no tensor was read.

    Raises:
        ModelRefused: RUB-READ-006, -011, -015.
    """
    with path.open("rb") as handle:
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    position = len(LEGACY_MAGIC)
    root: Any = None
    wanted: list[str] = []
    keys: Any = None
    for index in range(4):  # protocol version, system information, object, storage keys
        part = pickles.interpret(data, where=path.name, allowed=allowed, start=position, limits=limits)  # type: ignore[arg-type]
        position = part.end
        if index == 1 and isinstance(part.root, dict) and part.root.get("little_endian") is False:
            raise ModelRefused("RUB-READ-006", "big-endian file", where=path.name, hint="save it again")
        if index == 2:
            root, wanted = part.root, part.wanted
            if wanted:
                return root, wanted
        keys = part.root
    records = {record.key: record for record in storages(root, limits)}
    blocks = _storage_blocks(data, position, keys, records, path.name)
    try:
        return _materialise(root, blocks, {}), []
    except RecursionError as err:
        raise ModelRefused(
            "RUB-READ-015", "nested too deeply", where=path.name, hint="save it again"
        ) from err


def _storage_blocks(
    data: mmap.mmap, position: int, keys: Any, records: Mapping[str, pickles.StorageRecord], where: str
) -> dict[str, torch.Tensor]:
    """Flat tensors by storage key, over the file's bytes: ``int64 count`` then the elements, in key order."""
    import torch

    blocks: dict[str, torch.Tensor] = {}
    for key in keys if isinstance(keys, list) else []:
        record = records.get(str(key))
        if record is None or position + 8 > len(data):
            raise ModelRefused(
                "RUB-READ-006", f"storage {key!r:.40} missing", where=where, hint="save it again"
            )
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        size = record.numel * ITEM_BYTES[record.dtype]
        if count != record.numel:
            raise ModelRefused(
                "RUB-READ-011",
                f"storage {record.key!r} declares {record.numel} elements and holds {count}",
                where=where,
                hint="the file is damaged or hostile",
            )
        if position + 8 + size > len(data):
            raise ModelRefused(
                "RUB-READ-006",
                f"storage {record.key!r} needs {size} bytes, {len(data) - position - 8} are left",
                where=where,
                hint="the file is truncated; fetch it again",
            )
        dtype = getattr(torch, record.dtype)
        blocks[record.key] = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=position + 8)
            if count
            else torch.empty(0, dtype=dtype)
        )
        position += 8 + size
    missing = sorted(set(records) - set(blocks))
    if missing:
        raise ModelRefused(
            "RUB-READ-006", f"storage {missing[0]!r} missing", where=where, hint="save it again"
        )
    return blocks


def _materialise(value: Any, blocks: Mapping[str, torch.Tensor], done: dict[int, Any]) -> Any:
    """``value`` with tensor records replaced by tensors; containers are rewritten in place where possible."""
    if isinstance(value, pickles.TensorRecord):
        return blocks[value.storage.key].as_strided(value.size, value.stride, value.offset)
    if isinstance(value, tuple):
        return tuple(_materialise(v, blocks, done) for v in value) if _holds_records(value) else value
    if id(value) in done:
        return value
    if isinstance(value, dict):
        done[id(value)] = value
        for key, item in value.items():
            value[key] = _materialise(item, blocks, done)
    elif isinstance(value, list):
        done[id(value)] = value
        value[:] = [_materialise(item, blocks, done) for item in value]
    elif isinstance(value, pickles.Inert):
        done[id(value)] = value
        value.state = _materialise(value.state, blocks, done)
    return value


def _holds_records(values: tuple[Any, ...]) -> bool:
    return any(isinstance(v, pickles.TensorRecord | pickles.Inert | dict | list) for v in values)
