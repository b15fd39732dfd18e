"""Hostile input through the real command: a selection here, the whole table under ``-m slow``.

The commands run in children forked from one process that has imported torch, except those under ``FRESH``,
which get a new ``python -m rubicc`` each; the judge is tested against trials that break what it looks for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from controls import WANTED

TABLE = Path(__file__).resolve().parents[2] / "benchmarks" / "robustness.py"
FRESH = ("cli/sound-model", "pt/pickle-mkdir", "fast5/external-storage", "cli/model-escape-codes")
CHOSEN = (
    "pt2/expression",
    "pt2/sample-inputs",
    "taiyaki/hidden-payload",
    "bonito/linked-weights",
    "hf/code",
    "safetensors/overflow",
    "onnx/external-symlink",
    "onnx/function-billion-laughs",
    "pod5/truncated-pod5",
    "npz/pickled-array",
    "recipe/python-object",
    "cli/input-enormous",
    "output/foreign-folder-force",
    "cli/basecall-read-ids-device",
    "artefact/runtime-pipe",
    "artefact/vectors-trillion",
    "disk/calls-file-size-limit",
    "disk/models-create",
)


def table(*flags: str) -> dict[str, dict[str, Any]]:
    """Outcomes by name."""
    result = subprocess.run(
        [sys.executable, str(TABLE), "--json", *flags], capture_output=True, text=True, timeout=1200
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows, result.stderr[-2000:]
    assert result.returncode == int(any(row["wrong"] for row in rows))
    return {row["name"]: row for row in rows}


def failures(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [f"{name}: {row['wrong']} {row['message']}" for name, row in rows.items() if row["wrong"]]


@pytest.mark.slow
def test_selection() -> None:
    rows = table("--jobs", "1", "--exact", *CHOSEN, *FRESH, "--fresh", *FRESH)
    assert set(rows) == {*CHOSEN, *FRESH}
    assert failures(rows) == []
    for row in rows.values():
        assert not row["executed"] and not row["left"] and not row["traceback"]
    assert sum(bool(row["live"]) for row in rows.values()) >= 3, "payloads that do run where they are let"


def test_the_judge_sees_every_broken_promise() -> None:
    rows = table("--jobs", "1", "--controls")
    assert set(rows) == {*WANTED, "control/sound"}
    for name, text in WANTED.items():
        assert any(text in wrong for wrong in rows[name]["wrong"]), (name, rows[name])
    assert rows["control/sound"]["wrong"] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_table() -> None:
    rows = table()
    assert failures(rows) == []
    assert len(rows) >= 450
    assert {row["form"] for row in rows.values()} >= {
        *("pt", "pt2", "safetensors", "onnx", "bonito", "taiyaki", "hf", "python", "checkpoint", "legacy"),
        *("fast5", "pod5", "npz", "recipe", "cli", "output", "disk", "artefact", "data", "sequence"),
    }
    assert sum(bool(row["live"]) for row in rows.values()) >= 20
