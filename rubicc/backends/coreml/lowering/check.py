"""Every refusal at once, each with the module it concerns, the reason, and the target that would take it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from rubicc.backends.base import Finding
from rubicc.backends.coreml import tools
from rubicc.backends.coreml.lowering import fuse
from rubicc.backends.coreml.lowering.converters import CONVERTERS
from rubicc.backends.coreml.lowering.facts import Facts, kind_of
from rubicc.backends.coreml.lowering.table import Refusal, Row, newer, unknown
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.ir.shapes import infer_shapes

MAX_RANK = 5


def supported() -> dict[str, Row]:
    """Operator -> oldest target that takes it, what it becomes, and conditions. Imports no coremltools."""
    return {name: CONVERTERS[name].row for name in sorted(CONVERTERS)}


def findings(graph: Graph, target: str = "") -> list[Finding]:
    """What :func:`lower` would refuse; empty when it takes the graph. Reads nothing but the graph.

    Args:
        target: ``iOS16`` to ``iOS26``, empty for the default.
    """
    return refusals(Facts(infer_shapes(graph), tools.opset(target)))


def refusals(facts: Facts) -> list[Finding]:
    """:func:`findings` of a graph whose shapes are known."""
    covered = set(fuse.roots(fuse.find(facts)))
    rows = [row for value in facts.graph.inputs for row in _interface(facts, value)]
    for node in facts.graph.ir:
        if node in covered or all(facts.is_constant(value) for value in node.outputs):
            continue
        for code, reason, remedy in _node(facts, node):
            rows.append(Finding(code, "error", node.name or "", source_of(node), reason, remedy))
    return rows


def _interface(facts: Facts, value: ir.Value) -> Iterator[Finding]:
    rank = facts.rank(value)
    if rank is None or not 1 <= rank <= MAX_RANK:
        what = "an unknown number of" if rank is None else str(rank)
        reason = f"input {value.name} has {what} axes, Core ML takes 1 to {MAX_RANK}"
        remedy = (
            f"give it with --input {value.name}=SHAPE" if rank is None else "change the network's interface"
        )
        yield Finding("RUB-COREML-104", "error", value.name or "", "", reason, remedy)
    if kind_of(value) == "other":
        kind = value.dtype.name.lower() if value.dtype is not None else ""
        remedy = "cast inside the network and export again"
        yield Finding(
            "RUB-COREML-105", "error", value.name or "", "", f"input {value.name} is {kind}", remedy
        )


def _node(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    converter = CONVERTERS.get(op_key(node))
    if converter is None:
        remedy = "replace the operator in the source network and export again"
        yield Refusal("RUB-COREML-101", f"Core ML has no form of {op_key(node)}", remedy)
        return
    since = converter.row.since
    if not facts.opset >= tools.OPSETS[since]:
        yield newer(op_key(node), since)
    for value in node.outputs:
        if not value.name:
            continue
        rank = facts.rank(value)
        if rank is None and value.uses():
            yield unknown(f"the number of axes of {value.name} is unknown")
        elif rank is not None and rank > MAX_RANK:
            remedy = "reshape to fewer axes in the source network and export again"
            yield Refusal("RUB-COREML-104", f"{value.name} has {rank} axes, Core ML takes {MAX_RANK}", remedy)
        if kind_of(value) == "other":
            kind = value.dtype.name.lower() if value.dtype is not None else ""
            yield Refusal(
                "RUB-COREML-105", f"{value.name} is {kind}", "cast inside the network and export again"
            )
    if converter.check is not None:
        yield from converter.check(facts, node)
