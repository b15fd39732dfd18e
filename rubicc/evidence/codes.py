"""Catalogue of RUB-ART codes: artefacts, manifests, reports."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-ART-001": (
        "The output path holds something rubicc did not write",
        "rubicc replaces only what carries its own manifest.json (for folders) and never follows a symbolic "
        "link at the output path, so a mistyped -o cannot destroy other work. Choose another -o, or move the "
        "existing files away yourself. --force does not override this for folders.",
    ),
    "RUB-ART-002": (
        "The output already exists",
        "An artefact or result file of rubicc is already there. Pass --force to replace it: the new one is "
        "built beside it and swapped in only when it is complete, so a failure keeps the old one.",
    ),
    "RUB-ART-003": (
        "The artefact to be replaced holds files rubicc did not write",
        "Someone added files to this artefact's folder; replacing the folder would delete them. Move the "
        "named files elsewhere, then run again with --force.",
    ),
    "RUB-ART-004": (
        "The output cannot be written there",
        "The folder that should hold the output does not exist, is not a folder, or may not be written. "
        "Create it, or choose another -o.",
    ),
    "RUB-ART-010": (
        "The artefact's manifest cannot be read",
        "manifest.json is missing, is not JSON, has unknown or missing keys, or comes from a rubicc with "
        "another schema version. Compile the model again, or open it with the rubicc that wrote it.",
    ),
    "RUB-ART-011": (
        "The artefact's files are not the ones that were written",
        "Files were changed, removed or added after compilation, or the copy is damaged. Copy the artefact "
        "again or compile again; `rubicc diff` shows what moved between two artefacts.",
    ),
    "RUB-ART-012": (
        "A path in the artefact is not acceptable",
        "Paths in an artefact are relative, stay inside it, use only printable characters, and name regular "
        "files. Symbolic links, devices and paths with .. are refused, because following them could read or "
        "write outside the artefact."
        " Copy the named file into the artefact's folder as a plain file, or compile again.",
    ),
    "RUB-ART-013": (
        "The artefact's report cannot be read",
        "report.json is missing or was not written by this version of rubicc. Compile the model again.",
    ),
}
