"""From raw samples to network input, the way the model's :class:`~rubicc.spec.SignalSpec` demands.

Every normalisation here is affine in the raw sample, ``x = (dac - centre) * gain``, with two numbers taken
from order statistics of the whole read. Samples are int16, so a histogram gives those exactly in linear time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics.reads import Read, ReadRefused
from rubicc.spec import QUANTILE, SignalSpec

MAD_TO_SD = 1.4826
_PARAMS: dict[str, Mapping[str, float]] = {
    "med-mad": {},
    "quantile": QUANTILE,
    "pa": {"mean": 0.0, "stdev": 1.0},
    "none": {},
}


@dataclass(frozen=True)
class Scaling:
    """``x = (picoampere - shift) / scale``; both in picoampere, as dorado's ``sm`` and ``sd`` tags."""

    shift: float
    scale: float


def check_spec(spec: SignalSpec) -> SignalSpec:
    """``spec`` if its normalisation is known and every parameter is one it has.

    Raises:
        UsageError: ``RUB-GEN-134``.
    """
    known = _PARAMS.get(spec.normalisation)
    if known is None:
        raise UsageError(
            "RUB-GEN-134",
            f"unknown signal normalisation {spec.normalisation!r}",
            hint="one of " + ", ".join(_PARAMS),
        )
    for name in spec.params:
        if name not in known:
            hint = "it takes " + (", ".join(known) or "none")
            raise UsageError(
                "RUB-GEN-134", f"normalisation {spec.normalisation!r} takes no {name!r}", hint=hint
            )
    if spec.normalisation == "pa" and not spec.params.get("stdev", 1.0) > 0:
        raise UsageError("RUB-GEN-134", f"stdev is {spec.params['stdev']}, must be above 0")
    return spec


class Histogram:
    """Distinct values of an int16 signal, ascending, with cumulative counts: exact order statistics."""

    def __init__(self, signal: np.ndarray) -> None:
        low = int(signal.min())
        counts = np.bincount(signal.astype(np.int32) - low)
        present = np.flatnonzero(counts)
        self.values = (present + low).astype(np.float64)
        self.counts = counts[present]
        self.total = int(signal.size)

    def quantile(self, q: float) -> float:
        """Quantile ``q`` with linear interpolation between order statistics (numpy's default rule)."""
        return _quantile(self.values, np.cumsum(self.counts), self.total, q)

    def median_absolute_deviation(self, centre: float) -> float:
        """Median of ``|x - centre|``."""
        deviations = np.abs(self.values - centre)
        order = np.argsort(deviations, kind="stable")
        return _quantile(deviations[order], np.cumsum(self.counts[order]), self.total, 0.5)


def _quantile(values: np.ndarray, cumulative: np.ndarray, total: int, q: float) -> float:
    position = (total - 1) * q
    below = int(position)
    ranks = np.array([below, min(below + 1, total - 1)])
    low, high = values[np.searchsorted(cumulative, ranks, side="right")]
    return float(low + (high - low) * (position - below))


def scaling(read: Read, spec: SignalSpec) -> Scaling:
    """Shift and scale of ``read`` in picoampere.

    ``med-mad``: median and 1.4826 * MAD. ``quantile``: ``max(10, m * (qa + qb))`` and
    ``max(1, n * (qb - qa))`` (bonito from 0.6 on). ``pa``: the model's fixed numbers. ``none``: 0 and 1.

    Raises:
        ReadRefused: ``RUB-GEN-115``: the signal is constant, so that med/MAD has no scale.
    """
    params = {**_PARAMS[spec.normalisation], **spec.params}
    if spec.normalisation == "none":
        return Scaling(0.0, 1.0)
    if spec.normalisation == "pa":
        return Scaling(params["mean"], params["stdev"])
    histogram = Histogram(read.signal)
    if spec.normalisation == "quantile":
        low, high = (
            (histogram.quantile(params[name]) + read.offset) * read.scale
            for name in ("quantile_a", "quantile_b")
        )
        shift = max(10.0, params["shift_multiplier"] * (low + high))
        return Scaling(shift, max(1.0, params["scale_multiplier"] * (high - low)))
    median = histogram.quantile(0.5)
    deviation = histogram.median_absolute_deviation(median)
    if deviation == 0:
        raise ReadRefused(
            "RUB-GEN-115", "median absolute deviation is 0: more than half the samples are equal"
        )
    return Scaling((median + read.offset) * read.scale, MAD_TO_SD * deviation * read.scale)


def check_rate(read: Read, spec: SignalSpec) -> None:
    """Refuse a read sampled at another rate than the model was trained on: its calls would be noise.

    Raises:
        ReadRefused: ``RUB-GEN-114``.
    """
    if abs(read.sampling_rate - spec.sampling_rate) > 1e-3 * spec.sampling_rate:
        raise ReadRefused(
            "RUB-GEN-114", f"sampled at {read.sampling_rate:g} Hz, the model reads {spec.sampling_rate} Hz"
        )


def apply(read: Read, scale: Scaling) -> np.ndarray:
    """Network input, float32, shape ``(T,)``."""
    centre = scale.shift / read.scale - read.offset
    out = np.subtract(read.signal, np.float32(centre), dtype=np.float32)
    out *= np.float32(read.scale / scale.scale)
    return out


def normalise(read: Read, spec: SignalSpec) -> np.ndarray:
    """Check the sampling rate, find the scaling and apply it: float32, shape ``(T,)``.

    Raises:
        ReadRefused: ``RUB-GEN-114``, ``RUB-GEN-115``.
        UsageError: ``RUB-GEN-134``.
    """
    check_rate(read, check_spec(spec))
    return apply(read, scaling(read, spec))
