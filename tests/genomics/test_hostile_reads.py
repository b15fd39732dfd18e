"""No hostile read file is read, followed, executed or allowed to stop a run."""

from __future__ import annotations

import itertools

import hostile_reads
import pytest
from read_files import read_id, signal, some_reads, write_multi, write_npz, write_pod5
from toy import META, decode, infer

from rubicc.genomics.engine import basecall
from rubicc.genomics.reads import Limits, Problem, Read, ReadRefused, iter_reads


def test_the_corpus_is_large_enough() -> None:
    names = [case.name for case in hostile_reads.CASES]
    assert len(names) == len(set(names)) >= 40


@pytest.mark.parametrize("case", hostile_reads.CASES, ids=lambda case: case.name)
def test_refused_by_name(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / (case.name + case.suffix)
    case.write(path)
    before = sorted(tmp_path.iterdir())
    problems: list[Problem] = []
    assert list(iter_reads([path], on_problem=problems.append, isolate=False)) == []
    assert [problem.code for problem in problems] == [case.code]
    assert problems[0].path == str(path) and problems[0].reason
    assert "\n" not in problems[0].reason and "\n" not in problems[0].read_id
    assert sorted(tmp_path.iterdir()) == before, "reading must not leave or execute anything"


def test_the_whole_corpus_costs_no_good_read(tmp_path) -> None:
    """All hostile files in one folder with three good ones: good reads are called, the rest is counted."""
    folder = tmp_path / "reads"
    folder.mkdir()
    write_multi(folder / "a_first.fast5", some_reads([3000, 2000], first=100))
    write_pod5(folder / "m_middle.pod5", some_reads([2500], first=110))
    write_npz(folder / "z_last.npz", some_reads([1500], first=120))
    for case in hostile_reads.CASES:
        case.write(folder / f"k_{case.name}{case.suffix}")
    out = tmp_path / "calls.fasta"
    summary = basecall(infer, META, [folder], out, decode=decode)
    assert out.read_text().count(">") == summary.reads == 4
    assert summary.problem_count == len(hostile_reads.CASES)
    assert sorted(problem.code for problem in summary.problems) == sorted(c.code for c in hostile_reads.CASES)
    assert summary.exit_code == 3
    assert not list(folder.glob("*EXECUTED*"))


def test_memory_limit_stops_an_inflating_chunk_that_fits_its_claims(tmp_path) -> None:
    """A chunk within every bound on stored bytes that still inflates past the child's memory limit."""
    import zlib

    import h5py

    path = tmp_path / "bomb.fast5"
    samples = 400_000
    write_multi(path, {read_id(0): signal(0, samples)}, chunks=(samples,), compression="gzip")
    with h5py.File(path, "r+") as file:
        packer = zlib.compressobj(9)
        block = bytes(16 << 20)
        data = b"".join(packer.compress(block) for _ in range(20)) + packer.flush()
        file[f"read_{read_id(0)}/Raw/Signal"].id.write_direct_chunk((0,), data)
    problems: list[Problem] = []
    limits = Limits(memory_bytes=256 << 20)
    assert list(iter_reads([path], on_problem=problems.append, limits=limits)) == []
    assert [problem.code for problem in problems] in (["RUB-GEN-102"], ["RUB-GEN-112"])


def test_without_a_listener_the_first_problem_raises(tmp_path) -> None:
    path = tmp_path / "x.fast5"
    path.write_text("nothing")
    with pytest.raises(ReadRefused) as caught:
        list(iter_reads([path]))
    assert (
        caught.value.code == "RUB-GEN-101" and caught.value.exit_code == 3 and str(path) in str(caught.value)
    )


def test_a_damaged_read_costs_only_itself(tmp_path) -> None:
    path = tmp_path / "mixed.fast5"
    reads = some_reads([3000, 0, 2000])
    write_multi(path, reads)
    problems: list[Problem] = []
    got = [item.read_id for item in iter_reads([path], on_problem=problems.append)]
    assert got == [read_id(0), read_id(2)]
    assert [(problem.read_id, problem.code) for problem in problems] == [(read_id(1), "RUB-GEN-106")]


@pytest.mark.parametrize(
    ("way", "words"),
    [("killed", "signal 9"), ("stopped", "no progress"), ("looping", "busy without a result")],
)
def test_a_child_that_dies_or_hangs_costs_one_file(tmp_path, monkeypatch, way, words) -> None:
    """About one damaged HDF5 file in a hundred makes the library loop, one pod5 in 900 aborts.

    Also the read that had already been received when the child went away is kept."""
    import signal as signals
    from pathlib import Path

    from rubicc.genomics import isolation

    first, second = tmp_path / "a.fast5", tmp_path / "b.fast5"
    # Larger than the pipe, so that the child cannot have finished the file before it is ended.
    write_multi(first, some_reads([400_000] * 6))
    write_multi(second, some_reads([3000], first=10))
    if way == "looping":
        spent = itertools.count()
        monkeypatch.setattr(isolation, "_processor_seconds", lambda pid: 30.0 * next(spent))
    limits = Limits(silence_seconds=0.5 if way == "stopped" else 60.0)
    with isolation.ReaderProcess(limits) as child:
        items = child.read(Path(first), "fast5", lambda _: True)
        got = [next(items)]
        assert child._child is not None
        child._child.send_signal(signals.SIGKILL if way == "killed" else signals.SIGSTOP)
        got += list(items)
        assert isinstance(got[-1], Problem) and got[-1].code == "RUB-GEN-112"
        assert words in got[-1].reason
        assert 1 <= len(got) - 1 < 6 and all(isinstance(item, Read) for item in got[:-1])
        assert [item.read_id for item in child.read(Path(second), "fast5", lambda _: True)] == [read_id(10)]
