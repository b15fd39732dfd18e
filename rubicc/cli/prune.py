"""``rubicc prune MODEL -o OUT``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.backends.registry import parse_target
from rubicc.cli.compile import resolve_settings
from rubicc.cli.console import Console, table
from rubicc.cli.parser import add_reading, number
from rubicc.cli.train import add_retraining, asked, carried_out, training_settings
from rubicc.errors import UsageError

if TYPE_CHECKING:
    from rubicc.settings import Settings
    from rubicc.shrink.latency import LatencyBudget
    from rubicc.shrink.prune_scores import Measure

# flag -> (metavar, words, option of prune.channels)
CHANNELS: dict[str, tuple[str, str, str]] = {
    "ratio": ("SHARE", "of the channels that goes, e.g. 50%%", "ratio"),
    "macs": ("BUDGET", "multiplications left, e.g. 50%% or 2e9", "macs"),
    "weight-bytes": ("BUDGET", "bytes of weights left, e.g. 25%% or 500000", "weight_bytes"),
    "align": ("N", "what stays of a layer is a multiple of N, such as 8, 16, 32", "align"),
    "most": ("SHARE", "largest share that a layer may lose (default 90%%)", "most"),
}


MEASURED = ("taylor", "reconstruction")  # on data
_number = functools.partial(number, code="RUB-SHRINK-031")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    parser.add_argument("--list", action="store_true", help="print what may go and what stays, and stop")
    group = parser.add_argument_group("whole channels, hidden units, heads")
    for name, (metavar, words, _) in CHANNELS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=words)
    group.add_argument(
        "--latency", metavar="BUDGET", help="predicted for one item, e.g. 5ms or 50%%, by one of these two:"
    )
    group.add_argument(
        "--latency-table", metavar="FILE", help="seconds by layer and widths (docs/quantisation.md)"
    )
    group.add_argument("--target", metavar="T[:device]", help="its own model, e.g. aie:vek280")
    group.add_argument("--scope", choices=("uniform", "global"), help="every layer alike, or the weakest")
    group.add_argument(
        "--importance",
        choices=("l1", "l2", "bn-scale", "random", *MEASURED),
        help="default l2, with --data reconstruction: what the rest cannot make up for; "
        "taylor: by the loss's derivative on --data",
    )
    group.add_argument("--taylor-items", metavar="N", help="items it is averaged over (default 128)")
    group.add_argument("--inside", action="store_true", help="also within groups and heads")
    group.add_argument("--norms", action="store_true", help="also channels that layer norms count")
    group.add_argument("--share", action="append", metavar="NAME=SHARE", help="of one group; others stay")
    group.add_argument("--skip", action="append", metavar="NAME", help="groups that stay, e.g. 'gru.*'")
    group = parser.add_argument_group("single weights")
    group.add_argument("--sparsity", metavar="SHARE", help="of every weight that becomes 0")
    group.add_argument("--pattern", metavar="N:M", help="keep N of every M neighbours, e.g. 2:4")
    group.add_argument("--layers", metavar="FILE", help="names of layers and shares of zeros, as Taiyaki's")
    group.add_argument(
        "--weights",
        choices=("l1", "random", "movement"),
        help="which become 0 (default l1); movement: those that training moves towards 0",
    )
    group.add_argument(
        "--movement-steps", metavar="N", help="steps that measure movement before the first cut (default 0)"
    )
    group.add_argument("--all-weights", action="store_true", help="the share is of all weights together")
    group.add_argument("--taiyaki-rule", action="store_true", help="zero below the threshold of Taiyaki")
    group = add_retraining(parser, "training after each cut", "cut only")
    group.add_argument("--rounds", metavar="N", default="1", help="cut in so many rounds (default 1)")
    group.add_argument(
        "--repair-items",
        metavar="N",
        help="items of --data by which what stays makes up for what goes (default 128, 0: it does not)",
    )
    group.add_argument(
        "--match",
        metavar="WEIGHT",
        help="of hidden layers staying like those before any cut (default 3, 0: they need not)",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Prune, and print what changed; or list what may go."""
    if args.list:
        return _list(args, console, resolve_settings(args))
    return carried_out(args, console, given)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rubicc.api.prune` beside MODEL and OUT."""
    return asked(args, settings=prune_settings(args), training=training_settings(args, copies=0))


def prune_settings(args: argparse.Namespace) -> Any:
    """PruneSettings from the flags.

    Raises:
        UsageError: ``RUB-SHRINK-031``, ``RUB-PASS-054``.
    """
    from rubicc.passes.prune.channels import ChannelOptions
    from rubicc.passes.prune.weights import WeightOptions
    from rubicc.shrink.prune import PruneSettings, options

    channels, weights = _channels(args), _weights(args)
    if args.epochs == "0" and args.rounds != "1":
        raise UsageError("RUB-SHRINK-031", "--rounds without training", hint="leave --epochs 0 out")
    return PruneSettings(
        channels=options(ChannelOptions, channels) if channels else None,
        weights=options(WeightOptions, weights) if weights else None,
        rounds=_number("rounds", args.rounds, int),
        train=args.epochs is None,
        measure=_measure(args, channels=bool(channels)),
        latency=_latency(args),
        match=_number("match", args.match or "3", float),
    )


def _latency(args: argparse.Namespace) -> LatencyBudget | None:
    """The budget of a predicted latency, where one is asked for."""
    from rubicc.shrink.latency import LatencyBudget, Table, parse_budget, read_latency

    if args.latency is None:
        for flag in ("latency-table", "target"):
            if getattr(args, flag.replace("-", "_")) is not None:
                what = f"--{flag} without a budget of latency"
                raise UsageError("RUB-SHRINK-040", what, hint="give --latency 5ms or --latency 50%")
        return None
    return LatencyBudget(
        **parse_budget(args.latency),
        table=Table() if args.latency_table is None else read_latency(args.latency_table),
        target="" if args.target is None else str(parse_target(args.target)),
    )


def _measure(args: argparse.Namespace, *, channels: bool) -> Measure:
    """What is measured on the data."""
    from rubicc.shrink.prune_scores import ITEMS, Measure

    items = _number("taylor-items", args.taylor_items or str(ITEMS), int)
    taylor = args.importance == "taylor"
    if args.taylor_items is not None and (not taylor or items < 1):
        raise UsageError(
            "RUB-SHRINK-031",
            "--taylor-items is at least 1, of --importance taylor",
            hint="give both or none",
        )
    repair = _number("repair-items", args.repair_items or str(ITEMS), int)
    by_default = args.importance is None and channels and bool(args.data) and repair > 0
    return Measure(
        taylor=items if taylor else 0,
        reconstruction=by_default or args.importance == "reconstruction",
        repair=repair,
        movement=args.weights == "movement",
        movement_steps=_number("movement-steps", args.movement_steps or "0", int),
    )


def _channels(args: argparse.Namespace) -> dict[str, Any]:
    """Options of ``prune.channels``; empty where whole channels are not asked for."""
    found: dict[str, Any] = {}
    for name, (_, _, option) in CHANNELS.items():
        text = getattr(args, name.replace("-", "_"))
        if text is not None:
            found[option] = _number(name, text, int if name == "align" else float)
    if args.share:
        pairs = [item.rpartition("=") for item in args.share]
        found["shares"] = {name: _number("share", share) for name, _, share in pairs}
    if args.latency is None and not found.keys() & {"ratio", "macs", "weight_bytes", "shares"}:
        return {}
    for name in ("scope", "importance"):
        if getattr(args, name) not in (None, *MEASURED):
            found[name] = getattr(args, name)
    return found | {
        "inside": args.inside,
        "norms": args.norms,
        "skip": tuple(args.skip or ()),
        "seed": _number("seed", args.seed or "0", int),
    }


def _weights(args: argparse.Namespace) -> dict[str, Any]:
    """Options of ``prune.weights``; empty where single weights are not asked for."""
    from rubicc.passes.prune.layer_file import read_layers

    found: dict[str, Any] = {}
    if args.sparsity is not None:
        found["sparsity"] = _number("sparsity", args.sparsity)
    if args.pattern is not None:
        found["pattern"] = args.pattern
    if args.layers is not None:
        found["layers"] = read_layers(Path(args.layers))
    if not found:
        return {}
    found["method"] = "given" if args.weights == "movement" else args.weights or "l1"
    found["scope"] = "global" if args.all_weights else "layer"
    found["rule"] = "taiyaki" if args.taiyaki_rule else "exact"
    return found | {"seed": _number("seed", args.seed or "0", int)}


def _list(args: argparse.Namespace, console: Console, reading: Settings) -> int:
    from rubicc.shrink.prune import coupling_of

    coupling = coupling_of(args.model, reading, norms=args.norms)
    rows = [(group.name, str(group.size), str(len(group.members))) for group in coupling.groups]
    stays = [(left.source, str(left.channels), left.reason) for left in coupling.protected]
    found = {
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "weights": [f"{m.initializer}[{m.axis}]" for m in group.members],
            }
            for group in coupling.groups
        ],
        "protected": [{"name": p.source, "size": p.channels, "reason": p.reason} for p in coupling.protected],
    }
    text = table(("may go", "channels", "weights that shrink"), rows, right="12")
    console.result(found, [*text, "", *table(("stays", "channels", "because"), stays, right="1")])
    return 0
