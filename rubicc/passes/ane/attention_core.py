"""Finds attentions: two matrix products of computed values with a softmax, scales and masks in between.

The softmax may be guarded, as torch writes ``scaled_dot_product_attention``: a row of -inf only, whose
softmax is no number, becomes a row of zeros by ``Where(IsNaN(p), 0, p)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.matching import data_uses, number
from rubicc.passes.ane.movement import scaling
from rubicc.passes.ane.weights import is_stored
from rubicc.passes.rewrite import is_constant, is_standard, rank

_DEPTH = 16  # nodes between the scores and the softmax


class Untouched(Exception):
    """Why an attention stays as it is."""


@dataclass(frozen=True)
class Mask:
    """A step between scores and softmax.

    Attributes:
        node: Add of ``value`` (broadcast against the scores), or Where.
        value: what is added, or the condition.
        other: of Where, what stands where the scores do not.
        kept: of Where, whether scores stand where the condition holds.
    """

    node: ir.Node
    value: ir.Value
    other: ir.Value | None = None
    kept: bool = True


@dataclass(frozen=True)
class Core:
    """``softmax(mask(factor * query key)) value`` as it stands in the graph.

    Attributes:
        guard: the Where that turns softmaxes that are no numbers into zeros, where there is one.
        masks: in the order they are applied.
    """

    scores: ir.Node
    softmax: ir.Node
    guard: ir.Node | None
    context: ir.Node
    masks: tuple[Mask, ...]
    factor: float

    @property
    def operands(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Query (..., Q, D), key (..., D, K), value (..., K, E)."""
        query, key = self.scores.inputs[:2]
        value = self.context.inputs[1]
        assert query is not None and key is not None and value is not None
        return query, key, value


def cores(graph: Graph) -> tuple[list[Core], list[tuple[ir.Node, str]]]:
    """Attentions of the main graph in order, and softmaxes of others with what is unusual about them."""
    found, refused = [], []
    for node in graph.ir:
        if not is_standard(node, "Softmax") or not _over_last(node):
            continue
        chain = _chain(node.inputs[0], 0)
        if chain is None:
            continue
        try:
            found.append(_core(node, chain))
        except Untouched as why:
            refused.append((node, str(why)))
    return found, refused


def _over_last(node: ir.Node) -> bool:
    axis, dims = node.attributes.get_int("axis", -1), rank(node.outputs[0])
    return axis == -1 or (dims is not None and axis == dims - 1)


_Chain = tuple[ir.Node, list[tuple[str, Mask | float]]]


def _chain(value: ir.Value | None, depth: int) -> _Chain | None:
    """The product of two computed values that ``value`` is made from, and the steps from it on."""
    node = value.producer() if value is not None else None
    if node is None or depth > _DEPTH:
        return None
    if is_standard(node, "MatMul", "Einsum"):
        pair = [v for v in node.inputs if v is not None and not is_constant(v) and not is_stored(v)]
        return (node, []) if len(pair) == 2 else None
    scaled = scaling(node)
    if scaled is not None:
        chain = _chain(scaled[0], depth + 1)
        return None if chain is None else (chain[0], [*chain[1], ("scale", scaled[1])])
    if is_standard(node, "Add"):
        return _masked(node, [(0, 1), (1, 0)], depth)
    if is_standard(node, "Where"):
        return _masked(node, [(1, 2), (2, 1)], depth)
    return None


def _masked(node: ir.Node, orders: list[tuple[int, int]], depth: int) -> _Chain | None:
    chains = [(_chain(node.inputs[mine], depth + 1), mine, rest) for mine, rest in orders]
    leading = [(chain, mine, rest) for chain, mine, rest in chains if chain is not None]
    if not leading:
        return None
    chain, mine, rest = leading[0]
    other = node.inputs[rest]
    if len(leading) > 1 or other is None:  # two products are added: which one is the mask cannot be said
        return chain[0], [("both", 0.0)]
    if is_standard(node, "Add"):
        return chain[0], [*chain[1], ("mask", Mask(node, other))]
    condition = node.inputs[0]
    assert condition is not None
    return chain[0], [*chain[1], ("mask", Mask(node, condition, other, kept=mine == 1))]


def _core(softmax: ir.Node, chain: _Chain) -> Core:
    scores, steps = chain
    if not is_standard(scores, "MatMul"):
        raise Untouched("its scores come from an Einsum")
    factor, masks = 1.0, []
    for kind, what in steps:
        if kind == "both":
            raise Untouched("its scores are the sum of two products, as with relative positions of the keys")
        if isinstance(what, Mask):
            masks.append(what)
        elif masks:
            raise Untouched("its scores are scaled after the mask was added")
        else:
            factor *= what
    behind = [scores, *(use.node for use in scores.outputs[0].uses())]
    guard = _guard(softmax)
    probabilities = (guard or softmax).outputs[0]
    uses = data_uses(probabilities)
    outputs = [softmax.outputs[0], probabilities]
    if any(v.is_graph_output() for v in outputs) or len(uses) != 1 or not is_standard(uses[0][0], "MatMul"):
        raise Untouched("its probabilities are read by more than the product with the values")
    context, place = uses[0]
    operand = context.inputs[1]
    if place != 0 or operand is None or is_constant(operand) or len(behind) != 2:
        raise Untouched("its scores or probabilities are read by more than one operator")
    return Core(scores, softmax, guard, context, tuple(masks), factor)


def _guard(softmax: ir.Node) -> ir.Node | None:
    """``Where(IsNaN(p), 0, p)`` behind a softmax, if that is all that reads it."""
    value = softmax.outputs[0]
    readers = {node for node, _ in data_uses(value)}
    tests = [node for node in readers if is_standard(node, "IsNaN")]
    guards = [node for node in readers if is_standard(node, "Where")]
    if len(readers) != 2 or len(tests) != 1 or len(guards) != 1:
        return None
    condition, zero, kept = guards[0].inputs
    alone = condition is tests[0].outputs[0] and len(data_uses(condition)) == 1
    return guards[0] if alone and kept is value and number(zero) == 0.0 else None
