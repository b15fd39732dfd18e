"""``verify``: is the artefact still what it was proven to be, and does it hold on new data?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rubicc.driver.artefact import Artefact, open_artefact
from rubicc.driver.identity import require_identity
from rubicc.driver.inputs import proof_inputs
from rubicc.driver.proof import Outputs
from rubicc.driver.vectors import read_npz
from rubicc.errors import UsageError, VerificationFailed
from rubicc.evidence import manifest as manifests
from rubicc.evidence.gaps import Gap, combined, output_gaps, require
from rubicc.frontend.feeds import Feeds
from rubicc.quantities import MaxGap

Cases = dict[tuple[str, str], tuple[Feeds, Outputs]]  # (case, judged against) -> inputs, wanted outputs


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
    limit = MaxGap(**{f.name: recorded.get(f.name) for f in fields(MaxGap)})
    inputs = read_npz(folder / "verify" / "inputs.npz")
    expected = read_npz(folder / "verify" / "expected.npz")
    gaps: dict[str, Gap] = {}
    with artefact.session() as first:
        names = _runtimes(first, runtime)
        wanted = {("recorded vectors", "the source"): (inputs, expected)}
        if data is not None:
            wanted |= _judged(artefact, first, data)
        for name in names:
            if name == first.runtime:
                gaps |= _within(first, name, wanted, limit)
                continue
            with artefact.session(runtime=name) as session:
                gaps |= _within(session, name, wanted, limit)
    return Verification(artefact, files, gaps, limit)


def _within(session: Any, name: str, wanted: Cases, limit: MaxGap) -> dict[str, Gap]:
    """Gap of one runtime on every case.

    Raises:
        VerificationFailed: ``RUB-DRV-001``.
    """
    gaps: dict[str, Gap] = {}
    for (case, against), (feeds, expected) in wanted.items():
        where = f"{case}: {name} against {against}"
        made = session.run(feeds)
        found = output_gaps(expected, made)
        gaps[where] = combined(found.values())
        require(found, limit, code="RUB-DRV-001", where=where)
        if limit.identity is not None:
            require_identity(expected, made, session.meta, limit.identity, where)
    return gaps


def _runtimes(session: Any, runtime: str | None) -> list[str]:
    known = list(getattr(session, "runtimes", (session.runtime,)))
    if runtime is None:
        return known
    if runtime not in known:
        raise UsageError("RUB-DRV-007", f"the artefact does not run in {runtime!r}", hint=", ".join(known))
    return [runtime]


def _judged(artefact: Artefact, session: Any, data: Path) -> Cases:
    """New inputs and a second opinion: of the emitted graph in rubicc's executor, or the target's own."""
    from rubicc.ir.executor import execute

    home = artefact.folder / artefact.backend.folder
    cases = proof_inputs(session.meta, session.inputs, [], data, seed=0).cases
    graph = artefact.backend.readback(home)
    if graph is not None:
        judge, name = (lambda feeds: execute(graph, feeds)), "rubicc's executor"
    elif hasattr(artefact.backend, "judge"):
        name, judge = artefact.backend.judge(home)
    else:
        raise UsageError("RUB-DRV-007", f"target {artefact.manifest.target} cannot judge new data")
    return {(case, name): (feeds, dict(judge(feeds))) for case, feeds in cases.items()}
