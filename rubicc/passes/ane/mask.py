"""Padding masks: fit for half precision, and on request computed outside the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.attention_core import Core, cores
from rubicc.passes.ane.mask_narrow import Narrow
from rubicc.passes.ane.mask_rule import MaskRule, Unknown, ancestors, give_from_outside, learn
from rubicc.passes.ane.matching import drop_unused
from rubicc.passes.ane.movement import Trials
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard

LOWEST = -65504.0  # of float16


@register
class Mask(Pass):
    """What is added to the scores of keys that must not be attended to.

    ::

        Mul(1 - mask, -3.4e38)                              =>   Mul(1 - mask, -1e4)
        (B,K) -> Gather, Reshape, And(true) -> (B,1,Q,K)    =>   (B,K) -> Unsqueeze -> (B,1,1,K)
        attention_mask -> Cast, Sub, Mul -> + scores        =>   attention_bias -> + scores   (outside)

    Constants below float16's lowest number would be infinite there, and ``0 * -inf`` is no number; -1e4 gives
    the same zero after the softmax, in float64 too, unless a query may attend to nothing at all.

    With ``outside`` the additive mask becomes a float input ``(B, 1, 1, K)`` in place of the integers it was
    made from: integer arithmetic does not run on the Neural Engine. How to make it is found by running what
    is cut off, and kept in the graph as :class:`~rubicc.passes.ane.mask_rule.MaskRule`.

    A network that attends without any mask although its tokens have a padding id is left as it is, with a
    Decision: its outputs depend on how much padding follows a sequence.
    """

    id = "ane.mask"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"mask-fits-half"})

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`Mask`.

        Attributes:
            outside: take the additive mask as a float input (changes the interface).
            masked: what stands for "not attended to" where the model's own number does not fit float16.
            pad: id of the padding token; -1 takes it from the model's configuration.
        """

        outside: bool = False
        masked: float = -1e4
        pad: int = -1

        def __post_init__(self) -> None:
            if not LOWEST <= self.masked <= -1e3:
                raise ValueError(f"masked is {self.masked}, not between {LOWEST} and -1000")

    def changes_interface(self) -> bool:
        """Whether inputs may change: only with ``outside``."""
        return bool(self.options.outside)

    def run(self, graph: Graph) -> bool:
        """See :class:`Mask`."""
        found, _ = cores(graph)
        if found and not any(core.masks for core in found):
            self._without(graph, found)
            return False
        edit = Editor(graph, self.id)
        changed = self._fit(edit, found)
        changed |= _narrow(edit, found)
        if self.options.outside:
            changed |= self._outside(edit, cores(graph)[0])
        return changed

    def _without(self, graph: Graph, found: list[Core]) -> None:
        pad = self.options.pad
        if pad < 0 and graph.meta is not None:
            pad = int(graph.meta.config.get("pad_token_id", -1))
        if pad >= 0 and _has_tokens(graph):
            self.decisions.append(
                Decision(
                    "RUB-PASS-D21",
                    source_of(found[0].softmax),
                    f"attention without a mask; padding (id {pad}) is attended to like any token",
                    "the model has no input that tells padding from tokens",
                )
            )

    def _fit(self, edit: Editor, found: list[Core]) -> bool:
        """Raise constants that half precision cannot hold."""
        changed: dict[str, float] = {}
        for core in found:
            for mask in core.masks:
                start = mask.value if mask.other is None else mask.other
                places = [(mask.node, start), *((n, v) for n in ancestors(start) for v in n.inputs)]
                for node, value in places:
                    array = constant(value) if is_constant(value) else None
                    if (
                        value is None
                        or array is None
                        or array.dtype.kind != "f"
                        or not (array < LOWEST).any()
                    ):
                        continue
                    changed[source_of(node)] = float(array.min())
                    self._raise(edit, node, value, array)
        for where, lowest in changed.items():
            what = f"masked scores get {self.options.masked:g} instead of {lowest:.3g}"
            self.decisions.append(Decision("RUB-PASS-D22", where, what, f"half precision ends at {LOWEST:g}"))
        return bool(changed)

    def _raise(self, edit: Editor, node: ir.Node, value: ir.Value, array: np.ndarray) -> None:
        fitting = np.where(array < LOWEST, array.dtype.type(self.options.masked), array)
        made = edit.initializer(f"{value.name}_masked", np.asarray(fitting, array.dtype), node.graph)
        for index, one in enumerate(node.inputs):
            if one is value:
                node.replace_input_with(index, made)
        edit.mark(node)

    def _outside(self, edit: Editor, found: list[Core]) -> bool:
        rules: dict[ir.Value, MaskRule] = {}
        for core in found:
            for mask in core.masks:
                value = mask.value
                if mask.other is not None or value in rules or is_constant(value) or value.is_graph_input():
                    continue
                try:
                    rules[value] = learn(edit.graph, value, self._pads(edit.graph))
                except Unknown as why:
                    self.decisions.append(
                        Decision("RUB-PASS-D23", source_of(mask.node), "the mask stays inside", str(why))
                    )
                    return False
        if len(set(rules.values())) > 1:
            what = "the masks stay inside"
            self.decisions.append(
                Decision("RUB-PASS-D23", source_of(found[0].softmax), what, "layers have different masks")
            )
            return False
        if rules:
            give_from_outside(edit, rules, next(iter(rules.values())))
        return bool(rules)

    def _pads(self, graph: Graph) -> list[int]:
        known = graph.meta.config.get("pad_token_id", -1) if graph.meta is not None else -1
        return [pad for pad in (self.options.pad, int(known)) if pad >= 0]


def _narrow(edit: Editor, found: list[Core]) -> bool:
    """Add masks as small as they broadcast to what is added now."""
    steps = [mask for core in found for mask in core.masks if mask.other is None]
    if all(is_constant(mask.value) or mask.value.is_graph_input() for mask in steps):
        return False
    narrow, changed = Narrow(edit, Trials(edit.graph)), False
    for mask in steps:
        smaller = narrow.of(mask.value)
        if smaller is not mask.value:
            for index, one in enumerate(mask.node.inputs):
                if one is mask.value:
                    mask.node.replace_input_with(index, smaller)
            edit.mark(mask.node)
            drop_unused(edit, mask.value)
            changed = True
    return changed


def _has_tokens(graph: Graph) -> bool:
    """Whether some input indexes a table."""
    return any(
        is_standard(node, "Gather") and is_constant(node.inputs[0]) and node.inputs[1] is value
        for value in graph.inputs
        for node in value.consumers()
    )
