"""The guide to writing passes is executed, block after block, as it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rubicc.passes.registry import ENTRY_POINT_GROUP, unregister

GUIDE = Path(__file__).parents[2] / "docs" / "writing_a_pass.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), flags=re.S | re.M)


def test_the_guide_works_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")
    assert len(code) == 3
    names: dict[str, object] = {"__name__": "your_package.passes"}
    try:
        for block in code:
            exec(compile(block, GUIDE.name, "exec"), names)
    finally:
        unregister("example.merge-scales")
    assert "RUB-PASS-021" in capsys.readouterr().out


def test_the_guide_names_the_real_entry_point_group() -> None:
    (text,) = blocks("toml")
    group = tomllib.loads(text)["project"]["entry-points"]
    assert list(group) == [ENTRY_POINT_GROUP]
    assert list(group[ENTRY_POINT_GROUP]) == ["example.merge-scales"]
