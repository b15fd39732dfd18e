"""``rubicc basecall ARTEFACT|MODEL READS -o OUT``: from signal to sequence."""

from __future__ import annotations

import argparse
import logging
import os
import stat
from typing import Any

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import LOGGER, Console, facts
from rubicc.cli.parser import add_reading, add_settings
from rubicc.errors import UsageError
from rubicc.quantities import parse_whole
from rubicc.text import si


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    parser.add_argument("reads", nargs="+", metavar="READS", help="fast5 or pod5 files, or folders of them")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help=".fasta, .fastq (also .gz) or .bam"
    )
    parser.add_argument("--force", action="store_true", default=None, help="replace OUT if it exists")
    parser.add_argument(
        "--runtime", metavar="R", help="such as onnxruntime or openvino (default: the artefact's own)"
    )
    parser.add_argument("--batch", metavar="N", help="chunks per run of the network")
    parser.add_argument(
        "--chunk", metavar="N", help="samples per chunk (default: the model's; 0 = every read in one piece)"
    )
    parser.add_argument(
        "--overlap", metavar="N", help="samples neighbouring chunks share (default: the model's)"
    )
    parser.add_argument("--decode-threads", metavar="N", help="threads that decode")
    parser.add_argument(
        "--read-ids", metavar="FILE", help="call only the reads named in FILE, one id per line"
    )
    parser.add_argument("--no-recursive", action="store_true", help="do not look into subfolders")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray calls the input files on many workers",
    )
    parser.add_argument(
        "--workers", metavar="N", help="files called at the same time by ray (default: one per core)"
    )
    parser.add_argument(
        "--ray-address", metavar="A", help="a running cluster (default: ray is started on this machine)"
    )
    add_settings(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Call the reads; exit code 3 when a file or read had to be left out."""
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    options = _options(args)
    workers = None if args.workers is None else parse_whole("--workers", args.workers, "", 1, 2**16)
    if args.engine != "ray" and (workers is not None or args.ray_address is not None):
        hint = "add --engine ray, or leave them out"
        raise UsageError("RUB-CLI-016", "--workers and --ray-address are for --engine ray", hint=hint)
    from rubicc import api
    from rubicc.genomics.progress import Silent, StreamProgress

    log = logging.getLogger(f"{LOGGER}.basecall")
    summary = api.basecall(
        args.model,
        args.reads,
        out=args.output,
        settings=settings,
        progress=StreamProgress() if console.bars else Silent(),
        on_problem=lambda problem: log.warning("left out: %s", problem),
        options=options,
        cluster=api.Cluster(workers, args.ray_address) if args.engine == "ray" else None,
    )
    console.result(summary, _lines(summary))
    return int(summary.exit_code)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name in ("batch", "chunk", "overlap", "decode_threads"):
        text = getattr(args, name)
        if text is not None:
            low = 0 if name in ("overlap", "chunk") else 1
            options[name] = parse_whole(f"--{name.replace('_', '-')}", text, "", low, 2**31 - 1)
    if args.no_recursive:
        options["recursive"] = False
    if args.read_ids is not None:
        options["read_ids"] = _read_ids(args.read_ids)
    return options


def _read_ids(path: str) -> frozenset[str]:
    hint = "give a text file with one read id per line"
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                raise OSError("a device has no end")
            ids = frozenset(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as err:
        what = f"the read id list cannot be read: {getattr(err, 'strerror', None) or err}"
        raise UsageError("RUB-CLI-010", what, where=path, hint=hint) from err
    if not ids:
        raise UsageError("RUB-CLI-010", "the read id list is empty", where=path, hint=hint)
    return ids


def _lines(summary: Any) -> list[str]:
    done = {
        "output": summary.output,
        "reads": f"{summary.reads:,}"
        + (f" ({summary.resumed_reads:,} from before)" if summary.resumed_reads else ""),
        "bases": f"{summary.bases:,}",
        "samples": f"{summary.samples:,}",
        "speed": f"{si(summary.samples_per_second)} samples/s over {summary.seconds:.1f} s",
        "busy": ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.stage_seconds.items()),
    }
    lines = facts(done)
    if summary.problem_count:
        lines.append(f"left out: {summary.problem_count} (named on stderr and in --format json)")
    return lines
