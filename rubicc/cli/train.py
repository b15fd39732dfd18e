"""``rubicc train MODEL --data D -o OUT``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rubicc.cli.compile import resolve_settings
from rubicc.cli.console import Console, decision_line, facts, table
from rubicc.cli.parser import add_reading
from rubicc.errors import UsageError
from rubicc.text import clean

# flag -> (metavar, words); the destination is the field of TrainSettings of the same name
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "how long and how much": {
        "steps": ("N", "steps of the optimiser (default 2000)"),
        "batch": ("N", "items per pass and process (default 16)"),
        "accumulate": ("N", "passes per step (default 1)"),
        "chunk": ("SAMPLES", "length of an item where the data do not say (default 3600)"),
    },
    "optimiser": {
        "lr": ("RATE", "peak learning rate of AdamW (default 0.002)"),
        "lr_end": ("SHARE", "last rate as a share of the peak, along a cosine (default 0.01)"),
        "warmup": ("N", "steps up to the peak (default 100)"),
        "weight_decay": ("X", "of matrices and kernels (default 0.01)"),
        "clip": ("NORM", "largest gradient norm, 0 = any (default 2)"),
        "ema": ("DECAY", "keep a running mean of the weights, e.g. 0.999 (default 0 = off)"),
    },
    "distillation": {
        "alpha": (
            "SHARE",
            "of the teacher in the loss, the rest is known bases (default 0.9, or what there is)",
        ),
        "temperature": ("T", "of teacher and student (default 1)"),
        "distil": ("HOW", "paths, frames or auto: paths of transitions where there are some"),
        "labels": ("WHAT", "scores, calls or auto: what is learned of the teacher"),
        "copies": (
            "N",
            "copies of each raw read labelled beforehand (default 6); 0, as of prune: label in every step",
        ),
        "feature_weight": ("X", "weight of --feature (default 1)"),
    },
    "validation": {
        "validate_every": ("N", "steps between validations (default 250)"),
        "validation_items": ("N", "at most so many items (default 64)"),
        "patience": ("N", "stop after so many validations without a better one (default 0 = never)"),
        "best": ("WHAT", "identity, loss or auto: what the kept weights are chosen by"),
        "save_every": ("SECONDS", "work that a kill may cost (default 30)"),
    },
    "machine": {
        "seed": ("N", "seed of everything random (default 0)"),
        "device": ("NAME", "auto, cpu or cuda"),
    },
}
AUGMENT = {
    "stretch": ("SHARE", "time runs faster or slower by up to this"),
    "gain": ("SD", "spread of the signal's gain"),
    "offset": ("SD", "spread of the signal's offset"),
    "noise": ("SD", "largest white noise added"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    group = parser.add_argument_group("training (MODEL may also be the name of an architecture)")
    add_data(group)
    add_training(parser)


def add_data(group: argparse._ArgumentGroup) -> None:
    """Flags of what is learned from and where the result goes, for every verb that trains."""
    group.add_argument(
        "--data",
        nargs="+",
        metavar="D",
        help="bonito chunk folder, mapped-signal files, raw reads (with --teacher), .npz, or: simulated",
    )
    group.add_argument("--teacher", metavar="MODEL", help="network to learn from")
    group.add_argument("--teacher-arch", metavar="NAME", help="architecture of a teacher's bare state dict")
    group.add_argument(
        "--validation", nargs="+", metavar="D", help="data for the choices (default: held out)"
    )
    group.add_argument("-o", "--output", metavar="OUT", help="folder to write; it is a MODEL")
    group.add_argument("--force", action="store_true", default=None, help="replace OUT, start over")
    group.add_argument("--settings", metavar="FILE.yaml", help="the settings below from a file")
    group.add_argument("--threads", metavar="N", help="threads of this process")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Flags of :class:`rubicc.training.settings.TrainSettings`, for every verb that trains."""
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, (metavar, words) in flags.items():
            group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=words)
    group = parser.add_argument_group("more")
    group.add_argument("--bf16", action="store_true", default=None, help="bfloat16 where it is safe")
    group.add_argument(
        "--feature",
        dest="features",
        action="append",
        metavar="STUDENT=TEACHER",
        help="layers that shall look alike, by module path or value name",
    )
    group = parser.add_argument_group(
        "augmentation (default: stretch 0.1, phase, gain 0.03, offset 0.02, noise 0.05)"
    )
    group.add_argument("--augment", metavar="A", choices=("on", "off"), help="off leaves the signal as it is")
    for name, (metavar, words) in AUGMENT.items():
        group.add_argument(f"--{name}", metavar=metavar, help=words)


def add_retraining(parser: argparse.ArgumentParser, title: str, without: str) -> argparse._ArgumentGroup:
    """Flags of the verbs that change a network and then may train it.

    Args:
        without: what ``--epochs 0`` does.
    """
    group = parser.add_argument_group(f"{title} (needs --data)")
    group.add_argument("--epochs", metavar="0", choices=("0",), help=f"0: {without}, measure on --data")
    add_data(group)
    add_training(parser)
    return group


def run(args: argparse.Namespace, console: Console) -> int:
    """Train, and print what changed."""
    return carried_out(args, console, given)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rubicc.api.train` beside MODEL and OUT.

    Raises:
        UsageError: a flag cannot be used; ``RUB-CLI-006``: no data.
    """
    if args.data is None:
        raise UsageError("RUB-CLI-006", "--data D is missing", hint="`rubicc train --help` shows it")
    return asked(args, settings=training_settings(args))


def asked(args: argparse.Namespace, **own: Any) -> dict[str, Any]:
    """What all verbs that change networks are asked for alike, and what is the verb's own."""
    return {
        "data": tuple(args.data or ()),
        "teacher": args.teacher,
        "teacher_arch": args.teacher_arch,
        "validation": tuple(args.validation or ()),
        "reading": resolve_settings(args),
        **own,
    }


def carried_out(
    args: argparse.Namespace, console: Console, given: Callable[[argparse.Namespace], dict[str, Any]]
) -> int:
    """Do what the verb ``console.verb`` is asked for, and print what changed.

    Args:
        given: makes, from the flags, arguments of the function of this name in :mod:`rubicc.api`.
    """
    if args.output is None:
        raise UsageError("RUB-CLI-006", "-o OUT is missing", hint=f"`rubicc {console.verb} --help` shows it")
    arguments = given(args)
    from rubicc import api

    made = getattr(api, console.verb)(args.model, out=args.output, watcher=watcher(console), **arguments)
    if made is not None:
        console.result({"path": made.path, **made.report.to_dict()}, lines(made))
    return 0


def watcher(console: Console) -> Any:
    """Progress on stderr: a bar on a terminal, lines elsewhere, nothing with -q."""
    from rubicc.training.loop import Silent
    from rubicc.training.progress import Bar, Lines

    if console.verbosity < 0:
        return Silent()
    return Bar() if console.bars else Lines()


def training_settings(args: argparse.Namespace, **defaults: Any) -> Any:
    """TrainSettings from ``--settings`` and, over it, the flags; ``defaults`` are the verb's own.

    Raises:
        UsageError: ``RUB-SHRINK-003``, ``RUB-TRAIN-023``, ``RUB-TRAIN-024``.
    """
    from rubicc.recipe import read_yaml_mapping
    from rubicc.shrink.plain import train_settings

    given: dict[str, Any] = {}
    if args.settings is not None:
        given = read_yaml_mapping(Path(args.settings), "settings of a training")
    augment = dict(given.pop("augment", None) or {})
    names = [name for flags in GROUPS.values() for name in flags]
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.bf16:
        flags["bf16"] = True
    if args.features:
        flags["features"] = [item.split("=", 1) for item in args.features]
    changes = {name: getattr(args, name) for name in AUGMENT if getattr(args, name) is not None}
    return train_settings({**defaults, **given, **flags}, augment | changes, off=args.augment == "off")


def lines(made: Any) -> list[str]:
    """What is printed of a result."""
    report = made.report
    shown: Mapping[str, object] = {"result": made.path, "model": report.name, "did": report.headline}
    rows = table(("", "before", "after", "change"), report.lines(), right="123")
    out = [*facts(shown), "", *rows, *map(decision_line, report.decisions)]
    return [*out, f"report: {clean(made.path)}/report.html"]
