"""Only C++ that rubicc itself would write is compiled when an artefact is opened.

The hashes beside a project tell accidents, not intentions: whoever changes a kernel can change its hash. So
before a project from disk is compiled for the emulation, it is written once more from the integer graph and
the plan (data, read with care), and its sources must be the same, byte for byte. What this process wrote, and
what this user's cache holds compiled, has been through that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rubicc.backends.aie import artefact
from rubicc.backends.aie.artefact import Emitted
from rubicc.backends.aie.project.write import write
from rubicc.errors import ModelRefused
from rubicc.evidence.staging import scratch

CODE = frozenset((".c", ".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx", ".inc", ".mk"))


def require_genuine(files: Emitted) -> None:
    """Nothing, when the sources of ``files`` are those that its plan and network give.

    Raises:
        ModelRefused: ``RUB-AIE-006`` with the first source that is not.
    """
    if artefact.written_here(files.digest):
        return
    with scratch() as home:
        write(files.plan, files.net, home, name=files.name, example=_zeros(files))
        wanted, found = _sources(home), _sources(files.project)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise ModelRefused(
                "RUB-AIE-006",
                f"{name} is not what rubicc {artefact.VERSION} writes for this network and plan",
                where=files.folder.name,
                hint="compile the model again; `make sim` in the project runs it as it is, if you trust it",
            )


def _zeros(files: Emitted) -> dict[str, np.ndarray]:
    """An example of the project's size: its numbers are in no source.

    Raises:
        ModelRefused: ``RUB-AIE-005`` where it is of no size that the network has.
    """
    if set(files.example) != set(files.net.inputs):
        raise artefact.changed(f"{artefact.INDEX} has another network's example", files.folder)
    return {
        name: np.zeros((count, files.net.edges[name].channels, frames), np.int64)
        for name, (count, frames) in files.example.items()
    }


def _sources(project: Path) -> dict[str, bytes]:
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and path.suffix in CODE
    }
