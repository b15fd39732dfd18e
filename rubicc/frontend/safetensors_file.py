"""safetensors files: our own look at the header first, then the library's memory-mapped read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rubicc.errors import ModelRefused
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_HINT = "write the file again with safetensors.torch.save_file"


def read_header(path: Path, limits: Limits = DEFAULT) -> dict[str, str]:
    """Metadata of the file after checking that header, types, shapes and offsets agree with its size.

    Raises:
        ModelRefused: RUB-READ-016, -011, -017.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, limits.entry_text):
            _refuse(path, f"header of {length} bytes in a file of {size}")
        text = handle.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as err:
        _refuse(path, f"header is not JSON: {first_line(err)}", err)
    if not isinstance(header, dict):
        _refuse(path, "header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, "metadata is not a mapping of strings")
    if len(header) > limits.entries:
        _refuse(path, f"{len(header)} tensors")
    _check_layout(path, header, size - 8 - length, limits)
    return metadata


def _check_layout(path: Path, header: dict[str, Any], data_bytes: int, limits: Limits) -> None:
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            well_formed = isinstance(dtype, str) and all(
                type(n) is int and n >= 0 for n in (*shape, begin, end)
            )
        except (TypeError, KeyError, ValueError):
            well_formed = False
        if not well_formed or len(shape) > limits.dims:
            _refuse(path, f"tensor {name[:80]!r} is badly described")
        if dtype not in _ITEM_BYTES:
            raise ModelRefused(
                "RUB-READ-017", f"tensor {name[:80]!r} has type {dtype[:20]}", where=path.name, hint=_HINT
            )
        count = 1
        for extent in shape:
            count *= extent
        if count * _ITEM_BYTES[dtype] != end - begin or end > data_bytes:
            raise ModelRefused(
                "RUB-READ-011",
                f"tensor {name[:80]!r} of shape {shape!r:.60} needs {count * _ITEM_BYTES[dtype]} bytes; "
                f"it is given bytes {begin} to {end} of {data_bytes}",
                where=path.name,
                hint="the file is truncated or hostile",
            )
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            _refuse(path, f"tensors overlap or leave a hole at byte {begin}")
        position = end
    if position != data_bytes:
        _refuse(path, f"{data_bytes - position} bytes belong to no tensor")


def load(path: Path, limits: Limits = DEFAULT) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name (memory-mapped) and the file's metadata."""
    metadata = read_header(path, limits)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path), metadata
    except (SafetensorError, OSError, ValueError, KeyError) as err:
        _refuse(path, first_line(err), err)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _refuse(path: Path, what: str, err: BaseException | None = None) -> NoReturn:
    raise ModelRefused("RUB-READ-016", what, where=path.name, hint=_HINT) from err
