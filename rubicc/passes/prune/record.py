"""What pruning leaves in a graph's metadata for the next time, and for training."""

from __future__ import annotations

import json
from typing import Any

from rubicc.ir.graph import Graph
from rubicc.passes.noted import noted

PRUNED_KEY = "rubicc.pruned"  # graph metadata, JSON; tensors keep no metadata in a file


def read(graph: Graph) -> dict[str, Any]:
    """Channels of every group and costs before any pruning, and names of weights with zeros put there.

    Raises:
        UsageError: ``RUB-PASS-055``: damaged.
    """
    return noted(graph, PRUNED_KEY, {"channels": {}, "costs": {}, "weights": []})


def write(graph: Graph, record: dict[str, Any]) -> None:
    """Keep ``record``."""
    graph.ir.metadata_props[PRUNED_KEY] = json.dumps(record, sort_keys=True)
