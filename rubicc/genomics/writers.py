"""Calls as FASTA, FASTQ or unaligned BAM, chosen by the output's name; ``.gz`` gives blocked gzip.

A format turns calls into plain records; :meth:`Format.pack` turns a group of records into bytes that may be
appended to the file and may end it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics import bam
from rubicc.genomics.call import Call
from rubicc.genomics.normalise import Scaling
from rubicc.genomics.reads import Read
from rubicc.spec import ModelMeta

_KINDS = {
    ".fasta": "fasta",
    ".fa": "fasta",
    ".fastq": "fastq",
    ".fq": "fastq",
    ".bam": "bam",
}


@dataclass(frozen=True)
class CalledRead:
    """A call with the facts of its read that the output carries. ``read.signal`` is already dropped."""

    read: Read
    samples: int
    scaling: Scaling
    call: Call


@dataclass(frozen=True)
class Format:
    """One output format of one run."""

    kind: str
    packed: bool
    meta: ModelMeta
    version: str

    def header(self) -> bytes:
        """Bytes before the first record."""
        if self.kind != "bam":
            return b""
        model = _model_name(self.meta)
        lines = (
            "@HD\tVN:1.6\tSO:unknown",
            f"@PG\tID:basecaller\tPN:rubicc\tVN:{self.version}",
            f"@RG\tID:{model}\tPL:ONT\tDS:basecall_model={model}",
        )
        return self.pack(bam.header("".join(line + "\n" for line in lines)))

    def record(self, called: CalledRead) -> bytes:
        """One record, not yet packed."""
        call, name = called.call, called.read.read_id
        if self.kind == "fasta":
            return f">{name}\n{call.sequence}\n".encode("ascii")
        tags = _tags(called, self.meta)
        if self.kind == "fastq":
            comment = "\t".join(f"{tag}:{kind}:{_shown(kind, value)}" for tag, kind, value in tags)
            return f"@{name}\t{comment}\n{call.sequence}\n+\n{call.qstring}\n".encode("ascii", "replace")
        moves = np.concatenate(([self.meta.stride or 1], call.moves)).astype(np.int8)
        group = [("mv", "Bc", moves), ("RG", "Z", _model_name(self.meta))]
        return bam.record(name, call.sequence, call.qstring, [*tags, *group])

    def pack(self, records: bytes) -> bytes:
        """``records`` as they stand in the file."""
        return bam.bgzf(records) if self.packed else records

    def trailer(self) -> bytes:
        """Bytes after the last record."""
        return bam.EOF_BLOCK if self.packed else b""


def format_for(out: Path, meta: ModelMeta, version: str) -> Format:
    """The format that the name of ``out`` asks for.

    Raises:
        UsageError: ``RUB-GEN-144``.
    """
    kind, packed = kind_of(out)
    return Format(kind, packed or kind == "bam", meta, version)


def kind_of(out: Path) -> tuple[str, bool]:
    """``fasta``, ``fastq`` or ``bam`` by the name of ``out``, and whether it ends in ``.gz``.

    Raises:
        UsageError: ``RUB-GEN-144``.
    """
    suffixes = [suffix.lower() for suffix in out.suffixes]
    packed = suffixes[-1:] == [".gz"]
    named = suffixes[:-1] if packed else suffixes
    kind = _KINDS.get(named[-1] if named else "", "")
    if not kind or (packed and kind == "bam"):
        known = ", ".join(_KINDS)
        raise UsageError(
            "RUB-GEN-144", f"{out.name} names no known format", hint=f"{known}; text also with .gz"
        )
    return kind, packed


def _model_name(meta: ModelMeta) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in meta.arch) or "model"


def _shown(kind: str, value: object) -> str:
    return f"{value:.6g}" if kind == "f" else str(value)


def _tags(called: CalledRead, meta: ModelMeta) -> list[bam.Tag]:
    """Tags with the names and meanings dorado gives them; facts a file does not hold are left out."""
    read = called.read
    tags: list[bam.Tag] = [
        ("qs", "f", float(called.call.mean_q)),
        ("du", "f", called.samples / read.sampling_rate),
        ("ns", "i", called.samples),
        ("ts", "i", 0),
    ]
    if read.channel:
        tags += [("mx", "i", read.mux), ("ch", "i", read.channel), ("rn", "i", read.read_number)]
    if started := _start_time(read):
        tags.append(("st", "Z", started))
    tags += [
        ("fn", "Z", _one_line(Path(read.source).name)),
        ("sm", "f", called.scaling.shift),
        ("sd", "f", called.scaling.scale),
        ("sv", "Z", meta.signal.normalisation if meta.signal else "none"),
    ]
    return tags


def _one_line(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _start_time(read: Read) -> str:
    if not read.run_start:
        return ""
    try:
        began = datetime.datetime.fromisoformat(read.run_start)
        started = began + datetime.timedelta(seconds=read.start_sample / read.sampling_rate)
    except (ValueError, OverflowError):
        return ""
    return started.isoformat(timespec="milliseconds")
