"""Channels-first form: whole regions on phase-major time, one transpose at each end.

::

    x (N, C, T)  [Pad]  Reshape (N, C, tau, s)  Transpose (N, C, s, tau)  Reshape (N, C, s*tau)
      pointwise, elementwise and quantising nodes: unchanged, they do not see the order of time
      convolution over time: Reshape (N, C*s, tau)  Conv  Reshape (N, M, s*tau)      both free
    y  Reshape (N, M, s, tau)  Transpose (N, M, tau, s)  Reshape  [Slice]

Where the length is no multiple of s, the last step holds positions that do not exist. Whatever a convolution
over time reads is set to zero there.
"""

from __future__ import annotations

import onnx_ir as ir

from rubicc.passes.layout.conv import chain_behind, fold_conv, phase_shapes, spread_conv
from rubicc.passes.layout.lengths import LengthNodes
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.layout.regions import Region
from rubicc.passes.layout.writer import Writer
from rubicc.passes.rewrite import KEEPS_ZERO, Editor, is_standard

_ZERO_STAYS = (*KEEPS_ZERO, "Sqrt")


class Planes:
    """Rewrites one region."""

    def __init__(self, edit: Editor, lengths: LengthNodes, region: Region, phases: int) -> None:
        self._edit, self._lengths, self._region, self._phases = edit, lengths, region, phases
        number = region.length.number
        self._whole = number is not None and number % phases == 0
        self._steps = None if number is None else -(-number // phases)
        self._clean: set[ir.Value] = set()
        inside = set(region.nodes)
        self._outside = {
            value: [(use.node, use.idx) for use in value.uses() if use.node not in inside]
            for value in region.exits
        }
        self._shown = {value: ir.Shape(list(value.shape or [None] * 3)) for value in region.exits}

    def rewrite(self) -> None:
        """Entries, then convolutions in graph order, then exits."""
        first = self._region.nodes[0]
        if not self._whole:  # made before everything that reads them
            self._lengths.missing(self._region.length, self._phases, first)
            self._lengths.value(self._region.length, first)
        for node in self._region.nodes:
            for value in node.outputs:
                dims = list(value.shape) if value.shape is not None else [None] * 3
                value.shape = ir.Shape([*dims[:2], self._long])
        exits = {value: value for value in self._region.exits}
        for value in self._region.entries:
            self._enter(value)
        for node in self._region.nodes:
            self._mark_clean(node)
            if node in self._region.folded:
                self._fold(node, self._region.folded[node], exits)
        for old, value in exits.items():
            self._leave(value, self._outside[old], self._shown[old])

    @property
    def _long(self) -> int | None:
        return None if self._steps is None else self._steps * self._phases

    def _enter(self, value: ir.Value) -> None:
        shape = self._region.spread.get(value)
        maker = value.producer()
        inside = set(self._region.nodes)
        uses = [(use.node, use.idx) for use in value.uses() if use.node in inside]
        if shape is not None and maker is not None:
            spread_conv(self._edit, maker, shape, self._phases, "cp")
            self._edit.mark(maker)
            self._planes_behind(maker, shape.groups * shape.outputs, {})
            return
        write = Writer(self._edit, self._first(uses), value, stored=True)
        if not self._whole:
            write.pad(2, self._lengths.missing(self._region.length, self._phases, self._first(uses)))
        write.reshape(0, 0, -1, self._phases)
        write.transpose(0, 1, 3, 2)
        write.reshape(0, 0, -1)
        made = write.done()
        made.shape = ir.Shape([*list(made.shape or ())[:2], self._long])
        self._clean.add(made)
        for node, index in uses:
            node.replace_input_with(index, made)

    def _first(self, uses: list[tuple[ir.Node, int]]) -> ir.Node:
        users = {node for node, _ in uses}
        return next(node for node in self._region.nodes if node in users)

    def _mark_clean(self, node: ir.Node) -> None:
        if is_standard(node, *_ZERO_STAYS) and node.inputs[0] in self._clean:
            self._clean.add(node.outputs[0])

    def _fold(self, node: ir.Node, shape: Geometry, exits: dict[ir.Value, ir.Value]) -> None:
        value = node.inputs[0]
        assert value is not None
        write = Writer(self._edit, node, value, stored=True)
        if shape.after and not self._whole and value not in self._clean:
            exists = self._lengths.exists(self._region.length, self._phases, self._region.nodes[0])
            write.select(exists)
        write.reshape(0, shape.groups * shape.inputs * self._phases, -1)
        fold_conv(self._edit, node, shape, self._phases, "cp")
        node.replace_input_with(0, write.done())
        drop_unused(self._edit, value)
        self._edit.mark(node)
        self._planes_behind(node, shape.groups * shape.outputs, exits)

    def _planes_behind(self, node: ir.Node, channels: int, exits: dict[ir.Value, ir.Value]) -> None:
        """Back to (N, M, s*tau) behind ``node`` and what runtimes fuse into it."""
        result, last = chain_behind(node, stored=True, within=set(self._region.nodes))
        uses = [(use.node, use.idx) for use in result.uses()]
        shown = result.shape
        phase_shapes(node, last, channels * self._phases)
        out = Writer(self._edit, node, result, after=last)
        out.reshape(0, channels, -1)
        batch = None if shown is None else shown[0]
        out.finish(result, ir.Shape([batch, channels, self._long]), uses)
        if result in exits:
            exits[result] = out.value

    def _leave(self, value: ir.Value, uses: list[tuple[ir.Node, int]], shown: ir.Shape) -> None:
        maker = value.producer()
        assert maker is not None
        out = Writer(self._edit, maker, value, after=maker)
        out.reshape(0, 0, self._phases, -1)
        out.transpose(0, 1, 3, 2)
        out.reshape(0, 0, -1)
        if not self._whole:
            out.crop(2, self._lengths, self._region.length)
        out.finish(value, shown, uses)
