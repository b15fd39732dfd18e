"""What stands in an artefact's ``aie`` folder, written and read again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

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
VERSION = rubicc.__version__
MOST_EXAMPLES = 1 << 28  # numbers in an example
_HERE: set[str] = set()  # digests of what this process wrote
_HINT = "restore the artefact, or compile again"


@dataclass(frozen=True)
class Emitted:
    """The files of a compilation.

    Attributes:
        folder: the ``aie`` folder.
        batch_axes: axis of the batch of every input and output; empty where one of them has none.
        digest: of all files.
        name: of the model.
        example: sequences and frames of the simulations' example, by input edge.
    """

    folder: Path
    batch_axes: dict[str, int]
    digest: str
    name: str
    example: dict[str, tuple[int, int]]

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
            raise changed(f"{PLAN} cannot be used: {type(err).__name__}"[:200], self.folder) from err


def write_index(
    folder: Path, batch_axes: dict[str, int], *, name: str, example: Mapping[str, np.ndarray]
) -> None:
    """Write ``files.json``: the hash of every other file, by which sessions know them."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "tool": f"rubicc {VERSION}",
        "batch_axes": batch_axes,
        "name": name,
        "example": {edge: [array.shape[0], array.shape[2]] for edge, array in example.items()},
        "sha256": _hashes(folder),
    }
    write_json(folder / INDEX, value)
    _HERE.add(_digest((folder / INDEX).read_text(encoding="utf-8")))


def written_here(digest: str) -> bool:
    """Whether this process wrote these files."""
    return digest in _HERE


def _digest(index: str) -> str:
    return hashlib.sha256(index.encode()).hexdigest()


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
        model = str(index["name"])
        example = {str(edge): (int(count), int(frames)) for edge, (count, frames) in index["example"].items()}
        if not all(0 < math.prod(size) <= MOST_EXAMPLES for size in example.values()):
            raise ValueError("example")
        if index["schema_version"] != SCHEMA_VERSION:
            raise changed("another version of rubicc wrote it", home)
    except RubiccError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise changed(f"{INDEX} cannot be used: {type(err).__name__}", home) from err
    found = _hashes(home)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            said = "is missing" if name not in found else "was added" if name not in wanted else "was changed"
            raise changed(f"{name} {said}", home)
    return Emitted(home, axes, _digest(text), model, example)


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in sorted(path.relative_to(folder).as_posix() for path in files)
        if name != INDEX
    }


def changed(what: str, folder: Path) -> ModelRefused:
    """``RUB-AIE-005``."""
    return ModelRefused("RUB-AIE-005", what, where=folder.name, hint=_HINT)
