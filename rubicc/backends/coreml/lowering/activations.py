"""Non-linearities: MIL's own operation where it has one, exact arithmetic elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of
from rubicc.backends.coreml.lowering.fuse import Fusion
from rubicc.backends.coreml.lowering.table import Refusal, convert, refuse

_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
}


def _register_plain() -> None:
    for op, kind in _PLAIN.items():

        def run(c: Context, node: ir.Node, kind: str = kind) -> None:
            c.set(node.outputs[0], c.op(kind, node, x=c.var(node.inputs[0])))

        convert(op, mil=kind)(run)


_register_plain()


def fused_gelu(c: Context, fusion: Fusion) -> None:
    """GELU written as arithmetic in the graph."""
    made = c.op("gelu", fusion.root, x=c.var(fusion.source), mode=fusion.extra["mode"])
    c.set(fusion.root.outputs[0], made)


def fused_silu(c: Context, fusion: Fusion) -> None:
    """``x * sigmoid(x)``."""
    c.set(fusion.root.outputs[0], c.op("silu", fusion.root, x=c.var(fusion.source)))


@convert("Gelu", mil="gelu")
def gelu(c: Context, node: ir.Node) -> None:
    """Exact, or by tanh."""
    mode = "TANH_APPROXIMATION" if attr(node, "approximate", "none") == "tanh" else "EXACT"
    c.set(node.outputs[0], c.op("gelu", node, x=c.var(node.inputs[0]), mode=mode))


@convert("Swish", mil="silu mul sigmoid")
def swish(c: Context, node: ir.Node) -> None:
    """``x sigmoid(alpha x)``."""
    x, alpha = c.var(node.inputs[0]), attr(node, "alpha", 1.0)
    if alpha == 1.0:
        c.set(node.outputs[0], c.op("silu", node, x=x))
        return
    gate = c.op("sigmoid", node, "gate", x=c.op("mul", node, "scaled", x=x, y=c.scalar_like(x, alpha)))
    c.set(node.outputs[0], c.op("mul", node, x=x, y=gate))


@convert("Mish", mil="softplus tanh mul")
def mish(c: Context, node: ir.Node) -> None:
    """``x tanh(softplus(x))``."""
    x = c.var(node.inputs[0])
    gate = c.op("tanh", node, "gate", x=c.op("softplus", node, "softplus", x=x))
    c.set(node.outputs[0], c.op("mul", node, x=x, y=gate))


@convert("HardSigmoid", mil="sigmoid_hard")
def hard_sigmoid(c: Context, node: ir.Node) -> None:
    """``clip(alpha x + beta, 0, 1)``."""
    x = c.var(node.inputs[0])
    alpha, beta = (c.scalar_like(x, attr(node, n, d)) for n, d in (("alpha", 0.2), ("beta", 0.5)))
    c.set(node.outputs[0], c.op("sigmoid_hard", node, x=x, alpha=alpha, beta=beta))


@convert("HardSwish", mil="sigmoid_hard mul")
def hard_swish(c: Context, node: ir.Node) -> None:
    """``x clip(x / 6 + 1/2, 0, 1)``."""
    x = c.var(node.inputs[0])
    alpha, beta = c.scalar_like(x, 1 / 6), c.scalar_like(x, 0.5)
    gate = c.op("sigmoid_hard", node, "gate", x=x, alpha=alpha, beta=beta)
    c.set(node.outputs[0], c.op("mul", node, x=x, y=gate))


@convert("LeakyRelu", mil="leaky_relu")
def leaky_relu(c: Context, node: ir.Node) -> None:
    """A slope below zero."""
    x = c.var(node.inputs[0])
    made = c.op("leaky_relu", node, x=x, alpha=c.scalar_like(x, attr(node, "alpha", 0.01)))
    c.set(node.outputs[0], made)


@convert("PRelu", mil="leaky_relu relu minimum mul add", note="MIL's prelu takes no three axes")
def prelu(c: Context, node: ir.Node) -> None:
    """One slope, or ``relu(x) + slope min(x, 0)``."""
    x, slope = c.var(node.inputs[0]), c.scalar(node.inputs[1])
    if slope is not None:
        c.set(node.outputs[0], c.op("leaky_relu", node, x=x, alpha=c.scalar_like(x, slope)))
        return
    below = c.op("minimum", node, "below", x=x, y=c.scalar_like(x, 0))
    below = c.op("mul", node, "sloped", x=below, y=c.var(node.inputs[1]))
    c.set(node.outputs[0], c.op("add", node, x=c.op("relu", node, "above", x=x), y=below))


@convert("ThresholdedRelu", mil="greater cast mul", note="MIL's thresholded_relu keeps the threshold itself")
def thresholded_relu(c: Context, node: ir.Node) -> None:
    """``x`` where it is above the threshold, else 0."""
    x = c.var(node.inputs[0])
    above = c.op("greater", node, "above", x=x, y=c.scalar_like(x, attr(node, "alpha", 1.0)))
    above = c.op("cast", node, "gate", x=above, dtype=c.type_of(x))
    c.set(node.outputs[0], c.op("mul", node, x=x, y=above))


@convert("Elu", "Selu", "Celu", mil="elu mul real_div")
def exponential(c: Context, node: ir.Node) -> None:
    """ELU; SELU scales it; CELU is ``alpha elu(x / alpha)``."""
    x = c.var(node.inputs[0])
    alpha = attr(node, "alpha", 1.6732632423543772 if node.op_type == "Selu" else 1.0)
    if node.op_type == "Celu":
        x = c.op("real_div", node, "scaled", x=x, y=c.scalar_like(x, alpha))
        y = c.op("elu", node, "elu", x=x, alpha=c.scalar_like(x, 1))
        c.set(node.outputs[0], c.op("mul", node, x=y, y=c.scalar_like(y, alpha)))
        return
    y = c.op("elu", node, "elu", x=x, alpha=c.scalar_like(x, alpha))
    if node.op_type == "Selu":
        y = c.op("mul", node, x=y, y=c.scalar_like(y, attr(node, "gamma", 1.0507009873554805)))
    c.set(node.outputs[0], y)


def _check_softmax(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    rank = facts.rank(node.inputs[0])
    if facts.graph.opset < 13 and rank is not None and axis_of(attr(node, "axis", 1), rank) != rank - 1:
        yield refuse(
            f"{node.op_type} of opset {facts.graph.opset} over several axes", "export with opset 13 or later"
        )


@convert("Softmax", mil="softmax", check=_check_softmax)
def softmax(c: Context, node: ir.Node) -> None:
    """Over one axis."""
    axis = attr(node, "axis", -1 if c.graph.opset >= 13 else 1)
    c.set(node.outputs[0], c.op("softmax", node, x=c.var(node.inputs[0]), axis=axis))


@convert(
    "LogSoftmax",
    mil="reduce_max sub reduce_log_sum_exp",
    note="MIL has no log softmax; the maximum is taken off first, so that no power overflows float16",
    check=_check_softmax,
)
def log_softmax(c: Context, node: ir.Node) -> None:
    """``s - log(sum(exp(s)))`` with ``s = x - max(x)``."""
    axis = attr(node, "axis", -1 if c.graph.opset >= 13 else 1)
    x = c.var(node.inputs[0])
    top = c.op("reduce_max", node, "max", x=x, axes=[axis], keep_dims=True)
    shifted = c.op("sub", node, "shifted", x=x, y=top)
    total = c.op("reduce_log_sum_exp", node, "sum", x=shifted, axes=[axis], keep_dims=True)
    c.set(node.outputs[0], c.op("sub", node, x=shifted, y=total))
