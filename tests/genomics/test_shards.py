"""Files called apart and merged are what one machine writes, also after failures and with ids that repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pysam
import pytest
from toy import META, decode, infer

from rubicc.errors import OutputExists, RubiccError
from rubicc.genomics.engine import basecall
from rubicc.genomics.settings import BasecallSummary, Settings
from rubicc.genomics.shards import Shard, call_shard, call_sharded
from rubicc.genomics.simulate import SimulatedRead, simulate_reads, write_reads

SETTINGS = Settings(batch=2)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files; the second repeats a read of the first, another stands twice in it, one is no file."""
    reads = simulate_reads(6, seed=3, length=(150, 400))
    made = [reads[:2], [reads[2], reads[0], reads[3], reads[3]], reads[4:]]
    home = tmp_path / "reads"
    home.mkdir()
    for index, part in enumerate(made):
        _write(home / f"{index}.npz", part)
    (home / "1b.npz").write_bytes(b"not reads")
    return sorted(home.iterdir())


def _write(path: Path, reads: Sequence[SimulatedRead]) -> None:
    write_reads(path, reads)


class Workers:
    """Runs shards in this process, last first, and fails where it is told to."""

    def __init__(self, settings: Settings = SETTINGS, fail_at: int = -1) -> None:
        self.settings, self.fail_at = settings, fail_at
        self.ran: list[int] = []

    def __call__(self, shards: Sequence[Shard]) -> Iterable[Shard]:
        return self._run(shards)

    def _run(self, shards: Sequence[Shard]) -> Iterator[Shard]:
        for shard in reversed(shards):
            if shard.index == self.fail_at:
                raise RubiccError("RUB-GEN-136", "the cluster is gone")
            self.ran.append(shard.index)
            call_shard(shard, infer, META, settings=self.settings, model_id="toy", decode=decode)
            yield shard


def alone(files: Sequence[Path], out: Path, settings: Settings = SETTINGS) -> BasecallSummary:
    return basecall(infer, META, files, out, settings=settings, decode=decode, model_id="toy")


def apart(files: Sequence[Path], out: Path, workers: Workers, force: bool = False) -> BasecallSummary:
    return call_sharded(workers, META, files, out, settings=workers.settings, model_id="toy", force=force)


def facts(summary: BasecallSummary) -> tuple[object, ...]:
    told = sorted((p.path, p.read_id, p.code, p.reason) for p in summary.problems)
    return summary.reads, summary.samples, summary.bases, summary.problem_count, told


@pytest.mark.parametrize("name", ["calls.fasta", "calls.fastq"])
def test_text_is_the_same_to_the_byte(name: str, files: list[Path], tmp_path: Path) -> None:
    one = alone(files, tmp_path / f"one-{name}")
    many = apart(files, tmp_path / name, Workers())
    assert one.reads == 6 and one.problem_count == 3
    assert facts(many) == facts(one)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"one-{name}").read_bytes()
    assert not (tmp_path / f"{name}.partial").exists()


def test_bam_has_the_same_records(files: list[Path], tmp_path: Path) -> None:
    one, many = alone(files, tmp_path / "one.bam"), apart(files, tmp_path / "many.bam", Workers())
    assert facts(many) == facts(one)
    texts = []
    for summary in (one, many):
        with pysam.AlignmentFile(str(summary.output), check_sq=False) as bam:
            texts.append((str(bam.header), [record.to_string() for record in bam]))
    assert texts[0] == texts[1]


def test_ids_asked_for_are_missed_once(files: list[Path], tmp_path: Path) -> None:
    wanted = Settings(batch=2, read_ids=["nowhere", simulate_reads(6, seed=3, length=(150, 400))[4].read_id])
    one = alone(files, tmp_path / "one.fastq", wanted)
    many = apart(files, tmp_path / "many.fastq", Workers(wanted))
    assert facts(many) == facts(one)
    assert [p.read_id for p in many.problems if p.code == "RUB-GEN-119"] == ["nowhere"]


def test_finished_shards_are_not_called_again(files: list[Path], tmp_path: Path) -> None:
    alone(files, tmp_path / "one.fastq")
    out = tmp_path / "many.fastq"
    with pytest.raises(RubiccError, match="gone"):
        apart(files, out, Workers(fail_at=1))
    assert not out.exists()
    again = Workers()
    apart(files, out, again)
    assert again.ran == [1, 0]
    assert out.read_bytes() == (tmp_path / "one.fastq").read_bytes()


def test_calls_without_a_verdict_are_made_again(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "many.fastq"
    with pytest.raises(RubiccError):
        apart(files, out, Workers(fail_at=0))
    (verdict,) = tmp_path.glob("many.fastq.partial/shards-*/000003.fastq.json")
    verdict.unlink()
    again = Workers()
    apart(files, out, again)
    assert again.ran == [3, 0]


def test_another_run_is_refused_and_never_mixed_in(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "many.fastq"
    with pytest.raises(RubiccError):
        apart(files, out, Workers(fail_at=0))
    with pytest.raises(OutputExists, match="RUB-GEN-142"):
        apart(files[1:], out, Workers())
    fresh = Workers()
    apart(files[1:], out, fresh, force=True)
    assert fresh.ran == [2, 1, 0]
    with pytest.raises(OutputExists, match="RUB-GEN-140"):
        apart(files[1:], out, Workers())


def test_a_worker_that_forgets_a_file_is_found_out(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RubiccError, match="RUB-GEN-147"):
        call_sharded(lambda shards: iter(()), META, files, tmp_path / "x.fastq", settings=SETTINGS)
