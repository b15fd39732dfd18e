"""Read files that tests write themselves: fast5 (single, multi, gzip, VBZ), pod5 and npz."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CHANNEL = {"range": 1443.0, "offset": 12.0, "digitisation": 8192.0, "sampling_rate": 4000.0}
VBZ = {"compression": 32020, "compression_opts": (1, 2, 1, 1)}


def read_id(number: int) -> str:
    return str(uuid.UUID(int=(0xABC << 100) + number))


def signal(number: int, samples: int) -> np.ndarray:
    """A seeded staircase with noise, inside the range of a real pore."""
    rng = np.random.default_rng(number)
    levels = np.repeat(rng.integers(300, 700, samples // 9 + 1), 9)[:samples]
    return (levels + rng.integers(-12, 13, samples)).astype(np.int16)


def write_multi(
    path: Path,
    reads: Mapping[str, np.ndarray],
    *,
    channel: Mapping[str, Any] = CHANNEL,
    **storage: Any,
) -> None:
    import vbz_h5py_plugin  # noqa: F401, I001
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["file_version"] = b"2.2"
        for name, samples in reads.items():
            group = file.create_group(f"read_{name}")
            raw = group.create_group("Raw")
            raw.attrs["read_id"] = name.encode()
            raw.attrs["start_time"] = np.uint64(8000)
            raw.attrs["start_mux"] = np.uint8(2)
            raw.attrs["read_number"] = np.int32(7)
            raw.create_dataset("Signal", data=samples, **_fitting(storage, samples))
            fill_channel(group, channel)
            tracking = group.create_group("tracking_id")
            tracking.attrs["run_id"] = b"run-1"
            tracking.attrs["exp_start_time"] = b"2019-05-13T11:11:43+00:00"


def _fitting(storage: Mapping[str, Any], samples: np.ndarray) -> dict[str, Any]:
    """``storage`` with chunks no larger than the data, as h5py wants them."""
    if "chunks" not in storage:
        return dict(storage)
    return {**storage, "chunks": (min(storage["chunks"][0], len(samples)),)}


def write_single(path: Path, name: str, samples: np.ndarray, **storage: Any) -> None:
    import vbz_h5py_plugin  # noqa: F401, I001
    import h5py

    with h5py.File(path, "w") as file:
        raw = file.create_group("Raw/Reads/Read_12")
        raw.attrs["read_id"] = name.encode()
        raw.create_dataset("Signal", data=samples, **_fitting(storage, samples))
        fill_channel(file.create_group("UniqueGlobalKey"), CHANNEL)


def fill_channel(group: Any, channel: Mapping[str, Any]) -> None:
    holder = group.create_group("channel_id")
    holder.attrs["channel_number"] = b"109"
    for name, value in channel.items():
        holder.attrs[name] = value


def write_pod5(path: Path, reads: Mapping[str, np.ndarray], rate: int = 4000) -> None:
    import datetime

    import pod5

    when = datetime.datetime(2023, 1, 2, tzinfo=datetime.UTC)
    run = pod5.RunInfo(
        acquisition_id="run-2",
        acquisition_start_time=when,
        adc_max=2047,
        adc_min=0,
        context_tags={},
        experiment_name="",
        flow_cell_id="",
        flow_cell_product_code="",
        protocol_name="",
        protocol_run_id="",
        protocol_start_time=when,
        sample_id="",
        sample_rate=rate,
        sequencing_kit="",
        sequencer_position="",
        sequencer_position_type="",
        software="",
        system_name="",
        system_type="",
        tracking_id={},
    )
    with pod5.Writer(path) as writer:
        for name, samples in reads.items():
            writer.add_read(
                pod5.Read(
                    read_id=uuid.UUID(name),
                    pore=pod5.Pore(channel=5, well=3, pore_type="not_set"),
                    calibration=pod5.Calibration(offset=-230.0, scale=0.3655),
                    read_number=9,
                    start_sample=4000,
                    median_before=200.0,
                    end_reason=pod5.EndReason(pod5.EndReasonEnum.UNKNOWN, False),
                    run_info=run,
                    signal=samples,
                )
            )


def write_npz(path: Path, reads: Mapping[str, np.ndarray], **override: Any) -> None:
    """The many-reads form; ``override`` replaces arrays."""
    arrays = {
        "read_id": np.array(list(reads)),
        "dac": np.concatenate(list(reads.values())),
        "dac_lengths": np.array([len(samples) for samples in reads.values()]),
        **{name: np.array(value) for name, value in CHANNEL.items()},
        **override,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def some_reads(lengths: Sequence[int], first: int = 0) -> dict[str, np.ndarray]:
    return {read_id(first + i): signal(first + i, samples) for i, samples in enumerate(lengths)}
