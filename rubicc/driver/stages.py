"""Stages of the rewriting pipeline on disk: dumping them, stopping at one, continuing from one.

A stage is the graph after one pass, ``stages/NN_pass-id.onnx``; ``00_lower`` is the lowered graph itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.pipelines import Step

FOLDER = "stages"


def names(steps: Sequence[Step]) -> list[str]:
    """Stage names of a pipeline, ``lower`` first."""
    return ["lower", *(step.id for step in steps)]


def index_of(text: str, steps: Sequence[Step]) -> int:
    """Position of a stage given by number (``3``, ``03``), id, or file name (``03_cleanup.x``).

    Raises:
        UsageError: ``RUB-DRV-002``.
    """
    known = names(steps)
    number, _, rest = text.removesuffix(".onnx").partition("_")
    if number.isdigit() and int(number) < len(known) and (not rest or known[int(number)] == rest):
        return int(number)
    if text in known:
        return len(known) - 1 - known[::-1].index(text)  # a pass that runs twice: its last run
    listed = ", ".join(f"{i:02d}_{name}" for i, name in enumerate(known))
    raise UsageError("RUB-DRV-002", f"no stage {text!r}", hint=f"stages: {listed}")


def dump(folder: Path, index: int, name: str, graph: Graph) -> None:
    """Write one stage into an artefact being staged."""
    from rubicc.ir.io import save_graph

    home = folder / FOLDER
    home.mkdir(exist_ok=True)
    save_graph(graph, home / f"{index:02d}_{name}.onnx")


def load(artefact: Path, index: int, name: str, input_sha256: str) -> Graph:
    """A stage of an earlier compilation of the same model by the same rubicc.

    Raises:
        UsageError: ``RUB-DRV-004`` saying what does not match.
    """
    from rubicc import __version__
    from rubicc.errors import RubiccError
    from rubicc.evidence import manifest
    from rubicc.ir.io import load_graph

    path = artefact / FOLDER / f"{index:02d}_{name}.onnx"
    try:
        found = manifest.read(artefact)
    except RubiccError as err:
        raise _cannot(f"there is no artefact to continue: {err.what}", artefact) from err
    relative = f"{FOLDER}/{path.name}"
    if relative not in found.files:
        raise _cannot(f"it holds no {relative}", artefact)
    if found.inputs.get("model") != input_sha256:
        raise _cannot("it was compiled from another model", artefact)
    if found.versions.get("rubicc") != __version__:
        raise _cannot(f"it was compiled by rubicc {found.versions.get('rubicc')}", artefact)
    if manifest.file_sha256(path) != found.files[relative]:
        raise _cannot(f"{relative} has been changed", artefact)
    return load_graph(path)


def _cannot(what: str, artefact: Path) -> UsageError:
    return UsageError(
        "RUB-DRV-004", what, where=artefact.name, hint="compile without --from-stage, with --dump-stages"
    )
