"""Catalogue of the Core ML target's codes 3xx: compressed weights."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-301": (
        "Quantised weight cannot be read",
        "A quantiser of a constant has a bit width, scale or zero point that is no constant, or does not fit "
        "the weight's shape, so the integers behind it are unknown. Export the model with constant "
        "quantisation parameters, or use --set passes.cleanup.fold-constants.fold_quant=true for floats.",
    ),
    "RUB-COREML-303": (
        "No input to round weights for",
        "rounding=optimised chooses integers that leave products as they are on some input. Give inputs with "
        "--calib, or leave rounding at nearest.",
    ),
    "RUB-COREML-304": (
        "Options for a pass that does not run",
        "int8 and int4 run quantize.weights, palettes quantize.palettize, sparse quantize.sparsify; int4 "
        "before iOS18 is a palette. Give options to the pass of your --precision, or leave them out.",
    ),
    "RUB-COREML-D30": (
        "Weights stored wider than they are quantised",
        "Core ML has integers of 4 and 8 bits and palettes of 1, 2, 3 (from iOS18), 4, 6 and 8 bits, before "
        "iOS18 with one table per weight and one scale per channel. Weights of other widths or with finer "
        "scales are stored in the smallest form that holds their values; what they compute does not change, "
        "the package grows by the share named. Choose --target coreml:iOS18 or train with one of those "
        "widths to save those bytes.",
    ),
    "RUB-COREML-D31": (
        "Scales rounded to half precision",
        "A package in fp16 stores the scales of integer weights in fp16. The "
        "integers are the graph's; the weights differ from the graph's by the share named. Compile with "
        "--precision fp32 for exact scales, or train with scales that are powers of two.",
    ),
    "RUB-COREML-D32": (
        "Quantised weights stored as floats",
        "No compressed form of Core ML holds these weights: their scales cannot be held in fp16, they have "
        "more than 8 bits, or the model computes further with them before it uses them. They are stored as "
        "plain floats, rounded to the precision of the package. Compile with --precision fp32 where that "
        "rounding matters.",
    ),
    "RUB-COREML-D33": (
        "Four-bit weights became a palette",
        "Integers of 4 bits with a scale per block exist from iOS18 on. For an older target --precision int4 "
        "stores a palette of 16 values per weight instead, which is as small. Choose --target coreml:iOS18 "
        "for integers.",
    ),
    "RUB-COREML-D34": (
        "Palettes of more values than asked for",
        "Core ML stores indices of 1, 2, 4, 6 and 8 bits, and of 3 bits from iOS18 on. Other widths would "
        "take the bytes of the next wider one, so the tables are as large as that allows. Choose one of "
        "those widths to get what the name says.",
    ),
}
