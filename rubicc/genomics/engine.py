"""Basecalling runs: read, normalise, chunk, call the network, stitch, decode, write; each in its own thread.

    reader thread ── batches ──▶ network thread ── scores ──▶ stitch thread ── segments ──▶ decode threads
                                                                    └── reads in order ──▶ caller: writes

Queues are bounded, so memory stays flat however much is read; chunks of different reads share batches; calls
come out in the order of the input. The network is a function and nothing else is known of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import rubicc
from rubicc.errors import RubiccError, ToolMissing, UsageError, VerificationFailed
from rubicc.genomics import normalise
from rubicc.genomics.batching import Batch, Batcher
from rubicc.genomics.call import Call
from rubicc.genomics.channel import Cancelled, Channel, Crew, in_turn
from rubicc.genomics.chunks import Plan, plan_for
from rubicc.genomics.journal import Spool, read_key
from rubicc.genomics.progress import Progress, Silent, Tally
from rubicc.genomics.reads import OnProblem, Problem, ReadRefused, find_files, iter_reads
from rubicc.genomics.settings import BasecallSummary, Settings
from rubicc.genomics.stitching import SEGMENT_FRAMES, SEGMENT_VALUES, Job, Segment, join, new_job, take
from rubicc.genomics.writers import CalledRead, Format, format_for
from rubicc.spec import ModelMeta, SignalSpec

Infer = Callable[[np.ndarray], np.ndarray]
Decode = Callable[[np.ndarray, ModelMeta], Call]
T = TypeVar("T")
STAGES = ("read", "normalise", "network", "stitch", "decode", "write")
_KEPT_PROBLEMS = 10_000
# Frames a read counts for while it waits to be written, however short it is.
_LEAST_WEIGHT = 1024


def basecall(
    infer: Infer,
    meta: ModelMeta,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    decode: Decode | None = None,
    model_id: str = "",
    progress: Progress | None = None,
    on_problem: OnProblem | None = None,
    force: bool = False,
) -> BasecallSummary:
    """Call every read under ``paths`` into ``out`` (``.fasta``, ``.fastq``, ``.bam``, text also ``.gz``).

    A run that was killed is continued by calling again with the same arguments.

    Args:
        infer: the network: float32 ``(N, 1, T)`` to scores ``(T / stride, N, C)`` in an array that the next
            call does not overwrite; called from ``settings.network_threads`` threads.
        decode: scores ``(T, C)`` of a read to its call; the model's decoder by default.
        model_id: hash of the model, so that a run is not continued with another one.
        on_problem: told of each file and read left out, from whichever thread finds it, one at a time.
        force: replace an existing ``out``, throw away an unfinished run that does not match.

    Raises:
        UsageError, OutputExists: before anything is read.
        VerificationFailed: ``RUB-GEN-131``: the network's output has the wrong shape or is not finite.
        ToolMissing: ``RUB-GEN-130``: the network failed. Calls made so far stay in ``OUT.partial``.
    """
    settings = settings or Settings()
    out = Path(out)
    run = _Run(infer, meta, [Path(path) for path in paths], settings, decode or _decoder(meta), on_problem)
    form = format_for(out, meta, rubicc.__version__)
    spool = Spool.open(out, run.identity(form, model_id), force=force)
    if spool.state.finished is not None:
        spool.publish()
        run.problems = [Problem(*facts) for facts in spool.state.finished["problems"]]
        run.problem_count = spool.state.finished["problem_count"]
        return run.summary(out, spool, 0.0, (spool.state.reads, spool.state.samples))
    return run.write(out, spool, form, progress or Silent())


def _decoder(meta: ModelMeta) -> Decode:
    if meta.decoder is None:
        raise UsageError(
            "RUB-GEN-132", f"model {meta.arch!r} does not say its decoder", hint="is it a basecaller?"
        )
    from rubicc.genomics.decode import decode_read

    return decode_read


def _signal_spec(meta: ModelMeta) -> SignalSpec:
    if meta.signal is None:
        hint = "is it a basecaller?"
        raise UsageError(
            "RUB-GEN-132", f"model {meta.arch!r} does not say its signal normalisation", hint=hint
        )
    return normalise.check_spec(meta.signal)


class _Run:
    """One run: its threads' work and what they count."""

    def __init__(
        self,
        infer: Infer,
        meta: ModelMeta,
        paths: list[Path],
        settings: Settings,
        decode: Decode,
        on_problem: OnProblem | None,
    ) -> None:
        if min(settings.batch, settings.network_threads, settings.decode_threads) < 1:
            raise UsageError("RUB-GEN-133", "batch and decode threads must be at least 1")
        if settings.chunk == 0 and settings.pad_short:
            raise UsageError("RUB-GEN-133", "whole reads (chunk 0) have no fixed shape to pad to")
        self.infer = infer
        self.meta = meta
        self.paths = paths
        self.settings = settings
        self.decode = decode
        self.on_problem = on_problem
        self.chosen = None if settings.read_ids is None else frozenset(settings.read_ids)
        self.spec = _signal_spec(meta)
        self.plan = run_plan(meta, settings)
        self.files = find_files(paths, recursive=settings.recursive)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.seen: set[int] = set()
        self.done: set[int] = set()
        self.claimed: dict[int, str] = {}
        self._reporting = threading.Lock()
        self._networks_left = settings.network_threads
        self.crew = Crew()
        self.batches: Channel[Batch] = Channel(self.crew, 2)
        self.scores: Channel[tuple[Batch, np.ndarray]] = Channel(self.crew, 2)
        self.segments: Channel[Segment] = Channel(self.crew, 2 * SEGMENT_VALUES)
        self.jobs: Channel[Job] = Channel(self.crew, 8 * SEGMENT_FRAMES)

    def identity(self, form: Format, model_id: str) -> dict[str, str]:
        """What must not change between the parts of an interrupted run, each with its hash."""
        return run_identity(self.meta, self.files, self.plan, self.settings, form, model_id)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of its body to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def each(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """``items``, with the time it takes to make each added to ``stage``."""
        while True:
            with self.timed(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def problem(self, problem: Problem) -> None:
        """Count, keep and report."""
        with self._reporting:
            self.problem_count += 1
            if len(self.problems) < _KEPT_PROBLEMS:
                self.problems.append(problem)
            if self.on_problem is not None:
                self.on_problem(problem)

    def _left_out(self, problem: Problem) -> None:
        """A read that was asked for and could not be read here may still come from another file."""
        key = read_key(problem.read_id)
        if self.claimed.get(key) == problem.path:
            del self.claimed[key]
            self.seen.discard(key)
        self.problem(problem)

    # ---- threads

    def read_all(self) -> None:
        """Reader thread: reads to batches of normalised chunks."""
        batcher = Batcher(self.settings.batch, self.plan, fixed=self.settings.pad_short)
        reads = iter_reads(
            self.paths,
            recursive=self.settings.recursive,
            read_ids=self._wanted,
            on_problem=self._left_out,
            limits=self.settings.limits,
            isolate=self.settings.isolate,
        )
        index = 0
        with contextlib.closing(reads):  # type: ignore[type-var]
            for read in self.each("read", reads):
                try:
                    with self.timed("normalise"):
                        normalise.check_rate(read, self.spec)
                        scaling = normalise.scaling(read, self.spec)
                        signal = normalise.apply(read, scaling)
                except ReadRefused as err:
                    self._left_out(err.problem(read.source, read.read_id))
                    continue
                self.claimed.pop(read_key(read.read_id), None)
                job = new_job(index, read, self.plan.frames(len(signal)), scaling)
                for batch in self.each("normalise", batcher.cut(job, signal)):
                    self.batches.put(batch)
                index += 1
        for batch in batcher.flush():
            self.batches.put(batch)
        self.batches.close()
        self._report_missing()

    def _wanted(self, read_id: str, path: str) -> bool:
        if self.chosen is not None and read_id not in self.chosen:
            return False
        key = read_key(read_id)
        if key in self.seen:
            self.problem(
                Problem(path, read_id, "RUB-GEN-113", "read id occurred before; the first is called")
            )
            return False
        self.seen.add(key)
        if key in self.done:
            return False
        self.claimed[key] = path
        return True

    def _report_missing(self) -> None:
        if not self.settings.report_missing:
            return
        named = {problem.read_id for problem in self.problems}
        for read_id in sorted(self.chosen or ()):
            if read_key(read_id) not in self.seen and read_id not in named:
                self.problem(Problem("", read_id, "RUB-GEN-119", "asked for, but in none of the files"))

    def call_network(self) -> None:
        """Network thread, one of several: batches to scores."""
        for batch in self.batches:
            with self.timed("network"):
                try:
                    scores = np.asarray(self.infer(batch.signal))
                except RubiccError:
                    raise
                except Exception as err:
                    what = f"the network failed on a batch of shape {batch.signal.shape}"
                    raise ToolMissing("RUB-GEN-130", f"{what}: {err or type(err).__name__}") from err
                self._check_scores(batch, scores)
            self.scores.put((batch, scores))
        with self._reporting:
            self._networks_left -= 1
            if self._networks_left == 0:
                self.scores.close()

    def _check_scores(self, batch: Batch, scores: np.ndarray) -> None:
        rows, _, samples = batch.signal.shape
        frames = samples // self.plan.stride
        if scores.ndim != 3 or scores.shape[:2] != (frames, rows):
            raise VerificationFailed(
                "RUB-GEN-131",
                f"the network gave {scores.shape} for {batch.signal.shape}, not ({frames}, {rows}, C)",
            )
        if not np.isfinite(scores.sum(dtype=np.float32)) and not np.isfinite(scores).all():
            raise VerificationFailed("RUB-GEN-131", "the network gave values that are not finite")

    def stitch_all(self) -> None:
        """Stitch thread: scores to segments to decode, and reads to write."""
        for batch, scores in in_turn(self.scores, lambda item: item[0].number):
            for row, (job, window) in enumerate(batch.rows):
                with self.timed("stitch"):
                    ready = job.add(take(scores, row, window, self.plan.stride))
                for segment in ready:
                    assert segment.scores is not None
                    self.segments.put(segment, segment.scores.size)
                if job.complete:
                    self.jobs.put(job, max(job.frames, _LEAST_WEIGHT))
        self.segments.close()
        self.jobs.close()

    def decode_all(self) -> None:
        """Decode thread: segments to calls."""
        for segment in self.segments:
            assert segment.scores is not None
            with self.timed("decode"):
                call = self.decode(segment.scores, self.meta)
            segment.scores = None
            with self.crew.changed:
                segment.call = call
                self.crew.changed.notify_all()

    def in_order(self) -> Iterator[Job]:
        """Decoded reads in the order of the input."""
        for job in in_turn(self.jobs, lambda job: job.index):
            self._await(job)
            yield job

    def _await(self, job: Job) -> None:
        with self.crew.changed:
            while any(segment.call is None for segment in job.segments):
                if self.crew.stopping:
                    raise Cancelled
                self.crew.changed.wait()

    # ---- the caller's thread

    def write(self, out: Path, spool: Spool, form: Format, progress: Progress) -> BasecallSummary:
        """Start the threads and write what they call until all is done or something fails."""
        began = time.perf_counter()
        self.done = spool.state.done
        resumed = spool.state.reads, spool.state.samples
        tally = Tally()
        try:
            spool.start(form.header())
            for name, work in (
                ("read", self.read_all),
                *((f"network-{i}", self.call_network) for i in range(self.settings.network_threads)),
                ("stitch", self.stitch_all),
                *((f"decode-{i}", self.decode_all) for i in range(self.settings.decode_threads)),
            ):
                self.crew.start(name, work)
            for tally in self._written(spool, form, began, resumed):
                progress.update(tally)
            self.crew.join()
            with self.timed("write"):
                spool.commit(form.pack(spool.take_pending()))
                spool.finish(form.trailer(), self._verdict())
        except OSError as err:
            self._give_up(spool, form, keep=False)
            raise unwritable(out, err) from err
        except (RubiccError, KeyboardInterrupt):
            self._give_up(spool, form)
            raise
        except Exception as err:
            self._give_up(spool, form)
            raise RubiccError("RUB-GEN-136", f"the run failed: {type(err).__name__}: {err}") from err
        finally:
            progress.close(tally)
        return self.summary(out, spool, time.perf_counter() - began, resumed)

    def _written(self, spool: Spool, form: Format, began: float, resumed: tuple[int, int]) -> Iterator[Tally]:
        reads, samples, bases = *resumed, spool.state.bases
        committed = time.monotonic()
        try:
            for job in self.in_order():
                call = join(job.segments)
                if not call.sequence:
                    what = "the network calls no base in it"
                    self.problem(Problem(job.read.source, job.read.read_id, "RUB-GEN-117", what))
                    continue
                with self.timed("write"):
                    record = form.record(CalledRead(job.read, job.samples, job.scaling, call))
                    spool.append(job.read.read_id, record, job.samples, len(call.sequence))
                    late = time.monotonic() - committed >= self.settings.commit_seconds
                    if late or spool.pending_bytes >= self.settings.commit_bytes:
                        spool.commit(form.pack(spool.take_pending()))
                        committed = time.monotonic()
                reads, samples, bases = reads + 1, samples + job.samples, bases + len(call.sequence)
                seconds = time.perf_counter() - began
                yield Tally(reads, samples, bases, self.problem_count, seconds, samples - resumed[1])
        except Cancelled:
            return  # the thread that failed says why when the crew is joined

    def _verdict(self) -> dict[str, Any]:
        """What a resumed run must know if a kill falls between the last byte and the rename."""
        return {"problem_count": self.problem_count, "problems": [astuple(p) for p in self.problems]}

    def _give_up(self, spool: Spool, form: Format, keep: bool = True) -> None:
        """Stop everything and keep what is called; a second failure must not hide the first."""
        self.crew.stop()
        with contextlib.suppress(BaseException):
            self.crew.join()
        with contextlib.suppress(OSError):
            if keep:
                spool.commit(form.pack(spool.take_pending()))
        with contextlib.suppress(OSError):
            spool.abandon()

    def summary(
        self, out: Path, spool: Spool, seconds: float, resumed: tuple[int, int] = (0, 0)
    ) -> BasecallSummary:
        """The counts of this run."""
        state = spool.state
        fresh = state.samples - resumed[1]
        return BasecallSummary(
            output=out,
            reads=state.reads,
            samples=state.samples,
            bases=state.bases,
            seconds=seconds,
            samples_per_second=fresh / seconds if seconds > 0 else 0.0,
            problems=tuple(self.problems),
            problem_count=self.problem_count,
            stage_seconds={name: round(value, 6) for name, value in self.seconds.items()},
            resumed_reads=resumed[0],
        )


def unwritable(out: Path, err: OSError) -> UsageError:
    """What is raised where the output cannot be written."""
    hint = "free space, then run it again: it goes on where it stopped"
    return UsageError("RUB-GEN-146", f"cannot write {out}: {err.strerror or err}", hint=hint)


def run_plan(meta: ModelMeta, settings: Settings) -> Plan:
    """How a run cuts its reads; errors as :func:`rubicc.genomics.chunks.plan_for`."""
    plan = plan_for(meta, chunk=settings.chunk, overlap=settings.overlap, alone=settings.alone_cost)
    return replace(plan, lengths=1) if settings.pad_short else plan


def run_identity(
    meta: ModelMeta, files: Iterable[Path], plan: Plan, settings: Settings, form: Format, model_id: str
) -> dict[str, str]:
    """What must not change between the parts of an interrupted run, each with its hash."""
    stated = "".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in files)
    chosen = "" if settings.read_ids is None else "\n".join(sorted(frozenset(settings.read_ids)))
    options = f"{plan} {settings.pad_short} {settings.limits.max_samples} {chosen}"
    return {
        "model": _hash(meta.to_json() + model_id),
        "inputs": _hash(stated),
        "settings": _hash(options),
        "format": f"{form.kind}{' packed' if form.packed else ''}",
        "version": form.version,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
