"""Skips go, with their weights."""

from __future__ import annotations

from dataclasses import dataclass

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor
from rubicc.passes.skip.find import Residual, residuals
from rubicc.passes.skip.removing import chosen, drop, record


@dataclass(frozen=True)
class RemoveOptions:
    """Which skips go.

    Attributes:
        names: patterns of their names or modules.
        keep: patterns of those that stay whatever ``names`` says.
    """

    names: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()


@register
class RemoveSkips(Pass):
    """Residual connections are taken out: the branch stands for the sum, the skip's own weights are gone.

    ::

        x -> Conv -> BatchNorm -> Relu -> Conv -> BatchNorm -> Add -> Relu -> y
        x -> Conv -> BatchNorm ------------------------------> Add                 =>

        x -> Conv -> BatchNorm -> Relu -> Conv -> BatchNorm -> Relu -> y

    Not the same function: the skip's values count as zero from now on. What the skip shares with other parts
    (a quantiser, a weight) stays. Skips joined by Concat stay, with a note that says why.
    """

    id = "skip.remove"
    exact = False
    tolerance = 10.0
    requires = frozenset({"shapes"})
    ensures = frozenset({"skips-removed"})
    Options = RemoveOptions
    options: RemoveOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        self.removed: list[Residual] = []
        edit = Editor(graph, self.id)
        skips = residuals(graph)
        kept = {one.name for one in chosen(graph, skips, self.options.keep)}
        for one in chosen(graph, skips, self.options.names):
            if one.name not in kept:
                self.remove(edit, one)
                self.removed.append(one)
                record(graph, "removed", one)
                self.note(one.source, f"{one.kind} skip removed, {one.weights} weights gone")
        for refused in skips.refused:
            self.note(refused.source, f"skip stays: {refused.reason}")
        return bool(self.removed)

    def remove(self, edit: Editor, one: Residual) -> None:
        """Let the branch stand for the sum, and take out what nobody reads any more."""
        edit.replace_value(one.node.outputs[0], one.main)
        skip = one.skip
        edit.remove(one.node)
        drop(edit, [skip])
