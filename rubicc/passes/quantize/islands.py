"""Which products must stay in float for the output to keep a signal-to-noise ratio, at the least cost.

Rounding errors of different products are nearly independent, so their powers add: each product is measured
alone, and the sum over those in int8 predicts the whole. The prediction chooses, the whole graph is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.ir.shapes import dims_of

SILENT_DB = 200.0
Judge = Callable[[Sequence[str]], float]


def sensitivity(judge: Judge, names: Sequence[str], seconds: float) -> dict[str, float]:
    """Noise over signal at the output when only this product is quantised, by node name.

    Args:
        judge: SNR in dB of the graph in which the products given stay in float.
        seconds: measuring goes in graph order as long as these last; what was not reached is left out.
    """
    began = time.perf_counter()
    found: dict[str, float] = {}
    for name in names:
        if found and time.perf_counter() - began > seconds:
            break
        found[name] = noise_of(judge([other for other in names if other != name]))
    return found


def choose(
    noise: Mapping[str, float], macs: Mapping[str, int], gate_db: float, judge: Judge
) -> tuple[list[str], float]:
    """Products to keep in float, and the SNR measured with them; all of ``noise`` where nothing less holds.

    Two orders are tried on the prediction, the noisiest first and the noisiest per multiplication first, and
    the one that leaves fewer multiplications in float is taken.
    """
    orders = (
        sorted(noise, key=lambda name: -noise[name]),
        sorted(noise, key=lambda name: -noise[name] / max(1, macs.get(name, 0))),
    )
    limit = noise_of(gate_db)

    def cost(kept: Sequence[str]) -> int:
        return sum(macs.get(name, 0) for name in kept)

    predicted = [_enough(order, noise, limit) for order in orders]
    order, kept = min(zip(orders, predicted, strict=True), key=lambda pair: cost(pair[1]))
    snr = judge(kept)
    rest = [name for name in order if name not in kept]
    while snr < gate_db and rest:
        kept.append(rest.pop(0))
        snr = judge(kept)
    return kept, snr


def _enough(order: Sequence[str], noise: Mapping[str, float], limit: float) -> list[str]:
    """The start of ``order`` that leaves noise below the limit, less what is not needed after all."""
    left, kept = sum(noise.values()), []
    for name in order:
        if left <= limit:
            break
        kept.append(name)
        left -= noise[name]
    for name in sorted(kept, key=lambda name: noise[name]):
        if left + noise[name] <= limit:
            kept.remove(name)
            left += noise[name]
    return kept


def multiplications(graph: Graph, item: Mapping[str, np.ndarray]) -> dict[str, int]:
    """MACs by node name for inputs of the shapes of ``item``."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        declared = dims_of(value) or ()
        sizes |= {
            dim: size
            for dim, size in zip(declared, item[value.name or ""].shape, strict=True)
            if isinstance(dim, str)
        }
    return {row.name: row.macs for row in costs(graph, sizes).rows}


def snr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """Signal-to-noise ratio, at most ``SILENT_DB``."""
    signal = float(np.square(reference.astype(np.float64)).sum())
    error = float(np.square(got.astype(np.float64) - reference).sum())
    if error == 0:
        return SILENT_DB
    return min(SILENT_DB, float(10.0 * np.log10(max(signal, 1e-300) / error)))


def noise_of(decibel: float) -> float:
    """Noise over signal, as powers."""
    return float(10.0 ** (-decibel / 10.0))


def decibel_of(noise: float) -> float:
    """Inverse of :func:`noise_of`."""
    return float(-10.0 * np.log10(max(noise, 1e-20)))
