"""Ranges of values seen on calibration data, and the 8-bit formats that fit them.

Each observer keeps the exact extremes and an even sample of about ``SAMPLES`` values, so that memory does not
grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SAMPLES = 1 << 17
LEVELS = 255
METHODS = ("minmax", "percentile", "mse", "entropy")
_SHRINKS = np.linspace(0.3, 1.0, 36)


@dataclass
class Observer:
    """What one value was seen to be.

    Attributes:
        axis: of the channels.
        low, high: extremes.
        peaks: largest magnitude per channel.
        total, count: sum per channel, and over how many values each.
    """

    axis: int
    low: float = 0.0
    high: float = 0.0
    peaks: np.ndarray = field(default_factory=lambda: np.zeros(1))
    total: np.ndarray | None = None
    count: int = 0
    _parts: list[np.ndarray] = field(default_factory=list)
    _kept: int = 0

    def see(self, array: np.ndarray) -> None:
        """Take in one array; its channel axis is the observer's."""
        self.low = min(self.low, float(array.min()))
        self.high = max(self.high, float(array.max()))
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        self.peaks = np.maximum(self.peaks, np.abs(array).max(axis=others))
        total = array.sum(axis=others, dtype=np.float64)
        self.total = total if self.total is None else self.total + total
        self.count += array.size // max(1, total.size)
        flat = array.reshape(-1)
        step = max(1, flat.size // (SAMPLES // 4))
        part = np.array(flat[::step], np.float32)
        self._parts.append(part)
        self._kept += part.size
        if self._kept > 2 * SAMPLES:
            self._parts = [np.concatenate(self._parts)[::2]]
            self._kept = self._parts[0].size

    @property
    def mean(self) -> np.ndarray:
        """Mean per channel."""
        if self.total is None:
            raise ValueError("nothing was observed")
        return self.total / max(1, self.count)

    def samples(self) -> np.ndarray:
        """The sample kept."""
        return np.concatenate(self._parts)


def unsigned_format(observer: Observer, method: str, percentile: float = 99.99) -> tuple[np.float32, int]:
    """Scale and zero point of unsigned 8 bit.

    The zero point is 0 where no value is negative and else even: then rounding ``x / scale + zero`` (QONNX)
    and rounding ``x / scale`` before adding it (ONNX) agree also on ties.
    """
    low, high = _RANGES[method](observer, percentile)
    return format_of(low, high)


def format_of(low: float, high: float) -> tuple[np.float32, int]:
    """The finest format that holds 0 and reaches from ``low`` to ``high``."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == 0.0:
        return np.float32(max(high, 1e-8) / LEVELS), 0
    zero = int(np.clip(2 * np.rint(LEVELS * -low / (high - low) / 2), 2, 254))
    scale = max(-low / zero, high / (LEVELS - zero))
    return np.float32(max(scale, 1e-8)), zero


def _minmax(observer: Observer, _percentile: float) -> tuple[float, float]:
    return observer.low, observer.high


def _percentile(observer: Observer, percentile: float) -> tuple[float, float]:
    values = observer.samples()
    low = float(np.percentile(values, 100.0 - percentile)) if observer.low < 0 else 0.0
    return low, float(np.percentile(values, percentile))


def _mse(observer: Observer, _percentile: float) -> tuple[float, float]:
    """The shrunken range with the least squared error on the sample."""
    values = observer.samples().astype(np.float64)

    def error(shrink: float) -> float:
        scale, zero = format_of(observer.low * shrink, observer.high * shrink)
        levels = np.clip(np.rint(values / scale) + zero, 0, LEVELS)
        return float(np.square((levels - zero) * scale - values).mean())

    best = min(_SHRINKS[::-1], key=error)
    return observer.low * best, observer.high * best


def _entropy(observer: Observer, _percentile: float) -> tuple[float, float]:
    """The shrunken range whose quantised histogram diverges least (Kullback-Leibler) from the full one."""
    values = np.clip(observer.samples(), observer.low, observer.high)
    span = max(observer.high - observer.low, 1e-8)
    counts, edges = np.histogram(values, bins=2048, range=(observer.low, observer.low + span))
    centres = (edges[:-1] + edges[1:]) / 2

    def divergence(shrink: float) -> float:
        scale, zero = format_of(observer.low * shrink, observer.high * shrink)
        levels = np.clip(np.rint(centres / scale) + zero, 0, LEVELS).astype(int)
        inside = np.flatnonzero(np.abs(centres - (levels - zero) * scale) <= scale * 0.5001)
        first, last = inside[0], inside[-1]
        kept, own = counts[first : last + 1].astype(float), levels[first : last + 1]
        # What the format covers shares its level's mass; what it clips weighs on the outermost bins.
        mass, width = np.bincount(own, kept, LEVELS + 1), np.bincount(own, kept > 0, LEVELS + 1)
        q = np.where(kept > 0, mass[own] / np.maximum(width[own], 1), 0.0) + 1e-9
        p = kept.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last + 1 :].sum()
        p, q = p / p.sum(), q / q.sum()
        return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))

    best = min(_SHRINKS[::-1], key=divergence)
    return observer.low * best, observer.high * best


_RANGES: dict[str, Callable[[Observer, float], tuple[float, float]]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
