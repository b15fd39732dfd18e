"""docs/command-line.md says what the command does."""

from __future__ import annotations

import re
from pathlib import Path

from rubicc.cli.main import EXIT_CODES, VERBS
from rubicc.quantities import _BYTES, _SECONDS, DTYPES

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_verbs_are_those_of_the_command() -> None:
    assert tuple(re.findall(r"^\| `(\w+)", section("Verbs"), re.M)) == tuple(VERBS)


def test_exit_codes_are_those_of_the_help() -> None:
    documented = set(re.findall(r"^\| (\d+) \|", section("Exit codes"), re.M))
    assert documented == set(re.findall(r"(?:^|\s)(\d+) [a-z]", EXIT_CODES))


def test_units_and_types_are_those_of_the_parser() -> None:
    text = section("Settings")
    assert all(name in text for name in DTYPES)
    assert all(unit in text for unit in [*_BYTES, *_SECONDS] if unit not in ("µs", "KB"))
