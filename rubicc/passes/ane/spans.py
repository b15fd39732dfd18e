"""How far every node of a (B, C, 1, S) graph looks along the last axis, and regions that look only so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.passes.ane.matching import UNARY, axes_of, data_inputs, is_elementwise
from rubicc.passes.layout.geometry import last_axis
from rubicc.passes.layout.operands import Stays
from rubicc.passes.rewrite import constant, is_constant, is_standard, rank

_POOLS = ("MaxPool", "AveragePool")
_REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1")
_ALONG_CHANNELS = ("Softmax", "LogSoftmax", "Concat", "Split")


@dataclass(frozen=True)
class Window:
    """Output position ``t`` reads input positions ``t * stride - before`` on, ``extent`` of them."""

    extent: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0

    def reads(self, low: int, high: int) -> tuple[int, int]:
        """Positions, padding included, that outputs ``low`` to ``high`` (exclusive) read."""
        return low * self.stride - self.before, (high - 1) * self.stride - self.before + self.extent

    @property
    def is_point(self) -> bool:
        """Whether every output reads the input at its own position only."""
        return self == Window()


@dataclass(frozen=True)
class Span:
    """A node that looks along time through ``window`` at its inputs number ``places``."""

    node: ir.Node
    window: Window
    places: tuple[int, ...]

    @property
    def timed(self) -> list[ir.Value]:
        """The inputs along time."""
        return [value for place in self.places if (value := self.node.inputs[place]) is not None]


def length(value: ir.Value | None) -> int | None:
    """Last dim of a rank-4 value where it is a number."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None


def span_of(node: ir.Node) -> Span | None:
    """How ``node`` looks along time; ``None`` where it looks everywhere, or further than is known."""
    if not node.outputs or any(value.name and length(value) is None for value in node.outputs):
        return None
    if is_standard(node, "Conv", *_POOLS):
        window = _window(node)
        fits = window is not None and length(node.inputs[0]) is not None
        return Span(node, window, (0,)) if fits and window is not None else None
    places = _point_places(node)
    if not places:
        return None
    whole = length(node.outputs[0])
    if any(length(node.inputs[place]) != whole for place in places):
        return None
    return Span(node, Window(), tuple(places))


def _window(node: ir.Node) -> Window | None:
    if is_standard(node, "Conv"):
        try:
            shape = last_axis(node)
        except Stays:
            return None
        reach = shape.dilation * (shape.taps - 1) + 1
        return Window(reach, shape.stride, shape.before, shape.after)
    attributes = node.attributes
    kernel = attributes.get_ints("kernel_shape")
    ruled = attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if not kernel or ruled or attributes.get_int("ceil_mode", 0) != 0 or len(node.outputs) > 1:
        return None
    pads = attributes.get_ints("pads") or [0] * 4
    dilation = (attributes.get_ints("dilations") or [1])[-1]
    stride = (attributes.get_ints("strides") or [1])[-1]
    return Window(dilation * (kernel[-1] - 1) + 1, stride, pads[len(pads) // 2 - 1], pads[-1])


def _point_places(node: ir.Node) -> list[int] | None:
    """Inputs along time of a node that treats every position alike and by itself."""
    if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
        scale = constant(node.inputs[1])
        alike = scale is not None and (scale.size == 1 or node.attributes.get_int("axis", 1) in (0, 1, 2))
        return [0] if alike else None
    if is_standard(node, "BatchNormalization"):
        return None if node.attributes.get_int("training_mode", 0) else [0]
    if is_standard(node, *_REDUCE):
        axes = axes_of(node)
        kept = node.attributes.get_int("keepdims", 1) and axes is not None and not {-1, 3} & set(axes)
        return [0] if kept else None
    if is_standard(node, *_ALONG_CHANNELS):
        axis = node.attributes.get_int("axis", 0 if is_standard(node, "Split") else -1)
        if axis in (-1, 3):
            return None
        return list(range(len(node.inputs))) if is_standard(node, "Concat") else [0]
    if not is_elementwise(node):
        return None
    computed = data_inputs(node)
    settings = [v for v in node.inputs if v is not None and v not in computed]
    if any(not _flat(value) for value in settings):
        return None
    if is_quantiser(node) or is_standard(node, *UNARY):
        return [0]
    alone = [value for value in computed if not (rank(value) == 0 or length(value) == 1)]
    return [place for place, value in enumerate(node.inputs) if value is not None and value in alone]


def _flat(value: ir.Value) -> bool:
    """Whether a constant is the same at every position."""
    array = constant(value)
    return array is not None and (array.ndim == 0 or array.shape[-1] == 1)


@dataclass
class Region:
    """Spans connected along time.

    Attributes:
        spans: in graph order.
        exits: values that something outside reads, or graph outputs.
    """

    spans: list[Span] = field(default_factory=list)
    exits: list[ir.Value] = field(default_factory=list)

    @property
    def nodes(self) -> set[ir.Node]:
        """The nodes of the region."""
        return {span.node for span in self.spans}


def regions(spans: Sequence[Span]) -> list[Region]:
    """Connected components, in graph order."""
    by_node = {span.node: span for span in spans}
    parent = {span.node: span.node for span in spans}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for span in spans:
        for value in span.timed:
            maker = value.producer()
            if maker in by_node:
                parent[root(span.node)] = root(maker)
    found: dict[ir.Node, Region] = {}
    for span in spans:
        found.setdefault(root(span.node), Region()).spans.append(span)
    for region in found.values():
        inside = region.nodes
        for span in region.spans:
            region.exits += [value for value in span.node.outputs if value.name and _leaves(value, inside)]
    return list(found.values())


def _leaves(value: ir.Value, inside: Collection[ir.Node]) -> bool:
    uses = list(value.uses())
    return value.is_graph_output() or not uses or any(use.node not in inside for use in uses)


def entries(region: Region) -> list[ir.Value]:
    """Values along time that come from outside."""
    inside = region.nodes
    found = [v for span in region.spans for v in span.timed if v.producer() not in inside]
    return list(dict.fromkeys(value for value in found if not is_constant(value)))
