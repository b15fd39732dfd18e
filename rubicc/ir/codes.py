"""Catalogue of RUB-IR codes: code -> (title, explanation with remedy)."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-IR-001": (
        "operator without a reference kernel",
        "The reference executor (numpy, independent of every runtime) has no kernel for an operator of the "
        "graph, so the graph cannot be verified. Export the model with standard ONNX operators (opset 17 to "
        "20) or QONNX Quant, BipolarQuant and Trunc; expand vendor operators before reading.",
    ),
    "RUB-IR-002": (
        "a node failed in the reference executor",
        "A node could not run on the shapes and types that reached it. The message gives the node, the "
        "module it came from and its input shapes. Usual causes: the graph was exported for one fixed "
        "length and run at another, or a pass broke it; rerun with --check to find the pass.",
    ),
    "RUB-IR-003": (
        "inputs do not fit the graph",
        "The arrays given do not match the graph's inputs in name, rank, fixed dimension or type. "
        "`rubicc inspect MODEL` prints the inputs.",
    ),
}
