"""Chunking and stitching give the whole read's frames, exactly, where the overlap covers the field."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from toy import META

from rubicc.errors import UsageError
from rubicc.genomics.chunks import Plan, chunk, plan_for, stitch, windows


def local(x: np.ndarray, taps: np.ndarray, stride: int) -> np.ndarray:
    """A strided "same" convolution, (N, 1, T) to (ceil(T / stride), N, 2): frame f sees around f * stride."""
    half = len(taps) // 2
    padded = np.pad(x[:, 0], ((0, 0), (half, half)))
    seen = sliding_window_view(padded, len(taps), axis=1)[:, ::stride]
    return np.stack([seen @ taps, seen.max(axis=2)], axis=2).transpose(1, 0, 2)


@st.composite
def layouts(draw):
    stride = draw(st.integers(1, 7))
    half = draw(st.integers(0, 20))
    field = 2 * half + 1
    overlap = -(-draw(st.integers(field, field + 30)) // (2 * stride)) * 2 * stride
    length = overlap + stride * draw(st.integers(1, 40))
    samples = draw(st.integers(1, 6 * length))
    return Plan(length, overlap, stride), half, samples


@settings(max_examples=250, deadline=None)
@given(layouts(), st.integers(0, 2**32 - 1))
def test_stitched_equals_whole_read(layout, seed) -> None:
    plan, half, samples = layout
    rng = np.random.default_rng(seed)
    x = rng.integers(-50, 50, samples).astype(np.float32)
    taps = rng.integers(-9, 10, 2 * half + 1).astype(np.float32)
    whole = local(x[None, None], taps, plan.stride)[:, 0]
    assert len(whole) == plan.frames(samples)
    batch, cuts = chunk(x, plan)
    joined = stitch(local(batch, taps, plan.stride), cuts, plan)
    assert np.array_equal(joined, whole)


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_windows_cover_every_frame_once(layout) -> None:
    plan, _, samples = layout
    cuts = windows(samples, plan)
    bounds = [(w.keep_from, w.keep_to) for w in cuts]
    assert bounds[0][0] == 0 and bounds[-1][1] == plan.frames(samples)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(bounds))
    for w in cuts:
        assert w.start % plan.stride == 0 and w.stop - w.start <= plan.length
        assert w.start <= w.keep_from * plan.stride and w.keep_to * plan.stride <= w.stop


@pytest.mark.parametrize("mutant", ["overlap below the field", "cut at the start of the overlap"])
def test_the_exactness_test_can_fail(mutant) -> None:
    taps = np.ones(41, np.float32)
    plan = Plan(200, 20 if mutant.startswith("overlap") else 44, 2)
    x = np.arange(1000, dtype=np.float32)
    whole = local(x[None, None], taps, plan.stride)[:, 0]
    batch, cuts = chunk(x, plan)
    if mutant.startswith("cut"):
        early = [w.start // plan.stride for w in cuts]
        cuts = [
            replace(w, keep_from=a, keep_to=b) for w, a, b in zip(cuts, early, [*early[1:], 500], strict=True)
        ]
    assert not np.array_equal(stitch(local(batch, taps, plan.stride), cuts, plan), whole)


def test_overlap_comes_from_wish_model_field_or_default() -> None:
    meta = replace(META, stride=4, chunk=None, overlap=None, receptive_field=3237)
    assert plan_for(meta) == Plan(12960, 3240, 4)
    assert plan_for(replace(meta, overlap=500)).overlap == 504
    assert plan_for(meta, overlap=0).overlap == 0
    assert plan_for(replace(meta, receptive_field=None)) == Plan(4000, 600, 4)
    assert plan_for(meta, chunk=9999) == Plan(10000, 3240, 4)
    assert windows(10**6, plan_for(meta, chunk=0)) == windows(10**6, Plan(10**6, 0, 4))


@pytest.mark.parametrize(
    ("change", "given", "code"),
    [
        ({"stride": None}, {}, "RUB-GEN-132"),
        ({}, {"chunk": 20}, "RUB-GEN-133"),
        ({}, {"overlap": -1}, "RUB-GEN-133"),
        ({}, {"chunk": -5}, "RUB-GEN-133"),
    ],
)
def test_impossible_plans(change, given, code) -> None:
    with pytest.raises(UsageError) as caught:
        plan_for(replace(META, **change), **given)
    assert caught.value.code == code
