"""Which nodes can run on phase-major time together, and whether it pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, is_quantiser
from rubicc.passes.layout.cost import Rates, conv_cost, spread_extra
from rubicc.passes.layout.geometry import geometry, is_conv1d, operands
from rubicc.passes.layout.lengths import BINARY, UNARY, Length, is_along_channels
from rubicc.passes.layout.operands import Stays
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.rewrite import constant, is_constant, is_standard, rank

Lengths = Mapping[ir.Value, Length]


@dataclass
class Region:
    """Connected nodes on values of one length.

    Attributes:
        nodes: in graph order.
        folded: the convolutions among them that reach over time.
        entries: values from outside; ``spread`` are those whose convolution writes the phases itself.
        exits: values that something outside reads, or graph outputs.
    """

    length: Length
    nodes: list[ir.Node] = field(default_factory=list)
    folded: dict[ir.Node, Geometry] = field(default_factory=dict)
    entries: list[ir.Value] = field(default_factory=list)
    spread: dict[ir.Value, Geometry] = field(default_factory=dict)
    exits: list[ir.Value] = field(default_factory=list)


def carried(graph: ir.Graph, lengths: Lengths, pass_id: str) -> dict[ir.Node, Geometry | None]:
    """Nodes that mean the same on permuted time; with the geometry of those that reach over time."""
    found: dict[ir.Node, Geometry | None] = {}
    for node in graph:
        if node.metadata_props.get(MADE_BY_KEY) == pass_id or any(rank(v) != 3 for v in node.outputs):
            continue
        if is_conv1d(node):
            try:
                shape = geometry(node)
                if not shape.keeps_length or (shape.taps == 1 and shape.before):
                    continue
                if shape.taps > 1:
                    operands(node)
                found[node] = shape if shape.taps > 1 else None
            except Stays:
                continue
        elif _ignores_time(node, lengths):
            found[node] = None
    return found


def _ignores_time(node: ir.Node, lengths: Lengths) -> bool:
    one = is_quantiser(node) or is_standard(node, *UNARY)
    if not (one or is_standard(node, *BINARY) or is_along_channels(node)):
        return False
    computed = data_inputs(node)
    here = lengths[node.outputs[0]]
    if not computed or any(rank(v) != 3 or lengths.get(v) != here for v in computed):
        return False
    if is_standard(node, "BatchNormalization"):
        return True
    if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        scale = constant(node.inputs[1])
        axis = node.attributes.get_int("axis", 1)
        return scale is not None and (scale.size == 1 or (scale.ndim == 1 and axis in (1, -2)))
    settings = [constant(v) for v in node.inputs if v is not None and v not in computed]
    return all(array is not None and (array.ndim == 0 or array.shape[-1] == 1) for array in settings)


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Inputs over time: of a convolution or quantiser the first, of others all that are computed."""
    if is_conv1d(node) or is_quantiser(node) or is_standard(node, *UNARY, "BatchNormalization"):
        return [v for v in node.inputs[:1] if v is not None]
    return [v for v in node.inputs if v is not None and not is_constant(v)]


def regions(nodes: Mapping[ir.Node, Geometry | None], lengths: Lengths, pass_id: str) -> list[Region]:
    """Connected components of ``nodes`` that hold a convolution over time, in graph order."""
    parent: dict[ir.Node, ir.Node] = {node: node for node in nodes}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        for value in data_inputs(node):
            maker = value.producer()
            if maker in parent:
                parent[root(node)] = root(maker)
    grouped: dict[ir.Node, Region] = {}
    for node, shape in nodes.items():
        region = grouped.setdefault(root(node), Region(lengths[node.outputs[0]]))
        region.nodes.append(node)
        if shape is not None:
            region.folded[node] = shape
    found = [region for region in grouped.values() if region.folded]
    for region in found:
        _borders(region, pass_id)
    return found


def _borders(region: Region, pass_id: str) -> None:
    inside = set(region.nodes)
    for node in region.nodes:
        for value in data_inputs(node):
            if value.producer() not in inside and value not in region.entries:
                region.entries.append(value)
        for value in node.outputs:
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                region.exits.append(value)
    for value in region.entries:
        maker = value.producer()
        alone = not value.is_graph_output() and all(use.node in inside for use in value.uses())
        if maker is None or not alone or not is_conv1d(maker):
            continue
        if maker.metadata_props.get(MADE_BY_KEY) != pass_id:
            try:
                operands(maker)
                region.spread[value] = geometry(maker)
            except Stays:
                continue


def drop_losers(
    nodes: Mapping[ir.Node, Geometry | None], phases: int, rates: Rates
) -> dict[ir.Node, Geometry | None]:
    """``nodes`` without convolutions that lose more by folding than leaving the region around them costs."""
    kept = {}
    for node, shape in nodes.items():
        if shape is not None:
            lost = conv_cost(shape, phases, rates) - conv_cost(shape, 1, rates)
            if lost > rates.move * (1 + shape.inputs / shape.outputs):
                continue
        kept[node] = shape
    return kept


def choose_spread(region: Region, phases: int, rates: Rates) -> None:
    """Keep only those entry convolutions that write phases cheaper than a transpose brings them."""
    for value, shape in list(region.spread.items()):
        if spread_extra(shape, phases, rates) > rates.move:
            del region.spread[value]


def gain(region: Region, phases: int, rates: Rates) -> float:
    """Nanoseconds saved per time step of the region (negative: lost)."""
    saved = sum(
        (conv_cost(shape, 1, rates) - conv_cost(shape, phases, rates)) * shape.groups * shape.outputs
        for shape in region.folded.values()
    )
    moved = [value for value in region.entries if value not in region.spread]
    spread = sum(
        spread_extra(shape, phases, rates) * shape.groups * shape.outputs for shape in region.spread.values()
    )
    return saved - spread - rates.move * sum(map(channels_of, _unique([*moved, *region.exits])))


def channels_of(value: ir.Value) -> int:
    """Channels of (N, C, T), 1 when unknown."""
    dim = value.shape[1] if value.shape is not None and len(value.shape) == 3 else 1
    return dim if isinstance(dim, int) else 1


def _unique(values: Iterable[ir.Value]) -> list[ir.Value]:
    return list(dict.fromkeys(values))


@dataclass(frozen=True)
class Choice:
    """A region, the phases it should have, and what that saves per time step."""

    region: Region
    phases: int
    saved: float


def best_choice(
    nodes: Mapping[ir.Node, Geometry | None],
    lengths: Lengths,
    pass_id: str,
    rates: Rates,
    phases: tuple[int, ...],
    force: bool,
) -> Choice | None:
    """The first region in graph order that pays, with the phases that serve its surroundings best.

    Args:
        phases: to choose from.
        force: take the first region whatever it costs, and leave no convolution out.
    """
    for whole in regions(nodes, lengths, pass_id):
        within = {node: nodes[node] for node in whole.nodes}
        found: list[tuple[float, Choice]] = []
        for count in phases:
            kept = within if force else drop_losers(within, count, rates)
            parts = regions(kept, lengths, pass_id)
            for part in parts:
                choose_spread(part, count, rates)
            worth = [Choice(part, count, gain(part, count, rates)) for part in parts]
            worth = [choice for choice in worth if force or choice.saved > 0]
            if worth:
                found.append((sum(choice.saved for choice in worth), worth[0]))
        if found:
            return max(found, key=lambda pair: pair[0])[1]
    return None
