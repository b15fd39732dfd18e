"""How a basecalling run is done, and what it says about itself afterwards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from rubicc.genomics.reads import Limits, Problem


@dataclass(frozen=True)
class Settings:
    """How a run is done. What changes calls is part of its identity: how reads are cut, and which are called.

    Attributes:
        batch: chunks per network call.
        chunk, overlap: samples; None takes the model's; chunk 0 calls every read in one piece.
        pad_short: pad reads shorter than a chunk with zeros to a whole chunk and every batch to ``batch``
            rows, for runtimes with fixed shapes. Otherwise a short read is called at its own length.
        alone_cost: what a sample costs in a row of its own length relative to one in a full batch; a read
            shorter than a chunk is cut into windows that share batches where that costs less.
        network_threads: calls of the network at the same time. Two calls with one thread each keep two
            cores busier than one call with two, where the runtime allows calls side by side.
        decode_threads: threads that decode.
        recursive: look into subfolders.
        read_ids: only these reads.
        report_missing: say which of ``read_ids`` were found nowhere.
        isolate: parse fast5 and pod5 in a child process.
        commit_seconds: how much work, in seconds, a kill may cost.
        commit_bytes: upper bound on records held back for a commit.
    """

    batch: int = 32
    chunk: int | None = None
    overlap: int | None = None
    pad_short: bool = False
    alone_cost: float = 1.6
    network_threads: int = 1
    decode_threads: int = 1
    recursive: bool = True
    read_ids: Collection[str] | None = None
    report_missing: bool = True
    isolate: bool = True
    limits: Limits = field(default_factory=Limits)
    commit_seconds: float = 2.0
    commit_bytes: int = 8 << 20


@dataclass(frozen=True)
class BasecallSummary:
    """What a run did.

    Attributes:
        reads, samples, bases: in the output, including what an earlier, interrupted part of the run wrote.
        resumed_reads: of these, reads that were there already.
        seconds: wall time of this process's part.
        samples_per_second: of this process's part.
        problems: files and reads left out (at most 10,000 of them; ``problem_count`` is the true number).
        stage_seconds: busy seconds of each stage; stages overlap, so they may sum to more than ``seconds``.
    """

    output: Path
    reads: int
    samples: int
    bases: int
    seconds: float
    samples_per_second: float
    problems: tuple[Problem, ...]
    problem_count: int
    stage_seconds: dict[str, float]
    resumed_reads: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 3 when something of the input is not in the output."""
        return 3 if self.problem_count else 0
