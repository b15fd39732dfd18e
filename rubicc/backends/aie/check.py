"""Every refusal and warning of the AI Engine target at once, and how a model is shared out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rubicc.backends.base import Finding, Target
from rubicc.ir.graph import Graph, op_key, source_of

LEAST_SHARE = 0.5  # of the multiplications that the array must take, or there is nothing to gain


@dataclass(frozen=True)
class Share:
    """Who computes what of a model.

    Attributes:
        array, host: multiplications per item.
        left: multiplications, operator and module path of what stays on the host, by node name.
    """

    array: int
    host: int
    left: Mapping[str, tuple[int, str, str]]

    @property
    def part(self) -> float:
        """Share of the multiplications that the array takes."""
        total = self.array + self.host
        return self.array / total if total else 0.0


def check(graph: Graph, target: Target) -> list[Finding]:
    """All findings for ``aie[:device]``; the graph given stays as it is."""
    probe = normal(graph)
    found = [*_unknown(probe), *_inputs(probe)]
    share = shared_out(probe)
    if share.part < LEAST_SHARE:
        found += _nothing_to_gain(share)
    return found


def normal(graph: Graph) -> Graph:
    """A copy cleaned up, without quantisers of its own: what integers are fitted to."""
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    probe = graph.clone()
    run_pipeline(probe, PIPELINES["aie"])
    return probe


def shared_out(graph: Graph) -> Share:
    """Who would compute what of a cleaned-up float graph."""
    from rubicc.ir.costs import costs
    from rubicc.passes.integer.stages import stages

    found = stages(graph)
    rows = {row.name: row for row in costs(graph, {}).rows}
    host = {node.name or "": node for node in found.host}
    left = {
        name: (rows[name].macs if name in rows else 0, op_key(node), source_of(node))
        for name, node in host.items()
    }
    total = sum(row.macs for row in rows.values())
    on_host = sum(macs for macs, _, _ in left.values())
    return Share(total - on_host, on_host, left)


def _unknown(graph: Graph) -> list[Finding]:
    """Operators that cannot be calibrated or verified, because no reference kernel computes them."""
    from rubicc.ir.ops import KERNELS

    found = []
    for node in graph.all_nodes():
        if (node.domain.removeprefix("ai.onnx"), node.op_type) not in KERNELS:
            reason = f"no reference kernel for {op_key(node)}, so it can be neither calibrated nor verified"
            remedy = "replace it by convolutions, linear or recurrent layers, sums or functions of one value"
            found.append(Finding("RUB-IR-001", "error", node.name or "", source_of(node), reason, remedy))
    return found


def _inputs(graph: Graph) -> list[Finding]:
    found = []
    for value in graph.inputs:
        dims = list(value.shape or ())
        if value.dtype is not None and not value.dtype.is_floating_point():
            reason = f"{value.name} holds {value.dtype.name.lower()}; the array is fed signal"
            remedy = "choose --target cpu or coreml for models of tokens"
            found.append(Finding("RUB-AIE-003", "error", value.name or "", "", reason, remedy))
        elif not dims or not all(isinstance(dim, int) for dim in dims):
            reason = f"{value.name} has dimensions without numbers; a project is written for one length"
            found.append(Finding("RUB-AIE-003", "error", value.name or "", "", reason, "give --shapes"))
    return found


def _nothing_to_gain(share: Share) -> list[Finding]:
    """The table of what stays on the host, the costly first."""
    remedy = "choose --target cpu, or replace these layers by convolutions, linear or recurrent ones"
    head = f"the array would take {share.part:.0%} of {share.array + share.host:,} multiplications"
    found = [Finding("RUB-AIE-002", "error", "", "", f"nothing to gain: {head}", remedy)]
    rows = sorted(share.left.items(), key=lambda row: (-row[1][0], row[0]))
    for name, (macs, op, source) in rows:
        reason = f"{op} stays on the host ({macs:,} multiplications)"
        found.append(Finding("RUB-AIE-002", "error", name, source, reason, remedy))
    return found
