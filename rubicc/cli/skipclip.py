"""``rubicc skipclip MODEL -o OUT``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rubicc.cli.compile import resolve_settings
from rubicc.cli.console import Console, table
from rubicc.cli.parser import add_reading
from rubicc.cli.train import add_data, add_training, lines, training_settings, watcher
from rubicc.errors import UsageError

if TYPE_CHECKING:
    from rubicc.settings import Settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    parser.add_argument("--list", action="store_true", help="print the skips of MODEL, and stop")
    group = parser.add_argument_group("which skips, in which order")
    group.add_argument("--only", action="append", metavar="NAME", help="skips that go, e.g. 'blocks.1*'")
    group.add_argument("--keep", action="append", metavar="NAME", help="skips that stay")
    group.add_argument("--stride", metavar="N", help="skips that go at a time (default 1)")
    group.add_argument(
        "--order", choices=("input", "importance"), help="from the input side (default), or weakest first"
    )
    group = parser.add_argument_group("how")
    group.add_argument("--fold", action="store_true", help="fold where that loses nothing, else remove")
    group.add_argument(
        "--recalibrate", metavar="N", help="adjust norms and quantisers on N batches after each removal"
    )
    group.add_argument("--share", metavar="SHARE", help="of the steps until the last skips go (default 50%%)")
    group = parser.add_argument_group("training after each removal (needs --data)")
    group.add_argument("--epochs", metavar="0", choices=("0",), help="0: remove only, measure on --data")
    add_data(group)
    add_training(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Remove skips, and print what changed; or list them."""
    reading = resolve_settings(args)
    if args.list:
        return _list(args, console, reading)
    if args.output is None:
        raise UsageError("RUB-CLI-006", "-o OUT is missing", hint="`rubicc skipclip --help` shows it")
    from rubicc import api

    made = api.skipclip(
        args.model,
        out=args.output,
        settings=skip_settings(args),
        data=args.data or (),
        teacher=args.teacher,
        teacher_arch=args.teacher_arch,
        validation=args.validation or (),
        training=training_settings(args),
        reading=reading,
        watcher=watcher(console),
    )
    if made is not None:
        console.result({"path": made.path, **made.report.to_dict()}, lines(made, reading))
    return 0


def skip_settings(args: argparse.Namespace) -> Any:
    """SkipSettings from the flags.

    Raises:
        UsageError: ``RUB-SHRINK-051``.
    """
    from rubicc.shrink.skip_schedule import SkipSettings

    found: dict[str, Any] = {}
    for name in ("stride", "recalibrate"):
        if getattr(args, name) is not None:
            found[name] = _number(name, getattr(args, name), int)
    if args.share is not None:
        found["share"] = _number("share", args.share, float)
    if args.order is not None:
        found["order"] = args.order
    if args.only:
        found["names"] = tuple(args.only)
    return SkipSettings(keep=tuple(args.keep or ()), fold=args.fold, train=args.epochs is None, **found)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text[:-1]) / 100 if text.endswith("%") and kind is float else kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number such as 0.5 or 50%"
        raise UsageError("RUB-SHRINK-051", f"--{name} is {text!r}", hint=f"give {what}") from None


def _list(args: argparse.Namespace, console: Console, reading: Settings) -> int:
    from rubicc.shrink.skipclip import skips_of

    skips, reasons = skips_of(args.model, reading)
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
    console.result({"skips": found, "refused": stay}, text)
    return 0
