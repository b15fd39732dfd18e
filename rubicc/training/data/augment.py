"""Signal made different without changing its bases.

Without it students memorise the sampling phase of few reads (``docs/training.md`` has the figures). All of it
is drawn from the item's own random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubicc.errors import UsageError


@dataclass(frozen=True)
class Augment:
    """How much signal is changed; all zero = not at all.

    Attributes:
        stretch: time runs faster or slower by up to this share, uniform in the logarithm.
        phase: resample at a random offset below one sample.
        gain, offset: standard deviation of the factor (about 1) and of the shift, in normalised units.
        noise: standard deviation of white noise is drawn uniformly up to this, in normalised units.
    """

    stretch: float = 0.0
    phase: bool = False
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.stretch < 1 or min(self.gain, self.offset, self.noise) < 0:
            what = f"augmentation {self} cannot be done"
            raise UsageError("RUB-TRAIN-023", what, hint="give stretch in [0, 1) and no negative amount")

    @property
    def resamples(self) -> bool:
        """Whether samples are taken at other times than the sequencer's."""
        return self.phase or self.stretch > 0

    def window(self, rng: np.random.Generator) -> tuple[float, float]:
        """(samples of the read per sample of the result, offset of the first below one sample)."""
        limit = np.log1p(self.stretch)
        speed = float(np.exp(rng.uniform(-limit, limit))) if self.stretch else 1.0
        return speed, float(rng.random()) if self.phase else 0.0

    def change(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Gain, offset and noise on ``signal``; float32, same shape."""
        if not (self.gain or self.offset or self.noise):
            return signal
        made = signal * np.float32(1 + self.gain * rng.normal()) + np.float32(self.offset * rng.normal())
        if self.noise:
            sd = np.float32(self.noise * rng.random())
            made = made + sd * rng.standard_normal(signal.shape, dtype=np.float32)
        return made.astype(np.float32, copy=False)


OFF = Augment()
DEFAULT = Augment(stretch=0.1, phase=True, gain=0.03, offset=0.02, noise=0.05)


def resample(signal: np.ndarray, start: float, speed: float, count: int) -> np.ndarray:
    """``count`` samples of ``signal`` at ``start, start + speed, ...`` by linear interpolation; float32."""
    at = start + speed * np.arange(count)
    below = np.minimum(at.astype(np.int64), len(signal) - 1)
    above = np.minimum(below + 1, len(signal) - 1)
    share = (at - below).astype(np.float32)
    return signal[below] * (1 - share) + signal[above] * share
