"""Channels-last form: every folded convolution on its own, time in its natural order in between.

::

    x (N, C, T)
      Transpose           (N, T, C)             free where the runtime holds channels last
      [Pad]               T to a multiple of S
      Reshape             (N, tau, S, G, C/G)   free: S frames in a row
      Transpose           (N, tau, G, S, C/G)   the one move: blocks of C/G channels
      Reshape, Transpose  (N, G*S*C/G, tau)     free
    Conv, group G
      the same backwards, [Slice] to the length of the output
    y (N, M, T_out)
"""

from __future__ import annotations

import onnx_ir as ir

from rubicc.passes.layout.conv import chain_behind, fold_conv, phase_shapes
from rubicc.passes.layout.lengths import Length, LengthNodes
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.layout.phases import Geometry, block_moves, fold
from rubicc.passes.layout.writer import Writer
from rubicc.passes.rewrite import Editor


def fold_in_rows(
    edit: Editor,
    lengths: LengthNodes,
    node: ir.Node,
    geometry: Geometry,
    phases: int,
    length: Length,
    *,
    gather: bool,
) -> None:
    """Rewrite one convolution; ``length`` is that of its input."""
    value = node.inputs[0]
    assert value is not None
    to = fold(geometry, phases)
    write = Writer(edit, node, value, stored=not gather)
    write.transpose(0, 2, 1)
    if length.number is None or length.number % to.input_phases:
        write.pad(1, lengths.missing(length, to.input_phases, node))
    _bring(write, geometry.groups, geometry.inputs, to.input_phases, gather=gather, back=False)
    write.transpose(0, 2, 1)
    fold_conv(edit, node, geometry, phases, "pc")
    node.replace_input_with(0, write.done())
    drop_unused(edit, value)
    edit.mark(node)
    result, last = chain_behind(node, stored=not gather)
    channels = geometry.groups * geometry.outputs
    shown, uses = result.shape, [(use.node, use.idx) for use in result.uses()]
    phase_shapes(node, last, channels * phases)
    out = Writer(edit, node, result, after=last)
    out.transpose(0, 2, 1)
    _bring(out, geometry.groups, geometry.outputs, phases, gather=gather, back=True)
    then = length.after(geometry.excess, geometry.stride)
    if not _fits(length, then, geometry, phases):
        out.crop(1, lengths, then)
    out.transpose(0, 2, 1)
    out.finish(result, shown, uses)


def _bring(write: Writer, groups: int, channels: int, phases: int, *, gather: bool, back: bool) -> None:
    """(N, T, C) to (N, tau, G*S*c), or back."""
    whole = groups * channels
    if back:
        if gather and groups > 1:
            write.gather(block_moves(groups, channels, phases)[1])
        elif groups > 1:
            write.reshape(0, -1, groups, phases, channels)
            write.transpose(0, 1, 3, 2, 4)
        write.reshape(0, -1, whole)
        return
    if gather or groups == 1:
        write.reshape(0, -1, phases * whole)
        if groups > 1:
            write.gather(block_moves(groups, channels, phases)[0])
        return
    write.reshape(0, -1, phases, groups, channels)
    write.transpose(0, 1, 3, 2, 4)
    write.reshape(0, -1, phases * whole)


def _fits(length: Length, then: Length, geometry: Geometry, phases: int) -> bool:
    """Whether the folded convolution gives exactly the frames wanted."""
    if length.number is None or then.number is None:
        return False
    to = fold(geometry, phases)
    steps = -(-length.number // to.input_phases)
    return (steps + to.before + to.after - to.taps + 1) * phases == then.number
