"""Codes of lowering: from a read model to a checked graph."""

CODES: dict[str, tuple[str, str]] = {
    "RUB-LOW-001": (
        "torch cannot express the model as ONNX",
        "The exporter stopped. Data-dependent Python control flow, custom autograd functions and operators "
        "without an ONNX form are the usual causes; -vv prints torch's own message.",
    ),
    "RUB-LOW-002": (
        "inputs unknown",
        "The model carries no input description. Give one per input, in the order of forward(): "
        "--input x=Nx1xT:f32. Letters are symbolic dimensions.",
    ),
    "RUB-LOW-003": (
        "empty export",
        "Brevitas' QuantLSTM and QuantRNN export to an empty graph, or to an operator nothing executes, "
        "while reporting success. Keep recurrence in float and quantise it in the graph.",
    ),
    "RUB-LOW-004": (
        "recurrent program with a symbolic length",
        "torch's dynamo exporter bakes the traced length of recurrent layers into the graph. Export the .pt2 "
        "with static shapes, or give rubicc the checkpoint.",
    ),
    "RUB-LOW-005": ("input element type", "Inputs are float, integer or boolean tensors."),
    "RUB-LOW-006": (
        "model does not run",
        "The model raised on example inputs of the declared form. Check names, order, shapes and element "
        "types of --input.",
    ),
    "RUB-LOW-007": (
        "--input contradicts the graph",
        "An ONNX file says what its inputs are called, their rank and their fixed dimensions. --input may "
        "rename symbols or give them numbers, nothing else; `rubicc inspect` shows the inputs.",
    ),
    "RUB-LOW-008": (
        "input too large to prove",
        "Every compilation runs the model on example inputs of the declared form. A fixed shape of more than "
        "16.7 million elements would take gigabytes of activations: keep the long axis symbolic.",
    ),
    "RUB-LOW-010": (
        "lowered graph differs from its source",
        "After export the graph is executed at two shapes and compared with torch. It differs, so no "
        "artefact is written. Python branches on lengths or values, which an exporter bakes in, are the "
        "usual cause.",
    ),
    "RUB-LOW-D01": (
        "dynamo exporter used",
        "The module could not be traced, so torch's dynamo exporter was used instead.",
    ),
}
