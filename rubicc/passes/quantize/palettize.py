"""Replaces weights by indices into tables of few values; activations stay in float."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.quantize.kmeans import centres, nearest
from rubicc.passes.quantize.products import Seen, fitted
from rubicc.passes.quantize.sites import LEAST, SPARSE_KEY, Site, divisor, sites
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor

BITS = (1, 2, 3, 4, 6, 8)  # widths of index that Core ML has


@dataclass(frozen=True)
class PaletteOptions:
    """Size and number of tables.

    Attributes:
        bits: of an index, 1, 2, 3, 4, 6 or 8: a table has 2^bits values.
        group: output channels that share a table; 0: one table for the whole weight. Where it does not divide
            the channels, the largest divisor below it.
        least: elements that a weight must have.
        recurrent: also the weights of GRU and LSTM.
        skip: names of nodes whose weights stay as they are.
        rounding: ``nearest``, or ``optimised``: the entries that leave products as they are on ``inputs``
            (GPTQ), where a product's input is among them.
        inputs: arrays seen at the inputs of products, by value name.
    """

    bits: int = 4
    group: int = 0
    least: int = LEAST
    recurrent: bool = True
    skip: tuple[str, ...] = ()
    rounding: Literal["nearest", "optimised"] = "nearest"
    inputs: Seen = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}: one of {', '.join(map(str, BITS))}")
        if self.group < 0:
            raise ValueError(f"group is {self.group}: 0 for one table, or channels per table")


@register
class Palettize(Pass):
    """Weights of products, look-ups and recurrent layers become indices into tables made by k-means.

    Table values are numbers that fp16 holds, so a package in fp16 stores them as they are. Of a weight with
    zeros put there on purpose, entry 0 is 0 and stands for those alone.

    ::

        before   Conv(x, W)
        after    Conv(x, Gather(table, Cast(indices)))                  one table
                 Conv(x, Gather(tables, Add(Cast(indices), offsets)))   a table per group of channels
    """

    id = "quantize.palettize"
    exact = False
    tolerance = 1.0
    ensures = frozenset({"weights-palettised"})
    Options = PaletteOptions
    options: PaletteOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit, opts = Editor(graph, self.id), self.options
        found = sites(graph, least=opts.least, recurrent=opts.recurrent, skip=opts.skip)
        for site in found:
            site.replace(self._looked_up(edit, site))
        return bool(found)

    def _looked_up(self, edit: Editor, site: Site) -> ir.Value:
        channels = site.array.shape[site.out]
        length = divisor(channels, self.options.group) if self.options.group else channels
        if self.options.group and length != self.options.group:
            self.note(source_of(site.node), f"{length} channels share a table: {channels} channels")
        tables, indices = palettes(
            site.array,
            self.options.bits,
            axis=site.out,
            length=length,
            sparse=SPARSE_KEY in site.value.metadata_props,
        )
        better = self._fitted(site, tables, length)
        if better is not None:
            indices = _indices_of(better, tables, site.out, length)
        return self._nodes(edit, site, tables, indices, length)

    def _fitted(self, site: Site, tables: np.ndarray, length: int) -> np.ndarray | None:
        """Entries as the product of the weight wants them; ``None`` for the nearest ones.

        Weights to be stored without their zeros keep every zero only when each is taken by itself.
        """
        if self.options.rounding == "nearest" or SPARSE_KEY in site.value.metadata_props:
            return None
        across = [-1 if axis == site.out else 1 for axis in range(site.array.ndim)]
        places = (np.arange(site.array.shape[site.out]) // length).reshape(across)

        def nearest_entries(column: np.ndarray, where: np.ndarray) -> np.ndarray:
            made = np.empty_like(column)
            for number in np.unique(where):
                here = where == number
                made[here] = tables[number][nearest(column[here], tables[number])]
            return made

        made = fitted(site, self.options.inputs, places, nearest_entries)
        if made is None:
            self.note(source_of(site.node), "nearest entries: its input was not seen")
        return made

    def _nodes(
        self, edit: Editor, site: Site, tables: np.ndarray, indices: np.ndarray, length: int
    ) -> ir.Value:
        owner = site.first.graph
        stored = edit.initializer(f"{site.name}_indices", indices, owner)
        if SPARSE_KEY in site.value.metadata_props:
            stored.metadata_props[SPARSE_KEY] = site.value.metadata_props[SPARSE_KEY]
        table = edit.initializer(f"{site.name}_table", tables.reshape(-1), owner)
        place = self._node(edit, site, "Cast", [stored], {"to": int(ir.DataType.INT32)}, ir.DataType.INT32)
        if len(tables) > 1:
            group = np.arange(site.array.shape[site.out]) // length
            across = [-1 if axis == site.out else 1 for axis in range(site.array.ndim)]
            offsets = np.asarray(group * tables.shape[1], np.int32).reshape(across)
            start = edit.initializer(f"{site.name}_offsets", offsets, owner)
            place = self._node(edit, site, "Add", [place, start], {}, ir.DataType.INT32)
        return self._node(edit, site, "Gather", [table, place], {"axis": 0}, ir.DataType.FLOAT)

    def _node(
        self,
        edit: Editor,
        site: Site,
        op_type: str,
        inputs: list[ir.Value],
        attributes: dict[str, int],
        dtype: ir.DataType,
    ) -> ir.Value:
        """An operator with a result of the weight's shape, before whatever reads the weight first."""
        shape = ir.Shape(site.array.shape)
        return edit.node(
            op_type, inputs, like=site.first, attributes=attributes, shape=shape, dtype=dtype
        ).outputs[0]


def palettes(
    weight: np.ndarray, bits: int, *, axis: int, length: int, sparse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Tables and indices that stand for ``weight`` with least squared error.

    Args:
        axis, length: every ``length`` channels along ``axis`` share a table.
        sparse: entry 0 of every table is 0 and stands for the zeros of the weight alone.

    Returns:
        Tables (groups, 2^bits) float32 of fp16 numbers, each ascending (after entry 0 where ``sparse``), and
        uint8 indices of the weight's shape.
    """
    moved = np.moveaxis(weight, axis, 0)
    indices = np.empty(weight.shape, np.uint8)
    placed = np.moveaxis(indices, axis, 0)
    tables = np.zeros((len(moved) // length, 2**bits), np.float32)
    for group, table in enumerate(tables):
        part = slice(group * length, (group + 1) * length)
        if sparse:
            placed[part] = _of_nonzeros(moved[part], table)
        else:
            table[:] = _half(centres(moved[part], table.size))
    return tables, indices if sparse else _indices_of(weight, tables, axis, length)


def _of_nonzeros(weight: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Indices into ``table``, of which entry 0 stays 0 and the rest is filled with clusters of the others."""
    filled = weight != 0
    indices = np.zeros(weight.shape, np.uint8)
    if filled.any():
        table[1:] = _half(centres(weight[filled], table.size - 1))
        indices[filled] = nearest(weight[filled], table[1:]) + 1
    return indices


def _indices_of(entries: np.ndarray, tables: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Places of entries in their tables."""
    moved, indices = np.moveaxis(entries, axis, 0), np.empty(entries.shape, np.uint8)
    placed = np.moveaxis(indices, axis, 0)
    for group, table in enumerate(tables):
        part = slice(group * length, (group + 1) * length)
        placed[part] = nearest(moved[part], table)
    return indices


def _half(numbers: np.ndarray) -> np.ndarray:
    """Nearest fp16 numbers as float32; numbers beyond fp16 stay float32."""
    inside = np.abs(numbers) <= np.finfo(np.float16).max
    with np.errstate(over="ignore"):
        return np.where(inside, numbers.astype(np.float16).astype(np.float32), numbers.astype(np.float32))
