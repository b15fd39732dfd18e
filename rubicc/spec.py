"""What a model is, beside its weights: the facts that travel from checkpoint to artefact.

A basecaller run with the wrong normalisation or stride gives wrong DNA without any error, so these facts are
part of every checkpoint, graph (ONNX metadata ``rubicc.meta``) and artefact, and inference enforces them.
Importing this module imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rubicc.errors import UsageError
from rubicc.text import did_you_mean

Dim = int | str
Normalisation = Literal["med-mad", "quantile", "pa", "none"]
DecoderKind = Literal["ctc", "flipflop", "crf"]
Task = Literal["basecalling", "masked-lm", "generic"]

META_KEY = "rubicc.meta"
# bonito 0.6 and later, wherever a model names no other.
QUANTILE = {"quantile_a": 0.2, "quantile_b": 0.9, "shift_multiplier": 0.51, "scale_multiplier": 0.53}


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output. ``shape`` mixes integers and symbols (``("N", 1, "T")``)."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class SignalSpec:
    """How raw current becomes network input.

    ``med-mad``: ``(x - median) / (1.4826 * MAD)`` over the whole read.
    ``quantile``: bonito >= 0.6, params ``quantile_a, quantile_b, shift_multiplier, scale_multiplier``.
    ``pa``: fixed picoampere statistics, params ``mean, stdev``.
    """

    normalisation: Normalisation = "med-mad"
    params: Mapping[str, float] = field(default_factory=dict)
    sampling_rate: int = 4000


@dataclass(frozen=True)
class DecoderSpec:
    """How network output becomes bases.

    ``ctc``: log-probabilities over ``alphabet`` whose first letter is the blank.
    ``flipflop``: 40 transition scores (see ``genomics/flipflop.py``).
    ``crf``: bonito linear-chain CRF, params ``state_len``.
    Phred ``q' = qscale * q + qbias``: calibration of the posterior-derived error probability.
    """

    kind: DecoderKind
    params: Mapping[str, float] = field(default_factory=dict)
    qscale: float = 1.0
    qbias: float = 0.0


@dataclass(frozen=True)
class ModelMeta:
    """Everything inference must know. Outputs of basecallers are laid out ``(T, N, C)``.

    Attributes:
        arch: registered architecture name, or ``custom``.
        config: the architecture's configuration as plain JSON values.
        stride: input samples per output frame (basecallers).
        receptive_field: input samples one output frame depends on; ``None`` = unbounded or unknown.
        chunk, overlap: default chunk length and overlap for inference, in samples.
    """

    arch: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Task = "generic"
    config: Mapping[str, Any] = field(default_factory=dict)
    stride: int | None = None
    alphabet: str | None = None
    signal: SignalSpec | None = None
    decoder: DecoderSpec | None = None
    receptive_field: int | None = None
    chunk: int | None = None
    overlap: int | None = None

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces): equal metadata give equal bytes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelMeta:
        """Strict inverse of :meth:`to_dict`.

        Raises:
            UsageError: unknown key (with the nearest known one) or a value of the wrong form.
        """
        values = strict_fields(cls, data, "model metadata")
        try:
            for key in ("inputs", "outputs"):
                values[key] = tuple(_tensor_spec(item) for item in values.get(key, ()))
            if values.get("signal") is not None:
                values["signal"] = SignalSpec(**strict_fields(SignalSpec, values["signal"], "signal"))
            if values.get("decoder") is not None:
                values["decoder"] = DecoderSpec(**strict_fields(DecoderSpec, values["decoder"], "decoder"))
            return cls(**values)
        except (TypeError, AttributeError) as err:
            raise UsageError("RUB-SPEC-002", f"model metadata has the wrong form: {err}") from err

    @classmethod
    def from_json(cls, text: str) -> ModelMeta:
        """Strict inverse of :meth:`to_json`."""
        try:
            data = json.loads(text)
        except ValueError as err:
            raise UsageError("RUB-SPEC-002", f"model metadata is not JSON: {err}") from err
        if not isinstance(data, dict):
            raise UsageError("RUB-SPEC-002", "model metadata is not a JSON object")
        return cls.from_dict(data)


def _tensor_spec(item: Mapping[str, Any]) -> TensorSpec:
    values = strict_fields(TensorSpec, item, "tensor")
    values["shape"] = tuple(values.get("shape", ()))
    return TensorSpec(**values)


def strict_fields(cls: Any, data: Mapping[str, Any], what: str) -> dict[str, Any]:
    """``data`` as keyword arguments of dataclass ``cls``; unknown keys are an error with a did-you-mean.

    Raises:
        UsageError: ``RUB-SPEC-001``; ``RUB-SPEC-002`` when ``data`` is no mapping.
    """
    known = [f.name for f in fields(cls)]
    if not isinstance(data, Mapping):
        raise UsageError("RUB-SPEC-002", f"{what} has the wrong form: not a mapping")
    for key in data:
        if key not in known:
            hint = did_you_mean(key, known, f"known keys: {', '.join(known)}")
            raise UsageError("RUB-SPEC-001", f"unknown key {key!r} in {what}", hint=hint)
    return dict(data)
