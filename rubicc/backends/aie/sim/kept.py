"""Compiled emulations in the user's cache, so that a project is compiled once on a machine.

An entry is the program and what its graph said of itself, under the hash of every file of the project, the
emulation's own headers, the compiler, the CPU and the flags. Entries come whole or not at all, and the ones
that were not used longest go when there are too many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rubicc.backends.aie.sim import tools
from rubicc.backends.aie.sim.build import Built, build
from rubicc.backends.compiled import code_folder, compiler_identity, framed, keep_newest

FOLDER = "aie-emulations"
MAX_ENTRIES = 48
MAX_BYTES = 512 * 2**20
PROGRAM, ABOUT = "emulation", "built.json"


def built_once(
    project: Path, into: Path, *, arch: int = 20, defines: Sequence[str] = (), batch: int = 1
) -> Built:
    """As :func:`rubicc.backends.aie.sim.build.build`, without compiling what this machine has compiled.

    Args:
        into: folder for the program; it stays usable when the cache drops the entry.

    Raises:
        VerificationFailed, ToolMissing: as ``build``.
    """
    into.mkdir(parents=True, exist_ok=True)
    home = code_folder(FOLDER)
    entry = home / digest(project, arch, defines, batch)
    found = _taken(entry, project, into)
    if found is None:
        found = build(project, into, arch=arch, defines=defines, batch=batch)
        with contextlib.suppress(OSError):  # a full disk costs the cache, not the result
            _put(found, entry)
            keep_newest(home, MAX_ENTRIES, MAX_BYTES)
    return found


def digest(project: Path, arch: int, defines: Sequence[str], batch: int) -> str:
    """Name of the entry: of everything that the program is made from, and by."""
    path = tools.compiler()
    whole = hashlib.sha256(compiler_identity(path))
    whole.update("\0".join([*tools.flags(arch), "", *defines, "", str(batch)]).encode())
    whole.update(framed(tools.sources()))
    files = sorted(p for p in project.rglob("*") if p.is_file())
    whole.update(framed({p.relative_to(project).as_posix(): p.read_bytes() for p in files}))
    return whole.hexdigest()[:32]


def _taken(entry: Path, project: Path, into: Path) -> Built | None:
    """The entry's program, linked or copied below ``into``; None where there is no whole entry."""
    program = into / PROGRAM
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
        program.unlink(missing_ok=True)
        try:
            os.link(entry / PROGRAM, program)
        except OSError:  # another file system
            shutil.copy2(entry / PROGRAM, program)
        os.utime(entry)
        return Built(project.resolve(), program.resolve(), about["description"], about["static_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put(built: Built, entry: Path) -> None:
    """Store a program whole, or not at all."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=entry.parent) as text:
        made = Path(text) / "made"
        made.mkdir()
        shutil.copy2(built.program, made / PROGRAM)
        about = {"description": built.description, "static_bytes": built.static_bytes}
        (made / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        try:
            os.replace(made, entry)
        except OSError:  # another process was first, or what lies there is broken
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(made, entry)
