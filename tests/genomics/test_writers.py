"""Output formats: what other tools read is what was called, and files can be cut at any commit."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pysam
import pytest
from toy import META

from rubicc.errors import UsageError
from rubicc.genomics import bam
from rubicc.genomics.call import Call
from rubicc.genomics.normalise import Scaling
from rubicc.genomics.reads import make_read
from rubicc.genomics.writers import CalledRead, format_for


def _called(name: str, sequence: str, **facts) -> CalledRead:
    read = make_read(
        name,
        np.arange(5 * len(sequence) + 10, dtype=np.int16),
        offset=1.0,
        scale=0.2,
        sampling_rate=4000.0,
        source="/some/where/reads file.fast5",
        **facts,
    )
    moves = np.tile([1, 0], len(sequence)).astype(np.uint8)
    qstring = "".join(chr(33 + i % 60) for i in range(len(sequence)))
    return CalledRead(read, len(read.signal), Scaling(80.5, 13.25), Call(sequence, qstring, moves, 12.5))


CALLS = [
    _called(
        "first",
        "ACGTACGTA",
        channel=7,
        mux=2,
        read_number=3,
        start_sample=6000,
        run_start="2020-01-01T10:00:00Z",
    ),
    _called("second", "T"),
    _called("third", "ACGT" * 30_000),
]


def _write(path: Path) -> None:
    form = format_for(path, META, "9.9")
    data = form.header() + form.pack(b"".join(map(form.record, CALLS[:2])))
    path.write_bytes(data + form.pack(form.record(CALLS[2])) + form.trailer())


def test_bam_is_what_htslib_reads(tmp_path) -> None:
    path = tmp_path / "x.bam"
    _write(path)
    with pysam.AlignmentFile(str(path), "rb", check_sq=False) as file:
        header = file.header.to_dict()
        records = list(file)
    assert header["PG"] == [{"ID": "basecaller", "PN": "rubicc", "VN": "9.9"}]
    assert header["RG"][0]["ID"] == "toy"
    for record, called in zip(records, CALLS, strict=True):
        assert record.is_unmapped and record.query_name == called.read.read_id
        assert record.query_sequence == called.call.sequence
        assert pysam.array_to_qualitystring(record.query_qualities) == called.call.qstring
        tags = dict(record.get_tags())
        assert tags["qs"] == 12.5 and tags["ns"] == called.samples and tags["RG"] == "toy"
        assert tags["sm"] == 80.5 and tags["sd"] == 13.25 and tags["sv"] == "med-mad"
        assert tags["du"] == pytest.approx(called.samples / 4000)
        assert list(tags["mv"]) == [META.stride, *called.call.moves]
        assert tags["fn"] == "reads file.fast5"
    first, second = dict(records[0].get_tags()), dict(records[1].get_tags())
    assert (first["ch"], first["mx"], first["rn"]) == (7, 2, 3)
    assert first["st"] == "2020-01-01T10:00:01.500+00:00"
    assert "ch" not in second and "st" not in second
    assert path.read_bytes().endswith(bam.EOF_BLOCK)


@pytest.mark.parametrize("name", ["x.fastq", "x.fq.gz", "x.fasta", "x.fa", "x.fa.gz"])
def test_text_formats(tmp_path, name) -> None:
    path = tmp_path / name
    _write(path)
    with pysam.FastxFile(str(path)) as file:
        got = [(record.name, record.sequence, record.quality) for record in file]
    quality = "fq" in name or "fastq" in name
    assert got == [(c.read.read_id, c.call.sequence, c.call.qstring if quality else None) for c in CALLS]
    if name.endswith(".gz"):
        assert gzip.decompress(path.read_bytes()).count(b"third") == 1


def test_incompressible_blocks_fit(tmp_path) -> None:
    noise = np.random.default_rng(0).bytes(300_000)
    assert gzip.decompress(bam.bgzf(noise)) == noise


@pytest.mark.parametrize("name", ["x", "x.sam", "x.gz", "x.bam.gz", "x.txt", ".fasta.zip"])
def test_unknown_formats(name) -> None:
    with pytest.raises(UsageError) as caught:
        format_for(Path(name), META, "1")
    assert caught.value.code == "RUB-GEN-144"
