"""``rubicc compile MODEL --target T -o OUT``."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from typing import TYPE_CHECKING, Any

from rubicc.cli.console import LOGGER, Console, decision_line, facts, table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.errors import UsageError
from rubicc.text import clean

if TYPE_CHECKING:
    from rubicc.settings import Settings

# argparse destination == field of Settings
SETTING_FLAGS = (
    *("target", "inputs", "arch", "arch_config", "precision", "runtime", "layout", "shapes", "threads"),
    *("batch", "streams", "tune", "objective", "cache", "calib", "reference"),
    *("max_gap", "budget", "seed", "strict", "check", "dump_stages", "from_stage", "until_stage"),
    *("allow_code", "trust", "dry_run", "force", "device_facts"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)
    group = parser.add_argument_group("compiling")
    group.add_argument("--target", metavar="T[:device]", help="see `rubicc targets`")
    group.add_argument("-o", "--output", metavar="OUT", help="artefact folder to write")
    group.add_argument(
        "--precision",
        metavar="P",
        help="fp32 (default), fp16, bf16, int8, mixed (int8 and float) or auto; coreml: fp16 (default), "
        "fp32, int8, int4, palette1 to palette8, sparse or w8a8",
    )
    group.add_argument(
        "--shapes",
        metavar="S",
        help="coreml: fixed (default), enumerated, range, x=1x1x2000,1x1x4000 or x=1..8x1x400..16000",
    )
    group.add_argument(
        "--runtime",
        metavar="R",
        help="auto (measure and choose), onnxruntime, openvino or native; coreml: mil, coreml",
    )
    group.add_argument("--calib", metavar="PATH", help="signal for calibration (default: simulated)")
    group.add_argument("--reference", metavar="PATH", help="real data for the verification")
    group.add_argument(
        "--max-gap", action="append", metavar="WHAT=LIMIT", help="snr=30dB, max_abs=1e-4 or identity=0.5"
    )
    group.add_argument("--budget", action="append", metavar="WHAT=LIMIT", help="latency=5ms or size=2MiB")
    group.add_argument(
        "--device-fact",
        dest="device_facts",
        action="append",
        metavar="FACT=NUMBER",
        help="aie: a number that the table of devices does not know, e.g. memory_tile_rows=1",
    )
    group.add_argument("--force", action="store_true", default=None, help="replace an artefact of rubicc")
    group.add_argument("--strict", action="store_true", default=None, help="any decision is an error")
    add_tuning(parser)
    group = parser.add_argument_group("looking inside")
    group.add_argument("--dry-run", action="store_true", default=None, help="everything but writing OUT")
    group.add_argument("--check", action="store_true", default=None, help="verify the graph after every pass")
    group.add_argument(
        "--dump-stages", action="store_true", default=None, help="keep the graph of every pass"
    )
    group.add_argument("--from-stage", metavar="NN|ID", help="start after this stage of the artefact at OUT")
    group.add_argument("--until-stage", metavar="NN|ID", help="stop after this pass")


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """What is measured to choose how the network runs; what is given is not measured."""
    group = parser.add_argument_group("tuning (what is given is not measured)")
    group.add_argument("--layout", metavar="L", help="auto (measure and choose), plain or polyphase")
    group.add_argument("--batch", metavar="N", help="items in flight at once")
    group.add_argument("--streams", metavar="N", help="calls at once that the batch is cut into")
    group.add_argument("--objective", metavar="O", help="throughput (default) or latency")
    group.add_argument("--tune", metavar="S", help="seconds of measuring in all (default 3; 0 = none)")
    group.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        default=None,
        help="measure again what was measured here before",
    )


def resolve_settings(args: argparse.Namespace, *, need_target: bool = False) -> Settings:
    """Settings from the verb's flags, the environment and the recipe.

    Raises:
        UsageError: see :func:`rubicc.settings.resolve`; ``RUB-CLI-006`` no target where one is needed.
    """
    from rubicc.settings import resolve

    _warn_about_unknown_variables()
    flags = {key: getattr(args, key, None) for key in SETTING_FLAGS}
    settings = resolve(flags, sets=getattr(args, "sets", ()), recipe=getattr(args, "recipe", None))
    if need_target and "target" not in settings.origins:
        raise UsageError(
            "RUB-CLI-006", "--target is missing", hint="for example --target cpu; see `rubicc targets`"
        )
    return settings


def _warn_about_unknown_variables() -> None:
    """A misspelt RUBICC_ variable would be ignored in silence; other tools may own some, so no error."""
    from rubicc.settings import ENV_KEYS, env_name

    known = [*map(env_name, ENV_KEYS), "RUBICC_PLUGINS", "RUBICC_SHARED_DATA"]
    for name in sorted(set(os.environ) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8) if name.startswith("RUBICC_") else []
        if near:
            logging.getLogger(LOGGER).warning("variable %s is not known; did you mean %s?", name, near[0])


def print_config(settings: Settings, console: Console) -> int:
    """The result of ``--print-config``."""
    rows = settings.describe()
    value = {key: {"value": item, "origin": origin} for key, item, origin in rows}
    console.result(value, table(("setting", "value", "origin"), rows))
    return 0


def run(args: argparse.Namespace, console: Console) -> int:
    """Compile, and print where the artefact lies and what was verified."""
    if args.print_config:
        return print_config(resolve_settings(args), console)
    settings = given(args)["settings"]
    if args.output is None and not settings.dry_run:
        raise UsageError("RUB-CLI-006", "-o OUT is missing", hint="or --dry-run to write nothing")
    from rubicc import api

    artefact = api.compile(args.model, out=args.output, settings=settings)
    console.result(_value(artefact), _lines(artefact))
    return 0


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rubicc.api.compile` beside MODEL and OUT."""
    return {"settings": resolve_settings(args, need_target=True)}


def _value(artefact: Any) -> dict[str, Any]:
    report = artefact.report
    return {
        "path": artefact.path,
        "verdict": report.verdict,
        "verdict_reason": report.verdict_reason,
        "runtime": report.runtime,
        "precision": report.precision,
        "totals": dict(report.totals),
        "gaps": report.gaps,
        "decisions": report.decisions,
        "measured": report.measured,
        "not_measured": report.not_measured,
        "content_sha256": artefact.manifest.content_sha256,
    }


def _lines(artefact: Any) -> list[str]:
    report = artefact.report
    shown: dict[str, object] = {
        "artefact": artefact.path or "(dry run: nothing written)",
        "model": report.name,
        "target": f"{report.target}, {report.precision}, {report.runtime}",
        "verdict": f"{report.verdict}. {report.verdict_reason}".rstrip(". ") + ".",
    }
    shown |= {name: gap.describe() for name, gap in report.gaps.items()}
    # Stage times are in the log already.
    timings = (m for m in report.measured if not m.what.startswith("compile:"))
    shown |= {m.what: f"{m.value:.4g} {m.unit} ({m.how})" for m in timings}
    lines = facts(shown)
    lines += map(decision_line, report.decisions)
    if artefact.path:
        lines.append(f"report: {clean(artefact.path)}/report.html")
    return lines
