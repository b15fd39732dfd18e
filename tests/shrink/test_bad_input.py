"""Bad input to every verb that shrinks: a code, an exit status, a remedy, and what existed stays as it was.

Wrong flags and settings of each verb stand in the tests of that verb (tests/training/test_train_cli.py,
test_prune.py, test_skipclip.py, test_quantize_verb.py); here are bad models, data, teachers, budgets, places
and disks. OUT holds a result already, which each command would replace.
"""

from __future__ import annotations

import fcntl
import hashlib
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from rubicc.cli.explain import catalogue
from rubicc.cli.main import main
from rubicc.genomics.simulate import simulate_reads, write_reads
from rubicc.ir.io import save_graph
from rubicc.models import registry
from rubicc.shrink.student import lowered_module
from tests.training.training_files import chunk_folder
from tests.training.twin_zoo import net

FEW = (
    *("--steps", "4", "--batch", "1", "--chunk", "90", "--warmup", "1"),
    *("--validate-every", "4", "--validation-items", "1", "--save-every", "0"),
)
SIM = ("--data", "simulated", *FEW)
WILD = (*SIM, "--lr", "1e30", "--clip", "0")
CUT = ("prune", "alone.onnx", "--ratio", "50%")
HALF = ("prune", "ctc.onnx", "--ratio", "50%")


class Alone(torch.nn.Module):
    """One layer, from the model's input to its output: nothing in it can go."""

    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Conv1d(1, 5, 9, stride=3, padding=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x).permute(2, 0, 1).log_softmax(-1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data, good and bad, by the names that the commands below use."""
    folder = tmp_path_factory.mktemp("home")
    for name, short in (("demo-ctc", "ctc"), ("taiyaki-mgru", "gru"), ("dna-bert", "bert")):
        save_graph(net(name).raw, folder / f"{short}.onnx")
    save_graph(lowered_module(Alone(), registry.get("demo-ctc").meta(), "alone"), folder / "alone.onnx")
    proto = onnx.load(folder / "ctc.onnx")
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 3)
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))
    onnx.save(proto, folder / "nan.onnx")
    proto = onnx.load(folder / "ctc.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, folder / "bare.onnx")
    (folder / "junk").write_text("x")
    (folder / "none").mkdir()
    chunk_folder(folder / "no-chunks", count=0)
    chunk_folder(folder / "rna", samples=150, most=20)
    np.save(folder / "rna" / "references.npy", np.full((40, 20), 7, np.uint8))
    chunk_folder(folder / "nan-chunks", samples=150, most=20)
    np.save(folder / "nan-chunks" / "chunks.npy", np.full((40, 150), np.nan, np.float16))
    tokens = {v.name or "": np.ones((0, 24), np.int64) for v in net("dna-bert").raw.inputs}
    np.savez(folder / "no-rows.npz", **tokens)
    np.savez(folder / "rows.npz", **{name: np.ones((4, 24), np.int64) for name in tokens})
    write_reads(folder / "mapped.npz", simulate_reads(3, seed=3, length=120))
    with np.load(folder / "mapped.npz") as archive:
        np.savez(folder / "raw.npz", **{k: v for k, v in archive.items() if not k.startswith("ref")})
    assert main(["prune", str(folder / "ctc.onnx"), "--ratio", "25%", "-o", str(folder / "old"), "-q"]) == 0
    return folder


@dataclass(frozen=True)
class Case:
    """A command that must be refused, in a folder that holds what ``home`` makes.

    Attributes:
        hint: part of what the message says.
    """

    words: tuple[str, ...]
    code: str
    status: int
    hint: str


def case(*words: str, code: str, status: int = 2, hint: str) -> Case:
    return Case(words, code, status, hint)


def quickly(cases: Iterable[str], slow: Iterable[str]) -> list[Any]:
    """Names of cases, those in ``slow`` marked."""
    slow = set(slow)
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in cases]


NUMBERS = {"code": "RUB-SHRINK-004", "hint": "blocks_0"}
UNKNOWN = {"code": "RUB-SHRINK-001", "hint": "--arch"}
STRIDE = {"code": "RUB-TRAIN-025", "hint": "stride is 3, the teacher's 4"}
UNUSED = {"code": "RUB-SHRINK-005", "hint": "--data"}
BUDGET = {"code": "RUB-PASS-033", "hint": "at least"}
DIVERGED = {"code": "RUB-TRAIN-040", "status": 5, "hint": "smaller --lr"}
CASES = {
    # losses and weights that are no numbers
    "skipclip diverges": case("skipclip", "ctc.onnx", *WILD, **DIVERGED),
    "prune diverges": case(*HALF, *WILD, **DIVERGED),
    "quantize diverges": case("quantize", "alone.onnx", *WILD, **DIVERGED),
    "prune, NaN in the data": case(
        *HALF, *FEW, "--data", "nan-chunks", code="RUB-TRAIN-040", status=5, hint="NaN"
    ),
    "an infinite rate": case("train", "alone.onnx", *SIM, "--lr", "inf", code="RUB-TRAIN-024", hint="finite"),
    "train, NaN weights": case("train", "nan.onnx", *SIM, **NUMBERS),
    "skipclip, NaN weights": case("skipclip", "nan.onnx", **NUMBERS),
    "prune, NaN weights": case("prune", "nan.onnx", "--sparsity", "50%", **NUMBERS),
    "quantize, NaN weights": case("quantize", "nan.onnx", "--bits", "4", **NUMBERS),
    "a teacher with NaN weights": case("train", "alone.onnx", *SIM, "--teacher", "nan.onnx", **NUMBERS),
    # data
    "skipclip, no chunks": case(
        "skipclip", "alone.onnx", *FEW, "--data", "no-chunks", code="RUB-TRAIN-031", hint="no usable chunks"
    ),
    "an empty folder": case(
        "quantize", "alone.onnx", *FEW, "--data", "none", "--teacher", "alone.onnx",
        code="RUB-GEN-100", hint="no read files",
    ),
    "no rows": case(
        "train", "bert.onnx", *FEW, "--data", "no-rows.npz", code="RUB-TRAIN-031", hint="no examples",
    ),
    "rows without labels": case(
        "train", "bert.onnx", *FEW, "--data", "rows.npz", code="RUB-TRAIN-026", hint="--teacher"
    ),
    "signal for a network of tokens": case(
        "train", "bert.onnx", *SIM, code="RUB-TRAIN-033", hint="reads no signal"
    ),
    "no reads in a file": case(
        *CUT, *FEW, "--data", "junk", "--teacher", "alone.onnx", code="RUB-TRAIN-031", hint="no usable reads"
    ),
    "quantize, another alphabet": case(
        "quantize", "alone.onnx", *FEW, "--data", "rna", code="RUB-TRAIN-032", hint="code 7"
    ),
    "budgets without signal": case(
        "quantize", "bert.onnx", "--weights-mean-bits", "5", code="RUB-SHRINK-071", hint="--data"
    ),
    # teachers
    "skipclip, another stride": case(
        "skipclip", "alone.onnx", *SIM, "--teacher", "gru.onnx", "--labels", "scores", **STRIDE
    ),
    "prune, another stride": case(*CUT, *SIM, "--teacher", "gru.onnx", "--labels", "scores", **STRIDE),
    "quantize, another stride": case(
        "quantize", "alone.onnx", *SIM, "--teacher", "gru.onnx", "--labels", "scores", **STRIDE
    ),
    "a teacher that calls nothing": case(
        *CUT, *SIM, "--teacher", "bert.onnx", code="RUB-TRAIN-025", hint="one of them calls bases"
    ),
    "no such teacher": case(
        "quantize", "alone.onnx", *SIM, "--teacher", "absent.onnx",
        code="RUB-READ-001", status=3, hint="absent",
    ),
    "prune, a teacher without data": case(*HALF, "--teacher", "ctc.onnx", **UNUSED),
    "quantize, validation without data": case(
        "quantize", "ctc.onnx", "--validation", "rna", **UNUSED
    ),
    # budgets that cannot be kept
    "too few multiplications": case(
        "prune", "gru.onnx", "--macs", "0.1%", code="RUB-PASS-051", hint="raise the budget"
    ),
    "too few bytes": case(
        "prune", "gru.onnx", "--weight-bytes", "10", code="RUB-PASS-051", hint="raise the budget"
    ),
    "quantize, too few bytes": case("quantize", "alone.onnx", "--size", "10", **BUDGET),
    "too few bit operations": case("quantize", "alone.onnx", "--bops", "10", **BUDGET),
    "no divergence at all": case("quantize", "alone.onnx", "--divergence", "0", **BUDGET),
    "a mean width below all widths": case(
        "quantize", "alone.onnx", "--weights-mean-bits", "2", "--widths", "4,8", **BUDGET
    ),
    # networks
    "nothing that can be cut": case(
        "prune", "alone.onnx", "--ratio", "50%", code="RUB-SHRINK-030", hint="stay"
    ),
    "no skips": case("skipclip", "gru.onnx", code="RUB-SHRINK-050", hint="no residual connection"),
    "train, no metadata": case("train", "bare.onnx", *SIM, **UNKNOWN),
    "skipclip, no metadata": case("skipclip", "bare.onnx", **UNKNOWN),
    "prune, no metadata": case("prune", "bare.onnx", "--ratio", "50%", **UNKNOWN),
    "quantize, no metadata": case("quantize", "bare.onnx", **UNKNOWN),
    "no model": case("skipclip", "absent.onnx", code="RUB-READ-001", status=3, hint="absent"),
    "no model at all": case("prune", "junk", "--ratio", "50%", code="RUB-READ-004", status=3, hint="forms:"),
    # settings
    "no settings": case(
        "quantize", "ctc.onnx", *SIM, "--settings", "absent.yaml", code="RUB-CLI-010", hint="check the path"
    ),
    "settings that are no text": case(
        *HALF, *SIM, "--settings", "ctc.onnx", code="RUB-CLI-011", hint="not UTF-8"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", quickly(CASES, slow=("skipclip diverges", "prune diverges")))
def test_refused(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name and remedy; the result that was there stays, and no folder of a run is left."""
    one, out = CASES[name], tmp_path / "out"
    shutil.copytree(home / "old", out)
    before = digests(tmp_path)
    monkeypatch.chdir(home)
    assert main([*one.words, "-o", str(out), "--force", "-q"]) == one.status
    told(capsys, one.code, one.hint)
    assert {path: found for path, found in digests(tmp_path).items() if path.parts[0] == "out"} == before
    # Data that were brought into another form are kept for the next try, an empty folder is not.
    left = tmp_path / "out.partial"
    assert not left.exists() or any(path.name != "lock" for path in left.rglob("*") if path.is_file())


def told(capsys: pytest.CaptureFixture[str], code: str, hint: str) -> None:
    """One error line: code, what, and how to mend it; the catalogue explains the code."""
    said = capsys.readouterr().err
    assert said.startswith(f"error[{code}]: ") and hint in said, said
    assert said.count("error[") == 1 and " · " in said and code in catalogue()


def digests(folder: Path) -> dict[Path, str]:
    """Every file below, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- places


def test_places_that_cannot_be_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before any work, also where training comes first."""
    (tmp_path / "file").write_text("mine")
    foreign = tmp_path / "foreign"
    shutil.copytree(home / "old", foreign)
    (foreign / "thesis.txt").write_text("mine")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    before = digests(tmp_path)
    model = str(home / "ctc.onnx")
    cases = (
        ("no folder", tmp_path / "no" / "out", 2, "RUB-ART-004", "create it"),
        ("below a file", tmp_path / "file" / "out", 2, "RUB-ART-004", "create it"),
        ("a file", tmp_path / "file", 8, "RUB-ART-001", "choose another -o"),
        ("somebody's folder", mine, 8, "RUB-ART-001", "choose another -o"),
        ("a result with files of others", foreign, 8, "RUB-ART-003", "move them away"),
    )
    for what, out, status, code, hint in cases:
        for words in (["quantize", model], ["prune", model, "--ratio", "50%", *SIM]):
            assert main([*words, "-o", str(out), "--force", "-q"]) == status, what
            told(capsys, code, hint)
    assert digests(tmp_path) == before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("verb", ["skipclip", "prune", "quantize"])
def test_a_folder_in_which_another_run_works(
    verb: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [verb, str(home / "ctc.onnx"), *(["--ratio", "50%"] if verb == "prune" else []), *SIM]
        assert main([*words, "-o", str(tmp_path / "out"), "-q"]) == 8
    told(capsys, "RUB-SHRINK-002", "wait for it")
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


# ---- full disks


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file grows beyond ``most`` bytes; what is written beyond fails as on a full disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


MAPPED = ("--data", "mapped.npz", *FEW)
RAW = ("--data", "raw.npz", "--teacher", "ctc.onnx", "--copies", "1", *FEW)
CLIP = ("skipclip", "ctc.onnx", *SIM)
STATE, RESULT = "RUB-TRAIN-041", "RUB-IR-049"
DISKS = {
    "train, its log": (("train", "ctc.onnx", *SIM), 10, STATE),
    "train, its state": (("train", "ctc.onnx", *SIM), 20_000, STATE),
    "train, mapped reads": (("train", "ctc.onnx", *MAPPED), 500, STATE),
    "train, the teacher's labels": (("train", "ctc.onnx", *RAW), 9_000, STATE),
    "skipclip, its schedule": (CLIP, 10, STATE),
    "skipclip, a stage": (CLIP, 20_000, STATE),
    "skipclip, its result": (("skipclip", "ctc.onnx"), 1000, RESULT),
    "prune, a round": ((*HALF, "--rounds", "2", *SIM), 8_000, STATE),
    "prune, its result": (HALF, 1000, RESULT),
    "quantize, its state": (("quantize", "ctc.onnx", "--bits", "4", *SIM), 20_000, STATE),
    "quantize, its checkpoint": (("quantize", "ctc.onnx", "--bits", "4"), 56_000, "RUB-ART-004"),
}


@pytest.mark.parametrize("what", quickly(DISKS, slow=set(DISKS) - {"train, its log", "prune, its result"}))
def test_a_full_disk(
    what: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old result stays; with room again the same command ends as one that never met a full disk."""
    words, most, code = DISKS[what]
    out, whole = tmp_path / "out", tmp_path / "whole"
    shutil.copytree(home / "old", out)
    before = digests(out)
    monkeypatch.chdir(home)
    with full_disk(most):
        # --force empties the folder of an unfinished run, so it is given here and not in the second try.
        assert main([*words, "-o", str(out), "--force", "-q"]) == 2
    told(capsys, code, "free space")
    assert digests(out) == before and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    shutil.rmtree(out)
    for place in (out, whole):
        assert main([*words, "-o", str(place), "-q"]) == 0
    mine, other = digests(out), digests(whole)
    for name in ("model.onnx", "checkpoint.pt"):
        assert mine[Path(name)] == other[Path(name)], name


# ---- an unfinished run of another command


def killed(words: tuple[str, ...], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stops in its third step, with its state kept."""
    from rubicc.training.loop import _Run

    step: Callable[..., object] = _Run._step

    def dies(run: _Run, number: int) -> object:
        if number == 2:
            raise KeyboardInterrupt
        return step(run, number)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_step", dies)
        assert main([*words, "-o", str(out), "-q"]) == 130


BITS4 = ("quantize", "alone.onnx", "--bits", "4", *SIM)
OTHERS = {
    "prune, another share": ((*HALF, *SIM), ("prune", "ctc.onnx", "--ratio", "25%", *SIM)),
    "prune, weights instead": ((*HALF, *SIM), ("prune", "ctc.onnx", "--sparsity", "50%", *SIM)),
    "quantize, another width": (BITS4, ("quantize", "alone.onnx", "--bits", "8", *SIM)),
    "quantize after train": (("train", "alone.onnx", *SIM), BITS4),
    "train after quantize": (BITS4, ("train", "alone.onnx", *SIM)),
}


@pytest.mark.parametrize("what", quickly(OTHERS, slow={name for name in OTHERS if "prune" in name}))
def test_an_unfinished_run_of_another_command(
    what: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not taken over, and not lost either."""
    first, second = OTHERS[what]
    out = tmp_path / "out"
    monkeypatch.chdir(home)
    killed(first, out, monkeypatch)
    before = digests(tmp_path)
    assert any(path.name == "state.safetensors" for path in before)
    capsys.readouterr()
    assert main([*second, "-o", str(out), "-q"]) == 8
    told(capsys, "RUB-TRAIN-042", "choose another -o")
    assert digests(tmp_path) == before


def test_there_are_enough_cases() -> None:
    """Issue 6 asks for at least 25; every verb and every exit status of bad input is among them."""
    assert len(CASES) + len(DISKS) + len(OTHERS) >= 50
    assert {one.words[0] for one in CASES.values()} == {"train", "skipclip", "prune", "quantize"}
    assert {one.status for one in CASES.values()} == {2, 3, 5}
