"""Catalogue of the Core ML target's codes 0xx: wiring, package and session. Each sub-room has its own file."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-001": (
        "coremltools is missing",
        "The Core ML target writes packages with coremltools, which cannot be imported here; the message "
        "says why. Install it with pip install 'coremltools>=9.0,<10'.",
    ),
}
