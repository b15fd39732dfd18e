"""Catalogue of the AI Engine target's codes 3xx: kernels."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-301": (
        "A layer without a kernel",
        "The plan has a layer that no kernel template computes: the message names it and says why. Choose "
        "another target, or replace the layer by a convolution, linear layer, sum or function by table.",
    ),
}
