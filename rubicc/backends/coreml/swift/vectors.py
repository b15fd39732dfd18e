"""Recorded vectors for the Swift package's unit tests: small JSON, from the artefact's runs and the ports."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubicc.backends.coreml.swift.design import Design, Reads, Sequences
from rubicc.backends.coreml.swift.ports import chunks, signal
from rubicc.backends.coreml.swift.ports.calls import Scores

if TYPE_CHECKING:
    import numpy as np

_MOST_VALUES = 4096
_MOST_INPUT_VALUES = 200_000
_MOST_SCORES = 20_000
_BASES = "ACGT"


@dataclass(frozen=True)
class Vectors:
    """One verified run of the model.

    Attributes:
        inputs, outputs: arrays by tensor name, as the package's model takes and gives them.
        snr_db: what a run on a device must reach against ``outputs``.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    snr_db: float = 40.0


def model(vectors: Vectors) -> dict[str, Any] | None:
    """``model_vectors.json``: whole inputs, at most 4,096 values of each output; ``None`` if too large."""
    if any(value.size > _MOST_INPUT_VALUES for value in vectors.inputs.values()):
        return None
    return {
        "inputs": {name: _whole(value) for name, value in sorted(vectors.inputs.items())},
        "outputs": {name: _sample(value) for name, value in sorted(vectors.outputs.items())},
        "snr": float(vectors.snr_db),
    }


def tokenizer(sequences: Sequences) -> dict[str, Any]:
    """``tokenizer_vectors.json``: texts with their ids, the last of them in windows."""
    draw = _Draw(1)
    texts = ["", "ACGT", "acgtn", "NNNN" + draw.bases(40) + "N"]
    texts += [draw.bases(length) for length in (7, 100, 1000)]
    room = sequences.tokens - len(sequences.tokenizer.before) - len(sequences.tokenizer.after)
    texts.append(draw.bases(min(30 * room, 20_000)))
    overlap = min(8, room - 1)
    windows = sequences.tokenizer.windows(texts[-1], sequences.tokens, overlap)
    encoded = [(text, sequences.tokenizer.encode(text)) for text in texts]
    return {
        "texts": [{"text": text, "ids": got.ids, "starts": got.starts} for text, got in encoded],
        "length": sequences.tokens,
        "overlap": overlap,
        "windows": [window.ids for window in windows],
        "masks": [window.mask for window in windows],
    }


def basecaller(reads: Reads, recorded: Scores | None) -> dict[str, Any]:
    """``basecaller_vectors.json``: a signal with its normalised form, and scores with their call.

    Args:
        recorded: scores of a verified run; without them, scores drawn from a fixed generator.
    """
    draw = _Draw(2)
    samples = [400 + int(200 * draw.unit()) for _ in range(300)]
    offset, scale = 12.0, 0.1765
    read = signal.RawRead(samples, offset, scale, reads.sampling_rate)
    scores = recorded or _drawn(draw, reads)
    call = reads.decoder.decode(scores)
    cuts = chunks.cuts(3 * reads.plan.length + 17, reads.plan)
    return {
        "samples": samples,
        "offset": offset,
        "scale": scale,
        "normalised": _short(signal.normalise(read, reads.normalisation, reads.sampling_rate)),
        "cuts": [[cut.start, cut.length, cut.first, cut.last] for cut in cuts],
        "columns": scores.columns,
        "scores": _short(scores.values),
        "sequence": call.sequence,
        "qualities": call.qualities,
        "moves": call.moves,
    }


def recorded_scores(design: Design, vectors: Vectors | None) -> Scores | None:
    """The first row of the run's scores (time, batch, columns), as much as fits; ``None`` without a run."""
    if design.reads is None or vectors is None:
        return None
    values = vectors.outputs.get(design.outputs[0].name)
    if values is None or values.ndim != 3 or values.shape[2] != design.reads.columns:
        return None
    frames = max(1, _MOST_SCORES // design.reads.columns)
    row = values[:frames, 0].astype("float32").ravel()
    if not all(math.isfinite(value) for value in row):
        return None
    return Scores(array("f", row.tolist()), design.reads.columns)


def text(data: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys: equal vectors give equal bytes."""
    return (json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def _whole(value: np.ndarray) -> dict[str, Any]:
    return {"shape": list(value.shape), "values": _numbers(value.ravel())}


def _sample(value: np.ndarray) -> dict[str, Any]:
    """Evenly spaced values; infinities (log of 0) have no place in JSON and are left out."""
    flat = value.ravel()
    step = max(1, -(-flat.size // _MOST_VALUES))
    places = [place for place in range(0, flat.size, step) if math.isfinite(flat[place])]
    return {"shape": list(value.shape), "places": places, "values": _numbers(flat[places])}


def _numbers(values: np.ndarray) -> list[float | int]:
    if values.dtype.kind in "iub":
        return [int(value) for value in values]
    return [float(str(value)) for value in values]


def _short(values: array[float]) -> list[float]:
    """float32 values in the fewest digits that give them back."""
    return [float(f"{value:.9g}") for value in values]


def _drawn(draw: _Draw, reads: Reads) -> Scores:
    frames = max(4, min(200, _MOST_SCORES // reads.columns))
    raw = [6.0 * draw.unit() - 3.0 for _ in range(frames * reads.columns)]
    if reads.find.startswith("CTC"):
        for first in range(0, len(raw), reads.columns):
            row = raw[first : first + reads.columns]
            norm = math.log(sum(math.exp(3.0 * value) for value in row))
            raw[first : first + reads.columns] = [3.0 * value - norm for value in row]
    return Scores(array("f", raw), reads.columns)


class _Draw:
    """A fixed generator (Park-Miller), so that equal models give equal bytes."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def unit(self) -> float:
        self.state = self.state * 48271 % 0x7FFFFFFF
        return self.state / 0x7FFFFFFF

    def bases(self, length: int) -> str:
        return "".join(_BASES[int(4 * self.unit())] for _ in range(length))
