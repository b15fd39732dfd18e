"""``rubicc evaluate CALLS --reference FASTA``: how right the calls are."""

from __future__ import annotations

import argparse
from typing import Any

from rubicc.cli.console import Console, facts, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("calls", metavar="CALLS", help="FASTA, FASTQ or BAM")
    parser.add_argument("--reference", metavar="FASTA", required=True, help="truth per read, or a genome")
    parser.add_argument(
        "--by",
        choices=("auto", "name", "best"),
        default="auto",
        help="score against the reference of the same name, the best hit, or (auto) name where there is one",
    )
    parser.add_argument("--whole-reference", action="store_true", help="also align end to end (edlib)")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="threads for the index")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print one row per read and the summary."""
    from rubicc import api

    found = api.evaluate(
        args.calls,
        reference=args.reference,
        by=args.by,
        whole_reference=args.whole_reference,
        threads=args.threads,
    )
    header = ["read", "length", "identity", "mismatches", "insertions", "deletions", "coverage"]
    rows = [_row(read) for read in found.reads]
    if args.whole_reference:
        header.append("end to end")
        for row, r in zip(rows, found.reads, strict=True):
            row.append("" if r.whole_reference_identity is None else f"{r.whole_reference_identity:.4f}")
    pooled = ", ".join(f"{kind} {share:.2%}" for kind, share in found.pooled().items())
    summary = {
        "reads": f"{len(found.reads)} ({found.unmapped} unmapped)",
        "identity": f"median {found.median_identity:.4f}, mean {found.mean_identity:.4f}",
        "pooled": pooled,
    }
    console.result(found, [*table(header, rows, right="1234567"), "", *facts(summary)])
    return 0


def _row(read: Any) -> list[object]:
    identity = "unmapped" if read.identity is None else f"{read.identity:.4f}"
    columns = [read.mismatches, read.insertions, read.deletions]
    return [read.read_id, read.length, identity, *columns, f"{read.coverage:.3f}"]
