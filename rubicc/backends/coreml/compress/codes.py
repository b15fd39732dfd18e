"""Catalogue of the Core ML target's codes 3xx: compressed weights."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-301": (
        "Quantised weight cannot be read",
        "A quantiser of a constant has a bit width, scale or zero point that is no constant, or does not fit "
        "the weight's shape, so the integers behind it are unknown. Export the model with constant "
        "quantisation parameters, or use --set passes.cleanup.fold-constants.fold_quant=true for floats.",
    ),
    "RUB-COREML-D30": (
        "Weights stored wider than they are quantised",
        "Core ML has integers of 4 and 8 bits and palettes of 1, 2, 3 (from iOS18), 4, 6 and 8 bits, before "
        "iOS18 with one table per weight and one scale per channel. Weights of other widths or with finer "
        "scales are stored in the smallest form that holds their values; what they compute does not change, "
        "the package grows by the share named.",
    ),
    "RUB-COREML-D31": (
        "Scales rounded to half precision",
        "A package in fp16 stores the scales of integer weights, and the entries of tables, in fp16. The "
        "integers are the graph's; the weights differ from the graph's by the share named. Compile with "
        "--precision fp32 for exact scales, or train with scales that are powers of two.",
    ),
    "RUB-COREML-D32": (
        "Quantised weights stored as floats",
        "No compressed form of Core ML holds these weights: their scales cannot be held in fp16, they have "
        "more than 8 bits, or the model computes further with them before it uses them. They are stored as "
        "plain floats, rounded to the precision of the package.",
    ),
    "RUB-COREML-D33": (
        "Four-bit weights became a palette",
        "Integers of 4 bits with a scale per block exist from iOS18 on. For an older target --precision int4 "
        "stores a palette of 16 values per weight instead, which is as small. Choose --target coreml:iOS18 "
        "for integers.",
    ),
}
