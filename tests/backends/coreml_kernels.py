"""One operation on constants as a package of its own, run by the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coreml_bare import add, bare, main_block, written

from rubicc.backends.coreml.run.load import load

OPSETS = {"CoreML6": 7, "CoreML7": 8, "CoreML8": 9}


def ran(
    folder: Path,
    kind: str,
    results: Sequence[tuple[str, str, Sequence[int | None]]],
    opset: str = "CoreML7",
    semantics: str = "fp64",
    /,
    **given: Any,
) -> list[np.ndarray]:
    """Results of one operation on constants."""
    model = bare((1,), output="done", opset=opset, specification=OPSETS[opset])
    block = main_block(model)
    add(block, kind, results, **given)
    add(block, "identity", [("done", "fp32", (1,))], x="%x")
    package = load(written(folder, model))
    made = package.run({"x": np.zeros(1, np.float32)}, semantics, [name for name, _, _ in results])
    return [np.asarray(made[name]) for name, _, _ in results]


def one(folder: Path, kind: str, dtype: str = "fp32", /, opset: str = "CoreML7", **given: Any) -> np.ndarray:
    """Result of an operation with one result of up to five axes, whose shape is left open."""
    model = bare((1,), output="done", opset=opset, specification=OPSETS[opset])
    block = main_block(model)
    made = add(block, kind, [("r", dtype, ())], **given)
    held = made.outputs[0].type.tensorType
    held.rank = -1
    held.dimensions.add().unknown.variadic = True
    add(block, "identity", [("done", "fp32", (1,))], x="%x")
    package = load(written(folder, model))
    return np.asarray(package.run({"x": np.zeros(1, np.float32)}, "fp64", ["r"])["r"])
