"""The engine on real reads with the real network (in torch): the data folder's figures, to the digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rubicc.genomics.engine import Settings, basecall
from rubicc.genomics.evaluate import evaluate, read_sequences
from rubicc.spec import ModelMeta

pytestmark = pytest.mark.real_data
# Identity of the whole-read call, from the data folder's README.
IDENTITY = {
    "34880f88-4492-452e-84ac-d1cd4bcedac7": 0.8444,
    "34bebf28-d997-446e-8dda-ce707a266c2d": 0.8820,
    "799a44f9-6c85-4b3c-8722-dc7e38ade6f1": 0.9101,
    "cb8a6688-0ddb-42ff-ad7e-de004d738790": 0.9242,
    "db6b45aa-5d21-45cf-a435-05fb8f12e839": 0.8988,
    "de1508c4-755b-489e-9ffb-51af35c9a7e6": 0.8561,
    "69bfff9f-18eb-4aa0-a781-e55dc99674bf": 0.9314,
}
SHORT = [
    "34bebf28-d997-446e-8dda-ce707a266c2d",
    "db6b45aa-5d21-45cf-a435-05fb8f12e839",
    "de1508c4-755b-489e-9ffb-51af35c9a7e6",
]
Network = tuple[Callable[[np.ndarray], np.ndarray], ModelMeta]


@pytest.fixture(scope="module")
def network(shared_data) -> Network:
    import torch

    from rubicc.models import registry

    entry = registry.get("taiyaki-mgru")
    module = entry.build(seed=0)
    state = torch.load(shared_data / "weights" / "r9_mgru_flipflop_state_dict.pt", weights_only=True)
    module.load_state_dict({**module.state_dict(), **state})

    def infer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return infer, entry.meta()


def _references(shared_data: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((shared_data / "mapped").glob("references_*.fasta")):
        found.update(read_sequences(path))
    return found


def _call(network: Network, reads: Path, out: Path, **settings) -> Path:
    infer, meta = network
    summary = basecall(infer, meta, [reads], out, settings=Settings(**settings))
    assert summary.problem_count == 0 and summary.reads == len(settings.get("read_ids", IDENTITY))
    return out


def test_whole_reads_equal_the_published_figures(shared_data, network, tmp_path) -> None:
    out = _call(network, shared_data / "mapped", tmp_path / "x.fastq", chunk=0, read_ids=SHORT)
    for read in evaluate(out, _references(shared_data)).reads:
        assert read.identity == pytest.approx(IDENTITY[read.read_id], abs=5e-4)


def test_whole_read_calls_from_fast5_equal_the_published_ones(shared_data, network, tmp_path) -> None:
    """Base for base, from the original fast5 files."""
    published = dict(read_sequences(shared_data / "r9_reads" / "mgru_calls.fasta"))
    chosen = SHORT[1:]
    out = _call(network, shared_data / "r9_reads", tmp_path / "x.fasta", chunk=0, read_ids=chosen)
    calls = dict(read_sequences(out))
    assert {name: calls[name] == published[name] for name in chosen} == dict.fromkeys(chosen, True)


def test_chunked_calls_are_no_worse(shared_data, network, tmp_path) -> None:
    """Recurrent states drift over long reads, so chunks are better on most of these reads, never worse."""
    out = _call(network, shared_data / "mapped", tmp_path / "x.bam")
    scores = {read.read_id: read.identity for read in evaluate(out, _references(shared_data)).reads}
    assert set(scores) == set(IDENTITY)
    assert {name: round(scores[name], 4) for name in scores if scores[name] < IDENTITY[name] - 0.003} == {}
    assert np.mean(list(scores.values())) > np.mean(list(IDENTITY.values())) + 0.008


@pytest.mark.slow
def test_all_seven_whole_reads(shared_data, network, tmp_path) -> None:
    out = _call(network, shared_data / "mapped", tmp_path / "x.fastq", chunk=0)
    scores = {read.read_id: read.identity for read in evaluate(out, _references(shared_data)).reads}
    assert scores == pytest.approx(IDENTITY, abs=5e-4)


@pytest.mark.slow
def test_all_fast5_calls_equal_the_published_ones(shared_data, network, tmp_path) -> None:
    """All twelve raw reads; a rounding difference may move single bases of a long read."""
    import edlib

    infer, meta = network
    out = tmp_path / "x.fasta"
    assert basecall(infer, meta, [shared_data / "r9_reads"], out, settings=Settings(chunk=0)).reads == 12
    published = dict(read_sequences(shared_data / "r9_reads" / "mgru_calls.fasta"))
    for name, sequence in read_sequences(out):
        distance = edlib.align(sequence, published[name], mode="NW")["editDistance"]
        assert distance <= 0.001 * len(sequence), name
