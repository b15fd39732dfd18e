"""Port of ``Signal.swift``: from raw samples to what the network reads."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rubicc.backends.coreml.swift.ports.refusals import signal_refused

DEVIATION_SCALE = 1.4826
RATE_TOLERANCE = 0.001
LEAST_SHIFT = 10.0
LEAST_SCALE = 1.0


@dataclass(frozen=True)
class RawRead:
    """One read: picoampere = (sample + offset) * scale; ``sampling_rate`` in samples a second."""

    samples: Sequence[int]
    offset: float
    scale: float
    sampling_rate: float


@dataclass(frozen=True)
class Scaling:
    """x = (picoampere - shift) / scale."""

    shift: float
    scale: float


@dataclass(frozen=True)
class Normalisation:
    """``kind`` is Swift's case (``medianDeviation`` ...), ``values`` its associated values in order."""

    kind: str
    values: tuple[float, ...] = ()


class Histogram:
    """Sorted distinct values with their counts: exact order statistics of a signal in linear time."""

    def __init__(self, samples: Sequence[int]) -> None:
        everything = [0] * 65536
        for sample in samples:
            everything[sample + 32768] += 1
        self.values: list[float] = []
        self.counts: list[int] = []
        for code in range(65536):
            if everything[code] > 0:
                self.values.append(float(code - 32768))
                self.counts.append(everything[code])
        self.total = len(samples)

    def quantile(self, q: float) -> float:
        """Quantile ``q``, interpolated between neighbours in order."""
        position = float(self.total - 1) * q
        below = int(position)
        low = self.ranked(below)
        high = self.ranked(min(below + 1, self.total - 1))
        return low + (high - low) * (position - float(below))

    def ranked(self, rank: int) -> float:
        """The value at place ``rank`` of the sorted signal."""
        seen = 0
        for place in range(len(self.values)):
            seen += self.counts[place]
            if seen > rank:
                return self.values[place]
        return self.values[len(self.values) - 1]

    def deviation(self, centre: float) -> float:
        """Median of ``|x - centre|``."""
        distances = [abs(value - centre) for value in self.values]
        order = sorted(range(len(distances)), key=lambda place: distances[place])
        ordered = Histogram(())
        ordered.values = [distances[place] for place in order]
        ordered.counts = [self.counts[place] for place in order]
        ordered.total = self.total
        return ordered.quantile(0.5)


def normalise(read: RawRead, way: Normalisation, sampling_rate: float) -> array[float]:
    """Network input of a read."""
    if not read.samples:
        raise signal_refused("the read has no samples")
    if abs(read.sampling_rate - sampling_rate) > RATE_TOLERANCE * sampling_rate:
        raise signal_refused(f"the model reads {sampling_rate} samples a second")
    return apply(read, scaling(read, way))


def scaling(read: RawRead, way: Normalisation) -> Scaling:
    """Shift and scale of a read in picoampere."""
    if way.kind == "none":
        return Scaling(0.0, 1.0)
    if way.kind == "picoampere":
        mean, deviation = way.values
        return Scaling(mean, deviation)
    if way.kind == "quantile":
        lower, upper, shift, scale = way.values
        histogram = Histogram(read.samples)
        low = (histogram.quantile(lower) + read.offset) * read.scale
        high = (histogram.quantile(upper) + read.offset) * read.scale
        return Scaling(max(LEAST_SHIFT, shift * (low + high)), max(LEAST_SCALE, scale * (high - low)))
    histogram = Histogram(read.samples)
    median = histogram.quantile(0.5)
    deviation = histogram.deviation(median)
    if deviation == 0:
        raise signal_refused("more than half the samples are equal")
    return Scaling((median + read.offset) * read.scale, DEVIATION_SCALE * deviation * read.scale)


def apply(read: RawRead, scaling: Scaling) -> array[float]:
    """Samples as network input, every step rounded to float32."""
    centre, gain = array("f", [scaling.shift / read.scale - read.offset, read.scale / scaling.scale])
    return array("f", (x * gain for x in array("f", (sample - centre for sample in read.samples))))


def of_spec(normalisation: str, params: Mapping[str, Any]) -> Normalisation:
    """The Swift case of a ``SignalSpec``; ``params`` must be complete."""
    cases = {
        "med-mad": ("medianDeviation", ()),
        "quantile": ("quantile", ("quantile_a", "quantile_b", "shift_multiplier", "scale_multiplier")),
        "pa": ("picoampere", ("mean", "stdev")),
        "none": ("none", ()),
    }
    kind, names = cases[normalisation]
    return Normalisation(kind, tuple(float(params[name]) for name in names))
