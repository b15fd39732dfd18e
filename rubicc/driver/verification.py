"""``verify``: is the artefact still what it was proven to be, and does it hold on new data?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rubicc.driver.artefact import Artefact, open_artefact
from rubicc.driver.inputs import proof_inputs
from rubicc.driver.vectors import read_npz
from rubicc.errors import UsageError, VerificationFailed
from rubicc.evidence import manifest as manifests
from rubicc.evidence.gaps import Gap, combined, output_gaps, require
from rubicc.quantities import MaxGap


@dataclass(frozen=True)
class Verification:
    """What ``verify`` checked.

    Attributes:
        files: result of re-hashing every file.
        gaps: comparison -> gap; all within the limits, or VerificationFailed was raised.
        max_gap: the limits recorded at compile time.
    """

    artefact: Artefact
    files: manifests.FileCheck
    gaps: dict[str, Gap]
    max_gap: MaxGap


def verify_artefact(folder: Path, data: Path | None, runtime: str | None) -> Verification:
    """Re-hash, re-run on the recorded vectors in every runtime, and compare runtimes on new data.

    The source network is not in the artefact, so new data is judged by the emitted graph itself, executed by
    rubicc's own executor: an implementation no runtime shares.

    Raises:
        VerificationFailed: ``RUB-ART-011`` files changed; ``RUB-DRV-001`` outputs differ.
    """
    artefact = open_artefact(folder)
    files = manifests.verify_files(folder)
    files.require_ok(str(folder))
    recorded = artefact.manifest.evidence.get("max_gap")
    if not isinstance(recorded, dict):
        raise VerificationFailed(
            "RUB-DRV-007", "compilation stopped before anything was proven", where=folder.name
        )
    limit = MaxGap(snr=recorded.get("snr"), max_abs=recorded.get("max_abs"))
    inputs = read_npz(folder / "verify" / "inputs.npz")
    expected = read_npz(folder / "verify" / "expected.npz")
    gaps: dict[str, Gap] = {}
    for name in _runtimes(artefact, runtime):
        with artefact.session(runtime=name) as session:
            where = f"recorded vectors: {name} against the source"
            found = output_gaps(expected, session.run(inputs))
            gaps[where] = combined(found.values())
            require(found, limit, code="RUB-DRV-001", where=where)
            if data is not None:
                gaps |= _on_new_data(artefact, session, name, data, limit)
    return Verification(artefact, files, gaps, limit)


def _runtimes(artefact: Artefact, runtime: str | None) -> list[str]:
    with artefact.session() as session:
        known = list(getattr(session, "runtimes", (session.runtime,)))
    if runtime is None:
        return known
    if runtime not in known:
        raise UsageError("RUB-DRV-007", f"the artefact does not run in {runtime!r}", hint=", ".join(known))
    return [runtime]


def _on_new_data(artefact: Artefact, session: object, name: str, data: Path, limit: MaxGap) -> dict[str, Gap]:
    from rubicc.ir.executor import execute

    graph = artefact.backend.readback(artefact.folder / artefact.backend.folder)
    if graph is None:
        raise UsageError("RUB-DRV-007", f"target {artefact.manifest.target} cannot judge new data")
    meta = session.meta  # type: ignore[attr-defined]
    cases = proof_inputs(meta, session.inputs, [], data, seed=0).cases  # type: ignore[attr-defined]
    gaps = {}
    for case, feeds in cases.items():
        where = f"{case}: {name} against rubicc's executor"
        found = output_gaps(execute(graph, feeds), session.run(feeds))  # type: ignore[attr-defined]
        gaps[where] = combined(found.values())
        require(found, limit, code="RUB-DRV-001", where=where)
    return gaps
