"""Simulated reads as a pod5 file, read by read, so that a file of any size takes the memory of one batch.

python -m rubicc.genomics.simulate_pod5 OUT.pod5 --reads 10000 [--seed 1] [--low 500] [--high 2000]
"""

from __future__ import annotations

import argparse
import datetime
import os
import uuid
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pod5

from rubicc.errors import OutputExists
from rubicc.genomics.simulate import SimulatedRead, iter_simulated

# Any fixed moment will do; the same reads make the same records.
_WHEN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def write_pod5(path: str | Path, reads: Iterable[SimulatedRead]) -> int:
    """Write ``reads`` to ``path`` as they come and return how many there were.

    The truth (bases and where they lie) has no place in pod5; simulate again with the same seed for it.

    Raises:
        OutputExists: ``RUB-GEN-140``: ``path`` exists.
    """
    path = Path(path)
    if path.exists():
        raise OutputExists("RUB-GEN-140", f"{path} exists", hint="choose another name")
    half = path.with_name(f"{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        coming = iter(reads)
        first = next(coming, None)
        with pod5.Writer(half, software_name="rubicc simulator") as writer:
            if first is not None:
                run = _run_info(first)
                for read in chain((first,), coming):
                    writer.add_read(_record(read, count, run))
                    count += 1
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    return count


def _record(read: SimulatedRead, index: int, run: pod5.RunInfo) -> pod5.Read:
    return pod5.Read(
        read_id=uuid.UUID(read.read_id),
        pore=pod5.Pore(channel=index % 512 + 1, well=1, pore_type="simulated"),
        calibration=pod5.Calibration(offset=read.offset, scale=read.range / read.digitisation),
        read_number=index,
        start_sample=0,
        median_before=0.0,
        end_reason=pod5.EndReason(pod5.EndReasonEnum.UNKNOWN, False),
        run_info=run,
        signal=read.dac,
    )


def _run_info(read: SimulatedRead) -> pod5.RunInfo:
    return pod5.RunInfo(
        acquisition_id="simulated",
        acquisition_start_time=_WHEN,
        adc_max=int(read.digitisation) - 1,
        adc_min=0,
        context_tags={},
        experiment_name="",
        flow_cell_id="",
        flow_cell_product_code="",
        protocol_name="",
        protocol_run_id="",
        protocol_start_time=_WHEN,
        sample_id="",
        sample_rate=read.sampling_rate,
        sequencing_kit="",
        sequencer_position="",
        sequencer_position_type="",
        software="rubicc simulator",
        system_name="",
        system_type="",
        tracking_id={},
    )


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="the pod5 file to write")
    parser.add_argument("--reads", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--low", type=int, default=500, help="bases in the shortest read")
    parser.add_argument("--high", type=int, default=2000, help="bases in the longest read")
    args = parser.parse_args()
    count = write_pod5(args.out, iter_simulated(args.reads, args.seed, (args.low, args.high)))
    print(f"{args.out}: {count} reads, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
