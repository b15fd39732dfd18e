"""Two processes (gloo) do what one does with twice the batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rubicc.errors import ToolMissing
from rubicc.training.machines import Several

TOY = Path(__file__).with_name("toy_training.py")


def start(folder: Path, processes: int, kind: str, batch: int, accumulate: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(TOY.parents[2]), "OMP_NUM_THREADS": "1"}
    launch = [] if processes == 1 else [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    ]  # fmt: skip
    words = [sys.executable, *launch, str(TOY), str(folder), kind, str(batch), str(accumulate)]
    done = subprocess.run(words, env=env, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="needs the extra train-distributed"
)
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("one", "two", "shifted")}
    start(folders["one"], 1, "one", 8, 1)
    start(folders["two"], 2, "two", 2, 2)
    (curve, weights), (shared, same) = (
        json.loads((folders[name] / f"weights-{name}.json").read_text()) for name in ("one", "two")
    )
    assert shared == pytest.approx(curve, rel=1e-5)
    for name, value in weights.items():
        flat, other = _flat(value), _flat(same[name])
        assert flat == pytest.approx(other, abs=1e-5), name
    # The check sees a difference: one process with the small batch goes another way.
    start(folders["shifted"], 1, "shifted", 4, 1)
    alone = json.loads((folders["shifted"] / "weights-shifted.json").read_text())[0]
    assert alone != pytest.approx(curve, rel=1e-3)


def _flat(value: object) -> list[float]:
    return [x for item in value for x in _flat(item)] if isinstance(value, list) else [value]  # type: ignore[list-item]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ToolMissing, match=r"RUB-TRAIN-050.*train-distributed"):
        Several("cpu")
