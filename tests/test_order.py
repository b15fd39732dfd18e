"""What a verb sets for its own process does not reach the next test: conftest.py sees to it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from rubicc.cli.main import main

FOUND: list[tuple[bool, int, float]] = []


@pytest.fixture(scope="module", autouse=True)
def before_any_test(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fixtures run verbs as well, and before anything that belongs to one test."""
    here = tmp_path_factory.mktemp("order")
    assert (
        main(["prune", str(here / "none.pt"), "--ratio", "50%", "-o", str(here / "out"), "--threads", "5"])
        != 0
    )


def state() -> tuple[bool, int, float]:
    """Whether log records reach pytest, torch's threads, and the next number of its global generator."""
    return logging.getLogger("rubicc").propagate, torch.get_num_threads(), float(torch.rand(()))


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_verb_in_this_process(time: str, tmp_path: Path) -> None:
    FOUND.append(state())
    threads = torch.get_num_threads() + 2
    words = ["prune", str(tmp_path / "none.pt"), "--ratio", "50%", "-o", str(tmp_path / "out")]
    assert main([*words, "--threads", str(threads)]) != 0
    assert state()[:2] == (False, threads), "the verb does change them"
    assert FOUND[-1] == FOUND[0] and FOUND[0][0]
