"""Shapes of every value of a flexible package, seen while the interpreter runs it once."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from rubicc.backends.coreml.lint.memory import memory
from rubicc.backends.coreml.run.program import Package, TensorType
from rubicc.errors import UsageError

Shape = tuple[int, ...]
_TYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "bool": "bool"}


def default_shapes(package: Package, function: str | None = None) -> dict[str, Shape]:
    """Input -> the shape that the description writes first; inputs that are no arrays are left out."""
    interface = package.interfaces[function or package.default]
    return {item.name: item.shapes.default for item in interface.inputs if item.shapes is not None}


def shapes_at(
    package: Package, inputs: Mapping[str, Shape] | None = None, function: str | None = None
) -> dict[str, Shape]:
    """Value -> its shape when inputs have the shapes given; empty where every declared shape is a number.

    The package is run on zeros once. Of a value made again and again in a loop the largest shape counts.

    Args:
        inputs: input -> shape; the default shapes where left out.
        function: which function; the default one when ``None``.

    Raises:
        UsageError: ``RUB-COREML-403``: an input is no array; ``RUB-COREML-261``: a shape is not allowed.
        ModelRefused: ``RUB-COREML-2xx``: the interpreter refuses the package.
    """
    chosen = package.program.functions[function or package.default]
    types = [kind for kind in chosen.types.values() if isinstance(kind, TensorType)]
    if not inputs and not any(None in kind.shape or kind.variadic for kind in types):
        return {}
    sizes = default_shapes(package, function) | dict(inputs or {})
    feeds = {}
    for value in chosen.inputs:
        if not isinstance(value.type, TensorType):
            continue  # states are made by the interpreter
        if value.name not in sizes:
            raise UsageError(
                "RUB-COREML-403",
                f"input {value.name!r} is no array of known shape",
                hint="give its shape, or compile with fixed ones",
            )
        feeds[value.name] = np.zeros(sizes[value.name], _TYPES.get(value.type.dtype, value.type.dtype))
    seen: dict[str, Shape] = {}

    def observe(name: str, dtype: Any, shape: Shape) -> None:
        if name not in seen or prod(shape) > prod(seen[name]):
            seen[name] = shape

    package.machine("fp16", function).run(feeds, observe=observe)
    return seen


def peak_bytes(package: Package, inputs: Mapping[str, Shape] | None = None) -> int:
    """Most bytes of activations alive at once, in their declared types, at the shapes given or the default.

    Raises:
        UsageError, ModelRefused: as :func:`shapes_at`.
    """
    return memory(package, shapes=shapes_at(package, inputs)).peak
