"""What backends compile on this machine: where it is kept, and what it depends on."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SECONDS = 300  # for asking the compiler what it is


def cache_home() -> Path:
    """rubicc's folder in the user's cache; whoever writes there first creates it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "rubicc"


def code_folder(name: str) -> Path:
    """A folder that only this user can write: what lies in it is loaded or run as code.

    Args:
        name: of the folder in the cache; a temporary one stands in where the cache is not safe or full.
    """
    home = cache_home() / name
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        stat = home.stat()
        if stat.st_uid == os.getuid() and not stat.st_mode & 0o022 and os.access(home, os.W_OK):
            return home
    except OSError:
        pass
    return _private(name)


@functools.cache
def _private(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"rubicc-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def keep_newest(home: Path, entries: int, size: int) -> None:
    """Drop what was not used longest in ``home`` until the bounds hold; users touch what they use.

    Args:
        entries: files or folders that may stay.
        size: bytes they may have together.
    """
    found = []
    for path in home.iterdir():
        with contextlib.suppress(OSError):  # another process drops entries as well
            files = [path, *path.rglob("*")] if path.is_dir() else [path]
            found.append((path.stat().st_mtime, sum(p.stat().st_size for p in files), path))
    total = 0
    for number, (_, own, path) in enumerate(sorted(found, reverse=True)):
        total += own
        if number >= entries or total > size:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@functools.cache
def compiler_identity(path: str) -> bytes:
    """What a compiler and -march=native are here: a cache may be shared by machines with other CPUs."""
    out = b""
    for arguments in (("--version",), ("-march=native", "-E", "-v", "-x", "c++", os.devnull)):
        answer = subprocess.run([path, *arguments], capture_output=True, timeout=SECONDS, check=False)
        lines = (answer.stdout + answer.stderr).splitlines()
        out += b"\n".join(line for line in lines if b"-march" in line or b"version" in line)
    return out


def framed(sources: Mapping[str, bytes]) -> bytes:
    """Names, lengths and bodies in one piece, for a digest that no other split of the same bytes has."""
    return b"".join(f"{name} {len(body)}\n".encode() + body for name, body in sources.items())
