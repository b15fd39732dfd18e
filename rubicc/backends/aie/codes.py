"""Catalogue of the AI Engine target's codes 1xx: the integer network. Rooms inside have their own."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-101": (
        "Numbers the integer network cannot hold",
        "A value fed to the integer network does not fit the type of its input, or a sum would need more "
        "bits than the reference computes with. Quantise the input with the exponent in the plan; for sums, "
        "use fewer bits for weights or activations.",
    ),
}
