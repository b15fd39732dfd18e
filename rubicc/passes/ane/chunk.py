"""Sequences longer than the Neural Engine takes are computed in pieces that overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.matching import MIN_OPSET
from rubicc.passes.ane.spans import Region, Span, length, regions, span_of
from rubicc.passes.ane.views import MOVERS
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, is_constant, is_standard, rank

LIMIT = 16384  # W and H up to A15 (65536 from A16): ane-guide chapters 4 and 17
MOST_PIECES = 64
_RECURRENT = ("LSTM", "GRU", "RNN")
_MOVES = (*MOVERS, "Slice", "Concat", "Split", "Pad", "Shape", "Identity")
Need = tuple[int, int]  # positions, end exclusive


class Whole(Exception):
    """Why a region is left in one piece."""


@register
class Chunk(Pass):
    """Values of more than 16,384 positions are computed in pieces, each with the halo its kernels reach for.

    ::

        x (N,C,1,T) -> Conv -> Relu -> Conv -> y                         k = 9, padding 4 at both ends
        becomes
        x -> Slice [0, b+8)    -> Conv (pads 4,0) -> Relu -> Conv (pads 4,0) -+
        x -> Slice [b-8, 2b+8) -> Conv (pads 0,0) -> Relu -> Conv (pads 0,0) -Concat(time) -> y
        x -> Slice [2b-8, T)   -> Conv (pads 0,4) -> Relu -> Conv (pads 0,4) -+

    Needs are followed backwards from each piece of the result: a convolution needs ``[s*low - before,
    s*(high-1) - before + extent)``; what lies before 0 or past the end is padding, and only the pieces that
    touch an end keep it, so every layer sees the zeros it saw before. Residual branches that need less than
    the value has are cut. Weights are shared by all pieces. Positions in halos are computed twice; the note
    says how many. Exact bit for bit but for the order in which a kernel library adds up.

    Only nodes that look a known way along time are cut (convolution, pooling, what is pointwise in time).
    Recurrent layers, attention and anything else that needs the whole sequence stays, with a Decision.
    Lengths must be numbers.
    """

    id = "ane.chunk"
    requires = frozenset({"constants-are-initializers", "shapes", "time-last"})
    ensures = frozenset({"chunked"})
    tolerance = 2e-5

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`Chunk`.

        Attributes:
            limit: positions a value may have along its last axis.
        """

        limit: int = LIMIT

        def __post_init__(self) -> None:
            if self.limit < 2:
                raise ValueError(f"limit is {self.limit}, not at least 2")

    def run(self, graph: Graph) -> bool:
        """See :class:`Chunk`."""
        if graph.opset < MIN_OPSET:
            self.note("graph", f"operator set {graph.opset} is older than {MIN_OPSET}: sequences stay whole")
            return False
        spans = []
        for node in graph.nodes:
            if not self._is_long(node):
                continue
            span = span_of(node)
            if span is not None:
                spans.append(span)
            elif not is_standard(node, *_MOVES):
                self._left(node, f"{node.op_type} needs the whole sequence")
        changed = False
        edit = Editor(graph, self.id)
        for region in regions(spans):
            try:
                self.cut(edit, region)
                changed = True
            except Whole as why:
                self._left(region.spans[0].node, str(why))
        return changed

    def _is_long(self, node: ir.Node) -> bool:
        """Whether ``node`` reads or writes more positions than the limit."""
        limit = self.options.limit
        if is_standard(node, *_RECURRENT):
            x = node.inputs[0]
            time = 1 if node.attributes.get_int("layout", 0) else 0
            steps = x.shape[time] if x is not None and x.shape is not None else None
            return isinstance(steps, int) and steps > limit
        values = [value for value in node.inputs if value is not None and not is_constant(value)]
        return any((length(value) or 0) > limit for value in (*values, *node.outputs) if rank(value) == 4)

    def _left(self, node: ir.Node, why: str) -> None:
        reason = f"the Neural Engine takes {self.options.limit} positions"
        self.decisions.append(
            Decision("RUB-PASS-D31", source_of(node), f"sequence left whole: {why}", reason)
        )

    def cut(self, edit: Editor, region: Region) -> None:
        """Rewrite one region.

        Raises:
            Whole: its halos leave no room for pieces.
        """
        pieces = self.plan(region)
        writer = _Writer(edit, region, pieces)
        writer.write()
        done = sum(high - low for piece in pieces for low, high in piece.values())
        whole = sum(length(value) or 0 for value in pieces[0])
        where, more = source_of(region.spans[0].node), 100.0 * (done / whole - 1)
        self.note(where, f"computed in {len(pieces)} pieces; {more:.1f} % of all positions twice")

    def plan(self, region: Region) -> list[Mapping[ir.Value, Need]]:
        """What every piece needs of every value along time: as few pieces as fit."""
        longest = max(
            length(value) or 0 for span in region.spans for value in (*span.timed, *span.node.outputs)
        )
        for count in range(max(2, -(-longest // self.options.limit)), MOST_PIECES + 1):
            if any((length(value) or 0) < count for value in region.exits):
                raise Whole("a result has fewer positions than there are pieces")
            pieces: list[Mapping[ir.Value, Need]] = [needs(region, n, count) for n in range(count)]
            if all(high - low <= self.options.limit for piece in pieces for low, high in piece.values()):
                return pieces
        raise Whole(f"its kernels reach so far that {MOST_PIECES} pieces do not fit")


def needs(region: Region, index: int, count: int) -> dict[ir.Value, Need]:
    """What piece ``index`` of ``count`` needs of every value, from its share of the results backwards."""
    found: dict[ir.Value, Need] = {}
    for value in region.exits:
        whole = length(value) or 0
        _want(found, value, (whole * index // count, whole * (index + 1) // count))
    for span in reversed(region.spans):
        wanted = [found[value] for value in span.node.outputs if value in found]
        if not wanted:
            continue
        here = min(low for low, _ in wanted), max(high for _, high in wanted)
        for value in span.node.outputs:
            if value.name:
                found[value] = here
        low, high = span.window.reads(*here)
        for value in span.timed:
            first, end = max(low, 0), min(high, length(value) or 0)
            if first >= end:
                raise Whole("a piece of it would read nothing but padding")
            _want(found, value, (first, end))
    return found


def _want(found: dict[ir.Value, Need], value: ir.Value, more: Need) -> None:
    old = found.get(value, more)
    found[value] = min(old[0], more[0]), max(old[1], more[1])


class _Writer:
    """Writes every node of a region once per piece, and joins the results."""

    def __init__(self, edit: Editor, region: Region, pieces: list[Mapping[ir.Value, Need]]) -> None:
        self._edit, self._region, self._pieces = edit, region, pieces
        self._made: list[dict[ir.Value, tuple[ir.Value, Need]]] = [{} for _ in pieces]
        self._cuts: dict[tuple[ir.Value, Need], ir.Value] = {}

    def write(self) -> None:
        """In graph order, so that nodes outside that depend on a result still find it before them."""
        joined: list[tuple[ir.Value, ir.Value]] = []
        for span in self._region.spans:
            for index, piece in enumerate(self._pieces):
                if span.node.outputs[0] in piece:
                    self._copy(span, index, piece)
            for value in span.node.outputs:
                if value in self._region.exits and value in self._pieces[0]:
                    joined.append((value, self._join(span.node, value)))
        for old, new in joined:
            self._edit.replace_value(old, new)
        for span in reversed(self._region.spans):
            self._edit.remove(span.node)

    def _copy(self, span: Span, index: int, piece: Mapping[ir.Value, Need]) -> None:
        node, need = span.node, piece[span.node.outputs[0]]
        low, high = span.window.reads(*need)
        inputs: list[ir.Value | None] = list(node.inputs)
        padding = (0, 0)
        for place in span.places:
            value = node.inputs[place]
            assert value is not None
            end = length(value) or 0
            padding = max(-low, 0), max(high - end, 0)
            inputs[place] = self._part(node, index, value, (max(low, 0), min(high, end)))
        attributes: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
        if not span.window.is_point or "pads" in attributes:
            attributes.pop("auto_pad", None)
            pads = list(attributes.get("pads") or [0] * 4)
            half = len(pads) // 2
            pads[half - 1], pads[-1] = padding
            attributes["pads"] = pads
        copy = ir.node(
            node.op_type, inputs, attributes, domain=node.domain, num_outputs=len(node.outputs),
            name=self._edit.fresh_node(f"{node.name}/piece{index}"),
        )  # fmt: skip
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if not old.name:
                new.name = ""
                continue
            new.name = self._edit.fresh(f"{old.name}_piece{index}")
            new.type, dims = old.type, list(old.shape or [None] * 4)
            new.shape = ir.Shape([*dims[:-1], need[1] - need[0]])
            self._made[index][old] = (new, need)
        self._edit.stamp(copy, node)
        assert node.graph is not None
        node.graph.insert_before(node, copy)

    def _part(self, node: ir.Node, index: int, value: ir.Value, need: Need) -> ir.Value:
        """Positions ``need`` of ``value`` for one piece."""
        have, at = self._made[index].get(value, (value, (0, length(value) or 0)))
        if at == need:
            return have
        cut = need[0] - at[0], need[1] - at[0]
        if (have, cut) not in self._cuts:
            dims: list[Any] = list(have.shape or [None] * 4)
            dims[-1] = cut[1] - cut[0]
            bounds = [self._number(node, number) for number in (*cut, 3)]
            shape = ir.Shape(dims)
            made = self._edit.node("Slice", [have, *bounds], like=node, shape=shape, dtype=have.dtype)
            self._cuts[have, cut] = made.outputs[0]
        return self._cuts[have, cut]

    def _number(self, node: ir.Node, number: int) -> ir.Value:
        return self._edit.initializer(f"{node.name}_numbers", np.asarray([number], np.int64), node.graph)

    def _join(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """All pieces of a result, one behind the other."""
        whole = length(value) or 0
        count = len(self._pieces)
        shares = [(whole * index // count, whole * (index + 1) // count) for index in range(count)]
        parts = [self._part(node, index, value, share) for index, share in enumerate(shares)]
        made = self._edit.node(
            "Concat", parts, like=node, attributes={"axis": 3}, shape=value.shape, dtype=value.dtype
        )
        return made.outputs[0]
