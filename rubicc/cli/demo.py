"""``rubicc demo -o OUT``: the main job on the embedded basecaller and reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, facts
from rubicc.cli.parser import add_settings
from rubicc.text import clean, si


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("-o", "--output", metavar="OUT", default="demo-out", help="folder (default demo-out)")
    parser.add_argument("--runtime", metavar="R", help="auto (measure and choose), onnxruntime or openvino")
    add_settings(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Compile, prove, call, evaluate; print what each gave and where the report lies."""
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    from rubicc.driver.demo import run_demo
    from rubicc.genomics.progress import Silent, StreamProgress

    demo = run_demo(Path(args.output), settings, StreamProgress() if console.bars else Silent())
    report, calls, scores = demo.artefact.report, demo.summary, demo.evaluation
    shown: dict[str, object] = {
        "model": "demo-ctc, trained by us on simulated signal (not on real reads)",
        "artefact": demo.artefact.path,
        "runtime": report.runtime,
        "verdict": f"{report.verdict}: {report.verdict_reason}",
        "calls": f"{calls.output}: {calls.reads} reads, {calls.bases:,} bases",
        "speed": f"{si(calls.samples_per_second)} samples/s, network, decoding and files",
        "identity": f"median {scores.median_identity:.4f}, mean {scores.mean_identity:.4f} "
        f"({len(scores.mapped)} of {len(scores.reads)} reads aligned)",
        "report": clean(str(demo.report)),
    }
    value = {
        "artefact": demo.artefact.path,
        "verdict": report.verdict,
        "runtime": report.runtime,
        "gaps": report.gaps,
        "calls": calls,
        "evaluation": scores,
        "report": demo.report,
    }
    console.result(value, facts(shown))
    return 0
