"""Catalogue of the Core ML target's codes 0xx: wiring, package, session. Rooms inside have their own."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-001": (
        "coremltools is missing",
        "The Core ML target writes packages with coremltools, which cannot be imported here; the message "
        "says why. Install it with pip install 'coremltools>=9.0,<10'.",
    ),
    "RUB-COREML-003": (
        "Lists of shapes for several inputs",
        "Before iOS18 Core ML takes a list of shapes for one input only; other inputs must have one shape. "
        "Give one shape or a range with --shapes, or choose --target coreml:iOS18.",
    ),
    "RUB-COREML-010": (
        "Impossible combination",
        "A precision, runtime or layout has no meaning for this target, or needs a newer one: Core ML has "
        "8-bit activations from iOS17 on. Change the option named in the message; docs/targets/coreml.md "
        "lists what each target takes.",
    ),
    "RUB-COREML-011": (
        "The package does not say what it is",
        "The package's metadata holds no description by rubicc, or one that cannot be used: another tool "
        "made the package, or another version of rubicc. Restore the artefact or compile again.",
    ),
    "RUB-COREML-012": (
        "The package is not the one that was compiled",
        "The package is missing, or its program, weights or metadata differ from those that were written. "
        "Nothing was run. Restore the artefact or compile again.",
    ),
    "RUB-COREML-013": (
        "Core ML is not here",
        "Core ML itself runs on macOS only, or it refused the package there; its own message is given. "
        "Leave --runtime out, and rubicc's own interpreter runs the same file anywhere.",
    ),
    "RUB-COREML-014": (
        "Inputs the package does not take",
        "Names, element types or shapes of the arrays do not fit the package. A package takes the shapes it "
        "was compiled for. Pad or cut the input, or compile with other --shapes.",
    ),
}
