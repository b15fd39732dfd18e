"""Every command and every line of Python in README.md's "First steps" runs, in order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from rubicc.cli.main import VERBS, main

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_first_steps_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        words = shlex.split(line)
        assert words[0] == "rubicc"
        assert main([*words[1:], "-q"]) == 0, line
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    assert (tmp_path / "out" / "report.html").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_verbs_and_files_named_exist() -> None:
    root = Path(__file__).parents[1]
    assert set(re.findall(r"^rubicc (\w+)", "".join(blocks("sh")), re.M)) <= set(VERBS)
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (root / link).is_file(), link
    targets = set(re.findall(r"^make (\w+)", README, re.M))
    assert targets <= set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text("utf-8"), re.M))
    assert shutil.which("make")
