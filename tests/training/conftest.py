"""Simulated reads, shared by this room's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubicc.genomics.simulate import SimulatedRead, simulate_reads, write_reads


@pytest.fixture(scope="session")
def reads() -> list[SimulatedRead]:
    return simulate_reads(4, seed=11, length=(150, 260))


@pytest.fixture
def npz(tmp_path: Path, reads: list[SimulatedRead]) -> Path:
    write_reads(tmp_path / "reads.npz", reads)
    return tmp_path / "reads.npz"
