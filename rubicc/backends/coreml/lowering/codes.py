"""Catalogue of the lowering's codes 1xx: what has no form in MIL, what was written differently, and why."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-101": (
        "Operator without a MIL form",
        "Core ML has no operation that computes this operator, and rubicc has no exact way to put it "
        "together from others. Replace the operator in the source network (the module path is given) and "
        "export again.",
    ),
    "RUB-COREML-102": (
        "Operator newer than the target",
        "Core ML has the operation from a later release on, which the message names. Compile for that "
        "target, e.g. --target coreml:iOS18, or replace the operator in the source network.",
    ),
    "RUB-COREML-103": (
        "Form of an operator that MIL cannot express",
        "The operator is there, but not with this attribute or input: dilated pooling, ragged sequence "
        "lengths, padding that must be computed at run time and the like. The message names it. Change "
        "the layer in the source network and export again.",
    ),
    "RUB-COREML-104": (
        "More than five axes",
        "Core ML takes tensors of at most five axes. Change the reshape or transpose in the source "
        "network so that fewer axes are needed.",
    ),
    "RUB-COREML-105": (
        "Element type that Core ML does not compute with",
        "Programs compute with float16, float32, int32 and bool; other integers are carried as int32. "
        "Complex numbers and strings have no form. Cast inside the network and export again.",
    ),
    "RUB-COREML-106": (
        "Shape that must be known before running",
        "The operation needs a rank or a size that is a free dimension here. Give the input fixed shapes "
        "(--shapes fixed), or change the layer named in the message.",
    ),
    "RUB-COREML-107": (
        "coremltools refuses an operation",
        "The MIL builder rejected the operation that rubicc asked for; its own message is given. Please "
        "report the model's node and the message with `rubicc env`; --shapes fixed may avoid it.",
    ),
    "RUB-COREML-D10": (
        "Epsilon raised to what float16 holds",
        "The epsilon of a norm (1e-12 in BERT) is below the smallest float16 and would be 0: a row of "
        "equal values would divide by 0. 2**-23 (1.2e-7) is used, which float16 holds exactly twice over "
        "its smallest number. --precision fp32 keeps the original.",
    ),
    "RUB-COREML-D11": (
        "Constants brought into the range of float16",
        "Constants beyond 65504 (masks of -inf or -3e38, open bounds) become finite float16 numbers: -3e4"
        " for masks, so that the sum of two stays finite and softmax still gives 0; 65504 for bounds of "
        "Clip.",
    ),
    "RUB-COREML-D12": (
        "GRU that resets after the product",
        "MIL's gru applies the reset gate before the recurrent product, PyTorch's after it. Up to iOS17 "
        "the operation cannot be told otherwise, so it runs twice as many steps over twice as many units "
        "in fp32: odd steps put the recurrent product into the extra units, through the linear part of "
        "tanh, even steps compute the cell. It costs eight times the arithmetic of the recurrence. From "
        "iOS18 on the operation's own reset_after is used, which is the same by its documentation; "
        "coremltools' own test of it against PyTorch on a device is marked as failing (rdar://128479517),"
        " so compare the outputs on yours, or compile for iOS17.",
    ),
    "RUB-COREML-D13": (
        "Quantiser whose grid float16 does not hold",
        "The levels or the scale of an activation quantiser need more than float16's 11 bits. The "
        "quantiser itself is computed in fp32; what leaves it is rounded to float16 like every other "
        "value.",
    ),
    "RUB-COREML-D14": (
        "Element type of an input or output",
        "Core ML exchanges float16, float32 and int32. Integers of 64 bits and truth values of the "
        "network's interface become int32; the values are the same as long as they fit.",
    ),
    "RUB-COREML-D15": (
        "Computed in fp32 inside an fp16 program",
        "The operation takes no float16 on this target (LSTM and GRU before iOS17), or a constant it "
        "needs vanishes in float16. It is computed in fp32 with a cast before and after.",
    ),
    "RUB-COREML-D16": (
        "Name changed",
        "Names in a Core ML program are letters, digits and underscores and do not begin with a digit. "
        "The input or output is called by the name given.",
    ),
    "RUB-COREML-D17": (
        "Activation quantiser as arithmetic",
        "Core ML's quantize holds int8 and uint8 with all their levels, from iOS17 on. Other widths, "
        "narrow ranges, other roundings and older targets are written as divide, clip, round and "
        "multiply: the same numbers, no integer kernels.",
    ),
    "RUB-COREML-D18": (
        "Compressed weight stored plain",
        "The gates of a recurrent layer have another order in Core ML than in ONNX, so its weights are "
        "computed here and stored in the precision of the program. The values are those of the compressed"
        " form.",
    ),
    "RUB-COREML-D19": (
        "Whole number taken as a float",
        "Everything that reads this input casts it to a float first (attention masks), so the package takes "
        "it as a float. The numbers are the same up to 2**24 (2**11 in float16), and no cast from whole "
        "numbers, which the Neural Engine does not do, is left in the program.",
    ),
}
