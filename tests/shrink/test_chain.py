"""``rubicc chain``: one recipe, many verbs; what is done once stays done, whatever stops the run."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc import api
from rubicc.cli.chain_recipe import MODELS, PATHS, parser_of, read_chain
from rubicc.cli.init import CHAIN
from rubicc.cli.main import main
from rubicc.errors import RubiccError, UsageError
from rubicc.evidence import change, manifest
from rubicc.evidence.staging import StagedDir
from rubicc.frontend import checkpoint, read_model
from rubicc.models import registry
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.shrink import chain
from rubicc.shrink.chain import VERBS, Chain, Step, Wish
from rubicc.shrink.chain_record import Record
from rubicc.shrink.fingerprint import Files, digest
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.training.settings import TrainSettings

CONFIG = {
    "blocks": [
        {"filters": 16, "kernel": 9, "stride": 3, "separable": False, "dropout": 0.0},
        {"filters": 16, "kernel": 5, "repeat": 2, "residual": True, "dropout": 0.0},
    ],
    "channels_per_group": 1,
}
RECIPE = """\
version: 1
model: model.pt
data: chunks
training: {batch: 2, steps: 4, warmup: 1, validate-every: 4, validation_items: 2, save_every: 0, augment: off}
steps:
  - skipclip
  - prune: {name: half, ratio: 50%, steps: 6}
  - quantize: {bits: 6, teacher: model.pt}
  - compile: {target: cpu, runtime: onnxruntime, tune: 0}
"""
FOLDERS = ["1-skipclip", "2-half", "3-quantize", "4-compile"]


def chunk_folder(folder: Path, seed: int = 0) -> None:
    """A bonito folder of noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    np.save(folder / "chunks.npy", rng.normal(size=(40, 150)).astype(np.float16))
    np.save(folder / "references.npy", rng.integers(1, 5, (40, 20)).astype(np.uint8))
    np.save(folder / "reference_lengths.npy", np.full(40, 10, np.uint16))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a recipe and, in ``out``, what came of it."""
    home = tmp_path_factory.mktemp("chain")
    entry = registry.get("demo-ctc")
    checkpoint.save(home / "model.pt", entry.build(CONFIG, seed=1), entry.meta(CONFIG))
    chunk_folder(home / "chunks")
    (home / "chain.yaml").write_text(RECIPE)
    assert main(["chain", str(home / "chain.yaml"), "-o", str(home / "out"), "-q"]) == 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(made, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


def rewrite(home: Path, old: str = "", new: str = "") -> Path:
    """The recipe with a text changed."""
    assert old in RECIPE
    (home / "chain.yaml").write_text(RECIPE.replace(old, new))
    return home / "chain.yaml"


def done(home: Path, **wish: Any) -> list[str]:
    """What a run does, or a dry run would: one word for each step."""
    out = api.chain(home / "chain.yaml", out=home / "out", wish=Wish(**wish))
    return [step.did for step in out.steps]


def plan(home: Path, **wish: Any) -> list[str]:
    return done(home, dry_run=True, **wish)


def hashes(out: Path) -> dict[str, Any]:
    """Everything that does not hold times, by step and file."""
    found = {name: manifest.read(out / name).to_dict() for name in FOLDERS}
    return found | {"chain": manifest.read(out).to_dict()}


# ---- what it makes


def test_every_step_leaves_its_result(made: Path) -> None:
    out = made / "out"
    files = {"chain.json", "chain.lock", "manifest.json", "report.html", "report.json"}
    assert {path.name for path in out.iterdir()} == {*FOLDERS, *files}
    assert all(manifest.verify_files(out / name).ok for name in FOLDERS)
    sealed = manifest.read(out)
    assert sealed.target == "chain" and sealed.inputs["model"] == read_model(made / "model.pt").sha256
    wanted = {f"{name}/manifest.json": manifest.file_sha256(out / name / "manifest.json") for name in FOLDERS}
    assert sealed.files == wanted
    for name, before in zip(FOLDERS[1:3], FOLDERS, strict=False):
        assert read_model(out / name).graph is not None
        assert manifest.read(out / name).inputs["model"] == read_model(out / before).sha256
    assert api.open_artefact(out / "4-compile").report.verdict == "verified"


def test_the_report_stands_steps_side_by_side(made: Path) -> None:
    out = made / "out"
    report = change.read(out)
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["model", *FOLDERS]
    steps = [change.read(out / name) for name in FOLDERS[:3]]
    for what in ("parameters", "MACs", "BOPs", "bytes of weights", "identity"):
        figure, first, last = report.figure(what), steps[0].figure(what), steps[2].figure(what)
        assert (figure.before, figure.after) == (first.before, last.after)  # type: ignore[union-attr]
        column = table.header.index(what)
        shown = [{row[0]: row[2] for row in step.lines()}[what] for step in steps]
        assert [row[column] for row in table.rows[1:4]] == shown
    sizes = report.figure("bytes of weights")
    assert sizes.after < 0.5 * sizes.before  # type: ignore[union-attr, operator]
    by_step, bytes_by_step, pareto = report.plots
    assert [point[2] for point in by_step.series[0].points] == ["model", *FOLDERS[:3]]
    assert bytes_by_step.series[0].points[3][1] == sizes.after  # type: ignore[union-attr]
    assert pareto.series[0].points[0][0] == sizes.before  # type: ignore[union-attr]
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 3 and "4-compile" in page and "verified" in page and "<script" not in page
    assert "1-skipclip, 2-half, 3-quantize, 4-compile" in report.headline
    assert report.settings["2-half: ratio"] == "50%" and report.settings["1-skipclip: batch"] == "2"
    assert {d.where.partition(":")[0] for d in report.decisions} == set(FOLDERS)


def test_a_step_is_what_its_verb_does_alone(made: Path, tmp_path: Path) -> None:
    words = ["--ratio", "50%", "--steps", "6", "--batch", "2", "--warmup", "1", "--validate-every", "4"]
    words += ["--validation-items", "2", "--save-every", "0", "--augment", "off", "-q"]
    model, data = str(made / "out" / "1-skipclip"), str(made / "chunks")
    assert main(["prune", model, "--data", data, "-o", str(tmp_path / "alone"), *words]) == 0
    mine, chained = (path / "manifest.json" for path in (tmp_path / "alone", made / "out" / "2-half"))
    assert mine.read_bytes() == chained.read_bytes()


def test_its_folder_is_no_model_and_no_artefact(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, code in (("inspect", 2), ("verify", 3)):
        assert main([verb, str(made / "out"), "-q"]) == code
        assert "folder of a step" in capsys.readouterr().err


# ---- again


def test_again_nothing_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {path: path.stat().st_mtime_ns for path in (home / "out").glob("*-*/*")}
    before = hashes(home / "out")
    assert main(["chain", str(home / "chain.yaml"), "-o", str(home / "out"), "--format", "json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert [step["did"] for step in found["steps"]] == ["reused"] * 4 and found["verb"] == "chain"
    assert times == {path: path.stat().st_mtime_ns for path in times} and hashes(home / "out") == before


CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "a comment": ("version: 1", "# mine\nversion: 1", ["reuse"] * 4),
    "the same share": ("50%", "0.5", ["reuse"] * 4),
    "how often state is saved": ("save_every: 0", "save_every: 9", ["reuse"] * 4),
    "spelling": ("validate-every", "validate_every", ["reuse"] * 4),
    "what the first two share": ("steps: 4", "steps: 5", ["run"] * 4),
    "an option of the second": ("50%", "40%", ["reuse", "run", "run", "run"]),
    "a default, said": ("ratio: 50%", "ratio: 50%, rounds: 1", ["reuse"] * 4),
    "a teacher": ("teacher: model.pt", "teacher: null", ["reuse", "reuse", "run", "run"]),
    "the artefact": ("tune: 0", "tune: 0, batch: 2", ["reuse", "reuse", "reuse", "run"]),
    "the name of a step": ("name: half", "name: slim", ["reuse", "run", "run", "run"]),
    "no artefact": ("  - compile: {target: cpu, runtime: onnxruntime, tune: 0}\n", "", ["reuse"] * 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_done_again_and_nothing_before(name: str, home: Path) -> None:
    old, new, wanted = CHANGES[name]
    rewrite(home, old, new)
    assert plan(home) == wanted


def test_a_changed_step_and_those_after_it(home: Path) -> None:
    before = hashes(home / "out")
    assert done(home) == ["reused"] * 4
    rewrite(home, "ratio: 50%", "ratio: 25%")
    assert done(home, last="quantize") == ["reused", "ran", "ran"]
    after = hashes(home / "out")
    assert after["1-skipclip"] == before["1-skipclip"]
    assert all(after[name] != before[name] for name in FOLDERS[1:3])
    assert not list((home / "out").glob("*.old")) and plan(home) == ["reuse"] * 3 + ["run"]
    rewrite(home)
    assert done(home, last="quantize") == ["reused", "ran", "ran", "reused"], "of the same model as before"
    again = hashes(home / "out")
    assert all(again[name] == before[name] for name in FOLDERS) and plan(home) == ["reuse"] * 4


def test_data_and_models_count_by_content(home: Path) -> None:
    for path in [home / "model.pt", *(home / "chunks").iterdir()]:
        os.utime(path, (1, 1))
    assert plan(home) == ["reuse"] * 4
    (home / "chunks").rename(home / "moved")
    rewrite(home, "data: chunks", "data: moved")
    assert plan(home) == ["reuse"] * 4
    chunk_folder(home / "moved", seed=1)
    assert plan(home) == ["run"] * 4
    shutil.rmtree(home / "moved")
    rewrite(home)
    chunk_folder(home / "chunks")
    assert plan(home) == ["reuse"] * 4
    entry = registry.get("demo-ctc")
    checkpoint.save(home / "model.pt", entry.build(CONFIG, seed=2), entry.meta(CONFIG))
    assert plan(home) == ["run"] * 4


def test_another_version_of_rubicc(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rubicc.shrink.chain.__version__", "99")
    out = api.chain(home / "chain.yaml", out=home / "out", wish=Wish(dry_run=True))
    assert out.steps[0].did == "run" and "version of rubicc" in out.steps[0].why


def test_a_damaged_or_missing_result_is_made_again(home: Path) -> None:
    path = home / "out" / "3-quantize" / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert plan(home) == ["reuse", "reuse", "run", "run"]
    path.write_bytes(content)
    shutil.rmtree(home / "out" / "4-compile")
    assert plan(home) == ["reuse", "reuse", "reuse", "run"]


def test_from_until_and_force(home: Path) -> None:
    assert plan(home, first="half") == ["reuse", "run", "run", "run"]
    assert plan(home, first="3") == ["reuse", "reuse", "run", "run"]
    assert plan(home, force=True) == ["run"] * 4
    assert plan(home, last="2-half") == ["reuse"] * 4, "what is done stays in the report"
    assert plan(home, first="half", last="half") == ["reuse", "run"]
    for wish in ({"first": "hafl"}, {"last": "5"}, {"first": "quantize", "last": "half"}):
        with pytest.raises(UsageError, match="RUB-SHRINK-094"):
            plan(home, **wish)
    before = hashes(home / "out")
    assert done(home, first="2-half", last="2-half") == ["reused", "ran", "reused", "reused"]
    assert hashes(home / "out") == before, "the same again, so what follows stands"


def test_a_dry_run_writes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in made.rglob("*"))
    stamp = (made / "out" / "chain.json").stat().st_mtime_ns
    for words in (["-o", str(made / "out")], ["-o", str(made / "new")], []):
        assert main(["chain", str(made / "chain.yaml"), "--dry-run", "-q", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("1-skipclip comes first") == 2 and said.count("  reuse") == 4
    assert sorted(str(path) for path in made.rglob("*")) == before
    assert (made / "out" / "chain.json").stat().st_mtime_ns == stamp


# ---- stopped in the middle

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
        for place, name in ((Record, "write"), (os, "rename"), (shutil, "rmtree"), (chain, "_verb")):
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
    monkeypatch.setattr(chain, "_verb", fake_verb)
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


# ---- folders that are not to be touched


def test_folders_of_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="RUB-SHRINK-095"):
        plan(home)
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


# ---- recipes that cannot be used

TOP = "version: 1\nmodel: model.pt\n"
HOSTILE: dict[str, tuple[str, str, str]] = {
    "no version": ("model: model.pt\nsteps: [skipclip]\n", "RUB-CLI-012", "version: 1"),
    "no model": ("version: 1\nsteps: [skipclip]\n", "RUB-SHRINK-090", "model"),
    "no such model": (TOP.replace("model.pt", "modle.pt") + "steps: [skipclip]\n", "RUB-READ-001", "modle"),
    "no steps": (TOP, "RUB-SHRINK-090", "steps"),
    "an empty list": (TOP + "steps: []\n", "RUB-SHRINK-090", "no steps"),
    "steps are a mapping": (TOP + "steps: {prune: {}}\n", "RUB-SHRINK-090", "list"),
    "an unknown key": (TOP + "date: x\nsteps: [skipclip]\n", "RUB-SHRINK-090", "'data'"),
    "an unknown verb": (TOP + "steps: [purne: {}]\n", "RUB-SHRINK-090", "did you mean 'prune'"),
    "a verb that makes no model": (TOP + "steps: [bench]\n", "RUB-SHRINK-090", "bench"),
    "an unknown option": (TOP + "steps: [skipclip, prune: {ration: 1}]\n", "RUB-SHRINK-090", "'ratio'"),
    "an option of another verb": (TOP + "steps: [skipclip: {ratio: 50%}]\n", "RUB-SHRINK-090", "ratio"),
    "an unknown flag of the training": (
        TOP + "training: {stepz: 4}\nsteps: [skipclip]\n", "RUB-SHRINK-090", "training · did you mean 'steps'"
    ),
    "training is a list": (TOP + "training: [4]\nsteps: [skipclip]\n", "RUB-SHRINK-090", "training"),
    "options beside the verb": (TOP + "steps:\n- prune:\n  macs: 50%\n", "RUB-SHRINK-090", "indent"),
    "options are a list": (TOP + "steps: [prune: [macs]]\n", "RUB-SHRINK-090", "step 1 (prune)"),
    "training without data": (TOP + "steps: [skipclip, train]\n", "RUB-CLI-006", "step 2 (train)"),
    "compile is not the last": (
        TOP + "steps: [compile: {target: cpu}, prune: {ratio: 0.5}]\n", "RUB-SHRINK-090", "put compile last"
    ),
    "two artefacts": (
        TOP + "steps: [compile: {target: cpu}, compile: {target: cpu, name: b}]\n", "RUB-SHRINK-090", "last"
    ),
    "compile without a target": (TOP + "steps: [compile]\n", "RUB-CLI-006", "--target"),
    "a name that leads out": (TOP + "steps: [skipclip: {name: ../../x}]\n", "RUB-SHRINK-090", "folder"),
    "a name with a line break": (TOP + 'steps: [skipclip: {name: "a\\nb"}]\n', "RUB-SHRINK-090", "folder"),
    "an endless name": (TOP + f"steps: [skipclip: {{name: {'a' * 300}}}]\n", "RUB-SHRINK-090", "48"),
    "an empty name": (TOP + 'steps: [skipclip: {name: ""}]\n', "RUB-SHRINK-090", "folder"),
    "one name twice": (
        TOP + "steps: [skipclip: {name: a}, prune: {name: a, ratio: 0.5}]\n", "RUB-SHRINK-090", "'a'"
    ),
    "where to write": (TOP + "steps: [skipclip: {output: x}]\n", "RUB-SHRINK-090", "output"),
    "allowing code": (TOP + "steps: [skipclip: {allow_code: true}]\n", "RUB-CLI-013", "flag of this run"),
    "trust": (TOP + "trust: true\nsteps: [skipclip]\n", "RUB-CLI-013", "trust"),
    "force": (TOP + "steps: [prune: {force: true, ratio: 0.5}]\n", "RUB-CLI-013", "force"),
    "code as the model": ("version: 1\nmodel: python:os:getcwd\nsteps: [skipclip]\n", "RUB-READ", "code"),
    "another model in the middle": (TOP + "steps: [skipclip: {arch: demo-ctc}]\n", "RUB-SHRINK-090", "arch"),
    "not a number": (TOP + "steps: [prune: {ratio: much}]\n", "RUB-SHRINK-031", "step 1 (prune)"),
    "a number that cannot be": (TOP + "steps: [quantize: {bits: 99}]\n", "RUB-SHRINK-070", "quantize"),
    "a word that cannot be": (TOP + "steps: [prune: {ratio: 1, scope: globl}]\n", "RUB-CLI-001", "'global'"),
    "neither true nor false": (TOP + "steps: [prune: {inside: 3, ratio: 1}]\n", "RUB-SHRINK-090", "inside"),
    "true for a number": (TOP + "steps: [prune: {ratio: true}]\n", "RUB-SHRINK-090", "ratio"),
    "a mapping for a number": (TOP + "steps: [prune: {ratio: {a: 1}}]\n", "RUB-SHRINK-090", "ratio"),
    "a list for a number": (TOP + "steps: [prune: {ratio: [1, 2]}]\n", "RUB-SHRINK-090", "one value"),
    "an empty list of data": (TOP + "data: []\nsteps: [skipclip]\n", "RUB-SHRINK-090", "data"),
    "no such data": (TOP + "steps: [skipclip: {data: chunkz}]\n", "RUB-SHRINK-090", "step 1 (skipclip)"),
    "data with a NUL": (TOP + 'steps: [skipclip: {data: "a\\0b"}]\n', "RUB-", "data"),
    "one option in two spellings": (
        TOP + "steps: [prune: {weight-bytes: 1, weight_bytes: 2}]\n", "RUB-SHRINK-090", "twice"
    ),
    "no such teacher": (
        TOP + "data: chunks\nsteps: [skipclip, train: {teacher: x.pt}]\n", "RUB-READ-001", "step 2-train"
    ),
    "an alias": (TOP + "training: &a {steps: 4}\nsteps: [train: *a]\n", "RUB-CLI-011", "alias"),
    "a tag": (TOP + "steps: [!!python/name:os.system x]\n", "RUB-CLI-011", "tag"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_that_cannot_be_used(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, code, words = HOSTILE[name]
    recipe = made / f"bad-{re.sub(r'[^a-z]', '', name)}.yaml"
    recipe.write_text(text)
    status = main(["chain", str(recipe), "-o", str(tmp_path / "out"), "-q"])
    recipe.unlink()
    said = capsys.readouterr().err
    assert status in (2, 3) and code in said and words in said, said
    assert not code.startswith(("RUB-SHRINK", "RUB-CLI")) or recipe.name in said, said
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert main(["chain", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert main(["chain", str(tmp_path / "x.yaml"), "-q"]) == 2


# ---- one table of options


def test_every_flag_of_a_verb_is_an_option_of_its_step() -> None:
    for verb in VERBS:
        parser, flags = parser_of(verb)
        assert "name" not in parser.options(), "a step's name"
        missing = set(parser.options()) - set(flags)
        assert not {name for name in missing if "arch" not in name} - {
            *("help", "input", "output", "force", "list", "allow-code", "trust"),
            *("print-config", "dry-run", "from-stage", "until-stage"),
        }
        assert not missing - {"teacher-arch"} & {"data", "steps", "teacher-arch"}
        for name, flag in flags.items():
            words = f"{flag.metavar} {flag.help}"
            about_files = re.search(r"\b(file|folder|FILE|PATH)\b", words) and "teacher" not in name
            assert not about_files or flag.metavar in PATHS, f"{verb} --{name}: paths are relative to recipes"
            assert (flag.metavar in MODELS) == (name == "teacher"), name
            kinds = (argparse._StoreAction, argparse._AppendAction)
            assert flag.nargs == 0 or isinstance(flag, kinds), f"{verb} --{name}: chain_recipe must learn it"


def test_values_of_every_form(made: Path) -> None:
    (made / "layers.txt").write_text("a 0.5\n")
    text = f"""{TOP}arch_config: config.yaml
data: [chunks]
training: {{augment: off, bf16: true, feature: [a=b], lr: 1e-4}}
steps:
  - prune: {{share: {{'gru.*': 75%, b: 0.5}}, skip: x, inside: true, norms: false,
             layers: layers.txt, name: 5}}
  - prune: {{sparsity: 0.5, pattern: 2:4, data: null}}
  - train: {{validation: [chunks, simulated], teacher: demo-ctc}}
  - train: {{teacher: 'python:a.b:c', settings: settings.yaml}}
  - compile: {{target: cpu, max_gap: {{snr: 30dB}}, set: {{passes.cleanup.fold-constants.max_bytes: 1024}}}}
"""
    (made / "forms.yaml").write_text(text)
    (made / "settings.yaml").write_text("steps: 7\n")
    (made / "config.yaml").write_text("size: 8\n")
    found = read_chain(made / "forms.yaml", ["--threads=1", "--allow-code"])
    assert found.reading.arch_config == {"size": 8} and found.model == str(made / "model.pt")
    assert found.folders == ("1-5", "2-prune", "3-train", "4-train-2", "5-compile")
    cut, zero, first, second, built = found.steps
    channels = cut.settings.channels
    assert channels.shares == {"gru.*": 0.75, "b": 0.5} and channels.skip == ("x",)
    assert channels.inside and not channels.norms and cut.settings.weights.layers == {"a": 0.5}
    assert zero.settings.weights.pattern == "2:4" and zero.given["data"] == ()
    assert first.given["data"] == (str(made / "chunks"),) and first.settings.lr == 1e-4
    assert first.settings.bf16 and first.settings.features == (("a", "b"),)
    assert first.settings.augment.stretch == 0 and first.given["teacher"] == "demo-ctc"
    assert first.given["validation"] == (str(made / "chunks"), "simulated")
    assert second.settings.steps == 7 and second.settings.lr == 2e-3, "the file stands for what is shared"
    assert second.given["teacher"] == "python:a.b:c" and second.reading.allow_code
    assert built.settings.max_gap.snr == 30 and built.settings.threads == 1
    assert built.settings.passes["cleanup.fold-constants"] == {"max_bytes": 1024}


def test_init_writes_a_recipe_whose_every_key_is_known(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--chain", "-q"]) == 0 and capsys.readouterr().out == CHAIN
    for name in ("model.pt", "chunks"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "first.yaml").write_text(CHAIN)
    assert read_chain(tmp_path / "first.yaml").folders == FOLDERS_OF_INIT
    # Every option in a comment, made one.
    text = re.sub(r"# (?=[a-z_]+: |- [a-z]+: \{)", "", CHAIN).replace("bits: 8", "")
    text = re.sub(r"^ *(arch|arch_config|input|teacher_arch|validation): .*\n", "", text, flags=re.M)
    (tmp_path / "second.yaml").write_text(text)
    steps = read_chain(tmp_path / "second.yaml").steps
    assert len(steps) == 5 and steps[1].settings.channels.shares == {"gru.*": 0.75}


FOLDERS_OF_INIT = ("1-skipclip", "2-half", "3-quantize", "4-compile")


# ---- from Python


def test_from_python(made: Path, tmp_path: Path) -> None:
    settings = PruneSettings(ChannelOptions(ratio=0.5))
    steps = (Step("skipclip", "a", SkipSettings()), Step("prune", "b", settings))
    out = api.chain(Chain(made / "model.pt", steps), out=tmp_path / "out")
    assert [step.folder for step in out.steps] == ["1-a", "2-b"] and out.report is not None
    assert out.report.figure("identity") is None
    again = api.chain(Chain(made / "model.pt", steps), out=tmp_path / "out")
    assert [step.did for step in again.steps] == ["reused", "reused"]
    assert again.report is not None and again.report.not_measured
    assert again.report.tables[0].rows[2][5] == "-"


def test_digests_tell_settings_apart(tmp_path: Path) -> None:
    files = Files()
    (tmp_path / "a").write_text("a")
    settings = [
        *(TrainSettings(), TrainSettings(lr=0.1), PruneSettings(ChannelOptions(ratio=0.5)), SkipSettings()),
        *(PruneSettings(ChannelOptions(ratio=0.5, scores={"w": np.arange(3)})), tmp_path / "a", "a", 1, 1.0),
        *(PruneSettings(ChannelOptions(ratio=0.5, scores={"w": np.arange(3.0)})), {"a": 1}, [1], None, True),
    ]
    assert len({digest(one, files) for one in settings}) == len(settings)
    assert digest(TrainSettings(save_every=1), files) == digest(TrainSettings(), files)
    with pytest.raises(UsageError, match="RUB-SHRINK-090"):
        digest(PruneSettings(ChannelOptions(cost=lambda graph: 1.0, budget=1.0)), files)
