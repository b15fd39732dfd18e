"""The embedded demo network, reads and reference: what README says of them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rubicc.frontend import read_model
from rubicc.genomics import train_demo
from rubicc.genomics.calibrate import Evidence
from rubicc.genomics.reads import iter_reads
from rubicc.genomics.simulate import simulate_reads
from rubicc.spec import DecoderSpec

DATA = Path(str(files("rubicc") / "data"))


def decoder() -> DecoderSpec:
    meta = read_model(DATA / "demo_ctc.pt").meta
    assert meta is not None and meta.decoder is not None
    return meta.decoder


@pytest.fixture(scope="module")
def held_out() -> list[Evidence | None]:
    """Calls of genomes, reads and seeds that nothing in this repository has used before."""
    module = read_model(DATA / "demo_ctc.pt").module
    assert module is not None
    return train_demo.calls(module, simulate_reads(8, 77_000_001, (600, 1500)))


def test_sizes() -> None:
    assert (DATA / "demo_ctc.pt").stat().st_size <= 2 << 20
    assert (DATA / "demo_reads.npz").stat().st_size <= 500_000


def test_held_out_identity(held_out: list[Evidence | None]) -> None:
    assert train_demo.mean_identity(held_out) >= 0.93


def test_predicted_error_is_the_observed_one(held_out: list[Evidence | None]) -> None:
    spec = decoder()
    predicted = np.mean([c.predicted(spec.qscale, spec.qbias) for c in held_out if c is not None])
    assert 1 - predicted == pytest.approx(train_demo.mean_identity(held_out), abs=0.015)


def test_demo_reads_come_from_the_demo_reference() -> None:
    lines = (DATA / "demo_reference.fasta").read_text().splitlines()
    assert lines[0].startswith(">")
    genome = "".join(lines[1:])
    reads = list(iter_reads([DATA / "demo_reads.npz"]))
    assert len(reads) == 10 and sum(len(read.signal) for read in reads) > 100_000
    with np.load(DATA / "demo_reads.npz") as arrays:
        reference, lengths = arrays["reference"], arrays["reference_lengths"]
    for part in np.split(reference, np.cumsum(lengths)[:-1]):
        assert "".join("NACGT"[code] for code in part) in genome
