"""Real R9.4.1 reads through the real flip-flop network: the calls and the qualities of the data README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rubicc.genomics import flipflop, qscore
from rubicc.genomics.calibrate import Evidence, calibrate, evidence
from rubicc.genomics.decode import decode_read
from rubicc.models import registry

pytestmark = pytest.mark.real_data

# Identity by posterior decode, called bases; the last read is the validation read.
PUBLISHED = {
    "34880f88-4492-452e-84ac-d1cd4bcedac7": (0.8444, 4378),
    "34bebf28-d997-446e-8dda-ce707a266c2d": (0.8820, 2808),
    "799a44f9-6c85-4b3c-8722-dc7e38ade6f1": (0.9101, 10265),
    "cb8a6688-0ddb-42ff-ad7e-de004d738790": (0.9242, 14424),
    "db6b45aa-5d21-45cf-a435-05fb8f12e839": (0.8988, 2981),
    "de1508c4-755b-489e-9ffb-51af35c9a7e6": (0.8561, 2013),
    "69bfff9f-18eb-4aa0-a781-e55dc99674bf": (0.9314, 5619),
}
HELD_BACK = "69bfff9f-18eb-4aa0-a781-e55dc99674bf"
LONG = [read_id for read_id, (_, bases) in PUBLISHED.items() if bases > 10_000]


def _scores(shared_data: Path, read_ids: list[str]) -> dict[str, np.ndarray]:
    import torch

    model = registry.get("taiyaki-mgru").build(seed=0)
    weights = shared_data / "weights" / "r9_mgru_flipflop_state_dict.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    out = {}
    with torch.inference_mode():
        for read_id in read_ids:
            with np.load(shared_data / "mapped" / f"{read_id}.npz") as read:
                x = read["dac"].astype(np.float32)
            median = np.median(x)
            x = (x - median) / (1.4826 * np.median(np.abs(x - median)))
            out[read_id] = model(torch.from_numpy(x.astype(np.float32))[None, None])[:, 0].numpy()
    return out


def _aligned(scores: dict[str, np.ndarray], shared_data: Path) -> dict[str, Evidence]:
    found = {}
    for read_id, values in scores.items():
        with np.load(shared_data / "mapped" / f"{read_id}.npz") as read:
            reference = "".join("NACGT"[code] for code in read["reference"])
        call = evidence(flipflop.decode(values), "ACGT", reference)
        assert call is not None
        found[read_id] = call
    return found


@pytest.fixture(scope="module")
def scores(shared_data: Path) -> dict[str, np.ndarray]:
    """The five shorter reads; the two long ones take most of the time and are left to the slow tests."""
    return _scores(shared_data, [read_id for read_id in PUBLISHED if read_id not in LONG])


@pytest.fixture(scope="module")
def aligned(scores: dict[str, np.ndarray], shared_data: Path) -> dict[str, Evidence]:
    return _aligned(scores, shared_data)


@pytest.fixture(scope="module")
def all_aligned(aligned: dict[str, Evidence], shared_data: Path) -> dict[str, Evidence]:
    return {**aligned, **_aligned(_scores(shared_data, LONG), shared_data)}


def test_identities_are_the_published_ones(
    scores: dict[str, np.ndarray], aligned: dict[str, Evidence]
) -> None:
    meta = registry.get("taiyaki-mgru").meta()
    for read_id, values in scores.items():
        identity, bases = PUBLISHED[read_id]
        assert aligned[read_id].identity == pytest.approx(identity, abs=0.003)
        assert len(decode_read(values, meta).sequence) == pytest.approx(bases, abs=3)


@pytest.mark.slow
def test_identities_of_all_seven_reads(all_aligned: dict[str, Evidence]) -> None:
    for read_id, (identity, _) in PUBLISHED.items():
        assert all_aligned[read_id].identity == pytest.approx(identity, abs=0.003)


def test_viterbi_on_raw_scores_is_worse(scores: dict[str, np.ndarray], shared_data: Path) -> None:
    """The identity test would notice a decoder that forgot the posteriors."""
    values = scores["de1508c4-755b-489e-9ffb-51af35c9a7e6"]
    states = flipflop.viterbi_states(np.exp(values - values.max()))
    assert np.count_nonzero(np.diff(states.astype(int))) < 0.9 * 2013


def test_predicted_error_is_the_observed_one(aligned: dict[str, Evidence]) -> None:
    """Stated tolerance: 0.025 of identity per read, 0.02 on the read that the fit never saw."""
    spec = registry.get("taiyaki-mgru").meta().decoder
    assert spec is not None
    gaps = {
        read_id: 1 - call.predicted(spec.qscale, spec.qbias) - call.identity
        for read_id, call in aligned.items()
    }
    assert max(map(abs, gaps.values())) < 0.025, gaps
    assert abs(gaps[HELD_BACK]) < 0.02
    uncalibrated = [abs(1 - call.predicted(1, 0) - call.identity) for call in aligned.values()]
    assert max(uncalibrated) > 0.025, "the check could not fail"


@pytest.mark.slow
def test_stored_calibration_is_what_the_fit_gives(all_aligned: dict[str, Evidence]) -> None:
    spec = registry.get("taiyaki-mgru").meta().decoder
    assert spec is not None
    fitted = calibrate(call for read_id, call in all_aligned.items() if read_id != HELD_BACK)
    assert fitted.qscale == pytest.approx(spec.qscale, abs=0.02)
    assert fitted.qbias == pytest.approx(spec.qbias, abs=0.2)
    assert fitted.nll_after < fitted.nll_before


@pytest.mark.slow
def test_qualities_hold_base_by_base(all_aligned: dict[str, Evidence]) -> None:
    """Between Q4 and Q17, bases of one quality are wrong as often as it says, to 2 phred."""
    spec = registry.get("taiyaki-mgru").meta().decoder
    assert spec is not None
    q = np.concatenate([qscore.phred(c.error, spec.qscale, spec.qbias) for c in all_aligned.values()])
    observed = np.concatenate([c.observed for c in all_aligned.values()])
    for level in range(4, 18):
        seen = observed[np.rint(q) == level]
        assert len(seen) > 500
        assert -10 * np.log10(seen.mean()) == pytest.approx(level, abs=2)
