"""Matrix products, reductions and running sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.registry import BUILDERS, Run, Site, op


@op("MatMul")
def matmul(site: Site) -> Run:
    """Batched matrix product."""
    return torch.matmul


@op("rubicc::Linear")
def linear(site: Site) -> Run:
    """Product with a matrix and the bias added to it, in one kernel; the plan joins the two nodes."""
    if site.tensor_of(2).ndim == 1:
        return lambda x, weight, bias: functional.linear(x, weight.t(), bias)
    return lambda x, weight, bias: torch.matmul(x, weight) + bias


@op("Gemm")
def gemm(site: Site) -> Run:
    """``alpha * A' B' + beta * C``."""
    turn_a, turn_b = site.attr("transA", 0), site.attr("transB", 0)
    alpha, beta = site.attr("alpha", 1.0), site.attr("beta", 1.0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if turn_a else a
        b = b.t() if turn_b else b
        if c is None or beta == 0.0:
            return a @ b if alpha == 1.0 else (a @ b) * alpha
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


@op("Einsum")
def einsum(site: Site) -> Run:
    """Einstein sum."""
    return partial(torch.einsum, site.attr("equation").replace(" ", ""))


def _log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keep))


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCE: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep),
}


def _reduction(function: Callable[..., Tensor]) -> Callable[[Site], Run]:
    def build(site: Site) -> Run:
        axes = site.ints("axes", 1)
        if not axes and site.attr("noop_with_empty_axes", 0):
            return lambda x, *_: x
        rank = site.rank
        where = tuple(a % rank for a in axes) if axes else tuple(range(rank))
        keep = bool(site.attr("keepdims", 1))
        return lambda x, *_: function(x, where, keep)

    return build


BUILDERS.update({name: _reduction(function) for name, function in _REDUCE.items()})


@op("ArgMax", "ArgMin")
def arg_extreme(site: Site) -> Run:
    """Index of the first (or last) extreme value along ``axis``; it has no gradient."""
    axis, keep = site.attr("axis", 0), bool(site.attr("keepdims", 1))
    find = torch.argmax if site.node.op_type == "ArgMax" else torch.argmin
    if not site.attr("select_last_index", 0):
        return partial(find, dim=axis, keepdim=keep)
    last = site.tensor_of(0).shape[axis] - 1
    return lambda x: last - find(torch.flip(x, (axis,)), axis, keep)


@op("CumSum")
def cum_sum(site: Site) -> Run:
    """Running sum along an axis, optionally exclusive or from the end."""
    axis = int(site[1].reshape(-1)[0])
    back, exclusive = site.attr("reverse", 0), site.attr("exclusive", 0)

    def run(x: Tensor, _: Tensor) -> Tensor:
        x = torch.flip(x, (axis,)) if back else x
        total = torch.cumsum(x, axis)
        total = total - x if exclusive else total
        return torch.flip(total, (axis,)) if back else total

    return run


@op("TopK")
def top_k(site: Site) -> Run:
    """Largest (or smallest) k values and their indices, ties in index order."""
    axis = site.attr("axis", -1)
    count = site.attr("k") if site.opset < 10 else int(site[1].reshape(-1)[0])
    down = bool(site.attr("largest", 1))

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        values, index = torch.sort(x, dim=axis, descending=down, stable=True)
        return values.narrow(axis, 0, count), index.narrow(axis, 0, count)

    return run


@op("Trilu")
def trilu(site: Site) -> Run:
    """Upper or lower triangle of the last two axes."""
    offset = site.get(1)
    diagonal = 0 if offset is None else int(offset.reshape(-1)[0])
    function = torch.triu if site.attr("upper", 1) else torch.tril
    return lambda x, *_: function(x, diagonal)


@op("LpNormalization")
def lp_norm(site: Site) -> Run:
    """Division by the L1 or L2 norm along ``axis``; 0 where the norm is 0."""
    order, axis = site.attr("p", 2), site.attr("axis", -1)
    if order not in (1, 2):
        raise KernelError(f"p={order}: the norm is 1 or 2")

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return run
