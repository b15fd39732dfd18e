"""Convolution and pooling over one to three spatial axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, given, interleaved
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse, unknown

_POOL_AXES = 3


def _kernel(facts: Facts, node: ir.Node) -> tuple[int, ...] | None:
    """Kernel sizes: the attribute, or the weight's."""
    stated = attr(node, "kernel_shape")
    if stated is not None:
        return tuple(stated)
    weight = facts.static(given(node, 1))
    return None if weight is None else weight[2:]


def pads_of(facts: Facts, node: ir.Node) -> list[int] | None:
    """Padding in MIL's order, ``auto_pad`` resolved; ``None`` where that needs a size that is free."""
    kernel = _kernel(facts, node)
    if kernel is None:
        return None
    rank = len(kernel)
    mode = attr(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = list(attr(node, "pads", [0] * 2 * rank))
        return interleaved(pads[:rank], pads[rank:])
    if mode == "VALID":
        return [0] * 2 * rank
    strides, dilations = attr(node, "strides", [1] * rank), attr(node, "dilations", [1] * rank)
    made: list[int] = []
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = facts.size(node.inputs[0], 2 + axis)
        if size is None and s != 1:
            return None
        n = 1 if size is None else size  # at stride 1 the padding does not depend on the size
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        made += [small, large] if mode == "SAME_UPPER" else [large, small]
    return made


def _check_window(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    """Refusals that convolution and pooling share."""
    rank = facts.rank(node.inputs[0])
    if rank is not None and not 3 <= rank <= 2 + _POOL_AXES:
        yield refuse(f"{node.op_type} over {rank - 2} spatial axes, MIL takes one to three")
    pads = pads_of(facts, node)
    if pads is None:
        yield unknown(f"the padding of {node.op_type} (auto_pad) needs the size of {node.inputs[0]}")
    elif min(pads, default=0) < 0:
        yield refuse(f"{node.op_type} with negative padding")


def _check_conv(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from _check_window(facts, node)
    yield from needs_constant(facts, given(node, 2), "the bias of Conv")
    if not facts.is_constant(node.inputs[1]) and any(d != 1 for d in attr(node, "dilations", [1])):
        yield refuse("dilated Conv with a kernel computed in the network")


@convert("Conv", mil="conv", note="one to three axes, grouped, dilated", check=_check_conv)
def conv(c: Context, node: ir.Node) -> None:
    """Convolution with its bias."""
    pads = pads_of(c, node)
    assert pads is not None
    c.set(node.outputs[0], c.op("conv", node, **_inputs(c, node, pads)))


def _inputs(c: Context, node: ir.Node, pads: list[int]) -> dict[str, Any]:
    """Inputs that convolutions of both directions take."""
    rank = len(pads) // 2
    inputs = {
        "x": c.var(node.inputs[0]),
        "weight": c.var(node.inputs[1]),
        "strides": list(attr(node, "strides", [1] * rank)),
        "dilations": list(attr(node, "dilations", [1] * rank)),
        "groups": attr(node, "group", 1),
        **_padding(pads),
    }
    bias = given(node, 2)
    return inputs if bias is None else inputs | {"bias": c.var(bias)}


def _padding(pads: Sequence[int]) -> dict[str, object]:
    return {"pad_type": "custom", "pad": list(pads)} if any(pads) else {"pad_type": "valid"}


def _check_transposed(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from _check_window(facts, node)
    yield from needs_constant(facts, node.inputs[1], "the kernel of ConvTranspose")
    yield from needs_constant(facts, given(node, 2), "the bias of ConvTranspose")
    if attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attr(node, "output_shape") is not None:
        yield refuse("ConvTranspose whose padding follows from a wanted output shape")
    kernel = _kernel(facts, node)
    if kernel is not None:
        ends = list(attr(node, "pads", [0] * 2 * len(kernel)))[len(kernel) :]
        extra = attr(node, "output_padding", [0] * len(kernel))
        if any(e > p for e, p in zip(extra, ends, strict=True)):
            yield refuse("ConvTranspose whose output padding exceeds its padding")


@convert(
    "ConvTranspose",
    mil="conv_transpose",
    note="output padding is taken off the padding at the end",
    check=_check_transposed,
)
def conv_transpose(c: Context, node: ir.Node) -> None:
    """Transposed convolution; what ``output_padding`` adds at the end is less of it cut off."""
    pads = pads_of(c, node)
    assert pads is not None
    for axis, extra in enumerate(attr(node, "output_padding", [0] * (len(pads) // 2))):
        pads[2 * axis + 1] -= extra
    c.set(node.outputs[0], c.op("conv_transpose", node, **_inputs(c, node, pads)))


def _check_pool(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from _check_window(facts, node)
    if any(d != 1 for d in attr(node, "dilations", [1])):
        yield refuse(f"dilated {node.op_type}")
    if len(node.outputs) > 1 and node.outputs[1].uses():
        yield refuse("MaxPool whose indices are used")
    pads = pads_of(facts, node)
    if attr(node, "ceil_mode", 0) and pads is not None and pads[::2] != pads[1::2]:
        yield refuse(f"{node.op_type} that rounds up (ceil_mode) with uneven padding")


def _pool(c: Context, node: ir.Node, kind: str, **more: object) -> Var:
    pads = pads_of(c, node)
    assert pads is not None
    rank = len(pads) // 2
    return c.op(
        kind,
        node,
        x=c.var(node.inputs[0]),
        kernel_sizes=list(attr(node, "kernel_shape")),
        strides=list(attr(node, "strides", [1] * rank)),
        ceil_mode=bool(attr(node, "ceil_mode", 0)),
        pad_type="custom",
        pad=pads,
        **more,
    )


@convert("MaxPool", mil="max_pool", check=_check_pool)
def max_pool(c: Context, node: ir.Node) -> None:
    """Largest value of every window."""
    c.set(node.outputs[0], _pool(c, node, "max_pool"))


@convert("AveragePool", mil="avg_pool", check=_check_pool)
def average_pool(c: Context, node: ir.Node) -> None:
    """Mean of every window; padding counts where the node says so."""
    without = not attr(node, "count_include_pad", 0)
    c.set(node.outputs[0], _pool(c, node, "avg_pool", exclude_padding_from_average=without))


@convert("GlobalAveragePool", "GlobalMaxPool", mil="reduce_mean reduce_max")
def global_pool(c: Context, node: ir.Node) -> None:
    """Mean or maximum over all spatial axes."""
    x = c.var(node.inputs[0])
    kind = "reduce_max" if node.op_type == "GlobalMaxPool" else "reduce_mean"
    c.set(node.outputs[0], c.op(kind, node, x=x, axes=list(range(2, x.rank)), keep_dims=True))
