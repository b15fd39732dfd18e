"""Every hostile case gets exactly its error, runs nothing, leaves nothing; the payloads are proved live."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import CASES, HARMLESS, Case

from rubicc.errors import ModelRefused, RubiccError, UsageError
from rubicc.frontend import pt2, read_model

LIVE = [case for case in CASES if case.live]


def _id(case: Case) -> str:
    return case.name


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_refused_or_neutralised(case: Case, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = tmp_path / "input"
    folder.mkdir()
    model = case.make(folder, marker)
    before = _files(folder)
    if case.code == HARMLESS:
        source = read_model(model, **case.options)
        assert source.module is not None or source.program is not None
    else:
        with pytest.raises(RubiccError) as caught:
            read_model(model, **case.options)
        error = caught.value
        assert error.code == case.code, str(error)
        assert case.wanted in str(error)
        assert error.what and error.hint
        assert error.where or error.code == "RUB-MODEL-001"
        assert error.exit_code == case.exit_code
        assert isinstance(error, UsageError | ModelRefused)
        assert str(error).isprintable() and len(str(error)) < 900
        assert str(tmp_path) not in error.where or case.group == "python"
    assert not marker.exists(), "the payload ran"
    assert _files(folder) == before


@pytest.mark.parametrize("case", LIVE, ids=_id)
def test_payload_is_live(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the unsafe loader does run the payload, so refusing the file is worth something."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # torch 2.13 logs its fallback with a bad format
    marker = tmp_path / "executed"
    folder = tmp_path / "input"
    folder.mkdir()
    model = case.make(folder, marker)
    assert not marker.exists()
    live: Callable[[Path], object] | None = case.live
    assert live is not None
    with contextlib.suppress(Exception):  # many fail after the payload ran
        live(Path(model))
    assert marker.is_dir()


JUDGED = ("pt2-expression", "pt2-name")


@pytest.mark.parametrize("name", JUDGED)
def test_mutant_without_the_judge_runs_the_payload(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the judgement of the program JSON taken out, our own reader would run what it stops."""
    case = next(case for case in CASES if case.name == name)
    marker = tmp_path / "executed"
    (tmp_path / "input").mkdir()
    path = case.make(tmp_path / "input", marker)
    monkeypatch.setattr(pt2, "clean_program", lambda text, where, limits: (text, []))
    with contextlib.suppress(Exception):
        program = read_model(path).program
        assert program is not None
        program.module()(torch.zeros(3, 4))
    assert marker.is_dir()


def test_table_is_broad() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 150
    groups = {case.group for case in CASES}
    assert groups >= {
        "pt",
        "pt2",
        "safetensors",
        "legacy",
        "checkpoint",
        "bonito",
        "hf",
        "taiyaki",
        "python",
        "file",
    }
    assert len(LIVE) >= 15
