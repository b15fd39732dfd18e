"""The basecaller's ports against the project's own normalisation, windows and decoders."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.coreml.swift.design import design
from rubicc.backends.coreml.swift.ports import calls, chunks, crf, ctc, dna, flip_flop, signal
from rubicc.backends.coreml.swift.ports.calls import ReadDecoder, Scores
from rubicc.errors import RubiccError
from rubicc.genomics import chunks as engine_chunks
from rubicc.genomics import crf as engine_crf
from rubicc.genomics import ctc as engine_ctc
from rubicc.genomics import flipflop as engine_flipflop
from rubicc.genomics import normalise as engine_normalise
from rubicc.genomics.decode import decode_read
from rubicc.genomics.reads import Read, ReadRefused
from rubicc.genomics.simulate import simulate_reads
from rubicc.genomics.stitching import Segment, join
from rubicc.models import registry
from rubicc.spec import QUANTILE, DecoderSpec, ModelMeta, SignalSpec, TensorSpec


def flat(scores: np.ndarray) -> Scores:
    return Scores(array("f", scores.astype(np.float32).ravel().tolist()), scores.shape[1])


def raw(samples: np.ndarray, offset: float = 12.0, scale: float = 0.17, rate: float = 4000.0) -> Read:
    return Read(read_id="r", signal=samples.astype(np.int16), offset=offset, scale=scale, sampling_rate=rate)


SPECS = [
    SignalSpec("med-mad"),
    SignalSpec("quantile", QUANTILE),
    SignalSpec("pa", {"mean": 90.0, "stdev": 20.0}),
    SignalSpec("none"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.normalisation)
@settings(max_examples=40, deadline=None)
@given(
    samples=st.lists(st.integers(-32768, 32767), min_size=1, max_size=200),
    offset=st.floats(-300, 300),
    scale=st.floats(0.01, 2),
)
def test_normalisation(spec: SignalSpec, samples: list[int], offset: float, scale: float) -> None:
    way = signal.of_spec(spec.normalisation, spec.params)
    read = signal.RawRead(samples, offset, scale, 4000.0)
    reference = raw(np.array(samples), offset, scale)
    try:
        expected = engine_normalise.normalise(reference, spec)
    except ReadRefused:
        with pytest.raises(RubiccError, match="RUB-COREML-503"):
            signal.normalise(read, way, 4000.0)
        return
    assert np.array_equal(np.array(signal.normalise(read, way, 4000.0), np.float32), expected)


def test_simulated_reads_are_normalised_alike() -> None:
    for spec in SPECS:
        for made in simulate_reads(2, 3, 400):
            scale = made.range / made.digitisation
            ours = signal.normalise(
                signal.RawRead(made.dac.tolist(), made.offset, scale, 4000.0),
                signal.of_spec(spec.normalisation, spec.params),
                4000.0,
            )
            theirs = engine_normalise.normalise(raw(made.dac, made.offset, scale), spec)
            assert np.array_equal(np.array(ours, np.float32), theirs)


def test_reads_that_cannot_be_called() -> None:
    way = signal.of_spec("med-mad", {})
    for read in (
        signal.RawRead([], 0, 1, 4000.0),
        signal.RawRead([5] * 9, 0, 1, 4000.0),
        signal.RawRead([1, 2, 3], 0, 1, 5000.0),
    ):
        with pytest.raises(RubiccError, match="RUB-COREML-503"):
            signal.normalise(read, way, 4000.0)


@settings(max_examples=200, deadline=None)
@given(
    stride=st.integers(1, 6), steps=st.integers(1, 12), shared=st.integers(0, 5), samples=st.integers(1, 600)
)
def test_cuts_are_the_engine_windows(stride: int, steps: int, shared: int, samples: int) -> None:
    overlap = 2 * stride * shared
    length = overlap + stride * steps
    plan = chunks.Plan(length, overlap, stride, False)
    theirs = engine_chunks.windows(samples, engine_chunks.Plan(length, overlap, stride, 1.0, 1))
    ours = chunks.cuts(samples, plan)
    assert [(c.start, c.start + c.length, c.first, c.last) for c in ours] == [
        (w.start, w.stop, w.keep_from, w.keep_to) for w in theirs
    ]
    rng = np.random.default_rng(samples)
    wave = rng.random(samples).astype(np.float32)
    joined = array("f")
    for cut, window in zip(ours, theirs, strict=True):
        row = np.empty(window.stop - window.start, np.float32)
        engine_chunks.fill(row, wave, window)
        assert np.array_equal(np.array(chunks.fill(array("f", wave.tolist()), cut), np.float32), row)
        frames = np.arange(cut.length // stride)[:, None] + cut.start // stride + np.array([0.0, 0.5])
        kept = chunks.kept(flat(frames).values, cut, 2, stride)
        assert np.array_equal(np.array(kept).reshape(-1, 2), engine_chunks.kept(frames, window, stride))
        joined += kept
    assert joined[::2].tolist() == list(range(-(-samples // stride)))


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.get(name).meta().decoder])
@pytest.mark.parametrize("changes", [{}, {"chunk": None}, {"overlap": None}, {"chunk": 3007, "overlap": 17}])
def test_plans_are_those_of_the_engine(name: str, changes: dict[str, Any]) -> None:
    meta = replace(registry.get(name).meta(), **changes)
    columns = {"ctc": 5, "flipflop": 40, "crf": 1280}[meta.decoder.kind]  # type: ignore[union-attr]
    inputs, outputs = [TensorSpec("x", ("N", 1, "T"))], [TensorSpec("y", ("T_out", "N", columns))]
    made = design("m", meta, inputs, outputs, {})
    try:
        theirs = engine_chunks.plan_for(meta)
    except RubiccError:
        assert made.reads is None and made.decisions[0].code == "RUB-COREML-D51"
        return
    assert made.reads is not None, made.decisions
    assert made.reads.plan == chunks.Plan(theirs.length, theirs.overlap, theirs.stride, False)


def test_short_reads_fill_a_fixed_window() -> None:
    (cut,) = chunks.cuts(50, chunks.Plan(100, 20, 5, True))
    assert cut == chunks.Cut(0, 100, 0, 10)
    assert len(chunks.fill(array("f", [1.0] * 50), cut)) == 100


def meta_of(name: str, **changes: Any) -> ModelMeta:
    return replace(registry.get(name).meta(), **changes)


CRF3 = DecoderSpec("crf", {"state_len": 3}, 1.1, -0.4)


def decoder_of(meta: ModelMeta, columns: int) -> ReadDecoder:
    """The decoder that a package of this model ships."""
    outputs = [TensorSpec("y", (400, 1, columns))]
    length = 400 * (meta.stride or 1)
    made = design("m", replace(meta, overlap=0), [TensorSpec("x", (1, 1, length))], outputs, {})
    assert made.reads is not None, made.decisions
    return made.reads.decoder


def real_like(rng: np.random.Generator, frames: int, columns: int, noise: float) -> np.ndarray:
    """Scores with a preferred column that lasts some frames, as a network's do."""
    scores = rng.normal(0, noise, (frames, columns))
    at = 0
    while at < frames:
        stay = int(rng.integers(1, 6))
        scores[at : at + stay, int(rng.integers(0, columns))] += 4.0
        at += stay
    return scores.astype(np.float32)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def same_call(ours: calls.Call, theirs: Any, quality: int = 1) -> None:
    assert ours.sequence == theirs.sequence
    assert ours.moves == theirs.moves.tolist()
    apart = [abs(ord(a) - ord(b)) for a, b in zip(ours.qualities, theirs.qstring, strict=True)]
    assert max(apart, default=0) <= quality and sum(apart) <= 0.02 * len(apart) + 1
    assert ours.mean_quality == pytest.approx(theirs.mean_q, abs=0.02)


@pytest.mark.parametrize("frames", [0, 1, 2, 60, 400])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_flip_flop(frames: int, noise: float) -> None:
    meta = meta_of("taiyaki-mgru")
    scores = real_like(np.random.default_rng(frames), frames, 40, noise)
    decoder = decoder_of(meta, 40)
    same_call(decoder.decode(flat(scores)), decode_read(scores, meta))
    weights = calls.weights(flat(scores))
    flip_flop.posteriors(weights)
    assert np.allclose(np.array(weights).reshape(-1, 40), engine_flipflop.posteriors(scores), atol=2e-6)


@pytest.mark.parametrize("frames", [0, 1, 50, 150])
@pytest.mark.parametrize("stays", [True, False])
def test_crf(frames: int, stays: bool) -> None:
    meta = meta_of("bonito-crf", decoder=CRF3)
    columns = 320 if stays else 256
    scores = real_like(np.random.default_rng(frames + stays), frames, columns, 1.0)
    same_call(decoder_of(meta, columns).decode(flat(scores)), decode_read(scores, meta))
    full = crf.with_stays(flat(scores), 64, 2.0)
    weights = calls.weights(full)
    crf.posteriors(weights, 64)
    theirs = engine_crf.posteriors(engine_crf.with_stays(scores, 3))
    assert np.allclose(np.array(weights).reshape(-1, 320), theirs, atol=2e-6)


@pytest.mark.parametrize("frames", [0, 1, 7, 500])
def test_greedy_ctc(frames: int) -> None:
    meta = meta_of("demo-ctc", decoder=DecoderSpec("ctc", {"beam_size": 1}, 0.9, 0.3))
    scores = log_softmax(real_like(np.random.default_rng(frames), frames, 5, 1.0))
    same_call(decoder_of(meta, 5).decode(flat(scores)), decode_read(scores, meta))
    ours, theirs = ctc.decode(flat(scores)), engine_ctc.greedy(scores)
    assert ours.codes == theirs.codes.tolist() and np.allclose(ours.errors, theirs.error, atol=1e-6)


def test_scores_that_no_network_should_give() -> None:
    decoder = decoder_of(meta_of("taiyaki-mgru"), 40)
    bad = np.zeros((5, 40), np.float32)
    for value in (np.nan, np.inf):
        bad[3, 7] = value
        with pytest.raises(RubiccError, match="RUB-COREML-504"):
            decoder.decode(flat(bad))
    with pytest.raises(RubiccError, match="RUB-COREML-504"):
        decoder.decode(flat(np.zeros((5, 39), np.float32)))
    with pytest.raises(RubiccError, match="RUB-COREML-504"):
        ctc.decode(flat(np.zeros((5, 5), np.float32)))
    with pytest.raises(RubiccError, match="RUB-COREML-504"):
        crf.decode(flat(np.zeros((5, 7), np.float32)), 4, 2.0)


def test_scores_far_apart_do_not_lose_the_path() -> None:
    meta = meta_of("taiyaki-mgru")
    scores = real_like(np.random.default_rng(9), 80, 40, 1.0) * 60
    same_call(decoder_of(meta, 40).decode(flat(scores)), decode_read(scores, meta))


def test_long_reads_are_joined_from_segments_as_the_engine_joins_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(calls, "CONTEXT", 20)
    monkeypatch.setattr(calls, "SEGMENT_FRAMES", 80)
    meta = meta_of("taiyaki-mgru")
    decoder = decoder_of(meta, 40)
    rng = np.random.default_rng(5)
    for frames in (80, 81, 130, 240, 333):
        scores = real_like(rng, frames, 40, 0.7)
        segments, cut = [], 0
        while cut < frames:
            end = cut + 80 if frames - cut > 80 else frames
            start, stop = max(0, cut - 20), min(end + 20, frames)
            piece = np.ascontiguousarray(scores[start:stop])
            segments.append(Segment(piece, cut - start, end - start, decode_read(piece, meta)))
            cut = end
        same_call(decoder.decode(flat(scores)), join(segments))


def test_reverse_complement() -> None:
    assert dna.reverse_complement("ACGTNacgtnR-*") == "*-YnacgtNACGT"
    assert dna.reverse_complement("AUG") == "CAT"
    for sequence in ("", "A", "ACGTTGCAGGNN"):
        assert dna.reverse_complement(dna.reverse_complement(sequence)) == sequence


@pytest.mark.real_data
def test_real_reads_are_normalised_alike(shared_data: Path) -> None:
    paths = sorted((shared_data / "mapped").glob("*.npz"))
    assert len(paths) > 3
    for path in paths:
        with np.load(path) as file:
            dac, offset, rate = file["dac"], float(file["offset"]), float(file["sampling_rate"])
            scale = float(file["range"] / file["digitisation"])
        for spec in SPECS:
            read = signal.RawRead(dac.tolist(), offset, scale, rate)
            ours = signal.normalise(read, signal.of_spec(spec.normalisation, spec.params), rate)
            theirs = engine_normalise.normalise(raw(dac, offset, scale, rate), spec)
            assert np.array_equal(np.array(ours, np.float32), theirs), (path.stem, spec)


@pytest.mark.real_data
def test_a_real_read_is_called_as_the_engine_calls_it(shared_data: Path) -> None:
    """Normalised, cut, run through the real R9 network, joined and decoded by the ports alone."""
    import torch

    entry = registry.get("taiyaki-mgru")
    module = entry.build(seed=0)
    state = torch.load(shared_data / "weights" / "r9_mgru_flipflop_state_dict.pt", weights_only=True)
    module.load_state_dict({**module.state_dict(), **state})
    meta = entry.meta()
    with np.load(shared_data / "mapped" / "de1508c4-755b-489e-9ffb-51af35c9a7e6.npz") as file:
        dac, offset = file["dac"][:12_000], float(file["offset"])
        scale, rate = float(file["range"] / file["digitisation"]), float(file["sampling_rate"])
    made = design("m", meta, [TensorSpec("x", (1, 1, 4000))], [TensorSpec("y", (1000, 1, 40))], {})
    assert made.reads is not None and made.reads.plan == chunks.Plan(4000, 600, 4, True)
    read = signal.RawRead(dac.tolist(), offset, scale, rate)
    wave = signal.normalise(read, made.reads.normalisation, made.reads.sampling_rate)
    assert np.array_equal(wave, engine_normalise.normalise(raw(dac, offset, scale, rate), meta.signal))
    frames = array("f")
    for cut in chunks.cuts(len(wave), made.reads.plan):
        row = torch.tensor(chunks.fill(wave, cut))[None, None]
        with torch.no_grad():
            scores = flat(module(row)[:, 0].numpy())
        frames += chunks.kept(scores.values, cut, 40, 4)
    ours = made.reads.decoder.decode(Scores(frames, 40))
    theirs = decode_read(np.array(frames, np.float32).reshape(-1, 40), meta)
    same_call(ours, theirs)
    assert 900 < len(ours.sequence) < 1800
