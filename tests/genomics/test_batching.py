"""Windows of reads of many lengths share batches, each exactly once, and none waits for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.genomics.batching import PATIENCE, Batch, Batcher
from rubicc.genomics.chunks import Plan, fitted, window_lengths, windows

PLAN = Plan(length=1600, overlap=100, stride=5, alone=1.6)


def batches(lengths: list[int], plan: Plan, rows: int, fixed: bool = False) -> list[Batch]:
    """Batches of reads whose samples say which read they are of; a job is its number."""
    batcher = Batcher(rows, plan, fixed=fixed)
    made: list[Batch] = []
    for number, length in enumerate(lengths):
        job: Any = number
        made += batcher.cut(job, np.full(length, number + 1.0, np.float32))
    return [*made, *batcher.flush()]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=30), st.integers(1, 6), st.booleans())
def test_every_window_once_and_in_its_own_length(lengths, rows, fixed) -> None:
    plan = replace(PLAN, lengths=1) if fixed else PLAN
    found: dict[int, list[Any]] = {}
    for batch in batches(lengths, plan, rows, fixed):
        assert 1 <= len(batch.rows) <= rows
        assert len(batch.signal) == (rows if fixed else len(batch.rows))
        for row, (job, window) in zip(batch.signal[:, 0], batch.rows, strict=False):
            found.setdefault(int(job), []).append(window)
            real = min(window.stop, lengths[int(job)]) - window.start
            assert (row[:real] == job + 1).all() and not row[real:].any()
            assert len(row) == (plan.length if fixed else window.stop - window.start)
    for job, length in enumerate(lengths):
        assert sorted(found[job], key=lambda w: w.start) == windows(length, plan)


def test_short_reads_share_batches() -> None:
    """Forty reads of about a third of a chunk: five batches of eight, not forty of one."""
    made = batches([530 + i for i in range(0, 40)], PLAN, 8)
    shared = [batch for batch in made if len(batch.rows) == 8]
    assert len(shared) >= 5 and len(made) <= 12
    alone = batches([530 + i for i in range(0, 40)], replace(PLAN, alone=1.0), 8)
    assert len(alone) == 40, "where a row of its own costs nothing more, short reads stay in one piece"


def test_rare_lengths_do_not_wait_for_ever() -> None:
    """A window whose length no other read has is called after at most so many batches."""
    batcher = Batcher(4, PLAN, fixed=False)
    rare: Any = "rare"
    common: Any = "common"
    assert not list(batcher.cut(rare, np.zeros(600, np.float32)))
    waited = 0
    for _ in range(4 * (PATIENCE + 2)):
        for batch in batcher.cut(common, np.zeros(PLAN.length, np.float32)):
            if any(job == "rare" for job, _ in batch.rows):
                assert waited == PATIENCE
                return
            waited += 1
    pytest.fail("the rare window was never called")


@given(st.integers(1, 20_000))
def test_fitted_windows_cost_no_more_than_chunks(samples) -> None:
    """What is computed for a read, in samples of a full batch, never grows by fitting."""
    plan = fitted(samples, PLAN)
    assert plan.length == PLAN.length or plan.length in window_lengths(PLAN)
    cost = sum(w.stop - w.start for w in windows(samples, PLAN))
    whole = replace(PLAN, lengths=1)
    before = sum(w.stop - w.start for w in windows(samples, whole))
    factor = PLAN.alone if samples < PLAN.length else 1.0
    assert cost <= before * factor + 1e-9
