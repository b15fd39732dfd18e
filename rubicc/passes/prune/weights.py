"""Puts zeros in place of single weights: unstructured and n:m pruning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.prune import record
from rubicc.passes.prune.layer_file import assigned
from rubicc.passes.prune.readers import Reader, readers
from rubicc.passes.prune.reconstruct import Known, refit
from rubicc.passes.quantize.sites import SPARSE_KEY, Site, sites
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import constant

_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True)
class WeightOptions:
    """Which weights become 0.

    Attributes:
        sparsity: share of zeros asked for, those already there counted; at least 0 and below 1.
        method: ``l1``: smallest magnitudes first; ``random``; ``given``: smallest ``scores`` first.
        scope: ``layer``: the share of every weight by itself; ``global``: of all weights together.
        layers: shares by name or pattern of layers (see :mod:`.layer_file`); all others stay.
        pattern: ``n:m`` keeps at most n of every m neighbours along the axis that products sum over.
        rule: ``exact`` share; ``taiyaki``: zero where smaller than the element at that share of the sorted
            magnitudes, so that equal ones stay (its ``prune.py``).
        scores: of ``given``, by name of initializer (movement: -weight x gradient, summed in training).
        known: what products read, by key of the reader; with it, the weights that stay of each output make up
            for those that go (least squares, see :mod:`.reconstruct`).
        least: elements that a weight must have.
        skip: names of nodes whose weights stay.
        seed: of ``random``.
    """

    sparsity: float = 0.5
    method: Literal["l1", "random", "given"] = "l1"
    scope: Literal["layer", "global"] = "layer"
    layers: Mapping[str, float] = field(default_factory=dict)
    pattern: str = ""
    rule: Literal["exact", "taiyaki"] = "exact"
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    least: int = 1
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(0.0 <= share < 1.0 for share in (self.sparsity, *self.layers.values())):
            raise ValueError("a share of zeros is at least 0 and below 1")
        match = _PATTERN.fullmatch(self.pattern)
        if self.pattern and (match is None or int(match[1]) >= int(match[2])):
            raise ValueError(f"pattern is {self.pattern!r}: two numbers n:m with n below m")
        if self.rule == "taiyaki" and (self.method, self.scope, self.pattern) != ("l1", "layer", ""):
            raise ValueError("the rule of taiyaki is for l1 per layer")


@register
class PruneWeights(Pass):
    """The least important weights of every product become 0; what has zeros is marked for sparse storage.

    Shapes stay. Weights behind a model's own quantisers are pruned too. The initializer's metadata
    ``rubicc.sparse`` is its share of zeros.

    ::

        before   Conv(x, W)
        after    Conv(x, W with zeros)   W: rubicc.sparse = 0.5000
    """

    id = "prune.weights"
    exact = False
    tolerance = 10.0
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"weights-pruned"})
    Options = WeightOptions
    options: WeightOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        opts = self.options
        found = sites(graph, least=opts.least, quantised=True, skip=opts.skip)
        state = record.read(graph)
        products = {reader.name: reader for reader in readers(graph)} if opts.known else {}
        marked = {site.name for site, drop in self._choose(found) if self._drop(site, drop, products)}
        if not marked:
            return False
        state["weights"] = sorted({*state["weights"], *marked})
        record.write(graph, state)
        return True

    def _drop(self, site: Site, drop: np.ndarray, products: Mapping[str, Reader]) -> bool:
        """Set weights to 0 and mark the tensor; whether that changed anything."""
        before = np.count_nonzero(site.array)
        array = np.where(drop, np.float32(0), site.array)
        after = np.count_nonzero(array)
        mark = f"{1.0 - after / array.size:.4f}"
        if after == before and (not drop.any() or site.value.metadata_props.get(SPARSE_KEY) == mark):
            return False
        what = f"{before - after} of {array.size} weights set to 0, {after} are left"
        product = products.get(site.name)
        lost = refit(product, array == 0, self.options.known) if product is not None else None
        if lost is None:
            site.value.const_value = ir.tensor(array, name=site.name)  # a new tensor: copies share the old
        else:
            what += f"; least squares: {lost:.2%} of the power of what it gives is lost"
        site.value.metadata_props[SPARSE_KEY] = mark
        self.note(site.name, what)
        return True

    def _choose(self, found: Sequence[Site]) -> list[tuple[Site, np.ndarray]]:
        """Every weight with the places that become 0."""
        opts = self.options
        if opts.pattern:
            return [(site, self._grouped(site)) for site in found]
        if opts.layers:
            shares = assigned(found, opts.layers)
            found = [site for site in found if site.name in shares]
        else:
            shares = {site.name: opts.sparsity for site in found}
        if opts.rule == "taiyaki":
            return [(site, below_threshold(site.array, shares[site.name])) for site in found]
        if opts.scope == "layer" or opts.layers:
            return [(site, smallest(self._scores(site), shares[site.name])) for site in found]
        if not found:
            return []
        drop = smallest(np.concatenate([self._scores(site).reshape(-1) for site in found]), opts.sparsity)
        parts = np.split(drop, np.cumsum([site.array.size for site in found])[:-1])
        return [(site, part.reshape(site.array.shape)) for site, part in zip(found, parts, strict=True)]

    def _scores(self, site: Site) -> np.ndarray:
        """What goes first is smallest; zeros that are there come before everything."""
        opts = self.options
        if opts.method == "random":
            stem = [opts.seed, *(ord(letter) for letter in site.name)]
            scores = np.random.default_rng(stem).random(site.array.shape)
        elif opts.method == "l1":
            scores = np.abs(site.array).astype(np.float64)
        else:
            given = opts.scores.get(site.name)
            if given is None or given.shape != site.array.shape:
                raise UsageError(
                    "RUB-PASS-053",
                    f"scores of {site.name} are {'missing' if given is None else list(given.shape)}, "
                    f"the weight has {list(site.array.shape)}",
                    hint="give scores of the graph that is pruned, or name other weights in `skip`",
                )
            scores = given.astype(np.float64)
        return np.where(site.array == 0, -np.inf, scores)

    def _grouped(self, site: Site) -> np.ndarray:
        """All but the n most important of every m neighbours; a last run shorter than m stays."""
        keep, length = (int(n) for n in self.options.pattern.split(":"))
        scores = np.moveaxis(self._scores(site), site.into, -1)
        whole = scores.shape[-1] // length * length
        drop = np.zeros(scores.shape, bool)
        runs = scores[..., :whole].reshape(*scores.shape[:-1], -1, length)
        order = np.argsort(runs, axis=-1, kind="stable")[..., : length - keep]
        chosen = np.zeros(runs.shape, bool)
        np.put_along_axis(chosen, order, True, axis=-1)
        drop[..., :whole] = chosen.reshape(*scores.shape[:-1], whole)
        if whole < scores.shape[-1]:
            left = scores.shape[-1] - whole
            self.note(site.name, f"the last {left} of {scores.shape[-1]} along the summed axis stay")
        return np.moveaxis(drop, -1, site.into)


def smallest(scores: np.ndarray, share: float) -> np.ndarray:
    """True for the ``round(share * size)`` smallest; of equal ones the first."""
    count = round(scores.size * share)
    drop = np.zeros(scores.size, bool)
    drop[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return drop.reshape(scores.shape)


def below_threshold(weight: np.ndarray, share: float) -> np.ndarray:
    """True where smaller than the element at ``ceil(share * size)`` of the sorted magnitudes."""
    size = np.abs(weight)
    place = min(int(np.ceil(weight.size * share)), weight.size - 1)
    return np.asarray(size < np.partition(size, place, axis=None)[place])


def masks(graph: Graph) -> dict[str, np.ndarray]:
    """Which elements of pruned weights may change in training, by name of initializer; zeros must stay."""
    arrays = {name: constant(graph.ir.initializers.get(name)) for name in record.read(graph)["weights"]}
    return {name: array != 0 for name, array in arrays.items() if array is not None}
