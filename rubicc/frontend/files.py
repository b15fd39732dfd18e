"""Opening what the user named, without ever following it somewhere it should not lead."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from rubicc.errors import ModelRefused
from rubicc.evidence.manifest import file_sha256
from rubicc.frontend.limits import DEFAULT, Limits


def regular_file(path: Path, limits: Limits = DEFAULT) -> int:
    """Size in bytes of the regular, non-empty file ``path``.

    Raises:
        ModelRefused: RUB-READ-001 absent or unreadable, -002 pipe, device, socket or folder, -003 empty,
            -005 larger than the limit.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as err:
        raise ModelRefused(
            "RUB-READ-001",
            f"cannot read: {getattr(err, 'strerror', None) or err}",
            where=path.name or str(path),
            hint="check the path",
        ) from err
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe, socket or device"
        raise ModelRefused("RUB-READ-002", f"{kind}, not a regular file", where=path.name, hint="give a file")
    if not os.access(path, os.R_OK):
        raise ModelRefused(
            "RUB-READ-001", "no permission to read", where=path.name, hint="check the permissions"
        )
    if info.st_size == 0:
        raise ModelRefused("RUB-READ-003", "file is empty", where=path.name, hint="fetch or save it again")
    if info.st_size > limits.file:
        raise ModelRefused(
            "RUB-READ-005",
            f"{info.st_size} bytes, the limit is {limits.file}",
            where=path.name,
            hint="no model this large is supported",
        )
    return info.st_size


def read_small(path: Path, limits: Limits = DEFAULT) -> bytes:
    """Content of a text-like file of at most ``limits.entry_text`` bytes (RUB-READ-005 above it)."""
    size = regular_file(path, limits)
    if size > limits.entry_text:
        raise ModelRefused(
            "RUB-READ-005",
            f"{size} bytes where at most {limits.entry_text} make sense",
            where=path.name,
            hint="this is no configuration file",
        )
    with path.open("rb") as handle:
        return handle.read(limits.entry_text)


def inside(folder: Path, name: str) -> Path | None:
    """``folder/name`` if it exists; links may point around inside the folder but not out of it.

    Raises:
        ModelRefused: RUB-READ-080 when the file or a link leads out of the folder.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    root = folder.resolve()
    target = path.resolve()
    if not target.is_relative_to(root):
        raise ModelRefused(
            "RUB-READ-080",
            f"{name} leads outside the model folder",
            where=folder.name,
            hint="copy the file into the folder",
        )
    return path


def sha256_folder(folder: Path, names: Iterable[str]) -> str:
    """Digest of the sorted ``name, digest`` lines of the files that were read from ``folder``."""
    total = hashlib.sha256()
    for name in sorted(set(names)):
        total.update(f"{name}\0{file_sha256(folder / name)}\n".encode())
    return total.hexdigest()
