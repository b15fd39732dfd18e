from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.errors import UsageError
from rubicc.genomics import crf
from tests.genomics import oracles


def scores(seed: int, steps: int, state_len: int, scale: float = 2.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(steps, 5 * 4**state_len))).astype(np.float32)


CASES = [(1, 5), (2, 4)]


@pytest.mark.parametrize(("state_len", "steps"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_posteriors_are_shares_of_all_paths(seed: int, state_len: int, steps: int) -> None:
    s = scores(seed, steps, state_len)
    edges, starts = oracles.crf_edges(state_len), list(range(4**state_len))
    assert np.abs(crf.posteriors(s) - oracles.posteriors(s, edges, starts)).max() < 2e-6


def test_the_oracle_tells_a_wrong_layout_apart() -> None:
    s = scores(0, 3, 2)
    newest_first = [(a, b, b * 5 + 1 + a % 4 if c % 5 else c) for a, b, c in oracles.crf_edges(2)]
    wrong = oracles.posteriors(s, newest_first, list(range(16)))
    assert np.abs(crf.posteriors(s) - wrong).max() > 1e-3


@pytest.mark.parametrize(("state_len", "steps"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_best_path_by_enumeration(seed: int, state_len: int, steps: int) -> None:
    s = scores(seed, steps, state_len)
    path = oracles.best_path(crf.posteriors(s), oracles.crf_edges(state_len), list(range(4**state_len)))
    found = crf.decode(s)
    assert found.moves.tolist() == [int(c % 5 > 0) for _, _, c in path]
    assert found.codes.tolist() == [b % 4 for _, b, c in path if c % 5]


@pytest.mark.parametrize("state_len", [1, 3, 4])
def test_layout_is_bonitos(state_len: int) -> None:
    model = pytest.importorskip("bonito.crf.model", reason="ont-bonito (dev extra) is not installed")
    index = model.CTC_CRF(state_len, list("NACGT")).idx.numpy()
    for came, to, column in oracles.crf_edges(state_len):
        assert index[to, column % 5] == came


def test_posteriors_agree_with_log_domain_gradients_at_full_size() -> None:
    """d logZ / d score is the posterior; a float64 log-domain forward pass in torch is the witness."""
    torch = pytest.importorskip("torch")
    state_len, steps = 3, 30
    states = 4**state_len
    came = np.empty((states, 5), np.int64)
    for a, b, c in oracles.crf_edges(state_len):
        came[b, c % 5] = a
    s = scores(4, steps, state_len, scale=4.0)
    x = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    alpha = torch.zeros(states, dtype=torch.float64)
    for t in range(steps):
        alpha = torch.logsumexp(alpha[torch.tensor(came)] + x[t].reshape(states, 5), dim=1)
    torch.logsumexp(alpha, 0).backward()
    assert np.abs(crf.posteriors(s) - x.grad.numpy()).max() < 2e-6


def test_stay_columns_are_added() -> None:
    full = scores(1, 6, 2).reshape(6, 16, 5)
    full[:, :, 0] = 2.0
    bare = full[:, :, 1:].reshape(6, 64)
    assert (crf.with_stays(bare, 2) == full.reshape(6, 80)).all()
    assert crf.with_stays(full.reshape(6, 80), 2).shape == (6, 80)
    with pytest.raises(UsageError, match=r"RUB-GEN-203.*64 or 80"):
        crf.with_stays(bare[:, :60], 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), st.integers(0, 10_000), st.sampled_from([0.1, 5.0, 30.0]))
def test_every_path_is_well_formed(steps: int, seed: int, scale: float) -> None:
    found = crf.decode(scores(seed, steps, 2, scale))
    assert found.moves.shape == (steps,)
    assert len(found.codes) == len(found.error) == found.moves.sum()
    assert ((found.error >= 0) & (found.error <= 1)).all()


@pytest.mark.parametrize("state_len", [1, 2, 4])
def test_scores_of_any_range(state_len: int) -> None:
    """Contradictions of e^100 between neighbouring steps must not lose all probability mass."""
    p = crf.posteriors(scores(2, 40, state_len, scale=30.0))
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)


def test_long_reads_do_not_underflow() -> None:
    p = crf.posteriors(5 * np.tanh(scores(1, 5000, 3)))
    assert np.allclose(p.sum(axis=1), 1, atol=1e-4)
