"""From a model to a package and back: compile, verify, sessions, shapes, precisions, equal bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import coreml_builds
import numpy as np
import pytest

import rubicc
from rubicc import api
from rubicc.backends.coreml.package import MODEL_FILE, WEIGHTS_FILE
from rubicc.backends.coreml.session import CoremlSession
from rubicc.errors import ModelRefused, ToolMissing, Unsupported, UsageError, VerificationFailed
from rubicc.genomics.simulate import simulate_reads, write_reads
from rubicc.ir.executor import execute

DEMO = Path(rubicc.__file__).parent / "data" / "demo_ctc.pt"
TIMED = {"manifest.json", "measured.json", "report.html", "report.json"}


def compiled(home: Path, name: str = "out", **flags: Any) -> api.Artefact:
    chosen = {"target": "coreml", "shapes": "x=1x1x1200", **flags}
    return api.compile(DEMO, out=home / name, **chosen)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> api.Artefact:
    return compiled(tmp_path_factory.mktemp("demo"))


def package(folder: Path) -> Path:
    (found,) = (folder / "coreml").glob("*.mlpackage")
    return found


def tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in TIMED)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_package_is_proven_against_its_source_and_its_graph(artefact: api.Artefact) -> None:
    assert artefact.report.verdict == "verified" and artefact.report.precision == "fp16"
    snr = {name.partition(": ")[2]: gap.snr_db for name, gap in artefact.report.gaps.items()}
    assert snr["mil against the source"] > 50 and snr["mil-fp32 against the source"] > 50
    assert snr["the program in fp32, run in float64, against the graph it was lowered from"] > 100
    held = {path.name for path in (artefact.folder / "coreml").iterdir()}
    assert held == {"DemoCtc.mlpackage", "Swift", "ane.json", "ane_audit.py", "README.md"}


def test_two_compilations_give_the_same_bytes(artefact: api.Artefact, tmp_path: Path) -> None:
    again = compiled(tmp_path, name=artefact.folder.name)
    first, second = tree(artefact.folder), tree(again.folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_verify_runs_the_package_again(artefact: api.Artefact, tmp_path: Path) -> None:
    found = api.verify(artefact.folder)
    assert {name.split(": ")[1] for name in found.gaps} == {
        "mil against the source",
        "mil-fp32 against the source",
    }
    write_reads(tmp_path / "reads.npz", simulate_reads(2, seed=3, length=600))
    judged = api.verify(artefact.folder, data=tmp_path / "reads.npz", runtime="mil").gaps
    (gap,) = (gap for name, gap in judged.items() if "float64" in name)
    assert gap.snr_db > 50


@pytest.mark.parametrize("part", [MODEL_FILE, WEIGHTS_FILE])
def test_a_changed_package_is_not_run(artefact: api.Artefact, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artefact.folder, folder)
    path = package(folder) / part
    data = bytearray(path.read_bytes())
    at = data.index(b"ACGT") if part == MODEL_FILE else len(data) - 5
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationFailed) as caught:
        api.verify(folder)
    assert caught.value.code == "RUB-ART-011"
    with pytest.raises(ModelRefused) as refused:
        api.load(folder)
    assert refused.value.code == "RUB-COREML-012"
    shutil.rmtree(package(folder))
    with pytest.raises(ModelRefused) as gone:
        api.load(folder)
    assert gone.value.code == "RUB-COREML-012"


def test_batches_are_run_in_the_pieces_that_the_package_takes(artefact: api.Artefact) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 1200)).astype(np.float32)
    with api.load(artefact.folder) as session:
        assert isinstance(session, CoremlSession) and session.fixed_length == 1200
        (whole,) = session.run({"x": x}).values()
        parts = [next(iter(session.run({"x": x[i : i + 1]}).values())) for i in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": np.zeros((1, 1, 1199), np.float32)},
        {"x": np.zeros((1, 1, 1200), np.float64)},
        {"y": np.zeros((1, 1, 1200), np.float32)},
        {},
        {"x": np.zeros((1, 1200), np.float32)},
    ],
    ids=["length", "type", "name", "none", "axes"],
)
def test_inputs_that_do_not_fit_are_refused(artefact: api.Artefact, feeds: dict[str, np.ndarray]) -> None:
    with api.load(artefact.folder) as session, pytest.raises(UsageError) as caught:
        session.run(feeds)
    assert caught.value.code == "RUB-COREML-014"


def test_runtimes_that_are_not_here_say_so(artefact: api.Artefact) -> None:
    with pytest.raises(ToolMissing) as caught:
        api.load(artefact.folder, runtime="coreml")
    assert caught.value.code == "RUB-COREML-013"
    with pytest.raises(UsageError) as unknown:
        api.load(artefact.folder, runtime="onnxruntime")
    assert unknown.value.code == "RUB-COREML-010"
    session = api.load(artefact.folder)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({"x": np.zeros((1, 1, 1200), np.float32)})


def test_reads_are_called_as_on_the_cpu(artefact: api.Artefact, tmp_path: Path) -> None:
    reads = simulate_reads(2, seed=9, length=500)
    write_reads(tmp_path / "reads.npz", reads)
    references = {read.read_id: read.sequence for read in reads}
    cpu = api.compile(DEMO, out=tmp_path / "cpu", target="cpu", runtime="onnxruntime")
    identity = []
    for made, target, runtime in ((cpu, "cpu", "onnxruntime"), (artefact, "coreml", "mil")):
        calls = tmp_path / f"{target}.fastq"
        api.basecall(made.folder, [tmp_path / "reads.npz"], out=calls, target=target, runtime=runtime)
        identity.append(api.evaluate(calls, reference=references).pooled()["matches"])
    assert identity[0] > 0.8 and abs(identity[0] - identity[1]) < 0.01


def test_bench_times_the_interpreter_and_says_that_it_is_no_device(artefact: api.Artefact) -> None:
    found = api.bench(artefact.folder, seconds=0.05)
    assert {row.runtime for row in found.rows} == {"mil", "mil-fp32"} and "the device" in found.left_out
    assert all(row.snr_db > 50 for row in found.rows)
    with pytest.raises(UsageError):
        api.bench(artefact.folder, length=400)


@pytest.mark.parametrize(
    ("shapes", "taken", "refused"),
    [
        ("x=1x1x240,1x1x480", [(1, 240), (1, 480), (2, 480)], [(1, 360), (1, 600)]),
        ("x=1..2x1x120..480", [(1, 120), (2, 480), (1, 333), (4, 240)], [(1, 90), (1, 481)]),
    ],
    ids=["enumerated", "range"],
)
@pytest.mark.parametrize("name", ["conv", "gru"])
def test_flexible_shapes_are_executed(
    name: str, shapes: str, taken: list[tuple[int, int]], refused: list[tuple[int, int]], tmp_path: Path
) -> None:
    made = coreml_builds.finish(coreml_builds.build(name, tmp_path, shapes=shapes), tmp_path / "out")
    assert made.proof is not None
    assert {"1x1x480", "1x1x240"} & {
        word for key in made.proof.gaps for word in key.replace(":", " ").split()
    }
    with CoremlSession(package(tmp_path / "out"), "mil-fp32") as session:
        for batch, length in taken:
            x = np.random.default_rng(length).standard_normal((batch, 1, length)).astype(np.float32)
            (found,) = session.run({"x": x}).values()
            (wanted,) = execute(made.lowered.graph, {"x": x}).values()
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
        for batch, length in refused:
            with pytest.raises(UsageError) as caught:
                session.run({"x": np.zeros((batch, 1, length), np.float32)})
            assert caught.value.code == "RUB-COREML-014"


@pytest.mark.parametrize(
    ("precision", "target", "ratio"),
    [
        ("fp32", "iOS17", 2.0),
        ("int8", "iOS17", 0.7),
        ("int4", "iOS17", 0.5),
        ("int4", "iOS18", 0.6),
        pytest.param("palette2", "iOS18", 0.4, marks=pytest.mark.slow),
        pytest.param("sparse", "iOS16", 0.8, marks=pytest.mark.slow),
        ("w8a8", "iOS17", 0.7),
    ],
)
def test_every_precision_is_stored_and_proven(
    artefact: api.Artefact, precision: str, target: str, ratio: float, tmp_path: Path
) -> None:
    made = compiled(tmp_path, target=f"coreml:{target}", precision=precision)
    assert made.report.verdict == "verified" and made.report.precision == precision
    sizes = [(package(folder) / WEIGHTS_FILE).stat().st_size for folder in (made.folder, artefact.folder)]
    assert sizes[0] <= ratio * 1.05 * sizes[1]
    if precision == "fp32":
        snr = [
            gap.snr_db for name, gap in made.report.gaps.items() if name.endswith("mil against the source")
        ]
        assert min(snr) > 90


def test_sequences_of_several_lengths_prove_a_masked_network(tmp_path: Path) -> None:
    made = coreml_builds.finish(coreml_builds.build("bert", tmp_path), tmp_path / "out")
    assert made.inputs is not None and made.proof is not None
    filled = [int(feeds["attention_mask"].sum()) for feeds in made.inputs.cases.values()]
    assert filled == [24, 12, 2]
    with CoremlSession(package(tmp_path / "out"), "mil") as session:
        ids = np.arange(24, dtype=np.int64)[None] % 60
        mask = (np.arange(24) < 9).astype(np.int64)[None]
        first = session.run({"input_ids": ids, "attention_mask": mask})["logits"][:, :9]
        ids[:, 9:] = 7  # padding is not seen
        second = session.run({"input_ids": ids, "attention_mask": mask})["logits"][:, :9]
        np.testing.assert_array_equal(first, second)
        with pytest.raises(UsageError) as caught:
            session.run({"input_ids": ids + 2**40, "attention_mask": mask})
        assert caught.value.code == "RUB-COREML-014"


def test_lists_of_shapes_for_two_inputs_need_ios18(tmp_path: Path) -> None:
    shapes = "input_ids=1x24,1x12;attention_mask=1x24,1x12"
    with pytest.raises(Unsupported) as caught:
        coreml_builds.finish(coreml_builds.build("bert", tmp_path, shapes=shapes), tmp_path / "old")
    assert caught.value.findings[0].rule == "RUB-COREML-003"
    made = coreml_builds.build("bert", tmp_path, "coreml:iOS18", shapes=shapes)
    assert coreml_builds.finish(made, tmp_path / "new").proof is not None


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"precision": "w8a8", "target": "coreml:iOS16"}, "RUB-COREML-010"),
        ({"precision": "bf16"}, "RUB-COREML-010"),
        ({"layout": "polyphase"}, "RUB-COREML-010"),
        ({"runtime": "openvino"}, "RUB-COREML-010"),
        ({"shapes": "signal=1x1x1200"}, "RUB-SPEC-003"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    flags: dict[str, str], code: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(tmp_path, **flags)
    assert caught.value.code == code and not (tmp_path / "out").exists()


def test_the_metadata_says_what_the_network_is(artefact: api.Artefact) -> None:
    from rubicc.backends.coreml.run.load import load

    user = load(package(artefact.folder)).metadata.user
    assert user["rubicc.alphabet"] == "NACGT" and user["rubicc.normalisation"] and user["rubicc.stride"]
    described = json.loads(user["rubicc.description"])
    assert described["shapes"]["kind"] == "fixed" and described["target"] == "coreml"
