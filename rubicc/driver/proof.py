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

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.base import Judgement, Twin
from rubicc.driver.identity import require_identity
from rubicc.errors import VerificationFailed
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


class SourceOutputs:
    """The two ways to run the source, each run at most once per case: tuning and proof ask for the same."""

    def __init__(
        self,
        cases: Mapping[str, Feeds],
        reference: Callable[[Feeds], Outputs],
        exact: Callable[[Feeds], Outputs],
    ) -> None:
        self._cases = cases
        self._runs = {"reference": reference, "exact": exact}
        self._kept: dict[tuple[str, str], Outputs] = {}

    def reference(self, case: str) -> Outputs:
        """In float32."""
        return self._of("reference", case)

    def exact(self, case: str) -> Outputs:
        """In float64."""
        return self._of("exact", case)

    def settle(self, *, exact: bool) -> None:
        """Compute all of it now, keep it in unnamed files instead of memory, and forget the source."""
        for case in self._cases:
            for how in ("reference", "exact") if exact else ("reference",):
                found = self._of(how, case)
                self._kept[how, case] = {name: _on_disk(array) for name, array in found.items()}
        self._runs.clear()

    def _of(self, how: str, case: str) -> Outputs:
        if (how, case) not in self._kept:
            self._kept[how, case] = self._runs[how](self._cases[case])
        return self._kept[how, case]


def _on_disk(array: np.ndarray) -> np.ndarray:
    """The same numbers in an unnamed file, of which nothing is in memory until it is read."""
    if not array.size:
        return array
    with tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        held = np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape or (1,))
    return np.asarray(held).reshape(array.shape)


@dataclass(frozen=True)
class Limits:
    """What runtimes are held to.

    Attributes:
        asked: ``--max-gap``.
        quantised: the source is quantised, so that its own float32 noise is allowed for.
    """

    asked: MaxGap
    quantised: bool

    def of(self, precision: str, noise: Gap | None = None) -> MaxGap:
        """The limit for a precision, given the source's own noise."""
        if noise is None:
            return _allowed(self.asked, precision)
        return _within_noise(self.asked, precision, noise)


@dataclass(frozen=True)
class SourceGate:
    """Judges one way to run a model by the limits the artefact will be held to; a backend's ``Gate``.

    Attributes:
        cases: description to feeds.
    """

    cases: Mapping[str, Feeds]
    source: SourceOutputs
    limits: Limits
    meta: ModelMeta | None = None

    def __call__(self, precision: str, run: Callable[[Feeds], Mapping[str, np.ndarray]]) -> Judgement:
        """The worst case; a run that fails is a reason like any other."""
        worst = math.inf
        for case, feeds in self.cases.items():
            expected = self.source.reference(case)
            noise = None
            if self.limits.quantised:
                noise = combined(output_gaps(self.source.exact(case), expected).values())
            try:
                made = dict(run(feeds))
                found = output_gaps(expected, made)
                worst = min(worst, *(gap.snr_db for gap in found.values()))
                require(found, self.limits.of(precision, noise), code="RUB-DRV-001", where=case)
                if self.limits.asked.identity is not None:
                    require_identity(expected, made, self.meta, self.limits.asked.identity, case)
            except VerificationFailed as err:
                return Judgement(worst, f"{case}: {err.what}")
            except (RuntimeError, ValueError) as err:  # what runtimes raise
                return Judgement(-math.inf, f"{case}: {type(err).__name__}: {err}"[:300])
        return Judgement(worst)


def prove(
    cases: Mapping[str, Feeds],
    source: SourceOutputs,
    sessions: Mapping[str, Any],
    emitted: Graph | None,
    *,
    limits: Limits,
    precision: str,
    meta: ModelMeta | None = None,
    twins: Sequence[Twin] = (),
) -> Proof:
    """Compare every session with the source on every case.

    Args:
        cases: description to feeds.
        sessions: runtime name to session over the emitted files.
        emitted: the emitted graph, read back from disk, to be compared in float64; ``None`` where that means
            nothing (fp16 weights, targets whose form is no graph, networks too large).
        meta: of the model; with a decoder in it the calls are compared as well when an identity is asked for.
        twins: further comparisons that the target offers.

    Raises:
        VerificationFailed: ``RUB-DRV-001`` with the first comparison that fails.
    """
    proof: Proof | None = None
    quantised, identity = limits.quantised, limits.asked.identity
    for case, feeds in cases.items():
        expected = source.reference(case)
        allowed = limits.of(precision)
        exact = source.exact(case) if quantised or emitted is not None else None
        own: dict[str, Gap] = {}
        if quantised and exact is not None:
            noise = combined(output_gaps(exact, expected).values())
            own[f"{case}: source float32 against itself in float64 (its own noise)"] = noise
            allowed = limits.of(precision, noise)
        if proof is None:
            proof = Proof(feeds, expected, allowed)
        proof.gaps |= own
        executed = _Executed(feeds)
        if emitted is not None and exact is not None:
            limit = EXACT_QUANTISED if quantised else EXACT_FLOAT
            name = f"{case}: emitted graph against the source, both in float64"
            _compare(proof, name, exact, executed.of(emitted), limit)
        for twin in twins:
            _compare(
                proof, f"{case}: {twin.name}", executed.of(twin.graph), dict(twin.made(feeds)), twin.limit
            )
        for runtime, session in sessions.items():
            name = f"{case}: {runtime} against the source"
            made = session.run(feeds)
            found = output_gaps(expected, made)
            proof.gaps[name] = combined(found.values())
            proof.limits[name] = _limit_text(allowed)
            require(found, allowed, code="RUB-DRV-001", where=name)
            if identity is not None:
                proof.calls[name] = require_identity(expected, made, meta, identity, name)
    assert proof is not None
    return proof


class _Executed:
    """Graphs on one case in float64, each run once: an emitted graph is often its own twin's reference."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._kept: dict[int, Outputs] = {}

    def of(self, graph: Graph) -> Outputs:
        """Outputs of ``graph``."""
        from rubicc.ir.executor import execute

        if id(graph) not in self._kept:
            self._kept[id(graph)] = execute(graph, self._feeds, dtype=np.dtype(np.float64))
        return self._kept[id(graph)]


def _compare(proof: Proof, name: str, wanted: Outputs, made: Outputs, limit: MaxGap) -> None:
    found = output_gaps(wanted, made)
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
