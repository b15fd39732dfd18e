"""What removing a skip does to values: how far the output moves, and norms and quantisers that follow."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.passes.manager import run_pass
from rubicc.passes.rewrite import Editor, constant, is_standard
from rubicc.passes.skip.remove import RemoveOptions, RemoveSkips
from rubicc.passes.skip.removing import drop
from rubicc.training.twin import Twin

Feeds = Mapping[str, Tensor]


def exactly(names: Sequence[str]) -> tuple[str, ...]:
    """Patterns that fit these names only."""
    return tuple(glob.escape(name) for name in names)


@torch.no_grad()
def importance(graph: Graph, names: Sequence[str], batches: Sequence[Feeds]) -> dict[str, float]:
    """How far the first output moves when one skip alone is removed, for each of ``names``.

    Returns:
        Name -> root mean square of the change over that of the output, over all batches.
    """
    output = graph.outputs[0].name or ""
    twin = Twin(graph).eval()
    before = [twin(feeds)[output].double() for feeds in batches]
    scale = float(sum(value.square().sum() for value in before))
    found = {}
    for name in names:
        without = graph.clone()
        run_pass(RemoveSkips(RemoveOptions(exactly([name]))), without)
        changed = Twin(without).eval()
        moved = [changed(feeds)[output].double() - was for feeds, was in zip(batches, before, strict=True)]
        found[name] = (float(sum(value.square().sum() for value in moved)) / max(scale, 1e-300)) ** 0.5
    return found


def recalibrated(before: Graph, after: Graph, batches: Sequence[Feeds]) -> Graph:
    """``after`` with statistics of its norms, then scales of its activation quantisers, taken anew.

    Args:
        before: the network before the removal.
        batches: at least one.
    """
    return _rescaled(before, _norms(after, batches), batches)


@torch.no_grad()
def _norms(graph: Graph, batches: Sequence[Feeds]) -> Graph:
    """Running means and variances become means over the batches, each with those of its own before it."""
    twin = Twin(graph).train()
    momenta: dict[str | None, float] = {}
    for node in twin.write_back().nodes:
        if is_standard(node, "BatchNormalization"):
            share = 1.0 - node.attributes.get_float("momentum", 0.9)
            momenta |= {value.name: share for value in node.inputs[3:5] if value is not None}
    there = [
        (buffer, momenta[twin.names[name]])
        for name, buffer in twin.named_buffers()
        if twin.names.get(name) in momenta and momenta[twin.names[name]] > 0
    ]
    if not there:
        return graph
    sums = [torch.zeros_like(buffer) for buffer, _ in there]
    for feeds in batches:
        for buffer, _ in there:
            buffer.zero_()
        twin(feeds)
        for whole, (buffer, share) in zip(sums, there, strict=True):
            whole += buffer / share
    for whole, (buffer, _) in zip(sums, there, strict=True):
        buffer.copy_(whole / len(batches))
    return twin.write_back()


def _rescaled(before: Graph, after: Graph, batches: Sequence[Feeds]) -> Graph:
    """Scales follow the root mean square of what is quantised; powers of two stay such."""
    was = _spreads(before, batches)
    now = _spreads(after, batches)
    work = after.clone()
    edit = Editor(work, "skip.recalibrate")
    for node in work.nodes:
        scale = constant(node.inputs[1]) if node.name in now and node.name in was else None
        if scale is None or not was[node.name or ""] or not now[node.name or ""]:
            continue
        ratio = now[node.name or ""] / was[node.name or ""]
        if np.array_equal(np.exp2(np.round(np.log2(scale))), scale):
            ratio = 2.0 ** round(float(np.log2(ratio)))
        if ratio == 1.0:
            continue
        old = node.inputs[1]
        made = edit.initializer(f"{node.name}_scale", (scale * ratio).astype(scale.dtype), node.graph)
        node.replace_input_with(1, made)
        drop(edit, [old])
    return work


@torch.no_grad()
def _spreads(graph: Graph, batches: Sequence[Feeds]) -> dict[str, float]:
    """Root mean square of what every quantiser of activations is given, by name of its node."""
    quants = [node for node in graph.nodes if _quantises(node)]
    given = {node.name or "": node.inputs[0].name or "" for node in quants if node.inputs[0] is not None}
    if not given:
        return {}
    twin = Twin(graph).eval()
    twin.keep(set(given.values()))
    sums = dict.fromkeys(given, 0.0)
    for feeds in batches:
        values = twin(feeds)
        for name, value in given.items():
            sums[name] += float(values[value].double().square().mean())
    return {name: (whole / len(batches)) ** 0.5 for name, whole in sums.items()}


def _quantises(node: ir.Node) -> bool:
    """Whether a node quantises what another node makes of the input, with a constant scale."""
    if node.domain != QONNX_DOMAIN or node.op_type not in ("Quant", "IntQuant", "BipolarQuant"):
        return False
    value, scale = node.inputs[0], constant(node.inputs[1])
    return (
        value is not None and value.producer() is not None and scale is not None and bool(np.all(scale > 0))
    )
