"""Matrix products, normalisations and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rubicc.ir.limits import bounded_elements
from rubicc.ir.ops.registry import KERNELS, Array, Call, KernelError, Result, kernel, widened


@kernel("MatMul")
def matmul(call: Call) -> Result:
    """Batched matrix product."""
    a, b = call[0], call[1]
    if a.ndim > 1 and b.ndim > 1:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        bounded_elements([*batch, a.shape[-2], b.shape[-1]], where=call.node.name or "")
    return np.matmul(widened(a), widened(b)).astype(a.dtype, copy=False)


@kernel("Gemm")
def gemm(call: Call) -> Result:
    """``alpha * A' B' + beta * C``."""
    a, b, c = widened(call[0]), widened(call[1]), call.get(2)
    a = a.T if call.attr("transA", 0) else a
    b = b.T if call.attr("transB", 0) else b
    y = a @ b
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    if alpha != 1.0:
        y = y * y.dtype.type(alpha)
    if c is not None and beta != 0.0:
        y = y + (c if beta == 1.0 else c * c.dtype.type(beta))
    return y.astype(call[0].dtype, copy=False)


@kernel("Einsum")
def einsum(call: Call) -> Result:
    """Einstein sum."""
    operands = [widened(call[i]) for i in range(len(call.inputs))]
    y = np.einsum(call.attr("equation").replace(" ", ""), *operands, optimize=True)
    return np.asarray(y).astype(call[0].dtype, copy=False)


@kernel("MatMulInteger")
def matmul_integer(call: Call) -> Result:
    """int8/uint8 product accumulated in int32; exact in float64."""
    a, b = call[0].astype(np.float64), call[1].astype(np.float64)
    a_zero, b_zero = call.get(2), call.get(3)
    if a_zero is not None:
        a = a - (a_zero.astype(np.float64)[..., None] if a_zero.ndim else float(a_zero))
    if b_zero is not None:
        b = b - (b_zero.astype(np.float64)[..., None, :] if b_zero.ndim else float(b_zero))
    return np.matmul(a, b).astype(np.int32)


@kernel("BatchNormalization")
def batch_norm(call: Call) -> Result:
    """Inference-mode batch normalisation."""
    if call.attr("training_mode", 0):
        raise KernelError("BatchNormalization in training mode")
    x = widened(call[0])
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale, bias, mean, var = (widened(call[i]).astype(x.dtype, copy=False) for i in range(1, 5))
    gain = scale / np.sqrt(var + x.dtype.type(call.attr("epsilon", 1e-5)))
    return ((x - mean.reshape(shape)) * gain.reshape(shape) + bias.reshape(shape)).astype(
        call[0].dtype, copy=False
    )


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return centred * inverse, mean, inverse


@kernel("LayerNormalization")
def layer_norm(call: Call) -> Result:
    """Normalisation over the axes from ``axis`` on; outputs Y, Mean, InvStdDev."""
    x = widened(call[0])
    axis = call.attr("axis", -1) % x.ndim
    y, mean, inverse = _standardised(x, tuple(range(axis, x.ndim)), call.attr("epsilon", 1e-5))
    y = y * call[1]
    bias = call.get(2)
    y = y if bias is None else y + bias
    return [y.astype(call[0].dtype, copy=False), mean, inverse][: len(call.node.outputs)]


@kernel("RMSNormalization")
def rms_norm(call: Call) -> Result:
    """Division by the root mean square over the axes from ``axis`` on."""
    x = widened(call[0])
    axes = tuple(range(call.attr("axis", -1) % x.ndim, x.ndim))
    square = (x * x).mean(axis=axes, keepdims=True) + x.dtype.type(call.attr("epsilon", 1e-5))
    return (x / np.sqrt(square) * call[1]).astype(call[0].dtype, copy=False)


@kernel("InstanceNormalization", "GroupNormalization")
def group_norm(call: Call) -> Result:
    """Normalisation over groups of channels; one channel per group for instances."""
    x = widened(call[0])
    channels = x.shape[1]
    instance = call.node.op_type == "InstanceNormalization"
    groups = channels if instance else call.attr("num_groups")
    y, _, _ = _standardised(x.reshape(x.shape[0], groups, -1), (2,), call.attr("epsilon", 1e-5))
    scale, bias = call[1], call[2]
    if scale.size != channels:  # opset 18 gives one scale per group, 21 one per channel
        scale, bias = np.repeat(scale, channels // groups), np.repeat(bias, channels // groups)
    shape = (1, channels, *[1] * (x.ndim - 2))
    return (y.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)).astype(call[0].dtype, copy=False)


@kernel("LpNormalization")
def lp_norm(call: Call) -> Result:
    """Division by the L1 or L2 norm along ``axis``."""
    x = call[0]
    norm = np.linalg.norm(x, ord=call.attr("p", 2), axis=call.attr("axis", -1), keepdims=True)
    return np.where(norm == 0, np.zeros((), x.dtype), x / norm)


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, np.zeros((), x.dtype))
    total = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return total if keepdims else total.squeeze(axis)


_REDUCE: dict[str, Callable[..., Array]] = {
    "ReduceSum": lambda x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims),
    "ReduceMean": lambda x, axis, keepdims: x.mean(axis=axis, keepdims=keepdims),
    "ReduceMax": lambda x, axis, keepdims: x.max(axis=axis, keepdims=keepdims),
    "ReduceMin": lambda x, axis, keepdims: x.min(axis=axis, keepdims=keepdims),
    "ReduceProd": lambda x, axis, keepdims: x.prod(axis=axis, keepdims=keepdims),
    "ReduceL1": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}


def _reduction(function: Callable[..., Array]) -> Callable[[Call], Result]:
    def run(call: Call) -> Result:
        x = call[0]
        axes = call.ints("axes", 1)
        if not axes and call.attr("noop_with_empty_axes", 0):
            return x
        axis = tuple(a % x.ndim for a in axes) if axes else tuple(range(x.ndim))
        y = function(widened(x), axis, bool(call.attr("keepdims", 1)))
        return np.asarray(y).astype(x.dtype, copy=False)

    return run


KERNELS.update({("", name): _reduction(f) for name, f in _REDUCE.items()})


@kernel("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Result:
    """Index of the first (or last) extreme value along ``axis``."""
    x, axis = call[0], call.attr("axis", 0)
    find = np.argmax if call.node.op_type == "ArgMax" else np.argmin
    if call.attr("select_last_index", 0):
        index = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=True)
    else:
        index = find(x, axis=axis, keepdims=True)
    return (index if call.attr("keepdims", 1) else index.squeeze(axis)).astype(np.int64)


@kernel("CumSum")
def cum_sum(call: Call) -> Result:
    """Running sum along an axis, optionally exclusive or from the end."""
    x, axis = call[0], int(call[1].reshape(-1)[0])
    x = np.flip(x, axis) if call.attr("reverse", 0) else x
    total = np.cumsum(x, axis=axis, dtype=x.dtype)
    total = total - x if call.attr("exclusive", 0) else total
    return np.flip(total, axis) if call.attr("reverse", 0) else total


@kernel("TopK")
def top_k(call: Call) -> Result:
    """Largest (or smallest) k values and their indices, ties in index order."""
    x, axis = call[0], call.attr("axis", -1)
    k = call.attr("k") if call.opset < 10 else int(call[1].reshape(-1)[0])
    if call.attr("largest", 1):
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    index = np.take(order, np.arange(k), axis=axis)
    return [np.take_along_axis(x, index, axis), index.astype(np.int64)]


@kernel("Trilu")
def trilu(call: Call) -> Result:
    """Upper or lower triangle of the last two axes."""
    offset = call.get(1)
    k = 0 if offset is None else int(offset.reshape(-1)[0])
    return (np.triu if call.attr("upper", 1) else np.tril)(call[0], k)


@kernel("Dropout")
def dropout(call: Call) -> Result:
    """Identity at inference; the mask output is all true."""
    training = call.get(2)
    ratio = call.get(1)
    if (
        training is not None
        and bool(training.reshape(-1)[0])
        and (ratio is None or float(ratio.reshape(-1)[0]) > 0)
    ):
        raise KernelError("Dropout in training mode")
    return [call[0], np.ones(call[0].shape, bool)][: len(call.node.outputs)]
