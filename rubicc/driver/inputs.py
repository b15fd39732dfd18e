"""The inputs an artefact is proven on: real data where given, our simulated squiggle for basecallers."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rubicc.driver.vectors import load_arrays
from rubicc.errors import UsageError
from rubicc.evidence.npy import UNREADABLE
from rubicc.frontend.feeds import Feeds
from rubicc.ir.graph import Graph
from rubicc.spec import ModelMeta, TensorSpec

BATCH = 2
MAX_CHUNKS = 4
MAX_BYTES = 64 * 2**20
SIMULATED_CHUNK = 3600
ODD = ("odd length 1", "odd length 2")
_HINT = "give reads for a basecaller, or an .npz with one array per model input"


@dataclass(frozen=True)
class ProofInputs:
    """Feeds for the comparison of artefact and source.

    Attributes:
        cases: description to feeds, in order; the first is stored in ``verify/``.
        sha256: digest of the reference arrays as they were used, by input name; empty when there are none.
            Not of the files: a folder of reads may hold gigabytes of which four chunks are looked at.
    """

    cases: Mapping[str, Feeds]
    sha256: str = ""

    def digest(self) -> str:
        """Of every array of every case."""
        whole = hashlib.sha256()
        for case in sorted(self.cases):
            whole.update(f"{case} {digest(self.cases[case])}\n".encode())
        return whole.hexdigest()


def proof_inputs(
    meta: ModelMeta | None,
    specs: Sequence[TensorSpec],
    small: Sequence[Feeds],
    reference: Path | None,
    seed: int,
    *,
    ranges: bool = False,
) -> ProofInputs:
    """Inputs of two lengths, real or simulated, and those of the lowering check.

    Args:
        meta: of the graph.
        specs: graph inputs.
        small: feeds of the two-shape check (odd lengths), used as further cases.
        reference: ``--reference``.
        ranges: the artefact's accuracy holds for values of the kind it was calibrated on: the odd lengths are
            then cut from the signal instead of holding white noise.

    Raises:
        UsageError: ``RUB-DRV-006``.
    """
    found = _proof_inputs(meta, specs, small, reference, seed)
    first, *odd = found.cases
    if not ranges or meta is None or meta.task != "basecalling" or len(specs) != 1 or first in ODD:
        return found
    cut = {case: _cut(found.cases[first], found.cases[case]) for case in odd}
    return replace(found, cases={first: found.cases[first], **cut})


def _cut(signal: Feeds, like: Feeds) -> Feeds:
    """Pieces of ``signal`` in the shapes of ``like``, where it is long enough."""
    ((name, array),) = signal.items()
    batch, _, length = like[name].shape
    if array.shape[-1] < length:
        return like
    rows = np.resize(np.arange(len(array)), batch)
    return {name: np.ascontiguousarray(array[rows, :, array.shape[-1] - length :])}


def _proof_inputs(
    meta: ModelMeta | None,
    specs: Sequence[TensorSpec],
    small: Sequence[Feeds],
    reference: Path | None,
    seed: int,
) -> ProofInputs:
    odd = dict(zip(ODD, small, strict=False))
    if reference is not None:
        feeds = from_files(reference, meta, specs, MAX_CHUNKS)
        return ProofInputs({f"reference data ({reference.name})": feeds, **odd}, digest(feeds))
    if meta is not None and meta.task == "basecalling" and meta.signal is not None:
        rows, length = signal_shape(meta, specs, BATCH)
        return ProofInputs({"simulated signal": {specs[0].name: simulated(meta, length, seed, rows)}, **odd})
    return ProofInputs(odd)


def simulated(meta: ModelMeta, chunk: int, seed: int, count: int = BATCH) -> np.ndarray:
    """Normalised chunks ``(count, 1, chunk)`` of squiggle from rubicc's own simulator, not real signal."""
    from rubicc.genomics.normalise import normalise
    from rubicc.genomics.reads import Read
    from rubicc.genomics.simulate import simulate_reads

    assert meta.signal is not None
    rate = meta.signal.sampling_rate
    bases = max(200, chunk // 4)  # dwell is about nine samples a base: always long enough
    rows = []
    for read in simulate_reads(count, seed=seed, length=bases):
        raw = Read(read.read_id, read.dac, read.offset, read.range / read.digitisation, rate)
        rows.append(normalise(raw, meta.signal)[:chunk])
    return np.stack(rows)[:, None, :].astype(np.float32)


def from_files(path: Path, meta: ModelMeta | None, specs: Sequence[TensorSpec], count: int) -> Feeds:
    """Inputs from reads, a bonito chunk folder, or an .npz by input name; at most ``count`` chunks of signal.

    Raises:
        UsageError: ``RUB-DRV-006``.
    """
    from rubicc.genomics.reads import find_files

    if not path.exists():
        raise UsageError("RUB-DRV-006", "no such file or folder", where=str(path), hint="check the path")
    if path.is_dir() and (path / "chunks.npy").is_file():
        path = path / "chunks.npy"
    if path.is_file() and path.suffix == ".npy":
        return {specs[0].name: _chunks(path, specs, count)}
    if path.is_file() and path.suffix == ".npz" and (feeds := _named(path, specs)):
        return feeds
    files = find_files([path])
    if not files or meta is None or meta.signal is None:
        raise UsageError(
            "RUB-DRV-006",
            "holds no reads" if not files else "holds reads, and the model is not a basecaller",
            where=str(path),
            hint=_HINT,
        )
    return {specs[0].name: _read_chunks(files, meta, specs, count)}


def digest(feeds: Feeds) -> str:
    """sha256 of names, types, shapes and values."""
    whole = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        whole.update(f"{name} {array.dtype} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def signal_shape(meta: ModelMeta, specs: Sequence[TensorSpec], rows: int) -> tuple[int, int]:
    """Rows and samples of a batch of signal: those the input is fixed to, else ``rows`` and the chunk."""
    shape = specs[0].shape
    chunk = min(meta.chunk or SIMULATED_CHUNK, SIMULATED_CHUNK)
    return fixed_or(shape[0], rows), fixed_or(shape[-1], chunk)


def one_item(feeds: Feeds, graph: Graph) -> Feeds:
    """The first batch item; the whole batch of inputs that are fixed to it."""
    fixed = {str(v.name) for v in graph.inputs if v.shape is not None and isinstance(v.shape[0], int)}
    return {name: array if name in fixed else array[:1] for name, array in feeds.items()}


def fixed_or(dim: int | str, value: int) -> int:
    """A fixed dimension, else ``value``."""
    return dim if isinstance(dim, int) else value


def _repeated(found: int, specs: Sequence[TensorSpec]) -> np.ndarray:
    """Indices of ``found`` rows, from the front again where the input is fixed to more."""
    return np.resize(np.arange(found), fixed_or(specs[0].shape[0], found))


def _chunks(path: Path, specs: Sequence[TensorSpec], count: int) -> np.ndarray:
    """The first rows of a bonito ``chunks.npy`` ``(N, T)`` as ``(n, 1, T)`` float32."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != 2 or array.dtype.kind != "f" or array.size == 0:
            raise ValueError(f"shape {array.shape}, type {array.dtype}; expected floats (N, T)")
        length = fixed_or(specs[0].shape[-1], array.shape[1])
        if array.shape[1] < length:
            raise UsageError(
                "RUB-DRV-006",
                f"chunks of {array.shape[1]} samples, and the artefact takes {length}",
                where=str(path),
                hint=f"give longer chunks, or where the target takes --shapes another one, such as "
                f"{specs[0].name}=1x1x{array.shape[1]}",
            )
        rows = _repeated(min(count, len(array)), specs)
        return np.ascontiguousarray(array[rows, :length], dtype=np.float32)[:, None, :]
    except (OSError, ValueError, EOFError) as err:
        raise UsageError("RUB-DRV-006", f"cannot be read: {err}", where=str(path), hint=_HINT) from err


def _named(path: Path, specs: Sequence[TensorSpec]) -> Feeds:
    """Arrays of an .npz by input name; empty when it holds none of the names (it may hold a read)."""
    names = {spec.name for spec in specs}
    try:
        with zipfile.ZipFile(path) as archive:
            if not names & {info.filename.removesuffix(".npy") for info in archive.infolist()}:
                return {}
        arrays = load_arrays(path, MAX_BYTES)
        if missing := names - set(arrays):
            raise ValueError(f"has no array {sorted(missing)[0]!r}")
        return {spec.name: arrays[spec.name].astype(spec.dtype) for spec in specs}
    except UNREADABLE as err:
        raise UsageError("RUB-DRV-006", f"cannot be read: {err}", where=str(path), hint=_HINT) from err


def _read_chunks(
    files: Sequence[Path], meta: ModelMeta, specs: Sequence[TensorSpec], count: int
) -> np.ndarray:
    from rubicc.genomics.normalise import check_rate, normalise
    from rubicc.genomics.reads import iter_reads

    assert meta.signal is not None
    count, length = signal_shape(meta, specs, count)
    rows: list[np.ndarray] = []
    for read in iter_reads(files, on_problem=lambda _: None):  # other reads will do
        if len(read.signal) < length:
            continue
        check_rate(read, meta.signal)
        signal = normalise(read, meta.signal)
        middle = (len(signal) - length) // 2
        rows.append(signal[middle : middle + length])
        if len(rows) == count:
            break
    if not rows:
        raise UsageError(
            "RUB-DRV-006", f"no read has {length} samples", where=files[0].name, hint="give longer reads"
        )
    return np.stack(rows)[_repeated(len(rows), specs)][:, None, :].astype(np.float32)
