"""The study of folding against removing skips: its network folds whole, and its table has the spreads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import skip_folding
import torch

from rubicc.ir.executor import execute
from rubicc.models import registry
from rubicc.passes.manager import run_pass
from rubicc.passes.skip.fold import FoldSkips
from rubicc.passes.skip.remove import RemoveSkips
from rubicc.shrink.student import cleaned, lowered_module


def test_every_skip_of_the_network_folds_exactly() -> None:
    torch.manual_seed(0)
    module = skip_folding.Foldable(width=8).eval()
    for block in module.blocks:
        block.norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    meta = replace(registry.get("demo-ctc").meta(), arch="custom", config={})
    start = cleaned(lowered_module(module, meta, "foldable"))
    folded, removed, fold = start.clone(), start.clone(), FoldSkips()
    run_pass(fold, folded, check=True)
    run_pass(RemoveSkips(), removed)
    assert len(fold.folded) == skip_folding.BLOCKS and not fold.reasons
    x = np.random.default_rng(0).normal(size=(1, 1, 90)).astype(np.float32)
    was, same, other = (execute(one, {"x": x})["y"] for one in (start, folded, removed))
    assert np.abs(was - same).max() < 1e-5 < 0.05 < np.abs(was - other).max()


def test_the_table_has_means_and_spreads() -> None:
    row = skip_folding.Row
    rows = {"removed": [row(0.5, 1.5, 0.6), row(0.5, 2.5, 0.8)], "folded": [row(0.5, 0.5, 0.4)]}
    assert skip_folding.table(rows)[2:] == [
        "| skips removed | +1.5 (+1 to +2) | 0.7000 (0.6000 to 0.8000) |",
        "| skips folded | +0 (+0 to +0) | 0.4000 (0.4000 to 0.4000) |",
    ]
