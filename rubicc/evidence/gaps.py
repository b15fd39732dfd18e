"""How far computed arrays are from reference arrays; nothing that went wrong can look like a small number.

A missing output, a different shape, or a NaN or infinity where the reference has a finite value (or another
one) is a *failure* with a reason: its SNR is ``-inf`` and its differences ``inf``. Infinities that agree in
sign and position are equal, as in masked log-probabilities; they are counted, not averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rubicc.errors import VerificationFailed
from rubicc.quantities import MaxGap

_PIECE = 1 << 20  # values compared at a time
# What an artefact must reach where nobody says otherwise. Float networks in fp32 measure 100-130 dB against
# torch; a wrong weight in one channel gives 20-60 dB.
DEFAULT_SNR = {"fp32": 80.0, "fp16": 40.0, "bf16": 25.0, "int8": 20.0, "mixed": 20.0, "w8a8": 20.0}
# Compressed weights, whose loss is the one asked for: far above what a fault leaves, far below what is usual
# (k bits give about 6k - 4 dB in one layer).
DEFAULT_SNR |= {"w8a16": 20.0, "int16": 30.0}
DEFAULT_SNR |= {"palette8": 20.0, "palette7": 20.0, "palette6": 15.0, "palette5": 12.0, "palette4": 8.0}
DEFAULT_SNR |= {"int4": 6.0, "palette3": 3.0, "palette2": 0.0, "palette1": 0.0, "sparse": 0.0}


@dataclass(frozen=True)
class Gap:
    """Difference between a reference and what was computed, over all compared values.

    Attributes:
        max_abs: largest ``|got - ref|``.
        max_rel: largest ``|got - ref|`` over the largest ``|ref|`` of the same array.
        rms: root of the mean squared difference.
        snr_db: ``10 log10(sum ref^2 / sum (got - ref)^2)``; ``inf`` when equal, ``-inf`` when failed.
        argmax_agreement: share of last-axis argmaxes that agree; ``None`` where that means nothing.
        count: values compared.
        failure: why the comparison failed; empty when it did not.
    """

    max_abs: float
    max_rel: float
    rms: float
    snr_db: float
    argmax_agreement: float | None = None
    count: int = 0
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything could be compared (says nothing about how close it is)."""
        return not self.failure

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinities become the texts ``inf`` and ``-inf`` (JSON has none)."""
        return {key: _json_number(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Gap:
        """Inverse of :meth:`to_dict`."""
        texts = ("max_abs", "max_rel", "rms", "snr_db")
        values: dict[str, Any] = {k: float(v) if k in texts else v for k, v in data.items()}
        return cls(**values)

    def describe(self) -> str:
        """One line for people: ``SNR 131.2 dB, max abs 1.4e-06``."""
        if self.failure:
            return f"FAILED: {self.failure}"
        snr = "exact" if math.isinf(self.snr_db) else f"SNR {self.snr_db:.1f} dB"
        agree = ""
        if self.argmax_agreement is not None:
            share = "all" if self.argmax_agreement == 1.0 else f"{self.argmax_agreement:.4%}"
            agree = f", {share} argmax equal"
        return f"{snr}, max abs {self.max_abs:.3g}{agree}"


@dataclass(frozen=True)
class LayerGap:
    """Gap of one intermediate value, with where it came from."""

    value: str
    node: str
    op: str
    source: str
    gap: Gap


def failed(reason: str) -> Gap:
    """The gap of a comparison that could not be made."""
    return Gap(math.inf, math.inf, math.inf, -math.inf, failure=reason)


def gap(ref: Any, got: Any) -> Gap:
    """Compare two arrays of any numeric type; never raises for what it finds in them.

    Args:
        ref: reference array; differences are taken in float64 (exactly, for integers below 2**53).
        got: the array under test; must have the same shape.
    """
    ref, got = np.asarray(ref), np.asarray(got)
    if ref.shape != got.shape:
        return failed(f"shape {got.shape} where {ref.shape} was expected")
    if not (_numeric(ref) and _numeric(got)):
        return failed(f"type {got.dtype} against {ref.dtype} cannot be compared")
    if ref.size == 0:
        return failed("nothing to compare: the array is empty")
    problem = _not_finite(ref, got)
    if problem:
        return replace(failed(problem), count=int(ref.size))
    peak = scale = 0.0
    agreeing = 0
    for a, b in _pieces(ref, got):
        x, difference = _finite(a, b)
        peak = max(peak, float(np.abs(difference).max(initial=0.0)))
        scale = max(scale, float(np.abs(x).max(initial=0.0)))
        agreeing += int((a.argmax(axis=-1) == b.argmax(axis=-1)).sum())
    noise, signal = _rms((_finite(a, b) for a, b in _pieces(ref, got)), peak, scale)
    floats = np.issubdtype(ref.dtype, np.floating) and ref.ndim >= 2 and ref.shape[-1] >= 2
    return Gap(
        max_abs=peak,
        max_rel=_ratio(peak, scale),
        rms=noise,
        snr_db=_snr_db(signal, noise),
        argmax_agreement=agreeing * ref.shape[-1] / ref.size if floats else None,
        count=int(ref.size),
    )


def output_gaps(ref: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Gap]:
    """Gap per reference output; a missing or surplus output is a failure, not an omission."""
    gaps = {name: gap(ref[name], got[name]) if name in got else failed("output is missing") for name in ref}
    gaps |= {name: failed("output is not in the reference") for name in got if name not in ref}
    return gaps or {"": failed("nothing to compare: no outputs")}


def combined(gaps: Iterable[Gap]) -> Gap:
    """The worst of several gaps, member by member (RMS pooled by count); any failure fails the whole."""
    gaps = list(gaps)
    if not gaps:
        return failed("nothing to compare")
    count = sum(g.count for g in gaps)
    failures = [g.failure for g in gaps if g.failure]
    agreements = [g.argmax_agreement for g in gaps if g.argmax_agreement is not None]
    pooled = math.sqrt(sum(g.rms**2 * g.count for g in gaps) / count) if count and not failures else math.inf
    return Gap(
        max_abs=max(g.max_abs for g in gaps),
        max_rel=max(g.max_rel for g in gaps),
        rms=pooled,
        snr_db=min(g.snr_db for g in gaps),
        argmax_agreement=min(agreements) if agreements else None,
        count=count,
        failure="; ".join(dict.fromkeys(failures)),
    )


def layer_gaps(
    ref: Mapping[str, Any], got: Mapping[str, Any], rows: Iterable[tuple[str, str, str, str]]
) -> list[LayerGap]:
    """Gaps of intermediate values, in the order of ``rows``.

    Args:
        ref, got: values by name from two executions; values absent from ``ref`` are skipped (a pass may
            have renamed them), values absent from ``got`` are failures.
        rows: (value name, node name, op, source module path).
    """
    layers = []
    for value, node, op, source in rows:
        if value in ref:
            found = gap(ref[value], got[value]) if value in got else failed("value is missing")
            layers.append(LayerGap(value, node, op, source, found))
    return layers


def require(gaps: Mapping[str, Gap], limit: MaxGap, *, code: str, where: str = "") -> Gap:
    """The combined gap, if every output is within ``limit``.

    Raises:
        VerificationFailed: ``code``, naming every output that is not; also when nothing was compared.
    """
    broken = [f"{name or 'outputs'}: {reason}" for name, g in gaps.items() if (reason := _breaks(g, limit))]
    if not gaps or broken:
        what = "; ".join(broken) or "nothing was compared"
        hint = "see report.html for the first layer that differs; --max-gap sets the limit"
        raise VerificationFailed(code, what, where=where, hint=hint)
    return combined(gaps.values())


def _breaks(found: Gap, limit: MaxGap) -> str:
    if found.failure:
        return found.failure
    if limit.snr is not None and not found.snr_db >= limit.snr:
        return f"SNR {found.snr_db:.1f} dB is below {limit.snr:g} dB"
    if limit.max_abs is not None and not found.max_abs <= limit.max_abs:
        return f"max abs difference {found.max_abs:.3g} is above {limit.max_abs:g}"
    return ""


def _numeric(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" or array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _not_finite(a: np.ndarray, b: np.ndarray) -> str:
    """Why NaN or Inf make the comparison fail; empty when they do not."""
    if np.isnan(a).any():
        return f"the reference holds {int(np.isnan(a).sum())} NaN"
    if np.isnan(b).any():
        return f"{int(np.isnan(b).sum())} of {b.size} values are NaN"
    odd = (np.isinf(a) | np.isinf(b)) & (a != b)
    if odd.any():
        return f"{int(odd.sum())} of {b.size} infinities do not match the reference"
    if np.isinf(a).all():
        return "the reference holds only infinities"
    return ""


def _pieces(ref: np.ndarray, got: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of both in float64, some at a time: logits of a language model are 16 million numbers."""
    width = ref.shape[-1] if ref.ndim > 1 else 1
    rows, others = ref.reshape(-1, width), got.reshape(-1, width)
    step = max(1, _PIECE // width)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield rows[part].astype(np.float64), others[part].astype(np.float64)


def _finite(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reference and difference, without the infinities that agree."""
    finite = np.isfinite(a)
    if not finite.all():
        a, b = a[finite], b[finite]
    return a, b - a


def _rms(pieces: Iterable[tuple[np.ndarray, np.ndarray]], peak: float, scale: float) -> tuple[float, float]:
    """RMS of differences and of the reference, scaled by their largest: nothing overflows or vanishes."""
    count, sums = 0, [0.0, 0.0]
    for x, difference in pieces:
        count += x.size
        for index, (values, largest) in enumerate(((difference, peak), (x, scale))):
            if 0.0 < largest < math.inf:
                sums[index] += float(np.square(values / largest).sum())
    noise, signal = (
        largest * math.sqrt(total / count) if 0.0 < largest < math.inf else largest
        for total, largest in zip(sums, (peak, scale), strict=True)
    )
    return noise, signal


def _snr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if signal == 0.0 or math.isinf(noise):
        return -math.inf
    return 20.0 * (math.log10(signal) - math.log10(noise))


def _ratio(part: float, whole: float) -> float:
    if part == 0.0:
        return 0.0
    return part / whole if whole else math.inf


def _json_number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
