"""``rubicc quantize MODEL -o OUT``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rubicc.cli.compile import resolve_settings
from rubicc.cli.parser import add_reading
from rubicc.cli.train import add_data, add_training, lines, training_settings, watcher
from rubicc.errors import UsageError

if TYPE_CHECKING:
    from rubicc.cli.console import Console

BUDGETS = {
    "weights-mean-bits": ("BITS", "mean width of the weights, e.g. 5.5", "mean_bits"),
    "size": ("BYTES", "of the layers' weights and scales", "size"),
    "bops": ("N", "bit operations of one item", "bops"),
    "divergence": (
        "X",
        "sum of the layers' divergences; alone: the smallest network within it",
        "divergence",
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    group = parser.add_argument_group("one width for all layers")
    group.add_argument("--bits", metavar="N", help="of weights, 2 to 8 (default 8)")
    group = parser.add_argument_group("widths by layer, the least divergence within budgets")
    for name, (metavar, words, _) in BUDGETS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=words)
    group.add_argument("--widths", metavar="N,N", help="that layers may have (default 3,4,5,6,7,8)")
    group.add_argument("--sensitivity", choices=("output", "fisher"), help="measured (default) or predicted")
    group.add_argument("--no-refine", action="store_true", help="keep the first assignment")
    group = parser.add_argument_group("form")
    group.add_argument("--activations", metavar="N", help="8: round inputs of layers too (default 32)")
    group.add_argument("--granularity", choices=("tensor", "channel", "block"), help="of scales")
    group.add_argument("--asymmetric", action="store_true", help="grids with a zero point")
    group.add_argument("--layer", action="append", metavar="NODE", help="only this one; may be repeated")
    group.add_argument("--skip", action="append", metavar="NODE", help="stays in float; may be repeated")
    group.add_argument("--storage", choices=("quantisers", "int8", "float"), help="of the weights in OUT")
    group = parser.add_argument_group("training with quantisers (needs --data)")
    group.add_argument("--epochs", metavar="0", choices=("0",), help="0: do not train, measure on --data")
    add_data(group)
    add_training(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Quantise, and print what changed."""
    if args.output is None:
        raise UsageError("RUB-CLI-006", "-o OUT is missing", hint="`rubicc quantize --help` shows it")
    reading = resolve_settings(args)
    from rubicc import api

    made = api.quantize(
        args.model,
        out=args.output,
        settings=quantize_settings(args),
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


def quantize_settings(args: argparse.Namespace) -> Any:
    """QuantizeSettings from the flags.

    Raises:
        UsageError: ``RUB-SHRINK-070``.
    """
    from rubicc.passes.quantize.assign import Budgets
    from rubicc.shrink.quantize import QuantizeSettings

    given = {field: getattr(args, flag.replace("-", "_")) for flag, (_, _, field) in BUDGETS.items()}
    budgets = Budgets(**{field: _number(field, text, float) for field, text in given.items() if text})
    found: dict[str, Any] = {"budgets": budgets}
    for name in ("bits", "activations"):
        if getattr(args, name) is not None:
            found[name] = _number(name, getattr(args, name), int)
    if args.widths is not None:
        found["widths"] = tuple(_number("widths", text, int) for text in args.widths.split(","))
    for name in ("granularity", "storage", "sensitivity"):
        if getattr(args, name) is not None:
            found[name] = getattr(args, name)
    made = QuantizeSettings(
        **found,
        symmetric=not args.asymmetric,
        layers=tuple(args.layer or ()),
        skip=tuple(args.skip or ()),
        refine=not args.no_refine,
        train=args.epochs is None,
    )
    if made.mixed and args.bits is not None:
        raise UsageError("RUB-SHRINK-070", "--bits and a budget", hint="give one of the two")
    return made


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError("RUB-SHRINK-070", f"{name} is {text[:40]!r}", hint="give a number") from None
