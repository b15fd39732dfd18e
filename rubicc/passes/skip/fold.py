"""A skip around a single convolution goes into the convolution."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.passes.cleanup.batchnorm import Affine, inference_affine
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use
from rubicc.passes.skip.find import Residual, residuals
from rubicc.passes.skip.removing import chosen, drop, record


class NotFolded(Exception):
    """Why a skip stays; becomes a note."""


@dataclass(frozen=True)
class FoldOptions:
    """Which skips to fold.

    Attributes:
        names: patterns of their names or modules.
    """

    names: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Kernel:
    """A convolution that reads the block's input, float64, with everything affine behind it.

    Attributes:
        weight: (out, in / groups, *kernel); ``bias``: (out,).
        begins, strides, dilations: per axis of the kernel.
        node: the Conv; None for an identity.
    """

    weight: np.ndarray
    bias: np.ndarray
    groups: int
    begins: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    node: ir.Node | None


@register
class FoldSkips(Pass):
    """A skip beside one convolution is added to its kernel: an identity as a Dirac kernel. Nothing is lost.

    ::

        x -> Conv(k) -> BatchNorm -> Add -> y
        x ------------------------> Add            =>      x -> Conv(k) -> y

        W'[o, i, center] = a[o] * W[o, i, center] + (1 where i is channel o of the input),  b' = a * b + d

    with ``a * v + d`` the BatchNorm, in float64. The same for a skip that is a BatchNorm, or a convolution
    whose taps all lie on taps of the branch's (RepVGG's blocks). In a grouped or depthwise convolution the
    ones stand at channel ``o`` within its group.

    It needs the convolution to read what the skip reads. With an activation in between it reads something
    else, and no kernel can bring the skip's values back; that is noted, as every other reason.
    """

    id = "skip.fold"
    tolerance = 2e-5
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"skips-folded"})
    Options = FoldOptions
    options: FoldOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        self.folded: list[Residual] = []
        self.reasons: dict[str, str] = {}
        edit = Editor(graph, self.id)
        names = [one.name for one in chosen(graph, residuals(graph), self.options.names)]
        for name in names:
            # Folding one changes the graph that the next one is found in.
            one = next((r for r in residuals(graph).found if r.name == name), None)
            if one is None:
                continue
            try:
                self.fold(edit, one)
            except NotFolded as why:
                self.reasons[name] = str(why)
                self.note(one.source, f"skip not folded: {why}")
                continue
            self.folded.append(one)
            record(graph, "folded", one)
        return bool(self.folded)

    def fold(self, edit: Editor, one: Residual) -> None:
        """Fold one skip.

        Raises:
            NotFolded: it cannot be done without changing what is computed.
        """
        branch, norms = _convolution(one.main, one.origin)
        skip = _skip_kernel(one, branch)
        weight = branch.weight + self.placed(skip, branch)
        conv, old = branch.node, one.skip
        assert conv is not None
        stem, dtype = (conv.inputs[1].name if conv.inputs[1] is not None else None), _dtype(conv)
        before = list(conv.inputs[1:])
        if len(conv.inputs) < 3:
            conv.resize_inputs(3)
        for index, array in ((1, weight), (2, branch.bias + skip.bias)):
            name = stem or f"{conv.name}_weight" if index == 1 else f"{conv.name}_bias"
            made = edit.initializer(name, np.ascontiguousarray(array, dtype), conv.graph)
            conv.replace_input_with(index, made)
        edit.mark(conv, *norms, one.node, *one.path)
        edit.replace_value(one.node.outputs[0], conv.outputs[0])
        edit.remove(one.node)
        for norm in norms:  # from the Add backwards: nobody reads them now
            drop(edit, [norm.outputs[0]])
        drop(edit, [old, *before])

    def placed(self, skip: Kernel, branch: Kernel) -> np.ndarray:
        """The skip's kernel at its place in one of the branch's shape.

        Raises:
            NotFolded: a tap or channel of the skip has no place there.
        """
        out, per_group = branch.weight.shape[:2]
        if skip.groups % branch.groups:
            raise NotFolded(
                f"the skip mixes channels that the branch keeps in {branch.groups} groups: "
                "the kernel would have to become dense"
            )
        made = np.zeros_like(branch.weight)
        per_skip, rows = skip.weight.shape[1], np.arange(out)
        first = rows // (out // skip.groups) * per_skip - rows // (out // branch.groups) * per_group
        for tap in itertools.product(*(range(k) for k in skip.weight.shape[2:])):
            there = tuple(_tap(axis, t, skip, branch) for axis, t in enumerate(tap))
            for column in range(per_skip):
                made[(rows, first + column, *there)] += skip.weight[(rows, column, *tap)]
        return made


def _tap(axis: int, tap: int, skip: Kernel, branch: Kernel) -> int:
    """The tap of the branch that reads the sample that ``tap`` of the skip reads."""
    offset = tap * skip.dilations[axis] - skip.begins[axis] + branch.begins[axis]
    place, rest = divmod(offset, branch.dilations[axis])
    if rest or not 0 <= place < branch.weight.shape[2 + axis]:
        raise NotFolded("the skip reads a sample that the branch's convolution has no tap for")
    return place


def _convolution(value: ir.Value, origin: ir.Value) -> tuple[Kernel, list[ir.Node]]:
    """The convolution from ``origin`` to ``value`` with the BatchNorms behind it, which are given too."""
    norms: list[ir.Node] = []
    node = value.producer()
    while node is not None and is_standard(node, "BatchNormalization") and node.inputs[0] is not None:
        norms.append(node)
        _read_once(node)
        node = node.inputs[0].producer()
    if node is None or not is_standard(node, "Conv"):
        what = node.op_type if node is not None else "an input"
        raise NotFolded(f"the branch ends in {what}, not in a convolution")
    _read_once(node)
    if node.inputs[0] is not origin:
        raise NotFolded(_between(node, origin))
    kernel = _kernel(node)
    for norm in reversed(norms):
        kernel = _scaled(kernel, norm)
    return kernel, norms


def _read_once(node: ir.Node) -> None:
    if only_use(node.outputs[0]) is None:
        raise NotFolded(f"the result of {source_of(node)} is read elsewhere too")


def _between(conv: ir.Node, origin: ir.Value) -> str:
    """What lies between the block's input and its last convolution."""
    value, linear = conv.inputs[0], 0
    while value is not None and value is not origin:
        node = value.producer()
        if node is None or not is_standard(node, "Conv", "BatchNormalization", "Identity", "Dropout"):
            what = node.op_type if node is not None else "an input"
            return (
                f"{what} lies between the block's input and its last convolution, which reads another value"
            )
        linear += is_standard(node, "Conv")
        value = node.inputs[0]
    return f"the branch is {linear + 1} convolutions in a row: only their product, one dense kernel, takes it"


def _skip_kernel(one: Residual, branch: Kernel) -> Kernel:
    """The skip as a convolution."""
    path = [node for node in reversed(one.path) if not is_standard(node, "Identity", "Dropout")]
    axes = len(branch.strides)
    for node in path:
        if is_quantiser(node) or is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            raise NotFolded("a quantiser on the skip rounds its values")
    if path and is_standard(path[0], "Conv"):
        kernel = _kernel(path.pop(0))
    else:
        size = branch.weight.shape[1] * branch.groups
        dirac, nothing = np.ones((size, 1, *[1] * axes)), np.zeros(size)
        kernel = Kernel(dirac, nothing, size, (0,) * axes, (1,) * axes, (1,) * axes, None)
    for norm in path:
        kernel = _scaled(kernel, norm)
    if kernel.strides != branch.strides:
        raise NotFolded("skip and branch have different strides")
    if kernel.weight.shape[0] != branch.weight.shape[0]:
        raise NotFolded("skip and branch give different numbers of channels")
    return kernel


def _kernel(node: ir.Node) -> Kernel:
    weight = constant(node.inputs[1])
    if weight is None:
        raise NotFolded(
            f"the weight of {source_of(node)} is quantised or computed, so adding to it changes it"
        )
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = constant(node.inputs[2]) if has_bias else np.zeros(weight.shape[0])
    if bias is None:
        raise NotFolded(f"the bias of {source_of(node)} is quantised or computed, so adding to it changes it")
    axes = weight.ndim - 2
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotFolded(f"{source_of(node)} pads automatically, by the length of its input")
    ones = [1] * axes
    return Kernel(
        weight.astype(np.float64),
        bias.astype(np.float64),
        node.attributes.get_int("group", 1),
        tuple(node.attributes.get_ints("pads", [0] * 2 * axes)[:axes]),
        tuple(node.attributes.get_ints("strides", ones)),
        tuple(node.attributes.get_ints("dilations", ones)),
        node,
    )


def _scaled(kernel: Kernel, norm: ir.Node) -> Kernel:
    """``kernel`` with the BatchNorm behind it."""
    affine = inference_affine(norm)
    if not isinstance(affine, Affine):
        raise NotFolded(f"{norm.op_type} on the way: {affine}" if affine else f"{norm.op_type} on the skip")
    weight = kernel.weight * affine.a.reshape(-1, *[1] * (kernel.weight.ndim - 1))
    bias = kernel.bias * affine.a + affine.b
    return Kernel(weight, bias, kernel.groups, kernel.begins, kernel.strides, kernel.dilations, kernel.node)


def _dtype(conv: ir.Node) -> np.dtype:
    weight = constant(conv.inputs[1])
    assert weight is not None
    return weight.dtype
