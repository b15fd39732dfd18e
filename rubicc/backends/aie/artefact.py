"""What stands in an artefact's ``aie`` folder, written and read again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import rubicc
from rubicc.backends.aie.extract import extract
from rubicc.backends.aie.host import Host
from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.errors import ModelRefused, RubiccError
from rubicc.ir.graph import Graph
from rubicc.ir.io import load_graph

GRAPH, PLAN, PICTURE, INDEX, PROJECT = "integer.onnx", "plan.json", "array.svg", "files.json", "project"
SCHEMA_VERSION = 1
_HINT = "restore the artefact, or compile again"


@dataclass(frozen=True)
class Emitted:
    """The files of a compilation.

    Attributes:
        folder: the ``aie`` folder.
        batch_axes: axis of the batch of every input and output; empty where one of them has none.
    """

    folder: Path
    batch_axes: dict[str, int]
    digest: str

    @property
    def project(self) -> Path:
        """The Vitis project."""
        return self.folder / PROJECT

    @cached_property
    def graph(self) -> Graph:
        """The integer-only graph with the host's work around it."""
        return load_graph(self.folder / GRAPH)

    @cached_property
    def net(self) -> Net:
        """The integer network, read out of the graph."""
        return extract(self.graph)

    @cached_property
    def host(self) -> Host:
        """The host's work."""
        return Host(self.graph, self.net)

    @cached_property
    def plan(self) -> AiePlan:
        """The mapping onto the array."""
        try:
            return AiePlan.from_dict(json.loads((self.folder / PLAN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise _changed(f"{PLAN} cannot be used: {type(err).__name__}"[:200], self.folder) from err


def write_index(folder: Path, batch_axes: dict[str, int]) -> None:
    """Write ``files.json``: the hash of every other file, by which sessions know them."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "tool": f"rubicc {rubicc.__version__}",
        "batch_axes": batch_axes,
        "sha256": _hashes(folder),
    }
    write_json(folder / INDEX, value)


def write_json(path: Path, value: Any) -> None:
    """Canonical JSON."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def opened(folder: Path) -> Emitted:
    """The files in an artefact's ``aie`` folder (or in the artefact).

    Raises:
        ModelRefused: ``RUB-AIE-005`` missing, or not those that were written.
    """
    home = folder / "aie" if (folder / "aie").is_dir() else folder
    try:
        text = (home / INDEX).read_text(encoding="utf-8")
        index = json.loads(text)
        wanted, axes = dict(index["sha256"]), {str(k): int(v) for k, v in index["batch_axes"].items()}
        if index["schema_version"] != SCHEMA_VERSION:
            raise _changed("another version of rubicc wrote it", home)
    except RubiccError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise _changed(f"{INDEX} cannot be used: {type(err).__name__}", home) from err
    found = _hashes(home)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            said = "is missing" if name not in found else "was added" if name not in wanted else "was changed"
            raise _changed(f"{name} {said}", home)
    return Emitted(home, axes, hashlib.sha256(text.encode()).hexdigest())


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in sorted(path.relative_to(folder).as_posix() for path in files)
        if name != INDEX
    }


def _changed(what: str, folder: Path) -> ModelRefused:
    return ModelRefused("RUB-AIE-005", what, where=folder.name, hint=_HINT)
