"""Our own squiggle simulator: DNA -> DAC samples with truth. Equations in ``docs/simulator.md``.

The pore model is drawn from a seed by a documented random law; no vendor's k-mer table is used or imitated.
Reads are reproducible: read ``i`` under seed ``s`` is the same whatever ``n`` is.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError

BASES = "ACGT"


@dataclass(frozen=True)
class SimParams:
    """What the simulated pore, motor and amplifier are like. Currents in picoampere, times in samples.

    Attributes:
        pore_seed, k: the k-mer table is a function of these two alone.
        level_mean, level_sd: mean and spread of the k-mer levels.
        dwell_mean, dwell_shape, dwell_min: dwell = ``dwell_min`` + negative binomial (gamma-Poisson) of this
            shape, mean ``dwell_mean`` altogether (9 samples at 4 kHz is 444 bases a second).
        stall_probability, stall_factor: a dwell is that many times longer with this probability.
        speed_sd: spread of the log speed between reads.
        event_sd: how far one visit's level lies off its k-mer's mean; not averaged away by dwelling.
        white_sd: white noise per sample, scaled by the k-mer's own noise factor.
        coloured_sd, coloured_rho: stationary AR(1) noise, standing for the 1/f part.
        drift_sd, drift_period: slow wander of the baseline, and the shortest period in it.
        gain_sd, offset_sd, noise_sd: spread between reads of gain, baseline and log noise.
        sampling_rate, digitisation, adc_range, adc_offset: the digitiser.
    """

    pore_seed: int = 101
    k: int = 5
    level_mean: float = 90.0
    level_sd: float = 15.0
    dwell_mean: float = 9.0
    dwell_shape: float = 5.0
    dwell_min: int = 2
    stall_probability: float = 0.004
    stall_factor: float = 6.0
    speed_sd: float = 0.08
    event_sd: float = 0.5
    white_sd: float = 1.2
    coloured_sd: float = 0.6
    coloured_rho: float = 0.85
    drift_sd: float = 0.6
    drift_period: float = 4000.0
    gain_sd: float = 0.04
    offset_sd: float = 4.0
    noise_sd: float = 0.10
    sampling_rate: int = 4000
    digitisation: float = 8192.0
    adc_range: float = 1443.0
    adc_offset: float = 12.0


@dataclass(frozen=True)
class PoreModel:
    """Level and noise factor of each of ``4**k`` k-mers (first base most significant, ACGT = 0..3)."""

    k: int
    level: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class SimulatedRead:
    """One read with its truth.

    Attributes:
        dac: int16 raw samples; picoampere = (dac + offset) * range / digitisation.
        reference: uint8, 1..4 = A, C, G, T.
        ref_to_signal: int32 of length ``len(reference) + 1``; base ``i`` lies on samples
            ``[ref_to_signal[i], ref_to_signal[i + 1])``.
    """

    read_id: str
    dac: np.ndarray
    offset: float
    range: float
    digitisation: float
    sampling_rate: int
    reference: np.ndarray
    ref_to_signal: np.ndarray = field(repr=False)

    @property
    def sequence(self) -> str:
        """The truth as letters."""
        return np.frombuffer(BASES.encode(), np.uint8)[self.reference - 1].tobytes().decode()

    def picoampere(self) -> np.ndarray:
        """float32 current."""
        return ((self.dac + np.float64(self.offset)) * (self.range / self.digitisation)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def pore_model(k: int = 5, seed: int = 101, mean: float = 90.0, sd: float = 15.0) -> PoreModel:
    """The k-mer table of ``seed``: additive over positions, plus neighbour interactions, plus a residual.

    The position weights fall off as a Gaussian around a centre half a base before the middle, so that the
    central bases dominate, as they do in a real constriction.
    """
    rng = np.random.default_rng([seed, k])
    digits = np.stack(np.unravel_index(np.arange(4**k), (4,) * k), axis=1)
    position = np.arange(k)
    weight = np.exp(-0.5 * ((position - (k / 2 - 1.0)) / (k / 5)) ** 2)
    single = rng.normal(size=(k, 4)) * weight[:, None]
    pair = rng.normal(size=(k - 1, 4, 4)) * 0.2 * np.sqrt(weight[1:] * weight[:-1])[:, None, None]
    level = single[position, digits].sum(axis=1)
    level += pair[position[:-1], digits[:, :-1], digits[:, 1:]].sum(axis=1)
    level += 0.05 * rng.normal(size=level.size)
    level = mean + sd * (level - level.mean()) / level.std()
    noise = np.exp(0.15 * rng.normal(size=level.size))
    return PoreModel(k, level, noise)


def _dwells(rng: np.random.Generator, n: int, params: SimParams) -> np.ndarray:
    speed = np.exp(params.speed_sd * rng.normal())
    mean = max(params.dwell_mean * speed - params.dwell_min, 0.5)
    rate = rng.gamma(params.dwell_shape, mean / params.dwell_shape, size=n)
    rate *= np.where(rng.random(n) < params.stall_probability, params.stall_factor, 1.0)
    return params.dwell_min + rng.poisson(rate)


def _coloured(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """Circular AR(1) noise of unit variance, shaped in the frequency domain (no loop over samples)."""
    # Power of two: prime lengths make an FFT ten times slower.
    size = 1 << max(n - 1, 1).bit_length()
    omega = 2 * np.pi * np.fft.rfftfreq(size)
    response = np.sqrt(1 - rho * rho) / np.sqrt(1 + rho * rho - 2 * rho * np.cos(omega))
    spectrum = np.fft.rfft(rng.standard_normal(size))
    return np.fft.irfft(spectrum * response, size)[:n]


def _drift(rng: np.random.Generator, n: int, params: SimParams) -> np.ndarray:
    """A few slow sinusoids of random phase, unit variance on average."""
    waves = 4
    period = params.drift_period * (1 + 4 * rng.random(waves))
    phase = 2 * np.pi * rng.random(waves)
    amplitude = rng.normal(size=waves) * np.sqrt(2 / waves)
    t = np.arange(n)
    return sum(a * np.sin(2 * np.pi * t / p + f) for a, p, f in zip(amplitude, period, phase, strict=True))


def simulate_read(bases: np.ndarray, rng: np.random.Generator, params: SimParams) -> SimulatedRead:
    """One read of ``bases`` (uint8 0..3). The bases around the ends of the read are random."""
    k, n = params.k, len(bases)
    model = pore_model(k, params.pore_seed, params.level_mean, params.level_sd)
    flank = rng.integers(0, 4, size=k - 1)
    padded = np.concatenate([flank[: k // 2], bases, flank[k // 2 :]]).astype(np.int64)
    kmer = sum(padded[j : j + n] * 4 ** (k - 1 - j) for j in range(k))
    dwell = _dwells(rng, n, params)
    ref_to_signal = np.concatenate([[0], np.cumsum(dwell)]).astype(np.int32)
    samples = int(ref_to_signal[-1])
    level = model.level[kmer] + params.event_sd * rng.normal(size=n)
    factor = np.exp(params.noise_sd * rng.normal())
    current = np.repeat(level, dwell)
    current += np.repeat(params.white_sd * factor * model.noise[kmer], dwell) * rng.standard_normal(samples)
    current += params.coloured_sd * factor * _coloured(rng, samples, params.coloured_rho)
    current += params.drift_sd * _drift(rng, samples, params)
    gain = 1 + params.gain_sd * rng.normal()
    current = params.level_mean + gain * (current - params.level_mean) + params.offset_sd * rng.normal()
    dac = np.rint(current * params.digitisation / params.adc_range - params.adc_offset)
    return SimulatedRead(
        read_id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        dac=np.clip(dac, -32768, 32767).astype(np.int16),
        offset=params.adc_offset,
        range=params.adc_range,
        digitisation=params.digitisation,
        sampling_rate=params.sampling_rate,
        reference=(bases + 1).astype(np.uint8),
        ref_to_signal=ref_to_signal,
    )


def simulate_reads(
    n: int,
    seed: int,
    length: int | tuple[int, int] = 1000,
    params: SimParams | None = None,
    genome: str | None = None,
) -> list[SimulatedRead]:
    """The reads of :func:`iter_simulated`, all at once."""
    return list(iter_simulated(n, seed, length, params, genome))


def iter_simulated(
    n: int,
    seed: int,
    length: int | tuple[int, int] = 1000,
    params: SimParams | None = None,
    genome: str | None = None,
) -> Iterator[SimulatedRead]:
    """``n`` reads of ``length`` bases (or uniform in ``[low, high]``), one in memory at a time.

    Each read's bases are random, or a random stretch of ``genome`` (upper-case ACGT, forward strand).

    Raises:
        UsageError: ``RUB-GEN-201`` when a length is not positive, exceeds the genome, or the genome holds
            other letters.
    """
    params = params or SimParams()
    low, high = (length, length) if isinstance(length, int) else length
    source = None if genome is None else encode(genome)
    if low < 1 or high < low or (source is not None and high > len(source)):
        given = "no genome given" if source is None else f"genome of {len(source)} bases"
        raise UsageError("RUB-GEN-201", f"read length {low}..{high} is impossible ({given})")
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        size = int(rng.integers(low, high + 1))
        if source is None:
            bases = rng.integers(0, 4, size=size, dtype=np.uint8)
        else:
            start = int(rng.integers(0, len(source) - size + 1))
            bases = source[start : start + size]
        yield simulate_read(bases, rng, params)


def encode(sequence: str) -> np.ndarray:
    """Letters ACGT to uint8 0..3. Raises UsageError ``RUB-GEN-201`` for any other letter."""
    table = np.full(256, 255, np.uint8)
    table[np.frombuffer(BASES.encode(), np.uint8)] = np.arange(4)
    codes = table[np.frombuffer(sequence.encode(), np.uint8)]
    if (codes == 255).any():
        where = int(np.argmax(codes == 255))
        raise UsageError("RUB-GEN-201", f"letter {sequence[where]!r} at {where} is not one of ACGT")
    return codes


def write_reads(path: str | Path, reads: Sequence[SimulatedRead]) -> None:
    """All reads in one ``.npz``: the fields of :class:`SimulatedRead`, ragged ones concatenated.

    Arrays: ``read_id`` (unicode), ``offset, range, digitisation, sampling_rate`` (one per read);
    ``dac`` with ``dac_lengths``, ``reference`` with ``reference_lengths``, and ``ref_to_signal`` whose
    lengths are ``reference_lengths + 1``. A single read is also readable as the unbatched form: its arrays
    are exactly the read's own. Bytes are deterministic.
    """
    arrays = {
        "read_id": np.array([r.read_id for r in reads], dtype="U36"),
        "offset": np.array([r.offset for r in reads]),
        "range": np.array([r.range for r in reads]),
        "digitisation": np.array([r.digitisation for r in reads]),
        "sampling_rate": np.array([r.sampling_rate for r in reads], dtype=np.int32),
        "dac": np.concatenate([r.dac for r in reads]),
        "dac_lengths": np.array([len(r.dac) for r in reads], dtype=np.int64),
        "reference": np.concatenate([r.reference for r in reads]),
        "reference_lengths": np.array([len(r.reference) for r in reads], dtype=np.int64),
        "ref_to_signal": np.concatenate([r.ref_to_signal for r in reads]),
    }
    np.savez_compressed(path, **arrays)
