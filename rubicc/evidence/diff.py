"""What moved between two artefacts: size, operators, bits, error, versions; for a person reading a PR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubicc.errors import ModelRefused
from rubicc.evidence import manifest as manifests
from rubicc.evidence import report as reports


@dataclass(frozen=True)
class Change:
    """One thing that differs; ``None`` = absent on that side."""

    section: str
    name: str
    before: Any
    after: Any


def diff(a: str | Path, b: str | Path) -> list[Change]:
    """Differences from artefact ``a`` to artefact ``b``, ordered by section; empty when equal in content.

    Times are compared only as far as report.json holds them, and never decide equality.

    Args:
        a, b: artefact folders, or manifest.json files (then without size, layer and error rows).

    Raises:
        ModelRefused: a manifest cannot be read.
    """
    first, second = _load(Path(a)), _load(Path(b))
    return [
        Change(section, name, first[section].get(name), second[section].get(name))
        for section in first
        for name in dict.fromkeys([*first[section], *second[section]])
        if first[section].get(name) != second[section].get(name)
    ]


def _load(path: Path) -> dict[str, dict[str, Any]]:
    folder = path.parent if path.is_file() else path
    manifest = (
        manifests.Manifest.from_json(path.read_text("utf-8")) if path.is_file() else manifests.read(path)
    )
    sections: dict[str, dict[str, Any]] = {
        "artefact": {"target": manifest.target, **manifest.model},
        "inputs": dict(manifest.inputs),
        "seeds": dict(manifest.seeds),
        "versions": {**manifest.versions, **manifest.plugins},
        "passes": {f"{i + 1:02d}": _pass(entry) for i, entry in enumerate(manifest.passes)},
        "decisions": {f"{d.code} {d.where}": d.what for d in manifest.decisions},
        "evidence": _flat(manifest.evidence),
        "files": dict(manifest.files),
    }
    if not path.is_file():
        sections["bytes"] = _sizes(folder, manifest)
        sections |= _from_report(folder)
    return sections


def _pass(entry: manifests.PassEntry) -> str:
    options = ", ".join(f"{key}={value}" for key, value in sorted(entry.options.items()))
    return f"{entry.id}({options}) {'changed' if entry.changed else 'no change'}"


def _sizes(folder: Path, manifest: manifests.Manifest) -> dict[str, Any]:
    sizes = {name: (folder / name).stat().st_size for name in manifest.files if (folder / name).is_file()}
    return {"total": sum(sizes.values()), **sizes}


def _from_report(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        report = reports.read(folder)
    except ModelRefused:
        return {}
    bits = {layer.name: layer.weight_bits for layer in report.layers if layer.weight_bits is not None}
    return {
        "totals": dict(report.totals),
        "operators": dict(sorted(Counter(layer.op for layer in report.layers).items())),
        "bits": bits,
        "gaps": {name: gap.describe() for name, gap in report.gaps.items()},
        "measured": {m.what: f"{m.value:.4g} {m.unit}" for m in report.measured},
    }


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + str(key): value}
    return flat
