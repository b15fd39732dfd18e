"""What both passes need: which skips are meant, a record of what went, and taking dead nodes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.noted import noted
from rubicc.passes.rewrite import Editor
from rubicc.passes.skip.find import Residual, Skips
from rubicc.text import did_you_mean

RECORD_KEY = "rubicc.skips"  # graph metadata, JSON: what went, in its order


def chosen(graph: Graph, skips: Skips, patterns: Sequence[str]) -> list[Residual]:
    """Skips of ``graph`` whose name or module fits a pattern; what went before may be named, too.

    Raises:
        UsageError: ``RUB-PASS-060``: a pattern fits none, or only what cannot go.
    """
    before = gone(graph)
    for pattern in patterns:
        if pattern == "*" or any(_fits(one.name, one.source, pattern) for one in skips.found):
            continue
        if any(fnmatchcase(name, pattern) for names in before.values() for name in names):
            continue
        why = next((one.reason for one in skips.refused if _fits(one.name, one.source, pattern)), "")
        if why:
            raise UsageError(
                "RUB-PASS-060", f"the skip {pattern!r} cannot go: {why}", hint="leave it out of the names"
            )
        hint = did_you_mean(
            pattern, [one.name for one in skips.found], "`rubicc skipclip MODEL --list` prints all"
        )
        raise UsageError("RUB-PASS-060", f"no skip is called {pattern!r}", hint=hint)
    return [one for one in skips.found if any(_fits(one.name, one.source, p) for p in patterns)]


def _fits(name: str, source: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(source, pattern)


def gone(graph: Graph) -> dict[str, list[str]]:
    """Names of skips that were ``removed`` and ``folded``, in their order, and the ``modules`` of both.

    Raises:
        UsageError: ``RUB-PASS-055``: damaged.
    """
    return noted(graph, RECORD_KEY, {"removed": [], "folded": [], "modules": []})


def record(graph: Graph, what: str, one: Residual) -> None:
    """Add a skip to what :func:`gone` gives."""
    found = gone(graph)
    found[what].append(one.name)
    found["modules"].append(one.source)
    graph.ir.metadata_props[RECORD_KEY] = json.dumps(found, sort_keys=True)


def drop(edit: Editor, values: Sequence[ir.Value | None]) -> None:
    """Take out what makes ``values``, and weights, as far as nobody else reads them."""
    todo = [value for value in values if value is not None]
    while todo:
        value = todo.pop()
        if value.uses() or value.is_graph_output():
            continue
        if value.is_initializer() and not value.is_graph_input() and value.graph is not None and value.name:
            del value.graph.initializers[value.name]
            edit.release(value.name)
            continue
        node = value.producer()
        if node is None or node.graph is None:
            continue
        if any(one.uses() or one.is_graph_output() for one in node.outputs):
            continue
        todo += [one for one in node.inputs if one is not None]
        edit.remove(node)
