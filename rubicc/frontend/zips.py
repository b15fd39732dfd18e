"""Looking into a zip archive without trusting it. No entry is ever extracted to disk."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rubicc.errors import ModelRefused
from rubicc.frontend.limits import DEFAULT, Limits

_HINT = "save the model again with torch.save or torch.export.save"


@contextlib.contextmanager
def open_zip(path: Path, limits: Limits = DEFAULT) -> Iterator[zipfile.ZipFile]:
    """The archive at ``path`` after :func:`check_entries`.

    Raises:
        ModelRefused: RUB-READ-005, -006, -007.
    """
    with _open(path) as archive:
        check_entries(archive, path, limits)
        yield archive


def entry_names(path: Path) -> list[str]:
    """Names of the entries, unchecked: good for telling forms apart and nothing else (RUB-READ-006)."""
    with _open(path) as archive:
        return archive.namelist()


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError) as err:
        raise ModelRefused(
            "RUB-READ-006",
            f"not a complete zip archive: {err}",
            where=path.name,
            hint="fetch or save it again",
        ) from err


def check_entries(archive: zipfile.ZipFile, path: Path, limits: Limits) -> None:
    """Refuse escapes, duplicates, encryption, compression, overlaps and declared sizes beyond the file.

    PyTorch stores entries uncompressed; a compressed one is foreign, and refusing it removes bombs
    altogether. Without compression, entries that do not overlap cannot add up to more than the file.
    """
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise ModelRefused("RUB-READ-005", f"{len(entries)} archive entries", where=path.name, hint=_HINT)
    seen: set[str] = set()
    total = 0
    for entry in entries:
        name = entry.filename
        parts = name.split("/")
        problem = ""
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in name:
            problem = "escapes the archive"
        elif name.casefold() in seen:
            problem = "occurs twice"
        elif entry.flag_bits & 0x1:
            problem = "is encrypted"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            problem = f"is compressed ({entry.compress_size} to {entry.file_size} bytes)"
        elif (entry.external_attr >> 16) & 0o170000 == 0o120000:
            problem = "is a symbolic link"
        if problem:
            raise ModelRefused("RUB-READ-007", f"entry {name[:120]!r} {problem}", where=path.name, hint=_HINT)
        seen.add(name.casefold())
        total += entry.file_size
    size = path.stat().st_size
    if total > size:
        raise ModelRefused(
            "RUB-READ-007",
            f"entries add up to {total} bytes in a file of {size}",
            where=path.name,
            hint=_HINT,
        )


def read_entry(archive: zipfile.ZipFile, name: str, limits: Limits = DEFAULT) -> bytes:
    """Content of a small entry, checksum verified.

    Raises:
        ModelRefused: RUB-READ-005 above ``limits.entry_text``, -006 when the content is damaged.
    """
    where = Path(archive.filename or "archive").name
    try:
        info = archive.getinfo(name)
        if info.file_size > limits.entry_text:
            raise ModelRefused(
                "RUB-READ-005", f"entry {name!r} has {info.file_size} bytes", where=where, hint=_HINT
            )
        return archive.read(info)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, NotImplementedError, RuntimeError) as err:
        raise ModelRefused(
            "RUB-READ-006",
            f"entry {name!r} cannot be read: {err}",
            where=where,
            hint="fetch or save it again",
        ) from err
