"""Normalisations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, given
from rubicc.backends.coreml.lowering.fuse import Fusion
from rubicc.backends.coreml.lowering.numbers import epsilon_for
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse, unknown


def epsilon(c: Context, node: ir.Node, value: float) -> Any:
    """An epsilon in the program's type; one that float16 would lose is raised, with a Decision."""
    used = epsilon_for(value, c.dtype)
    if used != value:
        what = f"epsilon {used:.3g} in place of {value:.3g}"
        c.decide("RUB-COREML-D10", node, what, "float16 would hold 0, and a constant row would divide by it")
    return c.number(np.float64(used), c.dtype, node.name or "")[()]


def fused_layer_norm(c: Context, fusion: Fusion) -> None:
    """Layer norm written as arithmetic in the graph, over any axes."""
    root, extra = fusion.root, fusion.extra
    gamma, beta = extra["gamma"], extra["beta"]
    if gamma is None and beta is not None:
        gamma = np.ones_like(beta)  # MIL checks beta against gamma
    made = _layer_norm(c, root, c.var(fusion.source), list(extra["axes"]), extra["epsilon"], gamma, beta)
    c.set(root.outputs[0], made)


def _layer_norm(
    c: Context,
    node: ir.Node,
    x: Var,
    axes: list[int],
    eps: float,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    part: str = "",
) -> Var:
    parameters = {
        name: c.const(
            c.number(np.ascontiguousarray(array), c.dtype, f"{node.name}_{name}"), f"{node.name}_{name}"
        )
        for name, array in (("gamma", gamma), ("beta", beta))
        if array is not None
    }
    return c.op("layer_norm", node, part, x=x, axes=axes, epsilon=epsilon(c, node, eps), **parameters)


def _check_layer_norm(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for value, what in ((given(node, 1), "the scale"), (given(node, 2), "the bias")):
        yield from needs_constant(facts, value, f"{what} of {node.op_type}")
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        yield refuse(f"{node.op_type} whose mean or deviation is used")
    rank, axis = facts.rank(node.inputs[0]), attr(node, "axis", -1)
    if rank is None:
        yield unknown(f"the number of axes of the input of {node.op_type} is unknown")
    elif any(facts.size(node.inputs[0], a) is None for a in range(axis_of(axis, rank), rank)):
        yield unknown(f"{node.op_type} over an axis of free size")


@convert("LayerNormalization", mil="layer_norm", check=_check_layer_norm)
def layer_norm(c: Context, node: ir.Node) -> None:
    """Over the axes from ``axis`` on."""
    rank = c.rank(node.inputs[0])
    assert rank is not None
    axes = list(range(axis_of(attr(node, "axis", -1), rank), rank))
    sizes = [c.size(node.inputs[0], axis) or 1 for axis in axes]
    gamma, beta = (c.constant(given(node, index)) for index in (1, 2))
    gamma, beta = (None if one is None else np.broadcast_to(one, sizes) for one in (gamma, beta))
    eps = attr(node, "epsilon", 1e-5)
    c.set(node.outputs[0], _layer_norm(c, node, c.var(node.inputs[0]), axes, eps, gamma, beta))


@convert("RMSNormalization", mil="square reduce_mean rsqrt mul", check=_check_layer_norm)
def rms_norm(c: Context, node: ir.Node) -> None:
    """Times the inverse root of the mean square."""
    x = c.var(node.inputs[0])
    axes = list(range(axis_of(attr(node, "axis", -1), x.rank), x.rank))
    mean = c.op("reduce_mean", node, "mean", x=c.op("square", node, "square", x=x), axes=axes, keep_dims=True)
    inverse = c.op("rsqrt", node, "inverse", x=mean, epsilon=epsilon(c, node, attr(node, "epsilon", 1e-5)))
    made = c.op("mul", node, "scaled", x=x, y=inverse)
    c.set(node.outputs[0], c.op("mul", node, x=made, y=c.var(node.inputs[1])))


def _check_batch_norm(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    if attr(node, "training_mode", 0):
        yield refuse("BatchNormalization in training mode", "export the network in evaluation mode")
    for index in range(1, 5):
        yield from needs_constant(facts, given(node, index), "a parameter of BatchNormalization")


@convert("BatchNormalization", mil="batch_norm mul add", check=_check_batch_norm)
def batch_norm(c: Context, node: ir.Node) -> None:
    """With stored statistics; two axes are scaled and shifted."""
    scale, bias, mean, variance = (np.asarray(c.constant(value), np.float64) for value in node.inputs[1:5])
    eps = attr(node, "epsilon", 1e-5)
    x = c.var(node.inputs[0])
    if x.rank >= 3:
        arrays = {"gamma": scale, "beta": bias, "mean": mean, "variance": variance}
        parameters = {name: c.number(array, c.dtype, f"{node.name}_{name}") for name, array in arrays.items()}
        made = c.op("batch_norm", node, x=x, epsilon=epsilon(c, node, eps), **parameters)
        c.set(node.outputs[0], made)
        return
    gain = scale / np.sqrt(variance + eps)
    scaled = c.op("mul", node, "scaled", x=x, y=c.number(gain, c.dtype, f"{node.name}_gain"))
    shift = c.number(bias - mean * gain, c.dtype, f"{node.name}_shift")
    c.set(node.outputs[0], c.op("add", node, x=scaled, y=shift))


def _check_groups(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for value in node.inputs[1:3]:
        yield from needs_constant(facts, value, f"a parameter of {node.op_type}")
    shape = facts.dims(node.inputs[0])
    if shape is None or not isinstance(shape[1], int):
        yield unknown(f"the channels of {node.op_type} are of free number")
    elif sum(not isinstance(n, int) for n in shape) > 1:
        yield unknown(f"{node.op_type} with two axes of free size")


@convert(
    "InstanceNormalization",
    "GroupNormalization",
    mil="reshape layer_norm mul add",
    note="as a layer norm over the channels of a group",
    check=_check_groups,
)
def group_norm(c: Context, node: ir.Node) -> None:
    """Normalises groups of channels, one channel per group for instances."""
    x = c.var(node.inputs[0])
    channels = int(x.shape[1])
    instance = node.op_type == "InstanceNormalization"
    eps = attr(node, "epsilon", 1e-5)
    if instance:
        made = _layer_norm(c, node, x, list(range(2, x.rank)), eps, None, None, "normalised")
    else:
        groups = attr(node, "num_groups")
        free = any(not isinstance(n, int) for n in x.shape)
        batch = x.shape[0] if isinstance(x.shape[0], int) else -1
        if free and batch != -1:
            shape = [batch, groups, channels // groups, -1]
        else:
            shape = [batch, groups, channels // groups, int(np.prod([int(n) for n in x.shape[2:]]))]
        parts = c.op("reshape", node, "groups", x=x, shape=shape)
        made = _layer_norm(c, node, parts, [2, 3], eps, None, None, "normalised")
        back = [n if isinstance(n, int) else -1 for n in x.shape]
        made = c.op("reshape", node, "together", x=made, shape=back)
    axes = (1, channels, *[1] * (x.rank - 2))
    scale, bias = (np.asarray(c.constant(value)) for value in node.inputs[1:3])
    if scale.size != channels:
        scale, bias = np.repeat(scale, channels // scale.size), np.repeat(bias, channels // bias.size)
    made = c.op("mul", node, "scaled", x=made, y=c.number(scale.reshape(axes), c.dtype, f"{node.name}_scale"))
    shift = c.number(bias.reshape(axes), c.dtype, f"{node.name}_bias")
    c.set(node.outputs[0], c.op("add", node, x=made, y=shift))
