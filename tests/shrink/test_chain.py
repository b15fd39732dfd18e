"""``rubicc chain``: one recipe, many verbs; what is done once stays done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from chain_home import CONFIG, FOLDERS, chunk_folder, done, hashes, plan, rewrite

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import UsageError
from rubicc.evidence import change, manifest
from rubicc.frontend import checkpoint, read_model
from rubicc.models import registry
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.shrink.chain import Chain, Step, Wish
from rubicc.shrink.fingerprint import Files, digest
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.training.settings import TrainSettings


def test_every_step_leaves_its_result(chained: Path) -> None:
    out = chained / "out"
    files = {"chain.json", "chain.lock", "manifest.json", "report.html", "report.json"}
    assert {path.name for path in out.iterdir()} == {*FOLDERS, *files}
    assert all(manifest.verify_files(out / name).ok for name in FOLDERS)
    sealed = manifest.read(out)
    assert sealed.target == "chain" and sealed.inputs["model"] == read_model(chained / "model.pt").sha256
    wanted = {f"{name}/manifest.json": manifest.file_sha256(out / name / "manifest.json") for name in FOLDERS}
    assert sealed.files == wanted
    for name, before in zip(FOLDERS[1:3], FOLDERS, strict=False):
        assert read_model(out / name).graph is not None
        assert manifest.read(out / name).inputs["model"] == read_model(out / before).sha256
    assert api.open_artefact(out / "4-compile").report.verdict == "verified"


def test_the_report_stands_steps_side_by_side(chained: Path) -> None:
    out = chained / "out"
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


def test_a_step_is_what_its_verb_does_alone(chained: Path, tmp_path: Path) -> None:
    words = ["--ratio", "50%", "--steps", "6", "--batch", "2", "--warmup", "1", "--validate-every", "4"]
    words += ["--validation-items", "2", "--save-every", "0", "--augment", "off", "-q"]
    model, data = str(chained / "out" / "1-skipclip"), str(chained / "chunks")
    assert main(["prune", model, "--data", data, "-o", str(tmp_path / "alone"), *words]) == 0
    mine, chained = (path / "manifest.json" for path in (tmp_path / "alone", chained / "out" / "2-half"))
    assert mine.read_bytes() == chained.read_bytes()


def test_its_folder_is_no_model_and_no_artefact(chained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, code in (("inspect", 2), ("verify", 3)):
        assert main([verb, str(chained / "out"), "-q"]) == code
        assert "folder of a step" in capsys.readouterr().err


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


def test_a_dry_run_writes_nothing(chained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in chained.rglob("*"))
    stamp = (chained / "out" / "chain.json").stat().st_mtime_ns
    for words in (["-o", str(chained / "out")], ["-o", str(chained / "new")], []):
        assert main(["chain", str(chained / "chain.yaml"), "--dry-run", "-q", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("1-skipclip comes first") == 2 and said.count("  reuse") == 4
    assert sorted(str(path) for path in chained.rglob("*")) == before
    assert (chained / "out" / "chain.json").stat().st_mtime_ns == stamp


def test_from_python(chained: Path, tmp_path: Path) -> None:
    settings = PruneSettings(ChannelOptions(ratio=0.5))
    steps = (Step("skipclip", "a", SkipSettings()), Step("prune", "b", settings))
    out = api.chain(Chain(chained / "model.pt", steps), out=tmp_path / "out")
    assert [step.folder for step in out.steps] == ["1-a", "2-b"] and out.report is not None
    assert out.report.figure("identity") is None
    again = api.chain(Chain(chained / "model.pt", steps), out=tmp_path / "out")
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
