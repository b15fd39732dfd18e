"""Identity is minimap2's matches over alignment columns; every kind of difference is counted where it is."""

from __future__ import annotations

import numpy as np
import pytest

from rubicc.errors import ModelRefused, UsageError
from rubicc.genomics.evaluate import evaluate, read_sequences


def _dna(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def _reverse(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def _mutated(sequence: str) -> str:
    """20 substitutions, 10 insertions and 15 deletions at places far from each other."""
    swap = dict(zip("ACGT", "GTAC", strict=True))
    letters = list(sequence)
    for i in range(20):
        letters[100 * (i + 1)] = swap[letters[100 * (i + 1)]]
    for i in range(15):
        letters[2200 + 60 * i] = ""
    for i in range(10):
        letters[3200 + 60 * i] += swap[letters[3200 + 60 * i]]
    return "".join(letters)


REFERENCE = {"one": _dna(4000, 1), "two": _dna(4000, 2)}


def test_differences_are_counted_by_kind() -> None:
    score = evaluate([("one", _mutated(REFERENCE["one"]))], REFERENCE).reads[0]
    # Repeated letters let an aligner trade a neighbouring pair for one column; the sums stay close.
    assert (
        abs(score.mismatches - 20) <= 2 and abs(score.insertions - 10) <= 2 and abs(score.deletions - 15) <= 2
    )
    columns = score.matches + score.mismatches + score.insertions + score.deletions
    assert score.identity == score.matches / columns
    assert score.identity == pytest.approx((4000 - 35) / 4010, abs=0.001)
    assert score.coverage > 0.99 and score.reference == "one" and score.strand == 1


def test_best_hit_strand_and_unmapped() -> None:
    calls = [("a", _reverse(REFERENCE["two"])), ("noise", _dna(500, 3)), ("empty", "")]
    result = evaluate(calls, REFERENCE, by="best")
    assert (result.reads[0].reference, result.reads[0].strand, result.reads[0].identity) == ("two", -1, 1.0)
    assert [read.identity for read in result.reads[1:]] == [None, None]
    assert result.unmapped == 2 and result.mean_identity == result.median_identity == 1.0
    assert result.to_dict()["mapped"] == 1


def test_by_name_does_not_look_elsewhere() -> None:
    calls = [("one", REFERENCE["two"])]
    assert evaluate(calls, REFERENCE).unmapped == 1
    assert evaluate(calls, REFERENCE, by="best").reads[0].reference == "two"
    with pytest.raises(UsageError) as caught:
        evaluate([("three", "ACGT")], REFERENCE, by="name")
    assert caught.value.code == "RUB-GEN-152"


def test_whole_reference_identity() -> None:
    call = REFERENCE["one"][:2000]
    score = evaluate([("one", call)], REFERENCE, whole_reference=True).reads[0]
    assert score.identity == 1.0 and score.whole_reference_identity == pytest.approx(0.5)


def test_files_of_every_kind(tmp_path) -> None:
    import gzip

    from rubicc.genomics import bam

    reference = tmp_path / "ref.fasta"
    reference.write_text("".join(f">{name} words\n{text}\n" for name, text in REFERENCE.items()))
    call = _mutated(REFERENCE["one"])
    fastq = f"@read\tqs:f:1\n{call}\n+\n{'5' * len(call)}\n"
    (tmp_path / "c.fasta").write_text(f">read\n{call}\n")
    (tmp_path / "c.fastq").write_text(fastq)
    (tmp_path / "c.fastq.gz").write_bytes(gzip.compress(fastq.encode()))
    body = bam.header("@HD\tVN:1.6\n") + bam.record("read", call, "5" * len(call), [])
    (tmp_path / "c.bam").write_bytes(bam.bgzf(body) + bam.EOF_BLOCK)
    found = {
        evaluate(tmp_path / name, reference).reads[0]
        for name in ("c.fasta", "c.fastq", "c.fastq.gz", "c.bam")
    }
    assert len(found) == 1
    score = found.pop()
    assert score.read_id == "read" and score.reference == "one"


@pytest.mark.parametrize(
    ("content", "error", "code"),
    [
        (None, UsageError, "RUB-GEN-150"),
        (b"", UsageError, "RUB-GEN-150"),
        (b"hello", ModelRefused, "RUB-GEN-151"),
        (b"@r\nACGT\n+\n!!", ModelRefused, "RUB-GEN-151"),
        (b"\x1f\x8b\x08garbage", ModelRefused, "RUB-GEN-151"),
    ],
)
def test_unreadable_calls(tmp_path, content, error, code) -> None:
    path = tmp_path / "calls.fastq"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        evaluate(path, REFERENCE)
    assert caught.value.code == code


@pytest.mark.real_data
def test_reference_files_of_the_data_folder(shared_data) -> None:
    names = {name for name, _ in read_sequences(shared_data / "mapped" / "references_train.fasta")}
    assert len(names) == 6
