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
    "RUB-IR-010": (
        "operator set not first or not supported",
        "The ONNX operator set must be the first import, because qonnx reads the first one, in a "
        "version from 9 to 27. If a pass did this it is a bug of the pass: rerun with --check to find "
        "it. If the file came so, export it again.",
    ),
    "RUB-IR-011": (
        "domain unknown or not imported",
        "Nodes may belong to the standard domain or to qonnx.custom_op.general, and the domain must "
        "be imported. If a pass did this it is a bug of the pass: rerun with --check to find it. If "
        "the file came so, export it again.",
    ),
    "RUB-IR-012": (
        "operator does not exist",
        "The operator is not part of its operator set in the version the graph imports. If a pass did "
        "this it is a bug of the pass: rerun with --check to find it. If the file came so, export it "
        "again.",
    ),
    "RUB-IR-013": (
        "wrong number of inputs or outputs",
        "A node has more or fewer inputs or outputs than its operator takes, or a required one is "
        "missing. If a pass did this it is a bug of the pass: rerun with --check to find it. If the "
        "file came so, export it again.",
    ),
    "RUB-IR-014": (
        "illegal attribute",
        "An attribute does not exist for the operator, has the wrong type, or a required one is "
        "missing. If a pass did this it is a bug of the pass: rerun with --check to find it. If the "
        "file came so, export it again.",
    ),
    "RUB-IR-015": (
        "value names not unique",
        "Two values share a name, or a value that is read has none; every value is made once. If a "
        "pass did this it is a bug of the pass: rerun with --check to find it. If the file came so, "
        "export it again.",
    ),
    "RUB-IR-016": (
        "node names not unique",
        "Node names are the handle of reports and errors, so each node has its own. If a pass did "
        "this it is a bug of the pass: rerun with --check to find it. If the file came so, export it "
        "again.",
    ),
    "RUB-IR-017": (
        "value read before it is made",
        "Nodes stand in topological order; a value read before it is made also means a cycle. If a "
        "pass did this it is a bug of the pass: rerun with --check to find it. If the file came so, "
        "export it again.",
    ),
    "RUB-IR-018": (
        "input from nowhere",
        "A node reads a value that is no input, no weight and no result of this graph or one around "
        "it. If a pass did this it is a bug of the pass: rerun with --check to find it. If the file "
        "came so, export it again.",
    ),
    "RUB-IR-019": (
        "output not made",
        "The graph has no outputs, an output that nothing makes, or one value given out twice. If a "
        "pass did this it is a bug of the pass: rerun with --check to find it. If the file came so, "
        "export it again.",
    ),
    "RUB-IR-020": (
        "untyped input or output",
        "Inputs and outputs of the graph need an element type and a rank. If a pass did this it is a "
        "bug of the pass: rerun with --check to find it. If the file came so, export it again.",
    ),
    "RUB-IR-021": (
        "weight does not match its declaration",
        "The data of an initializer are missing or differ from its declared type or shape. If a pass "
        "did this it is a bug of the pass: rerun with --check to find it. If the file came so, export "
        "it again.",
    ),
    "RUB-IR-022": (
        "weight that is also an input",
        "An initializer is listed among the inputs, which would let callers replace weights by "
        "accident. If a pass did this it is a bug of the pass: rerun with --check to find it. If the "
        "file came so, export it again.",
    ),
    "RUB-IR-023": (
        "graphs nested too deep",
        "Bodies of If, Loop and Scan may nest at most 8 deep. If a pass did this it is a bug of the "
        "pass: rerun with --check to find it. If the file came so, export it again.",
    ),
    "RUB-IR-024": (
        "function not inlined",
        "Model-local functions and references to their parameters must be inlined before passes run. "
        "If a pass did this it is a bug of the pass: rerun with --check to find it. If the file came "
        "so, export it again.",
    ),
    "RUB-IR-025": (
        "metadata do not name the interface",
        "The model metadata list other inputs or outputs than the graph has, so inference would feed "
        "it wrongly. If a pass did this it is a bug of the pass: rerun with --check to find it. If "
        "the file came so, export it again.",
    ),
    "RUB-IR-026": (
        "operand types disagree",
        "An operator's inputs or outputs have element types it does not take, or that differ where "
        "they must agree. If a pass did this it is a bug of the pass: rerun with --check to find it. "
        "If the file came so, export it again.",
    ),
    "RUB-IR-027": (
        "operands do not broadcast",
        "Two operands of an elementwise operator have different sizes on an axis where neither is 1. "
        "If a pass did this it is a bug of the pass: rerun with --check to find it. If the file came "
        "so, export it again.",
    ),
    "RUB-IR-028": (
        "convolution does not fit",
        "Weight, groups, kernel size, pads or bias of a convolution contradict each other or the "
        "input channels. If a pass did this it is a bug of the pass: rerun with --check to find it. "
        "If the file came so, export it again.",
    ),
    "RUB-IR-029": (
        "recurrent layer does not fit",
        "Weights or biases of an LSTM, GRU or RNN do not have the shape their gates and hidden size "
        "ask for. If a pass did this it is a bug of the pass: rerun with --check to find it. If the "
        "file came so, export it again.",
    ),
    "RUB-IR-030": (
        "normalisation does not fit",
        "Parameters of a batch normalisation differ in size, or a variance is negative or not finite. "
        "If a pass did this it is a bug of the pass: rerun with --check to find it. If the file came "
        "so, export it again.",
    ),
    "RUB-IR-031": (
        "matrix sizes disagree",
        "The inner sizes of a matrix product differ. If a pass did this it is a bug of the pass: "
        "rerun with --check to find it. If the file came so, export it again.",
    ),
    "RUB-IR-032": (
        "quantiser not sane",
        "A QONNX quantiser has a scale that is not positive, a bit width that is no whole number from "
        "1 to 32, a shape that does not broadcast, or an unknown rounding mode. If a pass did this it "
        "is a bug of the pass: rerun with --check to find it. If the file came so, export it again.",
    ),
    "RUB-IR-033": (
        "quantisation scale not positive",
        "QuantizeLinear and DequantizeLinear need positive finite scales, and a zero point of the "
        "same shape. If a pass did this it is a bug of the pass: rerun with --check to find it. If "
        "the file came so, export it again.",
    ),
    "RUB-IR-034": (
        "declared shape is stale",
        "A declared shape or type contradicts what follows from the inputs, usually because a pass "
        "changed a tensor and kept the old declaration. If a pass did this it is a bug of the pass: "
        "rerun with --check to find it. If the file came so, export it again.",
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
        "length of a name). The budgets are far above any real network, so such a file is refused as unsafe."
        " Export the network again, in smaller parts if it really is that large.",
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
        "optimiser (com.microsoft) or older brevitas (onnx.brevitas) need a new, standard export."
        " Export the network again with standard operators or QONNX quantisers.",
    ),
    "RUB-IR-046": (
        "model-local function refused",
        "Functions are inlined while reading. One that calls itself, nests too deep, expands too far "
        "or redefines a standard operator is refused. Inline the functions with the exporter that made them.",
    ),
    "RUB-IR-047": (
        "tensor far too large for its file",
        "A literal shape in the file asks for a tensor beyond the memory budget, or a dimension is negative. "
        "A small file can exhaust memory this way; it is refused."
        " Export the network again with symbolic dimensions where a length is free.",
    ),
    "RUB-IR-048": (
        "not a legal ONNX model",
        "onnx's checker, or the reader of its metadata, found it illegal (quoted in the message). Export the "
        "model again; if the exporter wrote this file as it is, report it to the exporter.",
    ),
    "RUB-IR-049": (
        "graph cannot be written",
        "The folder is missing, read-only or full. The file that was there before is untouched."
        " Check the folder, its permissions and the space on the disk.",
    ),
}
