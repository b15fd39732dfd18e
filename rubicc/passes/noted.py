"""What passes note in a graph's metadata for the next time: JSON that anybody may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import copy
from typing import Any

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph


def noted(graph: Graph, key: str, empty: Mapping[str, dict[str, float] | list[str]]) -> dict[str, Any]:
    """The note under ``key``, or ``empty``.

    Args:
        empty: its parts: numbers by name, or lists of names.

    Raises:
        UsageError: ``RUB-PASS-055``: it is no such note.
    """
    text = graph.ir.metadata_props.get(key)
    try:
        found = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(_fits(found.get(n, part), part) for n, part in empty.items()):
        raise UsageError(
            "RUB-PASS-055",
            "a note of an earlier pass is damaged",
            where=f"metadata {key} of the graph",
            hint="remove this entry from the model's metadata; the pass then takes the model as its first",
        )
    return {name: found.get(name, copy(part)) for name, part in empty.items()}


def _fits(found: Any, like: dict[str, float] | list[str]) -> bool:
    if isinstance(like, list):
        return isinstance(found, list) and all(isinstance(name, str) for name in found)
    return isinstance(found, dict) and all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        for number in found.values()
    )
