"""The last axis of convolutional regions is padded to a multiple of what the hardware reads at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.matching import MIN_OPSET
from rubicc.passes.ane.spans import Region, Span, entries, length, regions, span_of
from rubicc.passes.ane.views import move_behind
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import KEEPS_ZERO, Editor, is_standard

_ZERO_STAYS = (*KEEPS_ZERO, "Identity")
_POOLS = ("MaxPool", "AveragePool")  # what they see of padding is their own affair
_MAY_BLOW_UP = (
    "Log",
    "Reciprocal",
    "Sqrt",
    "Pow",
    "Div",
)  # of the numbers behind the end: inf * 0 is no zero


class Unaligned(Exception):
    """Why a region keeps its lengths."""


@register
class Align(Pass):
    """Lengths become multiples of 32 (64 bytes of fp16); what is behind the true end is cut off again.

    ::

        x (N,C,1,1334) -> Conv -> Relu -> Conv -> y (N,M,1,1334)                        multiple = 32
        becomes
        x -> Conv (pads b, a+10) -> Relu -> Mul (1334 ones, 10 zeros) -> Conv -> Slice [0, 1334) -> y
             (N,M,1,1344)

    The first convolution pads further, so no node pads. What a later convolution reads behind the true end is
    set to zero by one multiplication, unless it is known to be zero; the results are cut. Exact: what is left
    has the same sums, with added products by zero.

    Off by default (``multiple = 0``): rows are 64-byte aligned in memory whatever their length (Apple,
    "Deploying Transformers on the Apple Neural Engine"), so nothing is gained where nobody has measured a
    gain. It exists for measuring on a device. It cannot serve the one known fault, fp16 *outputs* whose last
    axis is no multiple of 32 (coremltools #1893: random numbers): the interface of a model is not changed,
    and our outputs are float32 unless asked otherwise. Every aligned region is a Decision with its waste.
    """

    id = "ane.align"
    requires = frozenset({"constants-are-initializers", "shapes", "time-last"})
    ensures = frozenset({"aligned"})
    tolerance = 2e-5

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`Align`.

        Attributes:
            multiple: of which every length becomes one; 0 leaves all as they are.
        """

        multiple: int = 0

        def __post_init__(self) -> None:
            if not 0 <= self.multiple <= 1024:
                raise ValueError(f"multiple is {self.multiple}, not 0 to 1024")

    def run(self, graph: Graph) -> bool:
        """See :class:`Align`."""
        if self.options.multiple < 2:
            return False
        if graph.opset < MIN_OPSET:
            self.note("graph", f"operator set {graph.opset} is older than {MIN_OPSET}: lengths stay")
            return False
        spans = [span_of(node) for node in graph.nodes if not is_standard(node, *_POOLS)]
        edit = Editor(graph, self.id)
        changed = False
        for region in regions([span for span in spans if span is not None]):
            try:
                changed |= self.align(edit, region)
            except Unaligned as why:
                self.note(source_of(region.spans[0].node), f"lengths stay: {why}")
        return changed

    def align(self, edit: Editor, region: Region) -> bool:
        """Rewrite one region.

        Raises:
            Unaligned: paths that meet would get different lengths, or zeros could not be had.
        """
        lengths = self.lengths(region)
        grown = {value: to for value, to in lengths.items() if to != length(value)}
        if not grown:
            return False
        if any(is_standard(span.node, *_MAY_BLOW_UP) for span in region.spans):
            raise Unaligned("it has operators that need not be finite behind the end")
        true, wanted = sum(length(value) or 0 for value in lengths), sum(lengths.values())
        masks = _Aligner(edit, region, lengths).write()
        where, waste = source_of(region.spans[0].node), 100.0 * (wanted / true - 1)
        what = f"last axis of {len(grown)} values padded to multiples of {self.options.multiple}: "
        what += f"{waste:.1f} % more positions, {masks} multiplications by a mask"
        self.decisions.append(Decision("RUB-PASS-D32", where, what, "asked for by passes.ane.align.multiple"))
        return True

    def lengths(self, region: Region) -> dict[ir.Value, int]:
        """The length every value along time gets."""
        found: dict[ir.Value, int] = {}
        for value in entries(region):
            users = [span for span in region.spans if value in span.timed]
            plain = length(value) or 0
            pads = any(span.window.is_point for span in users)  # a convolution pads by itself
            found[value] = self._up(plain) if pads else plain
        for span in region.spans:
            sizes = {found.get(value) for value in span.timed}
            size = sizes.pop()
            if sizes or size is None:
                raise Unaligned("paths that meet would have different lengths")
            for value in span.node.outputs:
                if value.name:
                    found[value] = (
                        size if span.window.is_point else self._behind(span, size, length(value) or 0)
                    )
        return found

    def _behind(self, span: Span, size: int, plain: int) -> int:
        """Length of the result of a convolution over ``size`` positions: padded, never cut."""
        made = self._up(plain)
        while padding(span, size, made) < 0:
            made += self.options.multiple
        return made

    def _up(self, number: int) -> int:
        multiple: int = self.options.multiple
        return -(-number // multiple) * multiple


def padding(span: Span, size: int, made: int) -> int:
    """Zeros that a convolution over ``size`` positions needs at the end to give ``made``."""
    window = span.window
    return (made - 1) * window.stride + window.extent - window.before - size


class _Aligner:
    """Changes lengths, pads, masks and cuts in one region."""

    def __init__(self, edit: Editor, region: Region, lengths: dict[ir.Value, int]) -> None:
        self._edit, self._region, self._lengths = edit, region, lengths
        self._true = {value: length(value) or 0 for value in lengths}
        self._clean: set[ir.Value] = set()
        self._masked: dict[ir.Value, ir.Value] = {}

    def write(self) -> int:
        """Returns how many masks were needed."""
        for value in self._region.exits:
            if self._lengths[value] != self._true[value]:
                self._cut(value)
        for value in entries(self._region):
            if self._lengths[value] != self._true[value]:
                self._pad(value)
        for span in self._region.spans:
            self._change(span)
        return len(self._masked)

    def _cut(self, value: ir.Value) -> None:
        """What is outside reads the true positions only."""
        maker, inside = value.producer(), self._region.nodes
        assert maker is not None
        kept = [(use.node, use.idx) for use in value.uses() if use.node in inside]
        bounds = [self._numbers(maker, [number]) for number in (0, self._true[value], 3)]
        cut = self._edit.node("Slice", [value, *bounds], like=maker, shape=value.shape, dtype=value.dtype)
        move_behind(cut, maker)
        self._edit.replace_value(value, cut.outputs[0])
        for node, place in [(cut, 0), *kept]:
            node.replace_input_with(place, value)
        if value.name is None:
            value.name = self._edit.fresh(f"{cut.outputs[0].name}_aligned")

    def _pad(self, value: ir.Value) -> None:
        """Zeros behind an entry, for the nodes of the region that read it."""
        users = [
            (s.node, place) for s in self._region.spans for place in s.places if s.node.inputs[place] is value
        ]
        like, more = users[0][0], self._lengths[value] - self._true[value]
        pads = self._numbers(like, [0] * 7 + [more])
        made = self._edit.node(
            "Pad",
            [value, pads],
            like=like,
            shape=_with_length(value, self._lengths[value]),
            dtype=value.dtype,
        ).outputs[0]
        for node, place in users:
            node.replace_input_with(place, made)
        self._lengths[made], self._true[made] = self._lengths[value], self._true[value]
        self._clean.add(made)

    def _change(self, span: Span) -> None:
        node, window = span.node, span.window
        value = span.timed[0]
        size, true = self._lengths.get(value, length(value) or 0), self._true.get(value, length(value) or 0)
        if not window.is_point:
            result = node.outputs[0]
            last = window.reads(0, self._true[result])[1]
            if size > true and last > true and value not in self._clean:
                node.replace_input_with(span.places[0], self._zeroed(node, value, true, size))
            pads = list(node.attributes.get_ints("pads") or [0] * 4)
            pads[-1] = padding(span, size, self._lengths[result])
            pads[len(pads) // 2 - 1] = window.before
            node.attributes.pop("auto_pad", None)
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            self._edit.mark(node)
        elif is_standard(node, *_ZERO_STAYS) and value in self._clean:
            self._clean.update(node.outputs)
        for value in node.outputs:
            if value.name:
                value.shape = _with_length(value, self._lengths[value])

    def _zeroed(self, node: ir.Node, value: ir.Value, true: int, size: int) -> ir.Value:
        if value not in self._masked:
            kind = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
            mask = (np.arange(size) < true).astype(kind).reshape(1, 1, 1, size)
            held = self._edit.initializer(f"{node.name}_mask", mask, node.graph)
            shape = _with_length(value, size)
            made = self._edit.node("Mul", [value, held], like=node, shape=shape, dtype=value.dtype)
            self._masked[value] = made.outputs[0]
        return self._masked[value]

    def _numbers(self, node: ir.Node, numbers: list[int]) -> ir.Value:
        return self._edit.initializer(f"{node.name}_numbers", np.asarray(numbers, np.int64), node.graph)


def _with_length(value: ir.Value, size: int) -> ir.Shape:
    dims: list[Any] = list(value.shape or [None] * 4)
    return ir.Shape([*dims[:-1], size])
