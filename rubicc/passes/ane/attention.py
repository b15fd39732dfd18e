"""Multi-head attention, one head at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.attention_core import Core, Untouched, cores
from rubicc.passes.ane.attention_masks import MaskViews, PerHead
from rubicc.passes.ane.attention_write import Writer
from rubicc.passes.ane.heads import Heads, Joined, NotHeads, joined, operands
from rubicc.passes.ane.matching import MIN_OPSET
from rubicc.passes.ane.movement import Trials
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor


@dataclass(frozen=True)
class Plan:
    """An attention whose operands are understood."""

    core: Core
    query: Heads
    key: Heads
    value: Heads
    joined: Joined
    masks: tuple[PerHead, ...]


@register
class Attention(Pass):
    """Attention over all heads at once becomes one small attention per head, channels first.

    ::

        q,k,v (B,S,C) -> Reshape, Transpose -> (B,H,S,D)    q (B,C,1,S) -> Split -> q_h (B,D,1,Q)
        MatMul -> Mul -> Add(mask) -> Softmax(-1)           k -> Transpose -> Split -> k_h (B,K,1,D)
        MatMul -> Transpose -> Reshape -> (B,S,C)      =>   v -> Split -> v_h (B,E,1,K)
                                                            s_h = Einsum(bkhc,bchq->bkhq)(k_h, q_h)
                                                            p_h = Softmax(1)(s_h + mask)
                                                            Concat of Einsum(bkhq,bchk->bchq)(p_h, v_h)

    How exporters split a projection into heads is not matched but run on the numbers of the elements, so any
    reshaping will do, also of one projection for queries, keys and values, and of fewer heads for the keys.
    The only transpose is that of the keys; a mask is turned once for all layers. The scale goes into the
    weights that make the queries where these are plain numbers used nowhere else.

    An attention that is not understood (rotary positions, products of positions, probabilities that are an
    output) stays as it is, with a Decision.
    """

    id = "ane.attention"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"attention-per-head"})
    tolerance = 2e-5  # scales move into weights, sums into another order

    def run(self, graph: Graph) -> bool:
        """See :class:`Attention`."""
        found, refused = cores(graph)
        for node, why in refused:
            self._stays(source_of(node), why)
        if not found or graph.opset < MIN_OPSET:
            if found:
                self._stays("graph", f"operator set {graph.opset} is older than {MIN_OPSET}")
            return False
        trials, edit = Trials(graph), Editor(graph, self.id)
        views = MaskViews(edit, trials)
        plans = [plan for core in found if (plan := self._plan(core, trials, views)) is not None]
        writer = Writer(edit, views)
        for plan in plans:
            writer.write(plan.core, (plan.query, plan.key, plan.value), plan.joined, plan.masks)
        return bool(plans)

    def _plan(self, core: Core, trials: Trials, views: MaskViews) -> Plan | None:
        try:
            found = operands(trials, core)
            _check(*found)
            result = joined(trials, core.context.outputs[0], found[0].lead)
            if sorted(result.order) != list(range(len(found[0].offsets))):
                raise NotHeads("a head is missing from its result")
            per_head = tuple(views.plan(mask, core, found[0]) for mask in core.masks)
        except (NotHeads, Untouched) as why:
            self._stays(source_of(core.softmax), str(why))
            return None
        return Plan(core, *found, result, per_head)

    def _stays(self, where: str, why: str) -> None:
        decision = Decision(
            "RUB-PASS-D20", where, "attention keeps its heads in one product", f"it is not understood: {why}"
        )
        if decision not in self.decisions:
            self.decisions.append(decision)


def _check(query: Heads, key: Heads, value: Heads) -> None:
    """All operands must mean the same batch by the same place; no two heads share channels in part."""
    if not query.lead == key.lead == value.lead or query.width != key.width:
        raise NotHeads("queries, keys and values are ordered differently")
    for one in (query, key, value):
        ends = sorted(set(one.offsets))
        if any(b - a < one.width for a, b in pairwise(ends)):
            raise NotHeads("its heads overlap")
