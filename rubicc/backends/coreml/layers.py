"""Error of every layer of an emitted package, for the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rubicc.backends.base import Facts, LayerProfile
from rubicc.backends.coreml.package import WEIGHTS_FILE
from rubicc.backends.coreml.session import CoremlSession, open_session
from rubicc.errors import RubiccError
from rubicc.evidence.gaps import Gap, combined, output_gaps
from rubicc.evidence.report import NotMeasured
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes

MAX_WEIGHTS = 64 << 20  # intermediate values are held at once, twice
TIME = NotMeasured("time by layer", "Core ML runs on Apple devices only; ane_audit.py asks it there")


def profile_layers(folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None) -> LayerProfile:
    """Gap by node name, of the values whose name program and graph share; no times.

    Args:
        folder: the emitted ``coreml`` folder.
        feeds: one batch item of a shape the package takes.
        reference: the graph before precision was changed, executed in float64.
    """
    if reference is None or weight_bytes(reference) > MAX_WEIGHTS:
        large = NotMeasured("error by layer", "the network is too large to hold twice")
        return LayerProfile({}, {}, (TIME, large))
    try:
        with open_session(folder) as session:
            gaps = _gaps(session, feeds, reference)
    except RubiccError as err:
        return LayerProfile({}, {}, (TIME, NotMeasured("error by layer", err.what)))
    fused = NotMeasured("error of layers without a figure", "the lowering has fused them with a neighbour")
    return LayerProfile(gaps, {}, (TIME, fused))


def _gaps(session: CoremlSession, feeds: Mapping[str, np.ndarray], reference: Graph) -> dict[str, Gap]:
    types = session.package.main.types
    owners = {v.name: node.name or "" for node in reference.nodes for v in node.outputs if v.name}
    shared = {name: mil for name in owners if (mil := mil_name(name)) in types}
    kept = {name: mil for name, mil in shared.items() if getattr(types[mil], "dtype", "").startswith("fp")}
    typed = {spec.name: np.asarray(feeds[spec.name]).astype(spec.dtype) for spec in session.inputs}
    semantics = "fp32" if session.description.precision == "fp32" else "fp16"
    made = session.package.run(typed, semantics=semantics, keep=set(kept.values()))
    wanted = execute(reference, dict(feeds), dtype=np.dtype(np.float64), keep=list(kept))
    by_node: dict[str, list[Gap]] = {}
    for name, mil in kept.items():
        want, have = wanted.get(name), made.get(mil)
        if want is None or have is None or want.shape != have.shape or want.dtype.kind != "f":
            continue  # a pass has laid the value out differently under the same name
        by_node.setdefault(owners[name], []).append(output_gaps({name: want}, {name: have})[name])
    return {node: combined(found) for node, found in by_node.items()}


def mil_name(name: str) -> str:
    """The name lowering gives the MIL value of a graph value: letters, digits and underscores."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"


def facts(folder: Path) -> Facts:
    """Operators, sizes and interface of an emitted package.

    Raises:
        ModelRefused: as opening it.
    """
    from rubicc.backends.coreml import lint

    with open_session(folder) as session:
        counts = Counter(op.type for op in session.package.main.operations() if op.type != "const")
        weights = session.path / WEIGHTS_FILE
        return Facts(
            meta=session.meta,
            inputs=session.inputs,
            outputs=session.outputs,
            operators=dict(sorted(counts.items())),
            opset=session.package.specification,
            weight_bytes=weights.stat().st_size if weights.exists() else 0,
            activation_bytes=lint.peak_bytes(session.package),
        )
