"""Memory does not grow with what is read, and damage of any kind leaves no exception behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from read_files import read_id, signal, some_reads, write_multi, write_npz, write_pod5

from rubicc.genomics.reads import Limits, Read, iter_reads

pytestmark = pytest.mark.slow
_PEAK = """
import resource, sys
import toy_run
toy_run.main(sys.argv[1], sys.argv[2], 0.0)
# Not ru_maxrss for this process: it starts at what the process that started it held.
status = open("/proc/self/status").read().split()
print(status[status.index("VmHWM:") + 1], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak(reads: Path, out: Path) -> tuple[int, int]:
    """Peak resident memory in KiB of the engine and of its reader."""
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(reads), str(out)],
        env=env,
        capture_output=True,
        check=True,
        text=True,
    )
    own, child = done.stdout.split()
    return int(own), int(child)


@pytest.mark.parametrize("kind", ["fast5", "pod5", "npz"])
def test_memory_is_constant(tmp_path, kind) -> None:
    """Forty times the reads, at most 15 % (or 12 MB) more memory."""
    write = {"fast5": write_multi, "pod5": write_pod5, "npz": write_npz}[kind]
    block = {read_id(i): signal(i, 200_000) for i in range(5)}
    peaks = []
    for count in (1, 40):
        folder = tmp_path / str(count)
        folder.mkdir()
        samples = list(block.values())
        write(folder / f"x.{kind}", {read_id(i): samples[i % 5] for i in range(5 * count)})
        peaks.append(_peak(folder, tmp_path / f"{count}.fasta"))
    for small, large in zip(*peaks, strict=True):
        # The library maps pod5 files; their pages count as resident while they are cached.
        mapped = (tmp_path / "40" / f"x.{kind}").stat().st_size // 1024 if kind == "pod5" else 0
        assert large - mapped <= max(1.15 * small, small + 12_000), (small, large)


def _damaged(data: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    out = bytearray(data)
    for _ in range(rng.choice([1, 3, 10, 50])):
        near_end = len(out) - 1 - int(rng.integers(min(5000, len(out))))
        where = int(
            rng.choice([int(rng.integers(len(out))), int(rng.integers(min(3000, len(out)))), near_end])
        )
        out[where] = int(rng.choice([0, 255, int(rng.integers(256))]))
    return bytes(out[: int(rng.integers(len(out)))] if rng.random() < 0.1 else out)


@pytest.mark.parametrize("kind", ["fast5", "pod5", "npz"])
def test_random_damage_is_a_problem_or_harmless(tmp_path, kind) -> None:
    """400 damaged files of each kind: every one is read, in part or not at all, and nothing is raised."""
    write = {"fast5": write_multi, "pod5": write_pod5, "npz": write_npz}[kind]
    sound = tmp_path / f"sound.{kind}"
    write(sound, some_reads([3000, 2000, 4000]))
    data = sound.read_bytes()
    folder = tmp_path / "damaged"
    folder.mkdir()
    for seed in range(400):
        (folder / f"{seed:04}.{kind}").write_bytes(_damaged(data, seed))
    problems: list[object] = []
    reads = list(iter_reads([folder], on_problem=problems.append, limits=Limits(busy_seconds=1.0)))
    assert all(isinstance(read, Read) and read.signal.dtype == np.int16 for read in reads)
    assert reads and problems
