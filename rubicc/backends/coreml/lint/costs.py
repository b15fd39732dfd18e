"""Multiply-accumulates of MIL operations, counted as in ``ir/costs.py``: products and convolutions only."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from rubicc.backends.coreml.lint.facts import Op, elements
from rubicc.backends.coreml.run.program import TensorType


def macs(op: Op) -> int | None:
    """Multiply-accumulates of one run; 0 for operations without any, ``None`` where a shape is unknown."""
    counter = _COUNTERS.get(op.kind)
    if counter is None:
        return 0
    if any(elements(kind.shape) is None for kind in op.tensors):
        return None
    return counter(op)


def _shape(op: Op, parameter: str) -> tuple[int, ...]:
    kind = op.type_of(parameter)
    return () if kind is None else tuple(size or 0 for size in kind.shape)


def _out(op: Op) -> int:
    return elements(op.results[0].shape) or 0


def _conv(op: Op) -> int:
    return _out(op) * prod(_shape(op, "weight")[1:])


def _conv_transpose(op: Op) -> int:
    return prod(_shape(op, "x")) * prod(_shape(op, "weight")[1:])


def _linear(op: Op) -> int:
    return _out(op) * _shape(op, "weight")[-1]


def _matmul(op: Op) -> int:
    left = _shape(op, "x")
    turned = bool(op.value("transpose_x", False)) and len(left) > 1
    return _out(op) * left[-2 if turned else -1]


def _einsum(op: Op) -> int | None:
    terms = str(op.value("equation", "")).replace(" ", "").split("->")[0].split(",")
    argument = op.operation.inputs.get("values")
    names = argument.names if argument is not None else ()
    kinds = [op.facts.type(name) for name in names]
    shapes = [kind.shape for kind in kinds if isinstance(kind, TensorType)]
    if len(shapes) != len(terms) or any(len(t) != len(s) for t, s in zip(terms, shapes, strict=True)):
        return None
    sizes = {
        letter: size or 0
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return prod(sizes.values())


def _attention(op: Op) -> int:
    query, key, value = (_shape(op, name) for name in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(op: Op) -> int:
    """Input and recurrent products of every gate and step; x is (steps, batch, width)."""
    steps, batch = _shape(op, "x")[:2]
    weights = [_shape(op, name) for name in _RECURRENT_WEIGHTS]
    return steps * batch * sum(prod(shape) for shape in weights if shape)


_RECURRENT_WEIGHTS = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")
_COUNTERS: dict[str, Callable[[Op], int | None]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
}
