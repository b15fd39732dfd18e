"""Catalogue of the AI Engine planner's codes 2xx: devices, planning, placement, audit."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-201": (
        "No such AI Engine device",
        "The device is not in the table of devices. Use one of the names in the message, as in "
        "--target aie:vek280.",
    ),
    "RUB-AIE-202": (
        "A fact of the device is not known",
        "No public source gives this number, and a plan depends on it; nothing is guessed. Give it with the "
        "option in the message, from the documentation of your device.",
    ),
    "RUB-AIE-203": (
        "A fact that cannot be given",
        "The name is no fact of a device, or the value is no positive number of the right kind. Use one of "
        "the names in the message.",
    ),
    "RUB-AIE-204": (
        "Options that mean nothing",
        "An objective, number of frames or work unit is outside what the planner knows. Change the option "
        "named in the message.",
    ),
    "RUB-AIE-210": (
        "Layers the array cannot take",
        "The table lists every layer that cannot be streamed through the array, with the number that stops "
        "it. Change those layers or their precision, or choose another device.",
    ),
    "RUB-AIE-211": (
        "A layer fits no tile",
        "However the layer is split, a tile would hold more than its data memory, move more than its two "
        "DMA channels, or need a longer cascade than the array has. The message gives the smallest that was "
        "found. Prune the layer, use fewer bits, or choose another device.",
    ),
    "RUB-AIE-212": (
        "The network needs more than the array has",
        "Tiles, streams, memory tiles or their channels run out even for the smallest plan; the message has "
        "the numbers. Prune the network, use fewer bits, or choose a larger device.",
    ),
    "RUB-AIE-213": (
        "The plan broke a rule of the device",
        "The audit, which recounts a plan by itself, found what the planner should not have done; nothing "
        "was written. Report this as a fault of rubicc, with the model.",
    ),
    "RUB-AIE-D21": (
        "Activations widened",
        "The device multiplies no 8-bit activations by 16-bit weights; activations become 16 bits in the "
        "tile and values stay the same. It costs half the rate.",
    ),
    "RUB-AIE-D22": (
        "4-bit weights stored in 8 bits",
        "The layer's shape or the device has no native product by 4-bit weights; values stay the same.",
    ),
    "RUB-AIE-D23": (
        "Channels padded",
        "Channels or groups are filled up with zeros to blocks of 8; the extra products are zero.",
    ),
    "RUB-AIE-D24": (
        "First layer packed by the host",
        "A strided first layer reads windows laid out by the host, so that it is pointwise on the array.",
    ),
    "RUB-AIE-D25": (
        "Sequences interleaved",
        "Recurrent layers compute four sequences at a time; all edges carry them frame by frame.",
    ),
    "RUB-AIE-D26": (
        "Interval chosen",
        "The interval between work units, the work unit and the number of tiles, and what was traded.",
    ),
}
