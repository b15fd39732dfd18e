"""Simulated reads come back from pod5 as they were made, and are written one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rubicc.errors import OutputExists
from rubicc.genomics.reads import iter_reads
from rubicc.genomics.simulate import SimulatedRead, iter_simulated, simulate_reads
from rubicc.genomics.simulate_pod5 import write_pod5


def test_reads_come_back(tmp_path: Path) -> None:
    made = simulate_reads(3, seed=4, length=(100, 300))
    assert write_pod5(tmp_path / "x.pod5", iter(made)) == 3
    back = list(iter_reads([tmp_path / "x.pod5"]))
    assert [read.read_id for read in back] == [read.read_id for read in made]
    for read, truth in zip(back, made, strict=True):
        assert np.array_equal(read.signal, truth.dac)
        np.testing.assert_allclose(read.picoampere(), truth.picoampere(), rtol=1e-5)
        assert read.sampling_rate == truth.sampling_rate
    assert [path.name for path in tmp_path.iterdir()] == ["x.pod5"]


def test_nothing_is_replaced_and_no_half_file_is_left(tmp_path: Path) -> None:
    def failing() -> Iterator[SimulatedRead]:
        yield from iter_simulated(1, 1, 100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pod5(tmp_path / "x.pod5", failing())
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.pod5").write_bytes(b"mine")
    with pytest.raises(OutputExists, match="RUB-GEN-140"):
        write_pod5(tmp_path / "x.pod5", [])
    assert (tmp_path / "x.pod5").read_bytes() == b"mine"
