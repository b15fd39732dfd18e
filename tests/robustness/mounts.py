"""Tiny file systems for full-disk trials, in a private mount namespace that ends with the process."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

_CLONE_NEWNS, _MS_RDONLY, _MS_REC, _MS_PRIVATE = 0x20000, 0x1, 0x4000, 0x40000


@functools.cache
def private_mounts() -> bool:
    """Give this process and its children mounts of their own; False where the machine does not allow it."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return False
    return libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0


def mount_small(folder: Path, options: str) -> None:
    """A tmpfs at ``folder`` with options such as ``size=64k``; ``ro`` makes it read-only."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_RDONLY if options == "ro" else 0
    data = b"" if options == "ro" else options.encode()
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))


def unmount(folder: Path) -> None:
    """Let go of :func:`mount_small`'s file system, if there is one."""
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)
