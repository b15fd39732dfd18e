"""Puts zeros in place of the smallest weights, and marks weights to be stored without their zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.quantize.sites import LEAST, SPARSE_KEY, Site, sites
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor

WORTH = 0.125  # share of zeros from which a mask of one bit per weight pays at 8 bits


@dataclass(frozen=True)
class SparseOptions:
    """How many zeros.

    Attributes:
        sparsity: share of each weight that becomes 0, at least 0 and below 1; 0 only marks weights that have
            zeros already.
        least: elements that a weight must have.
        recurrent: also the weights of GRU and LSTM.
        skip: names of nodes whose weights stay as they are.
    """

    sparsity: float = 0.5
    least: int = LEAST
    recurrent: bool = True
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"sparsity is {self.sparsity}: at least 0 and below 1")


@register
class Sparsify(Pass):
    """The smallest weights of every product become 0; whatever has enough zeros is marked for sparse storage.

    Magnitude pruning without retraining: it shows what size and speed a pruned network would have. Of equal
    magnitudes the first go. The initializer's metadata ``rubicc.sparse`` is its share of zeros.

    ::

        before   Conv(x, W)
        after    Conv(x, W with zeros)   W: rubicc.sparse = 0.5000
    """

    id = "quantize.sparsify"
    exact = False
    tolerance = 1.0
    ensures = frozenset({"weights-sparse"})
    Options = SparseOptions
    options: SparseOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit, opts = Editor(graph, self.id), self.options
        changed = False
        for site in sites(graph, least=opts.least, recurrent=opts.recurrent, skip=opts.skip):
            changed |= self._prune(edit, site)
        return changed

    def _prune(self, edit: Editor, site: Site) -> bool:
        kept = magnitudes(site.array, self.options.sparsity)
        zeros = 1.0 - np.count_nonzero(site.array if kept is None else kept) / site.array.size
        mark = f"{zeros:.4f}"
        worth = zeros >= WORTH and (kept is not None or site.value.metadata_props.get(SPARSE_KEY) != mark)
        value: ir.Value = site.value
        if kept is not None:
            value = edit.initializer(f"{site.name}_sparse", kept, site.first.graph)
            site.replace(value)
        if worth:
            value.metadata_props[SPARSE_KEY] = mark
        return worth or kept is not None


def magnitudes(weight: np.ndarray, sparsity: float) -> np.ndarray | None:
    """A copy in which the smallest ``sparsity`` of all weights are 0; ``None`` where so many are already."""
    count = round(weight.size * sparsity)
    size = np.abs(weight).reshape(-1)
    if count <= size.size - np.count_nonzero(size):
        return None
    limit = np.partition(size, count - 1)[count - 1]
    drop = size < limit
    ties = np.flatnonzero(size == limit)
    drop[ties[: count - np.count_nonzero(drop)]] = True
    return np.where(drop.reshape(weight.shape), np.float32(0), weight)
