"""Normalisations equal their definitions over the whole read in picoampere."""

from __future__ import annotations

import numpy as np
import pytest
from read_files import signal

from rubicc.errors import UsageError
from rubicc.genomics.normalise import Histogram, check_rate, normalise, scaling
from rubicc.genomics.reads import Read, ReadRefused, make_read
from rubicc.spec import SignalSpec


def _read(samples: np.ndarray, rate: float = 4000.0) -> Read:
    return make_read("r", samples, offset=-7.5, scale=0.176, sampling_rate=rate)


def _picoampere(read: Read) -> np.ndarray:
    return (read.signal.astype(np.float64) + read.offset) * read.scale


@pytest.mark.parametrize("samples", [2, 3, 10, 11, 4001, 40000])
def test_order_statistics_are_exact(samples) -> None:
    rng = np.random.default_rng(samples)
    x = np.concatenate([rng.integers(-300, 300, samples - 1), [-32768 if samples % 2 else 32767]]).astype(
        np.int16
    )
    histogram = Histogram(x)
    for q in (0.0, 0.2, 0.5, 0.77, 0.9, 1.0):
        assert histogram.quantile(q) == pytest.approx(np.quantile(x.astype(np.float64), q), abs=1e-9)
    for centre in (np.median(x), 3.5):
        assert histogram.median_absolute_deviation(centre) == np.median(np.abs(x - np.float64(centre)))


@pytest.mark.parametrize("samples", [50, 777, 20_000])
def test_med_mad(samples) -> None:
    read = _read(signal(samples, samples))
    current = _picoampere(read)
    median = np.median(current)
    expected = (current - median) / (1.4826 * np.median(np.abs(current - median)))
    got = normalise(read, SignalSpec("med-mad"))
    assert got.dtype == np.float32 and np.abs(got - expected).max() < 2e-6 * max(1, np.abs(expected).max())


def test_quantile_is_bonitos() -> None:
    read = _read(signal(3, 30_000))
    current = _picoampere(read)
    low, high = np.quantile(current, [0.2, 0.9])
    expected = (current - max(10, 0.51 * (low + high))) / max(1, 0.53 * (high - low))
    assert np.abs(normalise(read, SignalSpec("quantile")) - expected).max() < 1e-5
    other = SignalSpec("quantile", {"quantile_a": 0.3, "quantile_b": 0.8, "shift_multiplier": 0.5})
    low, high = np.quantile(current, [0.3, 0.8])
    expected = (current - 0.5 * (low + high)) / (0.53 * (high - low))
    assert np.abs(normalise(read, other) - expected).max() < 1e-5


def test_quantile_floors() -> None:
    found = scaling(_read(np.full(100, 8, np.int16)), SignalSpec("quantile"))
    assert (found.shift, found.scale) == (10.0, 1.0)


def test_fixed_and_none() -> None:
    read = _read(signal(4, 1000))
    current = _picoampere(read)
    fixed = normalise(read, SignalSpec("pa", {"mean": 93.7, "stdev": 23.5}))
    assert np.abs(fixed - (current - 93.7) / 23.5).max() < 1e-5
    assert np.abs(normalise(read, SignalSpec("none")) - current).max() < 1e-4


def test_wrong_rate_is_refused_and_named() -> None:
    check_rate(_read(signal(1, 100), 4000.4), SignalSpec())
    with pytest.raises(ReadRefused) as caught:
        normalise(_read(signal(1, 100), 5000.0), SignalSpec())
    assert caught.value.code == "RUB-GEN-114" and "5000" in caught.value.what and "4000" in caught.value.what


def test_flat_signal_is_refused() -> None:
    with pytest.raises(ReadRefused) as caught:
        normalise(_read(np.r_[np.full(60, 500), np.arange(40)].astype(np.int16)), SignalSpec())
    assert caught.value.code == "RUB-GEN-115"


@pytest.mark.parametrize(
    "spec",
    [
        SignalSpec("zscore"),  # type: ignore[arg-type]
        SignalSpec("pa", {"mean": 1.0, "sd": 2.0}),
        SignalSpec("pa", {"stdev": 0.0}),
        SignalSpec("med-mad", {"mean": 1.0}),
    ],
)
def test_unknown_normalisation_or_parameter(spec) -> None:
    with pytest.raises(UsageError) as caught:
        normalise(_read(signal(1, 100)), spec)
    assert caught.value.code == "RUB-GEN-134"


@pytest.mark.real_data
def test_med_mad_equals_taiyaki_on_real_reads(shared_data) -> None:
    from rubicc.genomics.reads import iter_reads

    for read in iter_reads([shared_data / "mapped"]):
        truth = np.load(read.source)
        found = scaling(read, SignalSpec())
        assert found.shift == pytest.approx(float(truth["shift"]), abs=1e-4)
        assert found.scale == pytest.approx(float(truth["scale"]), abs=1e-4)
