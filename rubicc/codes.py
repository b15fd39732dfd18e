"""Catalogue of RUB-SPEC codes: model metadata and configurations."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-SPEC-001": (
        "Unknown key in metadata or configuration",
        "Metadata of a checkpoint, graph or artefact, or the configuration of an architecture, has a key "
        "that this version does not know; nothing is ignored silently. The message names the nearest known "
        "key. Mend it, or read the file with the rubicc that wrote it.",
    ),
    "RUB-SPEC-002": (
        "Metadata of the wrong form",
        "Metadata of a checkpoint, graph or artefact lacks a part, or holds something else where a mapping, "
        "list or known word belongs. Save the model again with this rubicc, or mend the file that was "
        "edited.",
    ),
}
