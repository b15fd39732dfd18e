"""Identity of calls against a reference, as minimap2 sees it: matches / alignment columns.

Calls may be FASTA, FASTQ or BAM. A call whose name is a reference's name is scored against that reference
alone (the training sets are laid out so); otherwise against the best hit in the whole reference. Per read the
primary alignment with most matches counts.
"""

from __future__ import annotations

import gzip
import statistics
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rubicc.errors import ModelRefused, UsageError

MAX_SEQUENCE = 1 << 32
_EQX = 0x4000000
_SKIP_SECONDARY = 0x100 | 0x800
_COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")
# Column kinds of a minimap2 CIGAR written with =/X.
_INSERTION, _DELETION, _EQUAL, _DIFFERENT = 1, 2, 7, 8
By = Literal["auto", "name", "best"]


@dataclass(frozen=True)
class ReadScore:
    """One called read against its reference.

    Attributes:
        identity: matches / alignment columns of the primary alignment; None where there is none.
        coverage: part of the call inside that alignment.
        whole_reference_identity: edlib, matches / columns with the whole reference consumed and the ends of
            the call free; None unless asked for.
    """

    read_id: str
    length: int
    reference: str = ""
    strand: int = 0
    identity: float | None = None
    coverage: float = 0.0
    matches: int = 0
    mismatches: int = 0
    insertions: int = 0
    deletions: int = 0
    whole_reference_identity: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """All reads and their summary. Mean and median are over mapped reads; 0 when none is mapped."""

    reads: tuple[ReadScore, ...]

    @property
    def mapped(self) -> tuple[ReadScore, ...]:
        """Reads with an alignment."""
        return tuple(read for read in self.reads if read.identity is not None)

    @property
    def unmapped(self) -> int:
        """Reads without one."""
        return len(self.reads) - len(self.mapped)

    @property
    def mean_identity(self) -> float:
        """Mean over mapped reads."""
        return statistics.fmean(self._identities()) if self.mapped else 0.0

    @property
    def median_identity(self) -> float:
        """Median over mapped reads."""
        return statistics.median(self._identities()) if self.mapped else 0.0

    def _identities(self) -> list[float]:
        return [read.identity for read in self.reads if read.identity is not None]

    def pooled(self) -> dict[str, float]:
        """Columns of each kind per alignment column, over all mapped reads together."""
        kinds = ("matches", "mismatches", "insertions", "deletions")
        counts = {kind: sum(getattr(read, kind) for read in self.mapped) for kind in kinds}
        columns = sum(counts.values())
        return {kind: count / columns if columns else 0.0 for kind, count in counts.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "reads": len(self.reads),
            "mapped": len(self.mapped),
            "unmapped": self.unmapped,
            "mean_identity": self.mean_identity,
            "median_identity": self.median_identity,
            "pooled": self.pooled(),
            "per_read": [asdict(read) for read in self.reads],
        }


def evaluate(
    calls: str | Path | Iterable[tuple[str, str]],
    reference: str | Path | Mapping[str, str],
    *,
    by: By = "auto",
    whole_reference: bool = False,
    threads: int = 1,
) -> Evaluation:
    """Score every call.

    Args:
        calls: a FASTA, FASTQ or BAM file, or (read id, sequence) pairs.
        reference: a FASTA file, or sequences by name.
        by: ``name``: each call against the reference of its own name; ``best``: against the whole reference;
            ``auto``: by name where there is one of that name.
        whole_reference: also align end to end with edlib (only where the reference is known by name).

    Raises:
        UsageError: ``RUB-GEN-150`` (a file is missing or empty), ``RUB-GEN-152`` (``by`` name without one).
        ModelRefused: ``RUB-GEN-151``: a file is not what its name says.
    """
    if by not in ("auto", "name", "best"):
        raise UsageError("RUB-GEN-152", f"by={by!r} is not one of auto, name, best")
    references = dict(reference) if isinstance(reference, Mapping) else dict(read_sequences(reference))
    if not references:
        raise UsageError("RUB-GEN-150", f"no reference sequences in {reference}")
    pairs = read_sequences(calls) if isinstance(calls, str | Path) else calls
    index_file = None if isinstance(reference, Mapping) else Path(reference)
    scorer = _Scorer(references, index_file, by, whole_reference, threads)
    scores = tuple(scorer.score(read_id, sequence) for read_id, sequence in pairs)
    if not scores:
        raise UsageError(
            "RUB-GEN-150", "no calls to evaluate", where=str(calls) if isinstance(calls, str | Path) else ""
        )
    return Evaluation(scores)


class _Scorer:
    """Holds the index of the whole reference, made when first needed, and scores one call at a time."""

    def __init__(
        self, references: Mapping[str, str], file: Path | None, by: By, whole_reference: bool, threads: int
    ) -> None:
        self.references = references
        self.file = file
        self.by = by
        self.whole_reference = whole_reference
        self.threads = threads
        self._index: list[Any] | None = None

    def score(self, read_id: str, sequence: str) -> ReadScore:
        """One call."""
        named = self.by != "best" and read_id in self.references
        if self.by == "name" and not named:
            raise UsageError(
                "RUB-GEN-152", f"call {read_id!r} has no reference of its name", hint="use --by best"
            )
        aligners = [("", _aligner(seq=self.references[read_id]))] if named else self._all()
        best: tuple[str, Any] | None = None
        for name, aligner in aligners:
            for hit in aligner.map(sequence) if sequence else ():
                if hit.is_primary and (best is None or hit.mlen > best[1].mlen):
                    best = (name or (read_id if named else hit.ctg), hit)
        whole = self._whole(sequence, self.references[read_id]) if named and self.whole_reference else None
        return _scored(read_id, sequence, best, whole)

    def _all(self) -> list[tuple[str, Any]]:
        """Aligners with the name of their sequence, or with "" where the alignment carries it."""
        if self._index is None and self.file is not None:
            self._index = [("", _aligner(fn_idx_in=str(self.file), n_threads=self.threads))]
        elif self._index is None:
            self._index = [(name, _aligner(seq=text)) for name, text in self.references.items()]
        return self._index

    def _whole(self, sequence: str, reference: str) -> float:
        import edlib

        best = 0.0
        for strand in (sequence, sequence[::-1].translate(_COMPLEMENT)):
            if not strand:
                continue
            found = edlib.align(reference, strand, mode="HW", task="path")
            columns = edlib_columns(found["cigar"]) if found["cigar"] else {}
            total = sum(columns.values())
            best = max(best, columns.get("=", 0) / total if total else 0.0)
        return best


def edlib_columns(cigar: str) -> dict[str, int]:
    """Columns of each kind (``=XID``) in the extended CIGAR of an edlib path."""
    columns: dict[str, int] = {}
    number = ""
    for letter in cigar:
        if letter.isdigit():
            number += letter
        else:
            columns[letter] = columns.get(letter, 0) + int(number)
            number = ""
    return columns


def end_to_end(call: str, truth: str) -> float:
    """Matches over alignment columns of two sequences aligned end to end (edlib); 0 where one is empty."""
    import edlib

    if not call or not truth:
        return 0.0
    columns = edlib_columns(edlib.align(call, truth, mode="NW", task="path")["cigar"])
    return columns.get("=", 0) / sum(columns.values())


def _aligner(**source: Any) -> Any:
    import mappy

    aligner = mappy.Aligner(preset="map-ont", extra_flags=_EQX, **source)
    if not aligner:
        raise UsageError("RUB-GEN-150", "the reference cannot be indexed by minimap2")
    return aligner


def _scored(read_id: str, sequence: str, best: tuple[str, Any] | None, whole: float | None) -> ReadScore:
    if best is None:
        return ReadScore(read_id, len(sequence), whole_reference_identity=whole)
    name, hit = best
    columns = np.zeros(16, np.int64)
    for length, kind in hit.cigar:
        columns[kind] += length
    return ReadScore(
        read_id=read_id,
        length=len(sequence),
        reference=name,
        strand=hit.strand,
        identity=hit.mlen / hit.blen,
        coverage=(hit.q_en - hit.q_st) / len(sequence),
        matches=int(columns[_EQUAL]),
        mismatches=int(columns[_DIFFERENT]),
        insertions=int(columns[_INSERTION]),
        deletions=int(columns[_DELETION]),
        whole_reference_identity=whole,
    )


def read_sequences(path: str | Path) -> Iterator[tuple[str, str]]:
    """(name, sequence) of every record of a FASTA, FASTQ (gzip allowed) or BAM file, by its content.

    Names end at the first white space; secondary and supplementary BAM records are passed over.

    Raises:
        UsageError: ``RUB-GEN-150``: missing.
        ModelRefused: ``RUB-GEN-151``: malformed, truncated, or a single sequence beyond :data:`MAX_SEQUENCE`.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is not a regular file" if path.exists() else "does not exist"
        raise UsageError("RUB-GEN-150", f"{path} {kind}", hint="give a FASTA, FASTQ or BAM file")
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
        if head == b"BAM\x01":
            yield from _bam(path)
        else:
            with gzip.open(path, "rt", encoding="ascii") if packed else path.open(encoding="ascii") as text:
                yield from _records(text)
    except (OSError, EOFError, ValueError, zlib.error) as err:
        raise ModelRefused("RUB-GEN-151", f"{path} cannot be read as sequences: {err}") from err


def _bam(path: Path) -> Iterator[tuple[str, str]]:
    import pysam

    with pysam.AlignmentFile(str(path), "rb", check_sq=False) as file:
        for record in file:
            if not record.flag & _SKIP_SECONDARY:
                sequence = record.query_sequence or ""
                reverse = record.flag & 16
                yield record.query_name or "", sequence[::-1].translate(_COMPLEMENT) if reverse else sequence


def _records(text: Iterable[str]) -> Iterator[tuple[str, str]]:
    lines = (line.rstrip("\r\n") for line in text)
    head = next(lines, "")
    while head:
        if head[0] == ">":
            body: list[str] = []
            following = _gather(lines, body, ">")
            yield _name(head), "".join(body)
            head = following
        elif head[0] == "@":
            yield _name(head), _fastq(head, lines)
            head = next(lines, "")
        else:
            raise ValueError(f"a record starts with {head[:20]!r}, not with > or @")


def _gather(lines: Iterator[str], body: list[str], mark: str) -> str:
    """Append lines to ``body`` until one starts with ``mark``; that line, or "" at the end."""
    length = 0
    for line in lines:
        if line.startswith(mark):
            return line
        body.append(line)
        length += len(line)
        if length > MAX_SEQUENCE:
            raise ValueError(f"a sequence is longer than {MAX_SEQUENCE}")
    return ""


def _fastq(head: str, lines: Iterator[str]) -> str:
    sequence, plus, quality = next(lines, ""), next(lines, ""), next(lines, None)
    if quality is None or plus[:1] != "+" or len(quality) != len(sequence):
        raise ValueError(f"record {_name(head)!r} is cut short or not four lines")
    return sequence


def _name(head: str) -> str:
    return (head[1:].split(maxsplit=1) or [""])[0]
