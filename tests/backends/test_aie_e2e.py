"""A whole compilation: model to proven project, run and verified again; a wrong emission is no artefact."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rubicc
from rubicc import api
from rubicc.backends.aie import artefact, emit, session, target_plan
from rubicc.backends.aie.artefact import opened
from rubicc.backends.aie.project.write import Written, write
from rubicc.backends.aie.sim import kept
from rubicc.backends.base import Target
from rubicc.backends.compiled import keep_newest
from rubicc.errors import ModelRefused, Unsupported, UsageError, VerificationFailed
from rubicc.frontend import checkpoint
from rubicc.genomics.evaluate import evaluate, read_sequences
from rubicc.models import registry

STEPS = 96
SHORT = ("de1508c4-755b-489e-9ffb-51af35c9a7e6", "db6b45aa-5d21-45cf-a435-05fb8f12e839")
TARGET = {"target": "aie:vek280", "inputs": [f"x=Nx1x{STEPS}:f32"]}


class Small(torch.nn.Module):
    """A strided layer, a grouped one of many taps, a sum, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv1d(1, 16, 7, stride=2, padding=3)
        self.long = torch.nn.Conv1d(16, 16, 9, padding=4, groups=2)
        self.head = torch.nn.Conv1d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.first(x))
        return self.head(torch.relu(self.long(first) + first))


@pytest.fixture(scope="module")
def model() -> Small:
    if not shutil.which("g++"):
        pytest.skip("the functional emulation needs g++")
    torch.manual_seed(5)
    return Small().eval()


@pytest.fixture(scope="module")
def made(model: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aie") / "out"
    rubicc.compile(model, out=out, **TARGET)
    return out


def exact(folder: Path) -> list[bool]:
    """Of every comparison of integers in the proof, whether nothing differed."""
    gaps = json.loads((folder / "report.json").read_text())["gaps"]
    return [gap["max_abs"] == 0 for gap in gaps if "integers" in gap["name"] or "integer of" in gap["name"]]


def test_a_model_becomes_a_proven_project_that_runs_and_is_verified_again(made: Path, model: Small) -> None:
    assert exact(made) == [True, True, True, True]  # two inputs, alone and behind other signal
    x = np.random.default_rng(3).uniform(-1, 1, (3, 1, STEPS)).astype(np.float32)
    want = model(torch.from_numpy(x)).detach().numpy()
    with api.load(made) as emulated, api.load(made, runtime="integer") as integer:
        found = next(iter(emulated.run({"x": x}).values()))
        np.testing.assert_array_equal(found, next(iter(integer.run({"x": x}).values())))
    assert np.abs(found - want).max() < 0.1 * np.abs(want).max()
    assert set(api.verify(made).gaps) == {
        f"recorded vectors: {runtime} against the source" for runtime in ("sim", "integer")
    }


@pytest.mark.parametrize("change", ["nothing", "a kernel", "a new header", "text in the plan"])
def test_only_code_that_rubicc_writes_is_compiled(
    change: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's artefact, whose hashes are right."""
    home = tmp_path / "given"
    shutil.copytree(made, home)
    folder = home / "aie"
    if change == "a kernel":
        kernel = sorted((folder / "project" / "src" / "kernels").glob("*.cpp"))[0]
        kernel.write_text(kernel.read_text() + '\nstatic int opened = system("true");\n')
    if change == "a new header":
        (folder / "project" / "adf.h").write_text("#error")
    if change == "text in the plan":
        plan = json.loads((folder / "plan.json").read_text())
        plan["segments"][0]["index"] = "0); system(1"
        artefact.write_json(folder / "plan.json", plan)
    index = json.loads((folder / "files.json").read_text())
    index["sha256"] = artefact._hashes(folder)
    artefact.write_json(folder / "files.json", index)
    monkeypatch.setattr(artefact, "_HERE", set())
    monkeypatch.setattr(session, "_COMPILED", {})
    if change == "nothing":
        session.open_session(folder)
        return
    code = "RUB-AIE-005" if change == "text in the plan" else "RUB-AIE-006"
    with pytest.raises(ModelRefused, match=code):
        session.open_session(folder)


def test_an_artefact_is_compiled_once_on_a_machine(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(kept, "build", never)
    with api.load(made) as session:
        session.run({"x": np.zeros((1, 1, STEPS), np.float32)})


def test_another_project_is_another_entry_of_the_cache(made: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(made / "aie" / "project", project)
    before = kept.digest(project, 20, (), 1)
    assert before == kept.digest(made / "aie" / "project", 20, (), 1)
    assert len({before, kept.digest(project, 22, (), 1), kept.digest(project, 20, ("A",), 1)}) == 3
    header = project / "src" / "graph.h"
    header.write_text(header.read_text() + "\n")
    assert kept.digest(project, 20, (), 1) != before


def test_the_cache_drops_what_was_not_used_longest(tmp_path: Path) -> None:
    for number in range(5):
        entry = tmp_path / str(number)
        entry.mkdir()
        (entry / "emulation").write_bytes(bytes(100))
        os.utime(entry, (1000 + number, 1000 + number))
    os.utime(tmp_path / "0", (2000, 2000))
    keep_newest(tmp_path, 4, 1 << 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3", "4"]
    keep_newest(tmp_path, 4, 9000)  # two folders of 4096 bytes and their files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "4"]


def other_offset(project: Path) -> None:
    """Two tiles that fill halves of a memory tile's buffer each fill the other's."""
    path = project / "src" / "graph.h"
    access = r"(write_access\((\w+)\.in\[\d\]\) = adf::tiling\(part\(\d+, )(\d+)(?=, \d+\)\))"
    text = path.read_text()
    first, second = list(re.finditer(access, text))[:2]
    assert first[2] == second[2] and first[3] != second[3]
    moved = {first.start(): f"{first[1]}{second[3]}", second.start(): f"{second[1]}{first[3]}"}
    path.write_text(re.sub(access, lambda match: moved.get(match.start(), match[0]), text))


def other_weight(project: Path) -> None:
    """The largest weight of a tile of the grouped layer changes its sign."""
    for path in sorted((project / "src" / "kernels").glob("*.cpp")):
        text = path.read_text()
        found = re.search(r"(weights_\w+\[\d+\] = \{)([^}]*)\}", text)
        if found is None:
            continue
        numbers = found[2].split(",")
        largest = max(range(len(numbers)), key=lambda i: abs(int(numbers[i])))
        numbers[largest] = str(min(127, -int(numbers[largest])))
        path.write_text(text[: found.start(2)] + ",".join(numbers) + text[found.end(2) :])
        return
    raise AssertionError("no weights")


def test_a_device_with_unknown_facts_is_refused_until_they_are_given(
    made: Path, model: Small, tmp_path: Path
) -> None:
    other = {**TARGET, "target": "aie:vek385"}
    with pytest.raises(Unsupported) as caught:
        rubicc.compile(model, out=tmp_path / "out", **other)
    assert caught.value.code == "RUB-AIE-202" and "--device-fact" in str(caught.value)
    facts = {"memory_tile_rows": 1, "program_bytes": 16384}
    found = target_plan.plan(opened(made).graph, Target("aie", "vek385"), device_facts=facts)
    assert "memory_tile_rows 1, program_bytes 16384" in {d.what for d in found.decisions}
    with pytest.raises(UsageError) as nobody:
        rubicc.compile(model, out=tmp_path / "out", target="cpu", device_facts=["rows=1"])
    assert nobody.value.code == "RUB-DRV-019" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("change", [other_offset, other_weight])
def test_a_wrong_emission_fails_the_proof_and_leaves_nothing(
    model: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    def wrong(plan: Any, net: Any, folder: Path, **options: Any) -> Written:
        written = write(plan, net, folder, **options)
        change(folder)
        return written

    monkeypatch.setattr(emit, "write", wrong)
    with pytest.raises(VerificationFailed) as caught:
        rubicc.compile(model, out=tmp_path / "out", **TARGET)
    assert caught.value.code == "RUB-DRV-001" and "every integer" in str(caught.value)
    assert not any(tmp_path.iterdir())


def real(data: Path, model: Path | str, out: Path, **more: Any) -> dict[str, Any]:
    """The report of a compilation on real signal, every comparison of integers exact."""
    rubicc.compile(
        model, out=out, shapes="x=1x1x3600", calib=data / "chunks", reference=data / "mapped", **more
    )
    assert exact(out) and all(exact(out))
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    names = [gap["name"] for gap in report["gaps"] if "every integer" in gap["name"]]
    assert sum("reference data" in name for name in names) == 3
    return report


@pytest.mark.slow
@pytest.mark.real_data
def test_rubicall_at_full_size(shared_data: Path, tmp_path: Path) -> None:
    """8 x 8 on real signal: the issue's bars on tiles and bases."""
    entry = registry.get("rubicall")
    checkpoint.save(tmp_path / "rubicall.pt", entry.build(seed=0), entry.meta())
    real(shared_data, tmp_path / "rubicall.pt", tmp_path / "out", target="aie:vek280", precision="int8")
    found = opened(tmp_path / "out").plan.throughput
    assert found.busy >= 0.7 and found.bases >= 4e6
    assert found.bases_band[0] < found.bases < found.bases_band[1]


@pytest.mark.slow
@pytest.mark.real_data
def test_calls_of_the_real_r9_network_through_the_emulation(shared_data: Path, tmp_path: Path) -> None:
    """Measured on all seven reads: 0.9120 in fp32, 0.9113 through the emulation; here the shortest two."""
    weights = shared_data / "weights" / "r9_mgru_flipflop_state_dict.pt"
    real(shared_data, weights, tmp_path / "out", target="aie:vek280", arch="taiyaki-mgru")
    rubicc.compile(weights, out=tmp_path / "cpu", arch="taiyaki-mgru", target="cpu", runtime="onnxruntime")
    references: dict[str, str] = {}
    for path in sorted((shared_data / "mapped").glob("references_*.fasta")):
        references.update(read_sequences(path))
    options = {"read_ids": SHORT}
    calls = {}
    for folder, runtime in (("cpu", "onnxruntime"), ("out", "sim"), ("out", "integer")):
        calls[runtime] = tmp_path / f"{runtime}.fasta"
        reads = [shared_data / "mapped"]
        api.basecall(tmp_path / folder, reads, out=calls[runtime], runtime=runtime, options=options)
    assert calls["sim"].read_bytes() == calls["integer"].read_bytes()
    fp32, emulated = (weighted(calls[runtime], references) for runtime in ("onnxruntime", "sim"))
    print(f"fp32 {fp32:.4f}, emulated {emulated:.4f}")
    assert fp32 > 0.8 and emulated > fp32 - 0.01


def weighted(calls: Path, references: dict[str, str]) -> float:
    """Identity, weighted by the reads' lengths."""
    found = evaluate(calls, references).reads
    assert len(found) == len(SHORT)
    sizes = [len(references[read.read_id]) for read in found]
    return float(np.average([read.identity for read in found], weights=sizes))
