"""Every network of the zoo compiles and is proven (slow: dna-bert alone takes most of a minute)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubicc import api
from rubicc.frontend import checkpoint
from rubicc.models.registry import get, names


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", names())
def test_compiles_and_is_verified(name: str, tmp_path: Path) -> None:
    entry = get(name)
    checkpoint.save(tmp_path / "model.pt", entry.build(seed=0), entry.meta())
    report = api.compile(
        tmp_path / "model.pt", out=tmp_path / "out", target="cpu", runtime="onnxruntime"
    ).report
    assert report.verdict == "verified"
    exact = [gap for comparison, gap in report.gaps.items() if "both in float64" in comparison]
    assert all(gap.snr_db > 130 for gap in exact)
    assert bool(exact) == (name != "dna-bert")  # too large for float64 copies, and the report says so
    if name == "dna-bert":
        assert any("float64" in row.what for row in report.not_measured)
