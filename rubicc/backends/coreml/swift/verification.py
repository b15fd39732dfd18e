"""Running a written package's recorded vectors again, through the Python ports."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rubicc.backends.coreml.swift import vectors
from rubicc.backends.coreml.swift.design import TOKENIZER, design
from rubicc.backends.coreml.swift.ports.calls import Scores
from rubicc.errors import VerificationFailed
from rubicc.spec import ModelMeta, TensorSpec


def verify(
    folder: Path,
    *,
    name: str,
    meta: ModelMeta | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> tuple[str, ...]:
    """Names of the vector files under ``folder/Swift`` that were run again and agree.

    Raises:
        VerificationFailed: ``RUB-COREML-506``.
    """
    made = design(name, meta, inputs, outputs, _assets(folder / "Swift" / "Sources"))
    checked = []
    for path in sorted((folder / "Swift").glob("Tests/*/Vectors/*.json")):
        recorded = _read(path)
        if path.name == "tokenizer_vectors.json" and made.sequences is not None:
            again = vectors.tokenizer(made.sequences)
        elif path.name == "basecaller_vectors.json" and made.reads is not None:
            scores = recorded.get("scores"), recorded.get("columns")
            again = vectors.basecaller(made.reads, _scores(*scores, path))
        else:
            continue
        if vectors.text(again) != path.read_bytes():
            raise _different(path, "its values are not what the package's algorithms give")
        checked.append(path.name)
    return tuple(checked)


def _assets(sources: Path) -> dict[str, bytes]:
    for path in sources.glob(f"*/{TOKENIZER}"):
        return {TOKENIZER: path.read_bytes()}
    return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise _different(path, "not JSON") from err
    if not isinstance(data, dict):
        raise _different(path, "not a JSON object")
    return data


def _scores(values: Any, columns: Any, path: Path) -> Scores:
    try:
        if isinstance(columns, int) and columns > 0 and len(values) % columns == 0:
            return Scores(array("f", values), columns)
    except (TypeError, OverflowError) as err:
        raise _different(path, "its scores are not numbers") from err
    raise _different(path, "its scores do not fit their columns")


def _different(path: Path, what: str) -> VerificationFailed:
    return VerificationFailed("RUB-COREML-506", what, where=path.name, hint="compile the model again")
