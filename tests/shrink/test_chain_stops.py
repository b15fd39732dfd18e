"""Chains that are killed, stopped or stand in the way of others: nothing wrong is reused."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain_home import chunk_folder, done, hashes, plan, rewrite

from rubicc import api
from rubicc.errors import RubiccError, UsageError
from rubicc.evidence import change, manifest
from rubicc.evidence.staging import StagedDir
from rubicc.shrink import chain, chain_doing
from rubicc.shrink.chain import Chain, Step, Wish
from rubicc.shrink.chain_record import Record

KILLED = """
import os, signal, sys
from rubicc import api
class Kills:
    left = int(sys.argv[3])
    def step(self, row, total):
        Kills.left -= 1
        if not Kills.left:
            os.kill(os.getpid(), signal.SIGKILL)
    def validated(self, row, total): pass
    def close(self): pass
api.chain(sys.argv[1], out=sys.argv[2], watcher=Kills())
"""


def test_killed_in_the_second_step_it_goes_on_there(home: Path) -> None:
    """kill -9 within the training of step 2: the same command gives the bytes of an undisturbed run."""
    whole = hashes(home / "out")
    shutil.rmtree(home / "out")
    words = [sys.executable, "-c", KILLED, str(home / "chain.yaml"), str(home / "out"), "8"]
    assert subprocess.run(words, timeout=200).returncode == -signal.SIGKILL
    out = home / "out"
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"1-skipclip", "2-half.partial"}
    assert plan(home) == ["reuse", "go on", "run", "run"]
    assert done(home) == ["reused", "went on", "ran", "ran"]
    assert hashes(out) == whole and not (out / "2-half.partial").exists()
    steps = (out / "2-half" / "training" / "steps.csv").read_text().splitlines()
    assert len(steps) == 7


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again(home: Path) -> None:
    """kill -9 at every fifth step of a training: each run gets further."""
    whole = hashes(home / "out")
    shutil.rmtree(home / "out")
    words = [sys.executable, "-c", KILLED, str(home / "chain.yaml"), str(home / "out"), "5"]
    codes = []
    while not codes or codes[-1]:
        codes.append(subprocess.run(words, timeout=200).returncode)
        assert codes[-1] in (0, -signal.SIGKILL) and len(codes) < 7
    assert len(codes) > 2 and hashes(home / "out") == whole


class Stopped(Exception):
    """In place of a kill."""


def fake_chain(*shares: float) -> Chain:
    """Steps whose result says in a line what it was made of."""
    return Chain("m", tuple(Step("prune", f"s{i}", share) for i, share in enumerate(shares)))


def fake_verb(step: Step, model: Any, out: Path, reading: Any, watcher: Any) -> None:
    before = (model / "model.onnx").read_text() if isinstance(model, Path) else str(model)
    state = out.with_name(f"{out.name}.partial")
    state.mkdir(exist_ok=True)
    (state / "lock").touch()
    if (state / "made of").exists():
        assert (state / "made of").read_text() == str(step.settings), "the state is of other settings"
    (state / "made of").write_text(str(step.settings))
    os.rename(state / "made of", state / "made of")  # here a run may be stopped, too
    with StagedDir(out) as staged:
        (staged.path / "model.onnx").write_text(f"{before} {step.settings}")
        staged.commit(manifest.Manifest(target="model"))
    shutil.rmtree(state)


class Stops:
    """Stops a run before the ``left``-th change of the disk."""

    def __init__(self, patch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        for place, name in ((Record, "write"), (os, "rename"), (shutil, "rmtree"), (chain_doing, "_verb")):
            patch.setattr(place, name, self.counted(getattr(place, name)))

    def counted(self, work: Any) -> Any:
        def counting(*args: Any, **more: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise Stopped
            return work(*args, **more)

        return counting


def test_stopped_before_any_change_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a finished chain to another one, stopped anywhere; then on, or back: nothing wrong is reused."""
    monkeypatch.setattr(chain_doing, "_verb", fake_verb)
    monkeypatch.setattr(chain._Work, "_first_model", lambda work: "m")
    monkeypatch.setattr(chain.chain_report, "tell", lambda *given: None)
    first, second = fake_chain(0.1, 0.2, 0.3), fake_chain(0.1, 0.5, 0.3)
    api.chain(first, out=tmp_path / "start")
    stops = 0
    for goes_on, ends in ((second, "m 0.1 0.5 0.3"), (first, "m 0.1 0.2 0.3")):
        for left in range(1, 99):
            out = tmp_path / f"{left}-{ends[6:9]}"
            shutil.copytree(tmp_path / "start", out)
            with monkeypatch.context() as patch:
                stop = Stops(patch, left)
                with contextlib.suppress(Stopped):
                    api.chain(second, out=out)
            said = api.chain(goes_on, out=out)
            assert (out / "3-s2" / "model.onnx").read_text() == ends, left
            assert said.steps[0].did == "reused"
            assert [step.did for step in api.chain(goes_on, out=out).steps] == ["reused"] * 3
            assert not [path.name for path in out.iterdir() if path.name.endswith((".old", ".partial"))], left
            if stop.left > 0:
                break
            stops += 1
    assert stops > 20


def test_what_stood_there_outlives_a_step_that_fails(home: Path) -> None:
    """New settings that fail leave the old result, and changing them back costs nothing."""
    before = hashes(home / "out")
    chunk_folder(home / "nan")
    np.save(home / "nan" / "chunks.npy", np.full((40, 150), np.nan, np.float16))
    rewrite(home, "ratio: 50%", "ratio: 50%, data: nan")
    with pytest.raises(RubiccError, match="RUB-TRAIN-040") as caught:
        done(home)
    assert caught.value.where.startswith("chain.yaml, step 2-half")
    assert (home / "out" / "2-half.old").is_dir() and not (home / "out" / "2-half").exists()
    rewrite(home)
    assert plan(home) == ["reuse"] * 4 and done(home) == ["reused"] * 4
    assert hashes(home / "out") == before
    assert not [*(home / "out").glob("*.partial"), *(home / "out").glob("*.old")]


def test_an_unfinished_step_of_other_settings_is_begun_anew(home: Path) -> None:
    out = home / "out"
    shutil.rmtree(out / "3-quantize")
    shutil.rmtree(out / "4-compile")
    (out / "3-quantize.partial" / "run").mkdir(parents=True)
    (out / "3-quantize.partial" / "lock").touch()
    (out / "3-quantize.partial" / "run" / "state.safetensors").write_bytes(b"of other settings")
    rewrite(home, "bits: 6", "bits: 4")
    assert plan(home) == ["reuse", "reuse", "run", "run"]
    assert done(home, last="quantize") == ["reused", "reused", "ran"]
    assert change.read(out).tables[0].rows[-1][0] == "3-quantize"


def test_folders_of_others(home: Path) -> None:
    taken = home / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    recipe, out = home / "chain.yaml", home / "out"
    with pytest.raises(RubiccError, match="RUB-SHRINK-091"):
        api.chain(recipe, out=taken, wish=Wish(force=True))
    with pytest.raises(UsageError, match="RUB-ART-004"):
        api.chain(recipe, out=home / "no" / "such")
    with (out / "chain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RubiccError, match="RUB-SHRINK-092"):
            done(home)
    (out / "2-half" / "thesis.txt").write_text("mine")
    with pytest.raises(RubiccError, match="RUB-ART-003"):
        done(home)
    assert (out / "2-half" / "thesis.txt").read_text() == "mine"
    (out / "chain.json").write_text('{"schema_version": 1, "steps": 3}')
    with pytest.raises(UsageError, match="RUB-SHRINK-093"):
        plan(home)
    assert plan(home, force=True) == ["run"] * 4
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]
