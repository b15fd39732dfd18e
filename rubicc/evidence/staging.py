"""Output that appears complete or not at all.

A folder is built in a hidden sibling ``.<name>.tmp-<pid>-<id>``, flushed to disk with its manifest last, and
swapped in by one ``renameat2(RENAME_EXCHANGE)``; a kill at any moment leaves the old artefact or the new one.
Where the file system cannot exchange, the old folder is first renamed aside (``.<name>.old-...``) and the
next run puts it back if it finds that the target is missing. Leftovers of dead processes are removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rubicc.errors import OutputExists, UsageError
from rubicc.evidence import manifest as manifests

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class StagedDir:
    """Context manager that builds an artefact folder beside ``target``.

    ``with StagedDir(out, force=False) as staged:`` write below ``staged.path``, then call
    :meth:`commit`. Leaving the block without a commit, or through any exception, removes the staging folder
    and leaves ``target`` as it was.

    Args:
        target: the folder to create; its parent must exist.
        force: replace an artefact of rubicc that is already there.

    Raises:
        OutputExists: on entry and again at commit (``RUB-ART-001`` not ours, ``002`` ours but no force,
            ``003`` ours but holding files of somebody else).
        UsageError: ``RUB-ART-004``.
    """

    def __init__(self, target: str | Path, *, force: bool = False) -> None:
        self.target = _absolute(target)
        self.force = force
        self.path = _temporary(self.target, "tmp")
        self._done = False

    def __enter__(self) -> StagedDir:
        _usable_parent(self.target)
        _clean(self.target)
        check_replaceable(self.target, force=self.force)
        with _write_errors(self.target):
            self.path.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            shutil.rmtree(self.path, ignore_errors=True)
        _no_room(error, self.target)

    def commit(self, manifest: manifests.Manifest, measured: Mapping[str, Any] | None = None) -> Path:
        """Hash what was written, write measured.json and manifest.json, and swap the folder in.

        Args:
            manifest: everything but ``files`` and ``volatile``, which are filled from the folder.
            measured: times and other facts that differ from run to run; JSON values.

        Returns:
            The target path.
        """
        with _write_errors(self.target):
            manifests.seal(self.path, manifest, measured or {})
            _sync_tree(self.path)
            check_replaceable(self.target, force=self.force)
            _swap(self.path, self.target)
            self._done = True
            shutil.rmtree(self.path, ignore_errors=True)  # after an exchange: the old artefact
        return self.target


class StagedFile:
    """Context manager for one output file, e.g. a checkpoint or an ONNX graph.

    ``with StagedFile(path) as file: file.write(...)``. The file appears at ``target`` when the block ends
    without an exception.

    Args:
        target: file to create.
        force: replace a regular file that is already there (folders, links and devices never).
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        OutputExists: ``RUB-ART-001`` not a regular file, ``RUB-ART-002`` exists and no force.
        UsageError: ``RUB-ART-004``.
    """

    def __init__(self, target: str | Path, *, force: bool = False, mode: str = "wb") -> None:
        self.target = _absolute(target)
        self.force = force
        self.path = _temporary(self.target, "tmp")
        self._mode = mode
        self._file: IO[Any] | None = None

    def __enter__(self) -> IO[Any]:
        check_file_replaceable(self.target, force=self.force)
        _clean(self.target)
        with _write_errors(self.target):
            # "x": never write through something that is already there under the temporary name
            if "b" in self._mode:
                self._file = self.path.open("xb")
            else:
                self._file = self.path.open("x", encoding="utf-8", newline="\n")
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            with _write_errors(self.target):
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._file.close()
                if kind is None:
                    check_file_replaceable(self.target, force=self.force)
                    _place(self.path, self.target, replace=self.force)
                    _sync(self.target.parent)
        finally:
            with contextlib.suppress(OSError):  # the buffer that did not fit is gone with the file
                self._file.close()
            self.path.unlink(missing_ok=True)
        _no_room(error, self.target)


def check_replaceable(target: Path, *, force: bool) -> None:
    """Refuse a target folder that must not be replaced or cannot be made; an absent or empty one is free.

    Raises:
        OutputExists: ``RUB-ART-001``, ``RUB-ART-002``, ``RUB-ART-003``.
        UsageError: ``RUB-ART-004``.
    """
    if not os.path.lexists(target):
        _usable_parent(_absolute(target))
        return
    if target.is_symlink() or not target.is_dir():
        raise OutputExists(
            "RUB-ART-001", "the output path is not a folder", where=str(target), hint="choose another -o"
        )
    if not any(target.iterdir()):
        return
    if not manifests.is_ours(target):
        what = "the output folder exists and has no rubicc manifest"
        raise OutputExists("RUB-ART-001", what, where=str(target), hint="choose another -o")
    if not force:
        raise OutputExists(
            "RUB-ART-002", "the artefact exists", where=str(target), hint="--force replaces it"
        )
    foreign = manifests.foreign_files(target)
    if foreign:
        what = f"the artefact holds {len(foreign)} file(s) rubicc did not write: {', '.join(foreign[:3])}"
        raise OutputExists("RUB-ART-003", what, where=str(target), hint="move them away first")


def check_file_replaceable(target: Path, *, force: bool) -> None:
    """Refuse a target file that must not be replaced or cannot be written.

    Raises:
        OutputExists: ``RUB-ART-001``, ``RUB-ART-002``.
        UsageError: ``RUB-ART-004``.
    """
    _usable_parent(target)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_file():
        what = "the output path is not a regular file"
        raise OutputExists("RUB-ART-001", what, where=str(target), hint="choose another -o")
    if not force:
        raise OutputExists("RUB-ART-002", "the file exists", where=str(target), hint="--force replaces it")


def recover(target: str | Path) -> bool:
    """Put back an artefact that a killed run had renamed aside; True if it did. Cheap when there is none."""
    target = _absolute(target)
    if os.path.lexists(target) or not target.parent.is_dir():
        return False
    for path, kind in _leftovers(target):
        if kind == "old" and manifests.is_ours(path):
            with contextlib.suppress(OSError):
                os.rename(path, target)
                return True
    return False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder among the temporary files; what killed runs of this user left there is removed."""
    parent = Path(tempfile.gettempdir())
    pattern = re.compile(rf"rubicc-(\d+)-{_host_id()}[0-9a-f]{{8}}")
    for entry in os.scandir(parent):
        match = pattern.fullmatch(entry.name)
        if match and entry.is_dir(follow_symlinks=False) and not _alive(int(match[1])):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    shutil.rmtree(entry.path, ignore_errors=True)
    path = parent / f"rubicc-{os.getpid()}-{_host_id()}{secrets.token_hex(4)}"
    with _write_errors(path):
        path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _absolute(target: str | Path) -> Path:
    path = Path(os.path.abspath(target))
    if not path.name:
        raise UsageError(
            "RUB-ART-004", "the output path has no name", where=str(target), hint="choose another -o"
        )
    return path


def _temporary(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{_host_id()}{secrets.token_hex(4)}")


def _host_id() -> str:
    """Eight hex digits for (host, PID namespace): a PID means nothing outside of it."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{socket.gethostname()}/{namespace}".encode()).hexdigest()[:8]


def _leftovers(target: Path) -> list[tuple[Path, str]]:
    """Temporary siblings of ``target`` whose process on this host is gone, with their kind (tmp, old)."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(tmp|old)-(\d+)-{_host_id()}[0-9a-f]{{8}}")
    found = []
    for entry in os.scandir(target.parent):
        match = pattern.fullmatch(entry.name)
        if match and not entry.is_symlink() and not _alive(int(match[2])):
            found.append((Path(entry.path), match[1]))
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _clean(target: Path) -> None:
    recover(target)
    for path, kind in _leftovers(target):
        if path.is_dir() and (kind == "tmp" or (os.path.lexists(target) and manifests.is_ours(path))):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)


def _usable_parent(target: Path) -> None:
    parent = target.parent
    if not parent.is_dir():
        raise UsageError(
            "RUB-ART-004", "the folder for the output does not exist", where=str(parent), hint="create it"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        what = "the folder for the output may not be written"
        raise UsageError("RUB-ART-004", what, where=str(parent), hint="choose another -o")


@contextlib.contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a denied write into an error that names the output."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputExists(
                "RUB-ART-001", "the output path was taken meanwhile", where=str(target)
            ) from err
        what = f"the output cannot be written: {err.strerror or err}"
        raise UsageError(
            "RUB-ART-004", what, where=str(target), hint="free space or choose another -o"
        ) from err


def _no_room(error: BaseException | None, target: Path) -> None:
    """Whatever was being written when the disk was full, the user must hear the same."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = str(error.filename or target)
        what = f"the output cannot be written: {error.strerror}"
        raise UsageError("RUB-ART-004", what, where=where, hint="free space or choose another -o") from error


def _place(path: Path, target: Path, *, replace: bool) -> None:
    """Give a finished file its name; without ``replace`` a file that appeared meanwhile survives."""
    if not replace:
        with contextlib.suppress(PermissionError, NotImplementedError):
            os.link(path, target)  # fails if the target exists, unlike rename; the caller removes ``path``
            return
    os.replace(path, target)


def _swap(staged: Path, target: Path) -> None:
    """Make ``staged`` the target; afterwards ``staged`` names the old artefact, or nothing."""
    if not os.path.lexists(target) or not any(target.iterdir()):
        os.rename(staged, target)
    elif not _exchange(staged, target):
        aside = _temporary(target, "old")
        os.rename(target, aside)
        try:
            os.rename(staged, target)
        except BaseException:
            os.rename(aside, target)
            raise
        _sync(target.parent)
        os.rename(aside, staged)
    _sync(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Atomically exchange two paths; False where kernel or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _sync(path: Path) -> None:
    """fsync a file or folder; file systems that cannot sync a folder are let be."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))
