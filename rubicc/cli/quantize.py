"""``rubicc quantize MODEL -o OUT``."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from rubicc.backends.registry import parse_target
from rubicc.cli.parser import add_reading, number
from rubicc.cli.train import add_retraining, asked, carried_out, training_settings
from rubicc.errors import UsageError
from rubicc.quantities import parse_seconds

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
LONGEST = 3600.0

_number = functools.partial(number, code="RUB-SHRINK-070", share=False)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    group = parser.add_argument_group("one width for all layers")
    group.add_argument("--bits", metavar="N", help="of weights, 2 to 8 (default 8)")
    group = parser.add_argument_group("widths by layer, the least divergence within budgets")
    for name, (metavar, words, _) in BUDGETS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=words)
    group.add_argument("--latency", metavar="TIME", help="of one item, e.g. 5ms, by --latency-table")
    group.add_argument(
        "--latency-table", metavar="FILE", help="seconds by layer and widths (docs/quantisation.md)"
    )
    group.add_argument(
        "--identity-loss",
        metavar="X",
        help="smallest network that loses at most this on --validation, e.g. 0.5%%",
    )
    group.add_argument("--widths", metavar="N,N", help="that layers may have (default 3,4,5,6,7,8)")
    group.add_argument("--sensitivity", choices=("output", "fisher"), help="measured (default) or predicted")
    group.add_argument("--no-refine", action="store_true", help="keep the first assignment")
    group = parser.add_argument_group("form")
    group.add_argument("--target", metavar="T[:device]", help="only widths that this target keeps")
    group.add_argument(
        "--activations", metavar="N", help="8: round inputs of layers too; 32: float (default)"
    )
    group.add_argument("--granularity", choices=("tensor", "channel", "block"), help="of scales")
    group.add_argument("--asymmetric", action="store_true", help="grids with a zero point")
    group.add_argument("--layer", action="append", metavar="NODE", help="only this one; may be repeated")
    group.add_argument("--skip", action="append", metavar="NODE", help="stays in float; may be repeated")
    group.add_argument("--storage", choices=("quantisers", "int8", "float"), help="of the weights in OUT")
    add_retraining(parser, "training with quantisers", "do not train")


def run(args: argparse.Namespace, console: Console) -> int:
    """Quantise, and print what changed."""
    return carried_out(args, console, given)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rubicc.api.quantize` beside MODEL and OUT."""
    return asked(args, settings=quantize_settings(args), training=training_settings(args))


def quantize_settings(args: argparse.Namespace) -> Any:
    """QuantizeSettings from the flags.

    Raises:
        UsageError: ``RUB-SHRINK-070``, ``-076``; ``RUB-CLI-004`` no time; ``RUB-TGT-001``, ``-002``.
    """
    from rubicc.passes.quantize.assign import Budgets
    from rubicc.shrink.latency import read_latency
    from rubicc.shrink.quantize import QuantizeSettings

    given = {flag: getattr(args, flag.replace("-", "_")) for flag in BUDGETS}
    budgets = {BUDGETS[flag][2]: _number(flag, text) for flag, text in given.items() if text is not None}
    if args.latency is not None:
        budgets["latency"] = parse_seconds("--latency", args.latency, "", LONGEST)
    found: dict[str, Any] = {"budgets": Budgets(**budgets)}
    if args.latency_table is not None:
        found["latency"] = read_latency(args.latency_table)
    if args.identity_loss is not None:
        found["identity_loss"] = number("identity-loss", args.identity_loss, code="RUB-SHRINK-070")
    if args.target is not None:
        found["target"] = str(parse_target(args.target))
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
