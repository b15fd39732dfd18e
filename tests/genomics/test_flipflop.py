from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.errors import VerificationFailed
from rubicc.genomics import flipflop
from tests.genomics import oracles

FLIPS = [0, 1, 2, 3]
EDGES = oracles.flipflop_edges()


def scores(seed: int, steps: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(steps, 40))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_posteriors_are_shares_of_all_paths(seed: int) -> None:
    s = scores(seed, 4)
    want = oracles.posteriors(s, EDGES, FLIPS)
    assert np.abs(flipflop.posteriors(s) - want).max() < 2e-6


def test_the_oracle_tells_wrong_starts_and_wrong_layouts_apart() -> None:
    s = scores(0, 3)
    ours = flipflop.posteriors(s)
    assert np.abs(ours - oracles.posteriors(s, EDGES, list(range(8)))).max() > 1e-3
    swapped = [(a, b, {32: 36, 36: 32}.get(c, c)) for a, b, c in EDGES]
    assert np.abs(ours - oracles.posteriors(s, swapped, FLIPS)).max() > 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_best_path_by_enumeration(seed: int) -> None:
    s = scores(seed, 4)
    path = oracles.best_path(flipflop.posteriors(s), EDGES, FLIPS)
    states = flipflop.viterbi_states(flipflop.posteriors(s))
    assert states.tolist() == [path[0][0]] + [edge[1] for edge in path]
    found = flipflop.decode(s)
    assert found.moves.tolist() == [int(a != b) for a, b, _ in path]
    assert found.codes.tolist() == [b % 4 for a, b, _ in path if a != b]


def test_a_path_may_not_start_in_a_flop() -> None:
    s = np.full((3, 40), -5, np.float32)
    s[:, 36] = 5  # staying in flop A is by far the best, and forbidden at the start
    assert flipflop.viterbi_states(flipflop.posteriors(s))[0] < 4


def test_homopolymer_alternates_flip_and_flop() -> None:
    s = np.full((6, 40), -5, np.float32)
    for t, column in enumerate([0, 32, 4, 32, 36, 4]):  # stay flip A, flop, flip, flop, stay, flip
        s[t, column] = 5
    found = flipflop.decode(s)
    assert found.moves.tolist() == [0, 1, 1, 1, 0, 1]
    assert found.codes.tolist() == [0, 0, 0, 0]
    assert found.error.max() < 0.01


def test_scores_of_any_range_and_offset() -> None:
    s = scores(3, 200)
    shifted = flipflop.decode(s + np.float32(1000))
    assert shifted.codes.tolist() == flipflop.decode(s).codes.tolist()
    wide = flipflop.posteriors(s * 200)
    assert np.isfinite(wide).all()
    assert np.allclose(wide.sum(axis=1), 1, atol=1e-5)


def test_a_constant_per_row_does_not_matter() -> None:
    s = scores(5, 3)
    offset = np.array([[900.0], [-700.0], [0.0]], np.float32)
    want = oracles.posteriors(s, EDGES, FLIPS)
    assert np.abs(flipflop.posteriors(s + offset) - want).max() < 1e-4


def test_long_reads_do_not_underflow() -> None:
    p = flipflop.posteriors(scores(1, 20_000))
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    assert p.min() >= 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 10_000), st.sampled_from([0.1, 2.0, 20.0]))
def test_every_path_is_well_formed(steps: int, seed: int, scale: float) -> None:
    found = flipflop.decode(scores(seed, steps, scale))
    assert found.moves.shape == (steps,)
    assert len(found.codes) == len(found.error) == found.moves.sum()
    assert ((found.error >= 0) & (found.error <= 1)).all()


def test_input_is_not_changed() -> None:
    s = scores(2, 10)
    before = s.copy()
    flipflop.decode(s)
    assert (s == before).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    s = scores(2, 10)
    s[7, 3] = bad
    with pytest.raises(VerificationFailed, match=r"RUB-GEN-202.*frame 7"):
        flipflop.decode(s)


def test_errors_grow_with_doubt() -> None:
    s = np.full((40, 40), -5, np.float32)
    s[:, [0, 9, 18, 27]] = 0  # stay in any flip
    s[np.arange(0, 40, 4), [((t // 4) % 4) * 8 + ((t // 4) - 1) % 4 for t in range(0, 40, 4)]] = 5
    sure = flipflop.decode(s)
    unsure = flipflop.decode(s * np.float32(0.4))
    assert sure.error.mean() < unsure.error.mean()
