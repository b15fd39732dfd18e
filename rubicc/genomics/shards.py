"""One output from many machines: a shard per input file, each called by the ordinary engine, merged in order.

Shards lie in ``OUT.partial/shards-HASH``, where HASH is the run's identity, so a restarted run finds the ones
that are finished and never one of another run. What runs the shards is a function and nothing else is known
of it. The merge tells of a read id that occurs in two files what the engine tells of it on one machine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import rubicc
from rubicc.errors import RubiccError
from rubicc.genomics.engine import Infer, basecall, run_identity, run_plan, unwritable
from rubicc.genomics.journal import Spool, partial_folder, read_key
from rubicc.genomics.progress import Progress, Silent, Tally
from rubicc.genomics.reads import OnProblem, Problem, find_files
from rubicc.genomics.settings import BasecallSummary, Settings
from rubicc.genomics.writers import Format, format_for
from rubicc.spec import ModelMeta

_KEPT_PROBLEMS = 10_000
_TWICE = "read id occurred before; the first is called"


@dataclass(frozen=True)
class Shard:
    """One input file and where its calls go. Plain values: it travels between machines."""

    index: int
    reads: str
    out: str

    @property
    def verdict(self) -> Path:
        """Written last; a shard is finished when it exists."""
        return Path(self.out + ".json")


RunShards = Callable[[Sequence[Shard]], Iterable[Shard]]


def call_shard(
    shard: Shard, infer: Infer, meta: ModelMeta, *, settings: Settings, model_id: str, decode: Any = None
) -> None:
    """Call one shard where this process runs; does nothing where it is finished.

    Raises:
        RubiccError: as :func:`rubicc.genomics.engine.basecall`.
    """
    if shard.verdict.exists():
        return
    alone = replace(settings, report_missing=False)
    # A kill between the calls and the verdict leaves calls nobody vouches for: they are made again.
    summary = basecall(
        infer, meta, [shard.reads], shard.out, settings=alone, decode=decode, model_id=model_id, force=True
    )
    told = {
        "problems": [astuple(problem) for problem in summary.problems],
        "problem_count": summary.problem_count,
        "stage_seconds": summary.stage_seconds,
    }
    half = shard.verdict.with_suffix(f".{os.getpid()}")
    with half.open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, shard.verdict)


def call_sharded(
    run_shards: RunShards,
    meta: ModelMeta,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    model_id: str = "",
    progress: Progress | None = None,
    on_problem: OnProblem | None = None,
    force: bool = False,
) -> BasecallSummary:
    """Call every read under ``paths`` into ``out``, the work of each file done by ``run_shards``.

    Args:
        run_shards: takes the shards still to do, calls each with :func:`call_shard` somewhere, and yields it
            when it is finished, in any order. Every machine must see ``paths`` and the folder of ``out``.

    Raises:
        RubiccError: as :func:`rubicc.genomics.engine.basecall`; finished shards stay for the next run.
    """
    settings, out = settings or Settings(), Path(out)
    form = format_for(out, meta, rubicc.__version__)
    plan = run_plan(meta, settings)
    files = find_files(paths, recursive=settings.recursive)
    identity = {**run_identity(meta, files, plan, settings, form, model_id), "engine": "shards"}
    spool = Spool.open(out, identity, force=force)
    merge = _Merge(spool, form, settings, progress or Silent(), on_problem)
    if spool.state.finished is not None:
        spool.publish()
        merge.problems = [Problem(*facts) for facts in spool.state.finished["problems"]]
        merge.problem_count = spool.state.finished["problem_count"]
        return merge.summary()
    try:
        home = partial_folder(out) / f"shards-{_name(identity, files)}"
        home.mkdir(exist_ok=True)
        suffix = ".bam" if form.kind == "bam" else ".fastq"
        shards = [
            Shard(i, str(path.absolute()), str((home / f"{i:06}{suffix}").absolute()))
            for i, path in enumerate(files)
        ]
        return merge.run(shards, [str(path) for path in files], run_shards)
    except OSError as err:
        raise unwritable(out, err) from err
    finally:
        spool.close()


def _name(identity: Mapping[str, str], files: Sequence[Path]) -> str:
    # The run's identity holds names without folders; a shard is bound to one file, wherever it stands.
    facts = json.dumps([identity, [str(path.absolute()) for path in files]], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


class _Merge:
    """Finished shards into one output, in the order of the input."""

    def __init__(
        self,
        spool: Spool,
        form: Format,
        settings: Settings,
        progress: Progress,
        on_problem: OnProblem | None,
    ) -> None:
        self.spool, self.form, self.settings = spool, form, settings
        self.progress, self.on_problem = progress, on_problem
        self.seen: set[int] = set()
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.stage_seconds: dict[str, float] = {}
        self.resumed = spool.state.reads, spool.state.samples
        self.began = time.perf_counter()

    def run(self, shards: Sequence[Shard], named: Sequence[str], run_shards: RunShards) -> BasecallSummary:
        """Merge each shard as soon as all before it are merged."""
        self.spool.start(self.form.header())
        finished = {shard.index for shard in shards if shard.verdict.exists()}
        coming = iter(run_shards([shard for shard in shards if shard.index not in finished]))
        tally = Tally()
        try:
            for shard in shards:
                while shard.index not in finished:
                    done = next(coming, None)
                    if done is None:
                        raise RubiccError("RUB-GEN-147", "a file was given out and never came back called")
                    finished.add(done.index)
                self._take(shard, named[shard.index])
                tally = self._tally()
                self.progress.update(tally)
        finally:
            self.progress.close(tally)
        self._report_missing()
        self._commit()
        verdict = {"problem_count": self.problem_count, "problems": [astuple(p) for p in self.problems]}
        self.spool.finish(self.form.trailer(), verdict)
        return self.summary()

    def _take(self, shard: Shard, path: str) -> None:
        told = json.loads(shard.verdict.read_text("utf-8"))
        for stage, seconds in told["stage_seconds"].items():
            self.stage_seconds[stage] = round(self.stage_seconds.get(stage, 0.0) + seconds, 6)
        earlier = set(self.seen)
        for name, record, samples, bases in _records(Path(shard.out), self.form):
            key = read_key(name)
            if key in earlier:
                self._problem(Problem(path, name, "RUB-GEN-113", _TWICE))
                continue
            self.seen.add(key)
            if key not in self.spool.state.done:
                self.spool.append(name, record, samples, bases)
                if self.spool.pending_bytes >= self.settings.commit_bytes:
                    self._commit()
        for facts in told["problems"]:
            self._problem(self._as_on_one_machine(Problem(path, *facts[1:]), earlier))
        self.problem_count += told["problem_count"] - len(told["problems"])
        self._commit()

    def _as_on_one_machine(self, problem: Problem, earlier: set[int]) -> Problem:
        """A read that an earlier file holds is not looked at there, whatever is wrong with it."""
        key = read_key(problem.read_id)
        if problem.read_id and key in earlier:
            return replace(problem, code="RUB-GEN-113", reason=_TWICE)
        if problem.code == "RUB-GEN-117":  # called, without a base: later files do not get another try
            self.seen.add(key)
        return problem

    def _report_missing(self) -> None:
        named = {problem.read_id for problem in self.problems}
        for read_id in sorted(self.settings.read_ids or ()):
            if read_key(read_id) not in self.seen and read_id not in named:
                self._problem(Problem("", read_id, "RUB-GEN-119", "asked for, but in none of the files"))

    def _problem(self, problem: Problem) -> None:
        self.problem_count += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(problem)
        if self.on_problem is not None:
            self.on_problem(problem)

    def _commit(self) -> None:
        self.spool.commit(self.form.pack(self.spool.take_pending()))

    def _tally(self) -> Tally:
        state, seconds = self.spool.state, time.perf_counter() - self.began
        fresh = state.samples - self.resumed[1]
        return Tally(state.reads, state.samples, state.bases, self.problem_count, seconds, fresh)

    def summary(self) -> BasecallSummary:
        """The counts of this run; the stages are summed over all machines."""
        tally = self._tally()
        return BasecallSummary(
            output=self.spool.out,
            reads=tally.reads,
            samples=tally.samples,
            bases=tally.bases,
            seconds=tally.seconds,
            samples_per_second=tally.rate,
            problems=tuple(self.problems),
            problem_count=self.problem_count,
            stage_seconds=self.stage_seconds,
            resumed_reads=self.resumed[0],
        )


def _records(path: Path, form: Format) -> Iterator[tuple[str, bytes, int, int]]:
    """Name, record as ``form`` wants it, samples and bases of each call that the engine wrote to ``path``."""
    return _bam_records(path) if form.kind == "bam" else _text_records(path, form.kind == "fasta")


def _text_records(path: Path, fasta: bool) -> Iterator[tuple[str, bytes, int, int]]:
    with path.open("rb") as file:
        while head := file.readline():
            sequence, plus, quality = file.readline(), file.readline(), file.readline()
            name, *tags = head[1:].rstrip(b"\n").split(b"\t")
            samples = next(int(tag[5:]) for tag in tags if tag.startswith(b"ns:i:"))
            record = b">" + name + b"\n" + sequence if fasta else head + sequence + plus + quality
            yield name.decode("ascii"), record, samples, len(sequence) - 1


def _bam_records(path: Path) -> Iterator[tuple[str, bytes, int, int]]:
    with gzip.open(path) as file:
        _, text = struct.unpack("<4si", file.read(8))
        file.read(text + 4)
        while size := file.read(4):
            body = file.read(struct.unpack("<i", size)[0])
            (bases,) = struct.unpack_from("<i", body, 16)
            end = 32 + body[8]
            # qs:f and du:f stand before ns:i, seven bytes each.
            (samples,) = struct.unpack_from("<i", body, end + (bases + 1) // 2 + bases + 14 + 3)
            yield body[32 : end - 1].decode("ascii"), size + body, samples, bases
