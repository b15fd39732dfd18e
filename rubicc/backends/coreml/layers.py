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
from rubicc.evidence.gaps import Gap, output_gaps
from rubicc.evidence.report import NotMeasured
from rubicc.evidence.staging import scratch
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes

MAX_WEIGHTS = 64 << 20
TIME = NotMeasured("time by layer", "Core ML runs on Apple devices only; ane_audit.py asks it there")


def profile_layers(folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None) -> LayerProfile:
    """Gap by node name, where program and graph share the node's name; no times.

    Args:
        folder: the emitted ``coreml`` folder.
        feeds: one batch item of a shape the package takes.
        reference: the graph before precision was changed, executed in float64.
    """
    if reference is None or weight_bytes(reference) > MAX_WEIGHTS:
        large = NotMeasured("error by layer", "the network is too large to be run in float64")
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
    named = {node.name or "": node.outputs[0].name or "" for node in reference.nodes if node.outputs}
    kept = {
        node: mil
        for node in named
        if getattr(types.get(mil := mil_name(node)), "dtype", "").startswith("fp") and named[node]
    }
    nodes: dict[str, list[str]] = {}
    for node in kept:
        nodes.setdefault(named[node], []).append(node)
    typed = {spec.name: np.asarray(feeds[spec.name]).astype(spec.dtype) for spec in session.inputs}
    found: dict[str, Gap] = {}
    with scratch() as home:
        files = {mil: home / f"{index}.npy" for index, mil in enumerate(kept.values())}

        def compare(value: str, want: np.ndarray) -> None:
            for node in nodes[value]:
                path = files[kept[node]]
                have = np.load(path, mmap_mode="r") if path.is_file() else None
                if have is not None and want.shape == have.shape and want.dtype.kind == "f":
                    found[node] = output_gaps({node: want}, {node: have})[node]
                # else lowering has made another value under this node's name

        session.watch(typed, set(files), lambda mil, array: np.save(files[mil], array))
        execute(reference, dict(feeds), dtype=np.dtype(np.float64), keep=set(nodes), sink=compare)
    return {node: found[node] for node in kept if node in found}


def mil_name(name: str) -> str:
    """The name lowering gives the operation of a node: letters, digits and underscores."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"


def facts(folder: Path) -> Facts:
    """Operators, sizes and interface of an emitted package.

    Raises:
        ModelRefused: as opening it.
    """
    from rubicc.backends.coreml.lint.memory import memory

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
            activation_bytes=memory(session.package).peak if session.shapes.kind == "fixed" else None,
        )
