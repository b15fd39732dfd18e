"""Convolution kernels wider than the Neural Engine takes become ones it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.ir.shapes import dims_of
from rubicc.passes.ane.kernel_forms import LIMIT, Form, best, extent, forms, lean
from rubicc.passes.ane.kernel_writer import KernelWriter
from rubicc.passes.ane.matching import MIN_OPSET
from rubicc.passes.layout.geometry import geometry, last_axis, operands
from rubicc.passes.layout.operands import Stays
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, nodes_of, rank


@register
class WideKernels(Pass):
    """A convolution of more than 13 taps becomes narrow ones that compute the same sums.

    ::

        phases  x -> Conv(identity, stride s) -> Conv(k' taps) -> ConvTranspose(identity, stride s) -> y
             (N,C,1,T)            (N,C*s,1,T/s)      (N,M*s,1,T'/s)                              (N,M,1,T')
        tall    x -> Pad -> Slice, one per row, each 13 taps later -> Concat(axis 2) -> Conv(rows x 13)
                                                                      (N,C,rows,T+12)
        sum     x -> Pad -> Slice -> Conv(13 taps) -+
                         -> Slice -> Conv(13 taps) -Add -> ... -> Add -> y

    The M1's Neural Engine refuses fp16 kernels wider than 13, dilation counted, and takes 16 from A14 on
    (sources in `kernel_forms`). k = 115 becomes 11 taps over 12 phases, or 9 rows of 13, or 9 convolutions.

    * **phases**: the polyphase mathematics of docs/polyphase.md. Moving into phases and back is a convolution
      with a kernel of zeros and a one, so no number changes and no reshape is left. Three nodes; about 1.15
      times the products. Needs a length that is a number. Strides this large are known to compile for
      convolutions; that a transposed one of stride 16 failed on a device is the reason for ``form``
      (coremltools #2450). Numbers must be finite: infinity times zero would spread within a step.
    * **tall**: shifted copies as rows of one convolution; sums are not rounded in between, which matters in
      fp16. Takes as many times the memory as there are rows.
    * **sum**: for any two-dimensional kernel and computed weights; every addend is rounded once.

    ``form = auto`` takes the fastest by `kernel_forms`, for grouped convolutions among those without many
    more weights. Integer weights, quantisers and their scales are cut or folded with their weights and stay
    exact. Exact up to the order of summation.
    """

    id = "ane.wide-kernels"
    requires = frozenset({"constants-are-initializers", "shapes", "time-last", "chunked"})
    ensures = frozenset({"narrow-kernels"})
    tolerance = 2e-5

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`WideKernels`.

        Attributes:
            form: ``phases``, ``tall`` or ``sum`` forces one where it can be had; ``auto`` goes by cost.
            limit: widest kernel that may stay, dilation counted.
        """

        form: Literal["auto", "phases", "tall", "sum"] = "auto"
        limit: int = LIMIT

        def __post_init__(self) -> None:
            if not 2 <= self.limit <= 64:
                raise ValueError(f"limit is {self.limit}, not 2 to 64")

    def run(self, graph: Graph) -> bool:
        """See :class:`WideKernels`."""
        if graph.opset < MIN_OPSET:
            self.note(
                "graph", f"operator set {graph.opset} is older than {MIN_OPSET}: kernels stay as they are"
            )
            return False
        edit = Editor(graph, self.id)
        writer = KernelWriter(edit)
        changed = False
        for node in nodes_of(graph, "Conv"):
            if rank(node.inputs[0]) == 4 and width(node) > self.options.limit:
                changed |= self.narrow(writer, node)
        return changed

    def narrow(self, writer: KernelWriter, node: ir.Node) -> bool:
        """Replace one convolution; what cannot be replaced is left, with a Decision."""
        try:
            shape, form = self.choose(node)
            writer.write(node, shape, form, self.options.limit)
        except Stays as why:
            self._left(node, str(why))
            return False
        return True

    def choose(self, node: ir.Node) -> tuple[Geometry, Form]:
        """The geometry of a convolution and the form it gets.

        Raises:
            Stays: its geometry is not known.
        """
        x = node.inputs[0]
        dims = dims_of(x) if x is not None else None
        length = dims[-1] if dims is not None else None
        rows, shape = _one_row(node, dims[-2] if dims is not None else None), last_axis(node)
        found = forms(shape, self.options.limit, length if isinstance(length, int) else None, rows=rows)
        if self.options.form == "auto":
            found = lean(found, shape)
        form = best(found, self.options.form) or best(found, "auto")
        assert form is not None  # addends can always be had
        return shape, form

    def _left(self, node: ir.Node, why: str) -> None:
        what = f"kernel of {width(node)} positions left as it is: {why}"
        self.decisions.append(
            Decision("RUB-PASS-D30", source_of(node), what, f"the Neural Engine takes {self.options.limit}")
        )


def width(node: ir.Node) -> int:
    """Positions that the kernel of a Conv spans along its last axis; 0 where that is not known."""
    weight = node.inputs[1]
    dims = dims_of(weight) if weight is not None else None
    taps = dims[-1] if dims else None
    dilation = (node.attributes.get_ints("dilations", None) or [1])[-1]
    return extent(taps, dilation) if isinstance(taps, int) else 0


def _one_row(node: ir.Node, height: object) -> bool:
    """Whether rows can be stacked and weights rearranged: one row of input and kernel, constant weights."""
    if height != 1:
        return False
    try:
        geometry(node)
        operands(node)
    except Stays:
        return False
    return True
