"""What a result is made of, as digests: equal digests, equal result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.manifest import file_sha256

# Permissions and matters of one run: none of them changes what comes out.
OF_THE_RUN = frozenset(
    ("origins", "allow_code", "trust", "dry_run", "force", "cache", "threads", "save_every")
)


class Files:
    """Digests of the content of files and folders.

    Args:
        known: path -> [size, time of change in ns, sha256] of files digested before, which are believed while
            size and time are the same; brought up to date.
    """

    def __init__(self, known: dict[str, list[Any]] | None = None) -> None:
        self.known = {} if known is None else known

    def of(self, path: str | Path) -> str:
        """Of a file, or of the names and contents of all regular files in a folder."""
        path = Path(path)
        if not path.is_dir():
            return self._file(path)
        total = hashlib.sha256()
        for root, folders, names in os.walk(path):
            folders.sort()
            for inside in (Path(root, name) for name in sorted(names)):
                if inside.is_file():
                    total.update(f"{inside.relative_to(path).as_posix()}\0{self._file(inside)}\n".encode())
        return total.hexdigest()

    def _file(self, path: Path) -> str:
        facts = path.stat()
        name, now = str(path.resolve()), [facts.st_size, facts.st_mtime_ns]
        before = self.known.get(name)
        if before is None or before[:2] != now:
            before = self.known[name] = [*now, file_sha256(path)]
        return str(before[2])


def digest(value: Any, files: Files | None = None) -> str:
    """Of any settings: dataclasses, plain values, arrays; paths stand for what lies there.

    Raises:
        UsageError: ``RUB-SHRINK-090``: it holds something that cannot be told apart, such as a function.
    """
    return hashlib.sha256(json.dumps(_plain(value, files or Files()), sort_keys=True).encode()).hexdigest()


def _plain(value: Any, files: Files) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Path):
        return {"content": files.of(value)}
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": [str(value.dtype), list(value.shape), content]}
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.name not in OF_THE_RUN]
        return {type(value).__name__: {name: _plain(getattr(value, name), files) for name in names}}
    if isinstance(value, Mapping):
        pairs = [[_plain(key, files), _plain(item, files)] for key, item in value.items()]
        return {"mapping": sorted(pairs, key=json.dumps)}
    if isinstance(value, Sequence):
        return [_plain(item, files) for item in value]
    raise UsageError(
        "RUB-SHRINK-090",
        f"a setting holds a {type(value).__name__}, which no later run can recognise",
        hint="give plain values in a chain, or call the verb by itself",
    )
