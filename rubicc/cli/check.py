"""``rubicc check MODEL --target T``: every refusal and warning at once, of a model or a Core ML package."""

from __future__ import annotations

import argparse

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, findings_table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)
    parser.add_argument("--target", metavar="T[:device]", help="see `rubicc targets`")
    parser.add_argument("--precision", metavar="P", help="as for compile")
    parser.add_argument("--shapes", metavar="S", help="as for compile")
    group = parser.add_argument_group("checking a Core ML package: MODEL is Name.mlpackage, of any origin")
    group.add_argument(
        "--strict",
        action="store_true",
        default=None,
        help="an operation that is not known to run on the Neural Engine is an error",
    )
    group.add_argument("--page", metavar="FILE.html", help="draw every operation and where it would run")
    group.add_argument("--force", action="store_true", help="replace the page")
    group.add_argument(
        "--audit", metavar="FILE", help="what ane_audit.py wrote on a Mac, to set beside the rules"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the findings; exit code 4 when the target refuses."""
    settings = resolve_settings(args, need_target=not args.print_config)
    if args.print_config:
        return print_config(settings, console)
    from rubicc import api

    files = api.check_files(args.model, audit=args.audit, page=args.page, force=args.force, settings=settings)
    findings = list(files.findings if files else api.check(args.model, settings=settings))
    refused = sum(f.severity == "error" for f in findings)
    summary = f"{refused} refusal(s), {len(findings) - refused} warning(s) for {settings.target}"
    result = {"target": settings.target, "supported": not refused, "findings": findings}
    told = [clean(line) for line in files.lines] if files else []
    console.result(
        result | ({"details": files.details} if files else {}),
        [*told, *findings_table(findings), summary],
    )
    return 4 if refused else 0
