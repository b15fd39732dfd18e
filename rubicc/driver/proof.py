"""Proof that an emitted artefact computes what its source computes.

Three comparisons, all on files read back from disk:

1. every runtime against the source in float32, with the allowed gap;
2. the emitted graph in float64 against the source in float64: free of the noise of float32 sums, so that it
   sees one weight in 250,000 that is 1 % off (80 to 100 dB), which the first one cannot. Float networks must
   reach 120 dB (batch norms are fused in float32: about 140). Quantised networks, with their scales pinned,
   must agree to 1e-9: nothing else is free of rounding edges;
3. for quantised networks the source in float32 against itself in float64: its own noise, printed beside the
   others. Such a network may differ from its source by that much between any two machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.driver.identity import require_identity
from rubicc.evidence.gaps import DEFAULT_SNR, Gap, combined, output_gaps, require
from rubicc.frontend.feeds import Feeds
from rubicc.ir.graph import Graph
from rubicc.quantities import MaxGap
from rubicc.spec import ModelMeta

EXACT_QUANTISED = MaxGap(max_abs=1e-9)
EXACT_FLOAT = MaxGap(snr=120.0)
# Above this the float64 copies cost more memory than the proof is worth; the report says so.
EXACT_MAX_PARAMETERS = 64_000_000
# A quantised network may be no noisier than its own float32 noise, plus what a second roll of the same
# dice costs.
NOISE_MARGIN_DB = 6.0
Outputs = dict[str, np.ndarray]


@dataclass
class Proof:
    """Result of all comparisons.

    Attributes:
        gaps: what was compared -> gap, in the order shown to people.
        expected: outputs of the source for the first case.
        inputs: feeds of the first case.
        limits: comparison -> limit it was held to, as text.
        calls: comparison -> lost identity of the calls in percentage points, where ``--max-gap identity``
            asked for it.
        allowed: the limit on runtimes, stored with the artefact so that `verify` holds it to the same.
    """

    inputs: Feeds
    expected: Outputs
    allowed: MaxGap
    gaps: dict[str, Gap] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Deterministic part for the manifest: what was compared and held to what, not the digits."""
        return {
            "compared": sorted(self.gaps),
            "limits": dict(self.limits),
            "max_gap": asdict(self.allowed),
        }

    def worst(self) -> Gap:
        """The worst gap of the runtimes against the source."""
        return combined(gap for name, gap in self.gaps.items() if "noise" not in name)


@dataclass(frozen=True)
class SourceOutputs:
    """The two ways to run the source."""

    reference: Callable[[Feeds], Outputs]
    exact: Callable[[Feeds], Outputs]


def prove(
    cases: Mapping[str, Feeds],
    source: SourceOutputs,
    sessions: Mapping[str, Any],
    emitted: Graph | None,
    *,
    quantised: bool,
    precision: str,
    max_gap: MaxGap,
    meta: ModelMeta | None = None,
) -> Proof:
    """Compare every session with the source on every case.

    Args:
        cases: description to feeds.
        sessions: runtime name to session over the emitted files.
        emitted: the emitted graph, read back from disk, to be compared in float64; ``None`` where that means
            nothing (fp16 weights, targets whose form is no graph, networks too large).
        meta: of the model; with a decoder in it the calls are compared as well when an identity is asked for.

    Raises:
        VerificationFailed: ``RUB-DRV-001`` with the first comparison that fails.
    """
    proof: Proof | None = None
    for case, feeds in cases.items():
        expected = source.reference(feeds)
        allowed = _allowed(max_gap, precision)
        exact = source.exact(feeds) if quantised or emitted is not None else None
        own: dict[str, Gap] = {}
        if quantised and exact is not None:
            noise = combined(output_gaps(exact, expected).values())
            own[f"{case}: source float32 against itself in float64 (its own noise)"] = noise
            allowed = _within_noise(max_gap, precision, noise)
        if proof is None:
            proof = Proof(feeds, expected, allowed)
        proof.gaps |= own
        if emitted is not None and exact is not None:
            limit = EXACT_QUANTISED if quantised else EXACT_FLOAT
            _prove_exact(proof, case, emitted, feeds, exact, limit)
        for runtime, session in sessions.items():
            name = f"{case}: {runtime} against the source"
            made = session.run(feeds)
            found = output_gaps(expected, made)
            proof.gaps[name] = combined(found.values())
            proof.limits[name] = _limit_text(allowed)
            require(found, allowed, code="RUB-DRV-001", where=name)
            if max_gap.identity is not None:
                proof.calls[name] = require_identity(expected, made, meta, max_gap.identity, name)
    assert proof is not None
    return proof


def _prove_exact(
    proof: Proof, case: str, emitted: Graph, feeds: Feeds, exact: Outputs, limit: MaxGap
) -> None:
    from rubicc.ir.executor import execute

    name = f"{case}: emitted graph against the source, both in float64"
    found = output_gaps(exact, execute(emitted, feeds, dtype=np.dtype(np.float64)))
    proof.gaps[name] = combined(found.values())
    proof.limits[name] = _limit_text(limit)
    require(found, limit, code="RUB-DRV-001", where=name)


def _allowed(asked: MaxGap, precision: str) -> MaxGap:
    if asked.snr is not None or asked.max_abs is not None:
        return asked
    return replace(asked, snr=DEFAULT_SNR[precision])


def _within_noise(asked: MaxGap, precision: str, noise: Gap) -> MaxGap:
    allowed = _allowed(asked, precision)
    if asked.snr is not None or asked.max_abs is not None or allowed.snr is None:
        return allowed
    return replace(allowed, snr=min(allowed.snr, noise.snr_db - NOISE_MARGIN_DB))


def _limit_text(limit: MaxGap) -> str:
    parts = []
    if limit.snr is not None:
        parts.append(f"SNR at least {limit.snr:.1f} dB")
    if limit.max_abs is not None:
        parts.append(f"max abs at most {limit.max_abs:g}")
    if limit.identity is not None:
        parts.append(f"at most {limit.identity:g} percentage points of identity lost")
    return ", ".join(parts)


def write_vectors(folder: Path, proof: Proof) -> None:
    """``verify/``: inputs.npz, expected.npz and gap.json, deterministic bytes."""
    from rubicc.driver.vectors import write_npz
    from rubicc.evidence.manifest import dump_json

    folder.mkdir()
    write_npz(folder / "inputs.npz", proof.inputs)
    write_npz(folder / "expected.npz", proof.expected)
    (folder / "gap.json").write_text(dump_json({"schema_version": 1, **proof.summary()}), encoding="utf-8")
