"""An argument parser whose errors are rubicc errors with a did-you-mean."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from rubicc.errors import UsageError
from rubicc.text import did_you_mean


class Parser(argparse.ArgumentParser):
    """ArgumentParser without abbreviations that raises instead of exiting.

    Raises:
        UsageError: ``RUB-CLI-001`` from any parse error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        hint = f"`{self.prog} --help` lists what is possible"
        if choice:
            hint = did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]), hint)
        raise UsageError("RUB-CLI-001", message, hint=hint)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; unknown flags name the nearest known one of the verb in use."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = getattr(parsed, "known_flags", ())
            hint = did_you_mean(unknown[0].partition("=")[0], known, "`--help` lists the flags")
            raise UsageError("RUB-CLI-001", f"unknown argument {unknown[0]!r}", hint=hint)
        return parsed

    def flags(self) -> tuple[str, ...]:
        """Every option string of this parser."""
        return tuple(self._option_string_actions)

    def options(self) -> dict[str, argparse.Action]:
        """Every flag by its long name without dashes."""
        return {
            text.removeprefix("--"): action
            for text, action in self._option_string_actions.items()
            if text.startswith("--")
        }


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags every verb takes."""
    group = parser.add_argument_group("output")
    loud = group.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="errors only")
    loud.add_argument("-v", "--verbose", action="count", default=0, help="more; -vv adds tracebacks")
    group.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the result on stdout"
    )
    group.add_argument("--log-json", action="store_true", help="log lines on stderr as JSON objects")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """MODEL and the flags that say how to read it."""
    parser.add_argument(
        "model", metavar="MODEL", help="checkpoint, model folder, .pt2, ONNX or python:pkg:factory"
    )
    group = parser.add_argument_group("reading the model")
    group.add_argument("--arch", metavar="NAME", help="architecture of a bare state dict")
    group.add_argument("--arch-config", metavar="FILE", help="YAML or JSON file of its configuration")
    group.add_argument(
        "--input", dest="inputs", action="append", metavar="NAME=SHAPE[:DTYPE]", help="e.g. x=Nx1xT:f32"
    )
    group.add_argument(
        "--allow-code", action="store_true", default=None, help="allow python:... models to run"
    )
    group.add_argument(
        "--trust",
        action="store_true",
        default=None,
        help="open formats that can run code (pickle, TorchScript)",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Where settings come from besides their own flags."""
    group = parser.add_argument_group("settings (flag > RUBICC_* > recipe > default)")
    group.add_argument("--recipe", metavar="FILE.yaml", help="settings from a file; see `rubicc init`")
    group.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="e.g. precision=fp16"
    )
    group.add_argument("--seed", metavar="N", help="seed of everything random (default 0)")
    group.add_argument("--threads", metavar="N", help="threads for running and measuring")
    group.add_argument(
        "--print-config", action="store_true", help="print every setting with its origin and stop"
    )


def number(flag: str, text: str, kind: type = float, *, code: str, share: bool = True) -> Any:
    """The value of a flag as a finite number of this kind.

    Args:
        kind: ``int`` or ``float``.
        code: of the error.
        share: whether a percentage may stand for a share of 1.

    Raises:
        UsageError: ``code``: it is none.
    """
    share = share and kind is float
    try:
        value = float(text[:-1]) / 100 if share and text.endswith("%") else kind(text)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    wanted = "a whole number" if kind is int else "a number such as 0.5 or 50%" if share else "a number"
    raise UsageError(code, f"--{flag} is {text[:40]!r}", hint=f"give {wanted}")
