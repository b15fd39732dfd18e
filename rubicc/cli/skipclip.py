"""``rubicc skipclip MODEL -o OUT``."""

from __future__ import annotations

import argparse
import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rubicc.cli.compile import resolve_settings
from rubicc.cli.console import Console, table
from rubicc.cli.parser import add_reading, number
from rubicc.cli.train import add_retraining, asked, carried_out, training_settings

if TYPE_CHECKING:
    from rubicc.settings import Settings


_number = functools.partial(number, code="RUB-SHRINK-051")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    parser.add_argument("--list", action="store_true", help="print the skips of MODEL, and stop")
    group = parser.add_argument_group("which skips, in which order")
    group.add_argument("--only", action="append", metavar="NAME", help="skips that go, e.g. 'blocks.1*'")
    group.add_argument("--keep", action="append", metavar="NAME", help="skips that stay")
    group.add_argument(
        "--stride", metavar="N", help="skips that go at a time (default: as MODEL's schedule, or 1)"
    )
    group.add_argument(
        "--order",
        choices=("input", "importance"),
        help="from the input side, or weakest first (default: as MODEL's schedule, or input)",
    )
    group.add_argument("--stages", metavar="N", help="only the next N stages; a later run goes on with OUT")
    group.add_argument("--anew", action="store_true", help="do not go on with the schedule in MODEL")
    group = parser.add_argument_group("how")
    group.add_argument("--fold", action="store_true", help="fold where that loses nothing, else remove")
    group.add_argument(
        "--recalibrate", metavar="N", help="adjust norms and quantisers on N batches after each removal"
    )
    group.add_argument("--share", metavar="SHARE", help="of the steps until the last skips go (default 50%%)")
    add_retraining(parser, "training after each removal", "remove only")


def run(args: argparse.Namespace, console: Console) -> int:
    """Remove skips, and print what changed; or list them."""
    if args.list:
        return _list(args, console, resolve_settings(args))
    return carried_out(args, console, given)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rubicc.api.skipclip` beside MODEL and OUT."""
    return asked(args, settings=skip_settings(args), training=training_settings(args))


def skip_settings(args: argparse.Namespace) -> Any:
    """SkipSettings from the flags.

    Raises:
        UsageError: ``RUB-SHRINK-051``.
    """
    from rubicc.shrink.skip_schedule import SkipSettings

    found: dict[str, Any] = {}
    for name in ("stride", "stages", "recalibrate"):
        if getattr(args, name) is not None:
            found[name] = _number(name, getattr(args, name), int)
    if args.share is not None:
        found["share"] = _number("share", args.share)
    if args.order is not None:
        found["order"] = args.order
    if args.only:
        found["names"] = tuple(args.only)
    found |= {"keep": tuple(args.keep or ()), "fold": args.fold, "anew": args.anew}
    return SkipSettings(train=args.epochs is None, **found)


def _list(args: argparse.Namespace, console: Console, reading: Settings) -> int:
    from rubicc.shrink.skipclip import skips_of

    skips, reasons, plan = skips_of(args.model, reading)
    found = [
        {
            "name": one.name,
            "source": one.source,
            "kind": one.kind,
            "form": one.form,
            "weights": one.weights,
            "not folded because": reasons.get(one.name),
        }
        for one in skips.found
    ]
    stay = [{"name": one.name, "source": one.source, "reason": one.reason} for one in skips.refused]
    rows = [
        (one.name, one.kind, one.form, str(one.weights), reasons.get(one.name, "can be folded without loss"))
        for one in skips.found
    ]
    text = table(("skip", "kind", "form", "weights", "folding"), rows, right="3")
    if stay:
        text += ["", *table(("stays", "because"), [(one["name"], one["reason"]) for one in stay])]
    if plan is not None:
        coming = "; ".join(", ".join(stage) for stage in plan.remaining)
        text += ["", f"schedule: {plan.words}" + (f": {coming}" if coming else "")]
    console.result({"skips": found, "refused": stay, "schedule": plan and asdict(plan)}, text)
    return 0
