from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.errors import VerificationFailed
from rubicc.genomics import ctc
from tests.genomics import oracles


def log_probs(seed: int, steps: int, labels: int = 5, scale: float = 2.0) -> np.ndarray:
    z = scale * np.random.default_rng(seed).normal(size=(steps, labels))
    return (z - np.log(np.exp(z).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_wide_beam_finds_the_most_probable_labelling(seed: int) -> None:
    x = log_probs(seed, 5, labels=4)
    table = oracles.labellings(x)
    found = tuple((ctc.beam(x, size=500, cut=0.0).codes + 1).tolist())
    assert table[found] == pytest.approx(max(table.values()), rel=1e-5)


def test_greedy_is_not_always_the_most_probable_labelling() -> None:
    worse = 0
    for seed in range(20):
        x = log_probs(seed, 5, labels=4, scale=1.0)
        table = oracles.labellings(x)
        worse += table[tuple((ctc.greedy(x).codes + 1).tolist())] < max(table.values()) * 0.999
    assert worse > 0, "the beam test could not fail"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([0.5, 3.0]))
def test_greedy_agrees_with_fast_ctc_decode(steps: int, seed: int, scale: float) -> None:
    import fast_ctc_decode

    x = log_probs(seed, steps, scale=scale)
    text, _ = fast_ctc_decode.viterbi_search(np.exp(x), "NACGT")
    found = ctc.greedy(x)
    assert "".join("ACGT"[c] for c in found.codes) == text
    assert found.moves.sum() == len(text)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([0.5, 3.0]))
def test_beam_paths_are_well_formed(steps: int, seed: int, scale: float) -> None:
    found = ctc.beam(log_probs(seed, steps, scale=scale))
    assert found.moves.shape == (steps,)
    assert found.moves.sum() == len(found.codes) == len(found.error)
    assert ((found.error >= 0) & (found.error <= 1)).all()


def test_repeats_merge_and_blanks_separate() -> None:
    x = np.full((6, 5), np.log(0.01), np.float32)
    x[np.arange(6), [1, 1, 0, 1, 2, 2]] = np.log(0.96)
    for find in (ctc.greedy, ctc.beam):
        found = find(x)
        assert found.codes.tolist() == [0, 0, 1]
        assert found.moves.sum() == 3
    assert np.flatnonzero(ctc.greedy(x).moves).tolist() == [0, 3, 4]


@pytest.mark.parametrize("find", [ctc.greedy, ctc.beam])
def test_empty_and_all_blank(find: object) -> None:
    assert len(find(np.empty((0, 5), np.float32)).codes) == 0  # type: ignore[operator]
    x = np.full((7, 5), np.log(0.01), np.float32)
    x[:, 0] = np.log(0.96)
    assert len(find(x).codes) == 0  # type: ignore[operator]


@pytest.mark.parametrize("find", [ctc.greedy, ctc.beam])
def test_logits_are_refused(find: object) -> None:
    with pytest.raises(VerificationFailed, match=r"RUB-GEN-204"):
        find(3 * np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32))  # type: ignore[operator]


def test_alphabets_other_than_dna() -> None:
    x = log_probs(3, 40, labels=9)
    assert ctc.beam(x).codes.max() > 3
