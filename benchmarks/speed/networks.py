"""The networks of the speed tables, their inputs, and what a call of them costs."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from rubicc.spec import ModelMeta

Arrays = dict[str, np.ndarray]
CALIBRATION_BATCHES = 2
_ROOT = Path(__file__).resolve().parents[2]
_MGRU_WEIGHTS = Path("weights") / "r9_mgru_flipflop_state_dict.pt"
_READS = "mapped"


@dataclass(frozen=True)
class Network:
    """One row group of the table.

    Attributes:
        name: as on the command line.
        arch, config: of the zoo.
        batch, length: of one call, in reads and samples (or tokens).
        quantise: what ONNX Runtime's documentation tells a user to call for this kind of network.
        unit: what throughput counts.
    """

    name: str
    arch: str
    batch: int
    length: int
    quantise: Literal["static", "dynamic"]
    unit: Literal["samples", "tokens"] = "samples"
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """Samples or tokens of one call."""
        return self.batch * self.length


NETWORKS = {
    network.name: network
    for network in (
        Network("rubicall-fp", "rubicall-fp", 8, 3600, "static"),
        Network("bonito-ctc", "bonito-ctc", 8, 3600, "static"),
        Network("taiyaki-mgru", "taiyaki-mgru", 32, 3600, "dynamic"),
        Network("bonito-crf-fast", "bonito-crf", 16, 4000, "dynamic", config={"preset": "fast"}),
        Network("bonito-crf-hac", "bonito-crf", 16, 4000, "dynamic", config={"preset": "hac"}),
        Network("dna-bert", "dna-bert", 8, 512, "dynamic", "tokens"),
    )
}


@dataclass(frozen=True)
class Case:
    """A network made concrete.

    Attributes:
        path: the checkpoint that ``rubicc compile`` is given.
        feeds: measured input, by the model's input names.
        calibration: batches of the same shape that share no chunk with ``feeds``.
        calib_path: what ``--calib`` is given: reads, or arrays by input name.
        notes: where weights and signal come from, and what is missing.
        macs: multiply-accumulates of one call.
    """

    network: Network
    path: Path
    module: torch.nn.Module
    meta: ModelMeta
    feeds: Arrays
    calibration: tuple[Arrays, ...]
    calib_path: Path
    notes: tuple[str, ...]
    macs: int


def real_data() -> Path | None:
    """The folder of real reads and weights, or ``None``: RUBICC_SHARED_DATA, else beside the project."""
    folder = Path(os.environ.get("RUBICC_SHARED_DATA", _ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def make(network: Network, home: Path, seed: int = 0) -> Case:
    """Weights, inputs and cost of ``network``; files are written into ``home``."""
    from rubicc.frontend import checkpoint, read_model
    from rubicc.models import registry

    data, entry = real_data(), registry.get(network.arch)
    path = home / f"{network.name}.pt"
    if data is not None and network.arch == "taiyaki-mgru":
        given = read_model(data / _MGRU_WEIGHTS, arch=network.arch)
        module, meta, notes = given.module, given.meta, ["real weights"]
    else:
        config = dict(network.config) or None
        module, meta, notes = entry.build(config, seed=seed), entry.meta(config), ["random weights"]
        if network.arch == "taiyaki-mgru":
            notes.append("the real ones are not beside the project")
    assert module is not None and meta is not None
    if network.unit == "samples":
        # Artefacts are tuned for the model's chunk: let that be the length of the table.
        meta = replace(meta, chunk=network.length, overlap=min(meta.overlap or 0, network.length // 2))
    checkpoint.save(path, module, meta)
    source = read_model(path)
    assert source.module is not None and source.meta is not None
    batches = list(_batches(network, source.meta, data, seed))
    notes.append(_origin(network, data))
    calib = home / f"{network.name}-calib.npz"
    _write_calibration(calib, network, batches[1:], data)
    return Case(
        network=network,
        path=path,
        module=source.module,
        meta=source.meta,
        feeds=batches[0],
        calibration=tuple(batches[1:]),
        calib_path=data / _READS if data is not None and network.unit == "samples" else calib,
        notes=tuple(notes),
        macs=_macs(source, network),
    )


def _macs(source: Any, network: Network) -> int:
    """Multiply-accumulates of one call (convolutions, matrix products, recurrent layers)."""
    from rubicc.frontend.lower import lower
    from rubicc.ir.costs import costs
    from rubicc.ir.graph import spec_of

    graph = lower(source).graph
    bound = {
        dim: network.batch if axis == 0 else network.length
        for value in graph.inputs
        for axis, dim in enumerate(spec_of(value).shape)
        if isinstance(dim, str)
    }
    found = costs(graph, bound)
    assert not found.uncounted, found.uncounted
    return found.macs


def _origin(network: Network, data: Path | None) -> str:
    if network.unit == "tokens":
        return "random tokens, nothing masked"
    return "real R9.4.1 signal" if data is not None else "simulated signal (no real data beside the project)"


def _batches(network: Network, meta: ModelMeta, data: Path | None, seed: int) -> Iterator[Arrays]:
    """One batch to measure, then those to calibrate with."""
    count = 1 + CALIBRATION_BATCHES
    if network.unit == "tokens":
        rng = np.random.default_rng(seed)
        shape = (network.batch, network.length)
        for _ in range(count):
            ids = rng.integers(5, meta.config["vocab_size"], shape, dtype=np.int64)
            yield {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}
        return
    chunks = _chunks(meta, network.length, count * network.batch, data, seed)
    (name,) = (spec.name for spec in meta.inputs)
    for index in range(count):
        # Every count-th chunk, so that each batch holds all reads.
        yield {name: np.ascontiguousarray(chunks[index::count][:, None, :])}


def _chunks(meta: ModelMeta, length: int, count: int, data: Path | None, seed: int) -> np.ndarray:
    """``count`` normalised chunks ``(count, length)``; float32. Repeats when the reads are too short."""
    from rubicc.genomics.normalise import normalise

    assert meta.signal is not None
    rows: list[np.ndarray] = []
    for read in _reads(data, seed):
        signal = normalise(read, meta.signal)
        usable = signal[: len(signal) // length * length]
        rows.extend(usable.reshape(-1, length))
    picked = np.linspace(0, len(rows) - 1, count).astype(int)
    return np.stack([rows[index] for index in picked]).astype(np.float32)


@functools.cache
def _reads(data: Path | None, seed: int) -> tuple[Any, ...]:
    """The seven mapped reads, or simulated ones."""
    from rubicc.genomics.reads import Read, iter_reads
    from rubicc.genomics.simulate import simulate_reads

    if data is not None:
        return tuple(iter_reads([data / _READS]))
    return tuple(
        Read(read.read_id, read.dac, read.offset, read.range / read.digitisation, read.sampling_rate)
        for read in simulate_reads(12, seed=seed + 10_000, length=5000)
    )


def _write_calibration(path: Path, network: Network, batches: list[Arrays], data: Path | None) -> None:
    """What ``--calib`` reads where there is no real data: simulated reads, or arrays by input name."""
    if network.unit == "tokens":
        arrays: dict[str, Any] = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        np.savez(path, **arrays)
    elif data is None:
        from rubicc.genomics.simulate import simulate_reads, write_reads

        write_reads(path, simulate_reads(4, seed=20_000, length=3000))
