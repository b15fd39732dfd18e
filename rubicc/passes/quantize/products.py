"""Codes of weights chosen for the product they are in, for the passes that round weights alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rubicc.passes.quantize.insert import quantisable
from rubicc.passes.quantize.round_weights import as_rows, compensated, from_rows, multiplied
from rubicc.passes.quantize.sites import Site
from rubicc.passes.rewrite import is_standard

Seen = Mapping[str, Sequence[np.ndarray]]
# Weights (groups, outputs), and for each of them the place of its parameters -> what they become.
Nearest = Callable[[np.ndarray, np.ndarray], np.ndarray]


def input_of(site: Site) -> str:
    """Name of what the weight is multiplied with; empty where it is in no product that can be looked at."""
    node = site.node
    product = is_standard(node, "Conv", "MatMul", "Gemm") and node.inputs[1] is site.value
    alone = sum(1 for _ in site.value.uses()) == 1
    if not product or not alone or not quantisable(node) or (node.op_type != "Conv" and site.array.ndim != 2):
        return ""
    return (node.inputs[0].name or "") if node.inputs[0] is not None else ""


def fitted(site: Site, seen: Seen, places: np.ndarray, nearest: Nearest) -> np.ndarray | None:
    """The weight with values from its grid or tables that leave its product as it was.

    Args:
        seen: arrays by value name.
        places: integers that say where the parameters of each weight are; they broadcast against the weight.
        nearest: what weights become when only they count, given them and their places.

    Returns:
        Float32 of the weight's shape; ``None`` where the product's input was not seen.
    """
    arrays = seen.get(input_of(site)) if input_of(site) else None
    x = multiplied(site.node, site.array, arrays) if arrays else None
    if x is None:
        return None
    rows = as_rows(site.node, site.array, len(x))
    where = as_rows(site.node, np.broadcast_to(places, site.array.shape), len(x))

    def choose(part: slice, column: np.ndarray, which: np.ndarray) -> np.ndarray:
        return nearest(column, where[part][np.arange(len(which)), :, which])

    return from_rows(site.node, compensated(rows, x, choose, centred=False), site.array)
