"""Catalogue of the AI Engine target's codes 0xx (wiring) and 1xx (the integer network); rooms inside have
their own."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-001": (
        "Impossible combination",
        "A precision, runtime, layout or objective has no meaning for this target. Change the option named "
        "in the message; docs/targets/aie.md lists what the target takes.",
    ),
    "RUB-AIE-002": (
        "Nothing to gain",
        "The array would take less than half of the model's multiplications; the table has what would stay "
        "on the host. Choose another target, or replace these layers by ones the array computes.",
    ),
    "RUB-AIE-003": (
        "Inputs the array is not fed",
        "Inputs are signal (floats) of one fixed length. Give --shapes where the model leaves a size open, "
        "and choose another target for models of tokens.",
    ),
    "RUB-AIE-004": (
        "Inputs the project does not take",
        "Names, element types or shapes of the arrays do not fit, values are not finite, or the session is "
        "closed. Pad or cut the input, or compile with other --shapes.",
    ),
    "RUB-AIE-005": (
        "The files are not those that were compiled",
        "A file of the artefact's aie folder is missing, was changed or was added. Nothing was run. Restore "
        "the artefact or compile again.",
    ),
    "RUB-AIE-006": (
        "C++ that rubicc did not write",
        "Opening an artefact compiles its project for the emulation, and only sources that rubicc itself "
        "writes for this network and plan are compiled; another version of rubicc writes others. Nothing "
        "was run. Compile the model again, or read the project and run `make sim` in it yourself.",
    ),
    "RUB-AIE-D03": (
        "facts of the device were given",
        "--device-fact gave numbers that the table of devices lacks, or replaced some of its numbers. The "
        "plan is as right as they are.",
    ),
    "RUB-AIE-D02": (
        "Weights widened",
        "Weights of fewer than 8 bits are stored and multiplied in 8: no kernel takes them as they are.",
    ),
    "RUB-AIE-D01": (
        "Host work",
        "What the host computes before and behind the array: rounding the signal to integers, laying out "
        "windows of a strided first layer, turning integers to numbers, log-softmax.",
    ),
    "RUB-AIE-101": (
        "Numbers the integer network cannot hold",
        "A value fed to the integer network does not fit the type of its input, or a sum would need more "
        "bits than the reference computes with. Quantise the input with the exponent in the plan; for sums, "
        "use fewer bits for weights or activations.",
    ),
    "RUB-AIE-102": (
        "No integer layer",
        "The array computes convolutions, linear layers, sums of two tensors, functions of one value by "
        "table and recurrent cells, each ending in a product with a power of two and a rounding. The node "
        "named in the message stands between such layers and is none of them, or is not rounded that "
        "way. Replace it in the model, or quantise the float model again with calibration data.",
    ),
    "RUB-AIE-103": (
        "No channels over time",
        "The array takes tensors of sequences, channels and frames. The message names the node that wants "
        "other axes (images, heads of attention, channels mixed with time). Use one-dimensional "
        "convolutions, linear layers over the channels and recurrent layers.",
    ),
    "RUB-AIE-104": (
        "Host work in the middle",
        "The host prepares inputs and finishes outputs; here it would compute an input of the array from "
        "the array's own outputs. Cut the model in two at the node in the message, or replace that node by "
        "something the array computes.",
    ),
    "RUB-AIE-105": (
        "Numbers without a type on the array",
        "Tensors hold 8 bits, or 16 bits with a sign; weights 4, 8 or 16 bits; scales are powers of two, "
        "equal within each block of 8 output channels; tables have one entry per argument, at most 4096. "
        "Quantise the float model again, or choose widths the array has.",
    ),
    "RUB-AIE-106": (
        "Accumulator too narrow",
        "A sum could leave the accumulator (32 bits up to 16 x 8 bits, 64 above) for some input. Integer "
        "quantisation chooses weights that cannot. Use fewer bits for weights or values in a graph of your "
        "own.",
    ),
    "RUB-AIE-107": (
        "Nothing for the array",
        "No layer of the model computes with integers, so the array has nothing to do. Compile a model with "
        "convolutions, linear or recurrent layers, with calibration data.",
    ),
}
