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
    "RUB-IR-004": (
        "shapes contradict each other",
        "Shape inference found two different sizes for one dimension. Either the model file is wrong, or a "
        "pass changed a tensor and not its neighbours; rerun with --check to find the pass.",
    ),
    "RUB-IR-005": (
        "symbolic dimension without a number",
        "Costs are counted for one concrete shape. Give a number for every symbol of the model's inputs, for "
        "example N=1 and T=3600.",
    ),
    "RUB-IR-040": (
        "malformed ONNX file",
        "The file is missing, empty, no ONNX model, truncated, or its parts contradict each other: data that "
        "do not fill the declared dimensions, names given twice, text that is not UTF-8. Export it again and "
        "check that the copy is complete.",
    ),
    "RUB-IR-041": (
        "ONNX file beyond a limit",
        "The file exceeds a budget of the reader (file size, number of nodes, depth of nested graphs, axes, "
        "length of a name). The budgets are far above any real network, so such a file is refused as unsafe.",
    ),
    "RUB-IR-042": (
        "external data refused",
        "Weights outside the model file must lie in plain files beside it, named by a relative path without "
        "'..' or links, with offset and length inside the file and the length the dimensions ask for. Put "
        "the data file beside the model, or export with the weights inside.",
    ),
    "RUB-IR-043": (
        "ONNX construct that rubicc does not read",
        "Sparse tensors, strings, sequences, optional values, complex numbers, training information and "
        "segmented tensors are not read. Export the network for inference with dense numeric tensors.",
    ),
    "RUB-IR-044": (
        "ONNX version not supported",
        "IR versions 4 to 13 and operator sets 9 to 27 are read; each operator set may be imported once. "
        "Export again with opset_version=20.",
    ),
    "RUB-IR-045": (
        "operator of an unknown domain",
        "Only standard ONNX operators and qonnx.custom_op.general are read. Files written by a runtime's "
        "optimiser (com.microsoft) or older brevitas (onnx.brevitas) need a new, standard export.",
    ),
    "RUB-IR-046": (
        "model-local function refused",
        "Functions are inlined while reading. One that calls itself, nests too deep, expands too far "
        "or redefines a standard operator is refused. Inline the functions with the exporter that made them.",
    ),
    "RUB-IR-047": (
        "tensor far too large for its file",
        "A literal shape in the file asks for a tensor beyond the memory budget, or a dimension is negative. "
        "A small file can exhaust memory this way; it is refused.",
    ),
    "RUB-IR-048": (
        "not a legal ONNX model",
        "onnx's checker, or the reader of its metadata, found it illegal (quoted in the message). Export the "
        "model again; if the exporter wrote this file as it is, report it to the exporter.",
    ),
    "RUB-IR-049": (
        "graph cannot be written",
        "The folder is missing, read-only or full. The file that was there before is untouched.",
    ),
}
