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
    "RUB-SPEC-003": (
        "Shapes that do not fit the network",
        "The target needs numbers for the sizes a network leaves free. What --shapes gives contradicts the "
        "network's inputs, or nothing says how long an input is. Give the shape: --shapes 'x=1x1x4000', "
        "several joined by commas, or ranges as in x=1..8x1x400..16000.",
    ),
}
