"""``rubicc verify ARTEFACT``: are these the files that were written, and do they still compute the same?"""

from __future__ import annotations

import argparse

from rubicc.cli.console import Console, facts


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("artefact", metavar="ARTEFACT", help="folder that `rubicc compile` wrote")
    parser.add_argument("--data", metavar="PATH", help="new inputs (.npz or reads) to run as well")
    parser.add_argument("--runtime", metavar="R", help="only in this runtime (default: every one it runs in)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print what was checked; exit code 5 (raised) when anything does not hold."""
    from rubicc import api

    found = api.verify(args.artefact, data=args.data, runtime=args.runtime)
    limits = {"SNR at least": found.max_gap.snr, "max abs at most": found.max_gap.max_abs}
    within = ", ".join(f"{what} {limit:g}" for what, limit in limits.items() if limit is not None)
    lines = facts(
        {"files": f"{found.files.checked} re-hashed, all as written"}
        | {name: gap.describe() for name, gap in found.gaps.items()}
        | {"limits": within or "none"}
    )
    console.result({"files": found.files, "gaps": found.gaps, "max_gap": found.max_gap}, lines)
    return 0
