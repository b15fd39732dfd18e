"""kill -9 at any moment: the same command again gives the curve of an unstopped run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_training import SETTINGS, curve, run, toy

from rubicc.training import state as states
from rubicc.training.history import STEPS, VALIDATIONS

TOY = Path(__file__).with_name("toy_training.py")
Whole = tuple[list[float], dict[str, torch.Tensor], Path]


def start(folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(TOY.parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(TOY), str(folder), "killed"], env=env)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(folder: Path, rows: int, fraction: float) -> None:
    """Kill a run once so many steps are logged, somewhere within the next one."""
    process = start(folder)
    deadline = time.monotonic() + 120
    while lines(folder / STEPS) < rows + 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.06 * fraction)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)
    network = toy()
    history = run(folder, network=network)
    yield curve(history), dict(network.state_dict()), folder
    torch.set_num_threads(threads)


def the_same(folder: Path, whole: Whole) -> None:
    network = toy(seed=5)  # whatever it starts from, the state replaces it
    history = run(folder, network=network)
    assert curve(history) == whole[0]
    assert all(torch.equal(value, whole[1][name]) for name, value in network.state_dict().items())
    assert (folder / VALIDATIONS).read_bytes() == (whole[2] / VALIDATIONS).read_bytes()


def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path, whole: Whole) -> None:
    kill_after(tmp_path, 6, 0.5)
    assert (tmp_path / states.FILE).exists() and 6 <= lines(tmp_path / STEPS) < SETTINGS.steps
    the_same(tmp_path, whole)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path, whole: Whole) -> None:
    chance = random.Random(1)
    for trial in range(4):
        folder = tmp_path / str(trial)
        for rows in sorted(chance.sample(range(1, 13), 3)):
            kill_after(folder, rows, chance.random())
        the_same(folder, whole)


def test_logs_behind_the_state_are_cut(tmp_path: Path, whole: Whole) -> None:
    """A kill between log and state: rows of steps that are done again must not stand twice."""
    kill_after(tmp_path, 4, 0.0)
    with (tmp_path / STEPS).open("a") as file:
        file.write("9,1.0,,,,0.1,1.0,0.1\n10,0.5")
    (tmp_path / f"{states.FILE}.tmp").write_bytes(b"half")
    the_same(tmp_path, whole)
