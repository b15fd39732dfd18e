"""The engine: right calls, right order, flat queues, one clean failure."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from read_files import read_id, some_reads, write_multi, write_npz, write_pod5
from toy import META, STRIDE, decode, infer

from rubicc.errors import OutputExists, RubiccError, ToolMissing, UsageError, VerificationFailed
from rubicc.genomics import stitching
from rubicc.genomics.channel import Cancelled, Channel, Crew
from rubicc.genomics.engine import Settings, basecall
from rubicc.genomics.evaluate import read_sequences
from rubicc.genomics.normalise import normalise
from rubicc.genomics.progress import StreamProgress, Tally
from rubicc.genomics.reads import iter_reads
from rubicc.spec import SignalSpec

LENGTHS = [5200, 40, 1000, 998, 12_345, 13, 7777, 1001, 60_000, 2500]


@pytest.fixture
def reads(tmp_path) -> Path:
    folder = tmp_path / "reads"
    folder.mkdir()
    write_multi(folder / "a.fast5", some_reads(LENGTHS[:4]))
    write_pod5(folder / "b.pod5", some_reads(LENGTHS[4:7], first=4))
    write_npz(folder / "c.npz", some_reads(LENGTHS[7:], first=7))
    return folder


def whole_read_calls(folder: Path, decoder=decode) -> list[tuple[str, str]]:
    """What calling each read in one piece gives: the truth for a network as local as the toy."""
    calls = []
    for read in iter_reads([folder]):
        x = normalise(read, META.signal)
        padded = np.zeros(-(-len(x) // STRIDE) * STRIDE, np.float32)
        padded[: len(x)] = x
        calls.append((read.read_id, decoder(infer(padded[None, None])[:, 0], META).sequence))
    return calls


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("pad_short", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_calls_equal_whole_read_calls_in_input_order(reads, tmp_path, batch, pad_short, threads) -> None:
    out = tmp_path / "calls.fastq"
    shapes = []

    def watched(x):
        shapes.append(x.shape)
        time.sleep(0.003 if threads > 1 and len(shapes) % 3 == 0 else 0.0)  # so that batches overtake
        return infer(x)

    settings = Settings(batch=batch, pad_short=pad_short, decode_threads=threads, network_threads=threads)
    summary = basecall(watched, META, [reads], out, settings=settings, decode=decode)
    assert list(read_sequences(out)) == whole_read_calls(reads)
    assert (summary.reads, summary.samples, summary.problem_count) == (len(LENGTHS), sum(LENGTHS), 0)
    assert summary.bases == sum(len(sequence) for _, sequence in read_sequences(out))
    assert summary.exit_code == 0 and set(summary.stage_seconds) >= {"read", "network", "decode", "write"}
    assert not (tmp_path / "calls.fastq.partial").exists()
    if pad_short:
        assert set(shapes) == {(batch, 1, META.chunk)}
    elif batch == 64:
        assert max(shape[0] for shape in shapes) == 64, "chunks of different reads share a batch"


def test_whole_reads_in_one_piece(reads, tmp_path) -> None:
    out = tmp_path / "calls.fasta"
    shapes = []

    def watched(x):
        shapes.append(x.shape)
        return infer(x)

    basecall(watched, META, [reads], out, settings=Settings(chunk=0), decode=decode)
    assert [shape[2] for shape in shapes] == [-(-n // STRIDE) * STRIDE for n in LENGTHS]
    assert list(read_sequences(out)) == whole_read_calls(reads)


def test_long_reads_are_decoded_in_segments(reads, tmp_path, monkeypatch) -> None:
    """Segments with context give the same calls, and no decoder ever sees more than one segment's frames."""
    monkeypatch.setattr(stitching, "SEGMENT_FRAMES", 500)
    monkeypatch.setattr(stitching, "CONTEXT_FRAMES", 50)
    seen = []

    def watched(scores, meta):
        seen.append(len(scores))
        return decode(scores, meta)

    out = tmp_path / "calls.fastq"
    basecall(infer, META, [reads], out, decode=watched)
    assert list(read_sequences(out)) == whole_read_calls(reads)
    assert max(seen) <= 600 and len(seen) > len(LENGTHS)


def test_wide_frames_are_decoded_fewer_at_a_time() -> None:
    """A segment of the largest CRF stays below 180 MiB of scores, context included."""
    assert stitching.segment_frames(40) == stitching.SEGMENT_FRAMES
    widest = stitching.segment_frames(5120)
    assert widest < stitching.SEGMENT_FRAMES // 8
    assert (widest + 2 * stitching.CONTEXT_FRAMES) * 5120 * 4 < 180 << 20
    assert stitching.segment_frames(10**9) == 4 * stitching.CONTEXT_FRAMES


def test_lying_decoder_is_found_out(reads, tmp_path) -> None:
    def lying(scores, meta):
        call = decode(scores, meta)
        return replace(call, sequence=call.sequence + "A")

    with pytest.raises(VerificationFailed) as caught:
        basecall(infer, META, [reads], tmp_path / "x.fasta", decode=lying)
    assert caught.value.code == "RUB-GEN-135"


@pytest.mark.parametrize(
    ("broken", "error", "code"),
    [
        (lambda x: infer(x)[:-1], VerificationFailed, "RUB-GEN-131"),
        (lambda x: infer(x)[0], VerificationFailed, "RUB-GEN-131"),
        (lambda x: infer(x) * np.nan, VerificationFailed, "RUB-GEN-131"),
        (lambda x: 1 / 0, ToolMissing, "RUB-GEN-130"),
    ],
)
def test_a_failing_network_is_one_clean_error(reads, tmp_path, broken, error, code) -> None:
    threads = threading.active_count()
    with pytest.raises(error) as caught:
        basecall(broken, META, [reads], tmp_path / "x.fasta", decode=decode)
    assert caught.value.code == code
    assert threading.active_count() == threads, "no thread survives"
    assert not (tmp_path / "x.fasta").exists()


def test_a_failing_decoder_is_one_clean_error(reads, tmp_path) -> None:
    def broken(scores, meta):
        raise IndexError("boom")

    with pytest.raises(RubiccError) as caught:
        basecall(infer, META, [reads], tmp_path / "x.fasta", decode=broken)
    assert caught.value.code == "RUB-GEN-136" and "boom" in caught.value.what


def test_failure_late_in_the_run_keeps_what_was_called(reads, tmp_path) -> None:
    """And the same command goes on from there."""
    out, calls = tmp_path / "x.fasta", []

    def tired(x):
        calls.append(len(x))
        if len(calls) == 20:
            raise RuntimeError("device lost")
        return infer(x)

    settings = Settings(batch=2, commit_seconds=0.0)
    with pytest.raises(ToolMissing):
        basecall(tired, META, [reads], out, settings=settings, decode=decode)
    assert not out.exists() and (tmp_path / "x.fasta.partial").is_dir()
    summary = basecall(infer, META, [reads], out, settings=settings, decode=decode)
    assert 0 < summary.resumed_reads < summary.reads == len(LENGTHS)
    assert list(read_sequences(out)) == whole_read_calls(reads)


def test_problems_are_named_counted_and_skipped(tmp_path) -> None:
    folder = tmp_path / "reads"
    folder.mkdir()
    good = some_reads([3000, 2000])
    write_multi(folder / "a.fast5", good)
    write_multi(folder / "b.fast5", {read_id(1): good[read_id(1)], read_id(5): np.full(900, 512, np.int16)})
    write_pod5(folder / "c.pod5", some_reads([1000], first=6), rate=5000)
    (folder / "d.fast5").write_bytes(b"junk")
    heard = []
    settings = Settings(read_ids=[read_id(i) for i in (0, 1, 5, 6, 99)])
    summary = basecall(
        infer, META, [folder], tmp_path / "x.bam", settings=settings, decode=decode, on_problem=heard.append
    )
    assert [(p.code, p.read_id) for p in summary.problems] == [
        ("RUB-GEN-113", read_id(1)),
        ("RUB-GEN-115", read_id(5)),
        ("RUB-GEN-114", read_id(6)),
        ("RUB-GEN-101", ""),
        ("RUB-GEN-119", read_id(99)),
    ]
    assert tuple(heard) == summary.problems and summary.reads == 2 and summary.exit_code == 3


def test_a_good_copy_of_a_bad_read_is_called_once(tmp_path) -> None:
    """Bad copy first, good copy, damaged copy, good copy again: one call and three problems."""
    import h5py

    folder = tmp_path / "reads"
    folder.mkdir()
    good = some_reads([3000])
    for name in ("a", "b", "c", "d"):
        write_multi(folder / f"{name}.fast5", good if name != "a" else {read_id(0): np.zeros(0, np.int16)})
    with h5py.File(folder / "c.fast5", "r+") as file:
        del file[f"read_{read_id(0)}"]["Raw"]
    out = tmp_path / "x.fasta"
    summary = basecall(infer, META, [folder], out, decode=decode)
    assert [name for name, _ in read_sequences(out)] == [read_id(0)]
    assert [p.code for p in summary.problems] == ["RUB-GEN-106", "RUB-GEN-103", "RUB-GEN-113"]


def test_a_read_without_bases_is_a_problem_not_a_record(tmp_path) -> None:
    write_npz(tmp_path / "a.npz", some_reads([2000, 3000]))

    def mute(scores, meta):
        call = decode(scores, meta)
        return call if len(scores) == 600 else replace(call, sequence="", qstring="", moves=call.moves * 0)

    summary = basecall(infer, META, [tmp_path / "a.npz"], tmp_path / "x.fastq", decode=mute)
    assert [(p.code, p.read_id) for p in summary.problems] == [("RUB-GEN-117", read_id(0))]
    assert summary.reads == 1


@pytest.mark.parametrize(
    ("change", "settings", "code"),
    [
        ({"signal": None}, Settings(), "RUB-GEN-132"),
        ({"decoder": None}, Settings(), "RUB-GEN-132"),
        ({"stride": None}, Settings(), "RUB-GEN-132"),
        ({"signal": SignalSpec("pa", {"median": 1.0})}, Settings(), "RUB-GEN-134"),
        ({}, Settings(batch=0), "RUB-GEN-133"),
        ({}, Settings(chunk=10), "RUB-GEN-133"),
        ({}, Settings(chunk=0, pad_short=True), "RUB-GEN-133"),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_written(
    reads, tmp_path, change, settings, code
) -> None:
    with pytest.raises(UsageError) as caught:
        basecall(infer, replace(META, **change), [reads], tmp_path / "x.fasta", settings=settings)
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["reads"]


def test_existing_output_is_safe(reads, tmp_path) -> None:
    out = tmp_path / "x.fasta"
    out.write_text("precious")
    with pytest.raises(OutputExists) as caught:
        basecall(infer, META, [reads], out, decode=decode)
    assert (
        caught.value.code == "RUB-GEN-140" and caught.value.exit_code == 8 and out.read_text() == "precious"
    )
    with pytest.raises(ToolMissing):
        basecall(lambda x: 1 / 0, META, [reads], out, decode=decode, force=True)
    assert out.read_text() == "precious", "a forced run that fails leaves the old file"
    basecall(infer, META, [reads], out, decode=decode, force=True)
    assert out.read_text().count(">") == len(LENGTHS)


def test_output_that_cannot_be_written(reads, tmp_path) -> None:
    (tmp_path / "reads.fasta").mkdir()
    for name, kind, code in (
        ("missing/x.fasta", UsageError, "RUB-GEN-145"),
        ("reads.fasta", OutputExists, "RUB-GEN-140"),
    ):
        with pytest.raises(kind) as caught:
            basecall(infer, META, [reads], tmp_path / name, decode=decode, force=True)
        assert caught.value.code == code and caught.value.hint


def test_the_default_decoder_is_the_models(tmp_path) -> None:
    """Flip-flop scores that say A, C, G, ... by switching state every two frames."""
    meta = replace(META, alphabet="ACGT", outputs=())
    write_npz(tmp_path / "a.npz", some_reads([4000]))

    def network(x):
        scores = np.zeros((x.shape[2] // STRIDE, x.shape[0], 40), np.float32)
        for frame in range(scores.shape[0]):
            base, previous = frame // 2 % 4, (frame // 2 - 1) % 4
            scores[frame, :, base * 8 + (previous if frame % 2 == 0 else base)] = 8.0
        return scores

    summary = basecall(network, meta, [tmp_path / "a.npz"], tmp_path / "x.fastq")
    ((_, sequence),) = read_sequences(tmp_path / "x.fastq")
    assert summary.reads == 1 and "ACGTACGT" in sequence and len(sequence) > 300


# ---- channels and progress


def test_channel_is_bounded_ordered_and_ends() -> None:
    crew = Crew()
    channel: Channel[int] = Channel(crew, 4)
    peak = []

    def produce() -> None:
        for i in range(200):
            channel.put(i, 9 if i == 100 else 1)
            peak.append(channel._held)
        channel.close()

    crew.start("produce", produce)
    got = []
    for item in channel:
        got.append(item)
        if item % 50 == 0:
            time.sleep(0.002)
    crew.join()
    assert got == list(range(200)) and max(peak) <= 9 and sorted(peak)[-2] <= 4


def test_one_failure_stops_producers_and_consumers() -> None:
    crew = Crew()
    full: Channel[int] = Channel(crew, 1)
    empty: Channel[int] = Channel(crew, 1)

    def forever() -> None:
        while True:
            full.put(1)

    def fail() -> None:
        time.sleep(0.02)
        raise ValueError("first")

    crew.start("full", forever)
    crew.start("empty", lambda: list(empty) and None)
    crew.start("fail", fail)
    with pytest.raises(ValueError, match="first"):
        crew.join()
    with pytest.raises(Cancelled):
        list(empty)


class _Stream:
    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal) -> None:
    stream = _Stream(terminal)
    bar = StreamProgress(stream)  # type: ignore[arg-type]
    bar._next = 0.0
    bar.update(Tally(3, 2_000_000, 500, 1, 2.0, 1_000_000))
    bar.update(Tally(4, 2_000_000, 500, 1, 2.0, 1_000_000))
    assert (
        ("\r" in stream.text) is terminal
        and stream.text.count("3 reads") == 1
        and "4 reads" not in stream.text
    )
    assert "2.00 M samples, 0.500 M samples/s, 500 bases, 1 problems" in stream.text
    bar.close(Tally(9))
    assert stream.text.endswith("\n") and "9 reads" in stream.text
