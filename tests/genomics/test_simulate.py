from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rubicc.errors import UsageError
from rubicc.genomics.reads import iter_reads
from rubicc.genomics.simulate import (
    SimParams,
    encode,
    pore_model,
    simulate_read,
    simulate_reads,
    write_reads,
)


def test_same_seed_same_reads_whatever_the_count() -> None:
    three, five = simulate_reads(3, 9, 200), simulate_reads(5, 9, 200)
    for a, b in zip(three, five, strict=False):
        assert a.read_id == b.read_id
        assert (a.dac == b.dac).all() and (a.reference == b.reference).all()
    assert (simulate_reads(1, 10, 200)[0].reference != three[0].reference).any()
    assert len({r.read_id for r in five}) == 5


def test_truth_covers_the_signal() -> None:
    for read in simulate_reads(4, 1, (50, 300)):
        edges = read.ref_to_signal
        assert len(edges) == len(read.reference) + 1
        assert edges[0] == 0 and edges[-1] == len(read.dac)
        assert np.diff(edges).min() >= SimParams().dwell_min
        assert read.dac.dtype == np.int16
        assert set(np.unique(read.reference)) <= {1, 2, 3, 4}
        assert 50 <= len(read.sequence) <= 300


def test_levels_follow_the_pore_model() -> None:
    """With all noise off, every sample of a base is its k-mer's level, to one DAC step."""
    quiet = SimParams(event_sd=0, white_sd=0, coloured_sd=0, drift_sd=0, gain_sd=0, offset_sd=0, noise_sd=0)
    read = simulate_reads(1, 3, 400, quiet)[0]
    model = pore_model(quiet.k, quiet.pore_seed, quiet.level_mean, quiet.level_sd)
    codes = read.reference.astype(int) - 1
    half = quiet.k // 2
    step = quiet.adc_range / quiet.digitisation
    current = read.picoampere()
    for i in range(half, len(codes) - half):
        word = int("".join(map(str, codes[i - half : i + half + 1])), 4)
        dwell = current[read.ref_to_signal[i] : read.ref_to_signal[i + 1]]
        assert np.abs(dwell - model.level[word]).max() <= 0.5 * step + 1e-3


def test_statistics_are_the_ones_documented() -> None:
    params = SimParams()
    reads = simulate_reads(30, 5, 2000, params)
    dwell = np.concatenate([np.diff(r.ref_to_signal) for r in reads])
    stalled = 1 + params.stall_probability * (params.stall_factor - 1)
    assert dwell.mean() == pytest.approx(params.dwell_mean * stalled, rel=0.05)
    model = pore_model()
    assert model.level.mean() == pytest.approx(90) and model.level.std() == pytest.approx(15)
    means = [r.picoampere().mean() for r in reads]
    assert 2 < np.std(means) < 8  # offsets between reads
    # White and coloured noise: what is left of the current after each base's own mean is taken out.
    current, edges = reads[0].picoampere(), reads[0].ref_to_signal
    own = np.repeat(np.add.reduceat(current, edges[:-1]) / np.diff(edges), np.diff(edges))
    assert 0.8 < (current - own).std() < 1.8


def test_noise_is_coloured_and_unit_variance() -> None:
    from rubicc.genomics.simulate import _coloured

    x = _coloured(np.random.default_rng(0), 200_000, 0.85)
    assert x.std() == pytest.approx(1.0, rel=0.03)
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.85, abs=0.02)


def test_a_given_genome_is_read_forward() -> None:
    genome = "".join("ACGT"[c] for c in np.random.default_rng(2).integers(0, 4, 3000))
    for read in simulate_reads(5, 4, (100, 500), genome=genome):
        assert read.sequence in genome
    whole = simulate_read(encode(genome), np.random.default_rng(0), SimParams())
    assert whole.sequence == genome


def test_reader_reads_what_is_written(tmp_path: Path) -> None:
    reads = simulate_reads(3, 6, (80, 200))
    write_reads(tmp_path / "a.npz", reads)
    write_reads(tmp_path / "b.npz", reads)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = list(iter_reads([tmp_path / "a.npz"]))
    assert [r.read_id for r in back] == [r.read_id for r in reads]
    for ours, theirs in zip(reads, back, strict=True):
        assert (ours.dac == theirs.signal).all()
        assert np.abs(ours.picoampere() - theirs.picoampere()).max() < 1e-3
        assert theirs.sampling_rate == 4000


@pytest.mark.parametrize(
    ("length", "genome", "text"),
    [(0, None, "0..0"), ((5, 4), None, "5..4"), (9, "ACGT", "genome of 4"), (2, "ACNT", "'N' at 2")],
)
def test_impossible_requests(length: int, genome: str | None, text: str) -> None:
    with pytest.raises(UsageError, match=rf"RUB-GEN-201.*{text}"):
        simulate_reads(1, 0, length, genome=genome)
