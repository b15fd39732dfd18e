"""Catalogue of the codes of reading and running Core ML packages: RUB-COREML-2xx."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-201": (
        "not a Core ML package",
        "The folder, its Manifest.json or a file the manifest names is missing or malformed. Give the "
        "path of a whole .mlpackage folder; copy it again if parts were lost.",
    ),
    "RUB-COREML-202": (
        "path leaves the package",
        "The manifest or a weight reference names a file outside the package (an absolute path, '..', or a "
        "link that leads out). Nothing outside is read. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-203": (
        "package beyond a limit",
        "A file of the package is larger, or the program has more messages, operations, nested blocks or "
        "axes, than the interpreter reads. Raise the limit with Limits(...) when you trust the file.",
    ),
    "RUB-COREML-210": (
        "model file is not readable",
        "model.mlmodel is not a valid protobuf message: truncated, not UTF-8 where text must be, or nested "
        "without end. Save the package again and check that the copy is complete.",
    ),
    "RUB-COREML-211": (
        "not an ML Program",
        "The model is of another kind (neural network, pipeline, tree ensemble). Only ML Programs (iOS 15 "
        "and later) are run; convert with convert_to='mlprogram'.",
    ),
    "RUB-COREML-212": (
        "operator set not known",
        "The specification version or the operator set of a function is not one of iOS 15 to iOS 26 (CoreML5 "
        "to CoreML9), or the function has no block for its operator set. Convert for one of these targets.",
    ),
    "RUB-COREML-213": (
        "malformed type",
        "A value's declared type contradicts itself: rank and dimensions differ, an unknown element type, a "
        "dimension out of range. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-214": (
        "malformed constant",
        "A constant written in the model file does not have the number or kind of values that its type "
        "declares. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-216": (
        "description contradicts the program",
        "The model description names inputs, outputs or states that the program does not have, or with "
        "other types. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-217": (
        "malformed program",
        "A function or operation is not formed as the operator set asks: a constant without a value, a loop "
        "without its two blocks, a function without a name. Save the package again.",
    ),
    "RUB-COREML-220": (
        "weight file not readable",
        "The weight file is missing, shorter than its header, or not of storage version 2. Copy the package "
        "again with its weights folder.",
    ),
    "RUB-COREML-221": (
        "weight record out of bounds",
        "A constant refers to a place in the weight file that lies past its end, where no record begins, or "
        "inside another record. The file is truncated or belongs to another model; copy the package again.",
    ),
    "RUB-COREML-222": (
        "weight record does not fit",
        "The record in the weight file has another element type or size than the constant that refers to "
        "it. The file belongs to another model; copy the package again.",
    ),
    "RUB-COREML-230": (
        "value read but not made",
        "An operation reads a name that nothing has made before it: undefined, made later, or part of a "
        "cycle. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-231": (
        "value made twice",
        "Two results of one block have the same name. Save the package again with the tool that made it.",
    ),
    "RUB-COREML-232": (
        "operation not known",
        "The interpreter has no kernel for this operation. Convert the model without it (custom layers, "
        "random numbers and image warps are not run), or verify on a Mac.",
    ),
    "RUB-COREML-233": (
        "parameters of an operation do not fit",
        "An operation lacks a parameter that it needs, has one that it does not know, one must be a constant "
        "and is not, or two must have one element type and have not. Save the package again with the tool "
        "that made it.",
    ),
    "RUB-COREML-234": (
        "compressed constant does not decode",
        "The parts of a compressed weight (codes, scales, palette, mask) do not fit each other. Save the "
        "package again with the tool that made it.",
    ),
    "RUB-COREML-240": (
        "operation failed",
        "An operation could not run on the values that reached it; the message names it and their shapes. "
        "Either the program is wrong, or it was fed a shape that it was not made for: check the feeds.",
    ),
    "RUB-COREML-241": (
        "result differs from its declared type",
        "An operation made a value of another shape or element type than the program declares. Save the "
        "package again with the tool that made it.",
    ),
    "RUB-COREML-242": (
        "program needs too much memory",
        "Values alive at one moment, or decoded constants, would pass the limit; nothing was allocated. "
        "Raise Limits(live_bytes=..., constants_bytes=...) when you trust the file.",
    ),
    "RUB-COREML-243": (
        "program runs too long",
        "A loop turned too often, the run executed too many operations or took too many seconds, or its "
        "matrix products are too large. Raise Limits(iterations=..., steps=..., seconds=..., products=...) "
        "when you trust the file.",
    ),
    "RUB-COREML-260": (
        "no such semantics, function, state or value",
        "The call names a way of computing other than fp16, fp32 and fp64, or a function, state or value "
        "that the package does not have. Use one of the names in the message.",
    ),
    "RUB-COREML-261": (
        "feeds do not fit the model",
        "The arrays fed differ from the model description in name, element type or shape. Give each input "
        "the type and one of the shapes that the message lists.",
    ),
}
