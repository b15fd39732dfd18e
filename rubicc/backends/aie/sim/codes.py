"""Catalogue of the AI Engine target's codes 5xx: the functional emulation."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-501": (
        "No compiler for the emulation",
        "The functional emulation compiles the project with g++ (C++20), and none was found or it does not "
        "work here; $CXX names another. Install g++ 11 or newer.",
    ),
    "RUB-AIE-502": (
        "The project does not compile under the emulation",
        "g++ refused the project's graph or one of its kernels; its first error is given. A name that the "
        "emulation does not model, an mmul shape the architecture does not have, or a fault in the source. "
        "Change the line the message names; docs/targets/aie-emulation.md lists what is modelled.",
    ),
    "RUB-AIE-503": (
        "The graph is not complete",
        "A port has no source or no end, two sources, or ends of different kinds; a kernel has no "
        "source(...) or no runtime<ratio>; or the program calls its graph in the wrong order. Change the "
        "graph at the port or kernel that is named.",
    ),
    "RUB-AIE-504": (
        "Sizes or rates do not agree",
        "Both ends of a connection, or a kernel's signature and the graph's dimensions(...), say different "
        "sizes or element types, or the numbers of iterations that follow from the sizes contradict each "
        "other. Make the sizes equal or give repetition_count(...).",
    ),
    "RUB-AIE-505": (
        "A tiling leaves its buffer",
        "tiling_dimension, offset and tile_traversal reach an element that the buffer does not have, or the"
        " tiling's lists do not fit each other. Only reads of a memory tile may go outside, with a negative"
        " offset or boundary_dimension, and get zeros there. Change the tiling of the port that is named.",
    ),
    "RUB-AIE-506": (
        "Data is left over",
        "At the end data stands before a port or in a file that nobody took: the graph consumes less than "
        "it is given. Give a file of exactly iterations times the bytes per iteration, or run more "
        "iterations.",
    ),
    "RUB-AIE-507": (
        "The graph stands still",
        "Nothing can move and kernels have iterations to do. The message says what each waits for: too "
        "little input, a cycle without a first value, or a branch whose buffers are too small for its "
        "neighbour's lag. Give the input or the buffers that are named.",
    ),
    "RUB-AIE-508": (
        "A file of the emulation cannot be used",
        "A PLIO's file is missing, cannot be written, or holds something that is no value of the port's "
        "type. Give the file as docs/targets/aie-emulation.md describes it.",
    ),
    "RUB-AIE-509": (
        "Memory of a tile or bank is exceeded",
        "Buffers, parameters and stack placed on a tile, bank or memory tile are larger than it. The "
        "message has the bytes asked for and there. Use smaller blocks, single buffers, or more tiles.",
    ),
    "RUB-AIE-510": (
        "Misaligned vector access",
        "load_v and store_v need addresses aligned to their size (16, 32 or 64 bytes by architecture); on "
        "the device such an access reads something else. Align the data, or use load_unaligned_v.",
    ),
    "RUB-AIE-511": (
        "Access outside a buffer or register",
        "A kernel wrote outside its buffer, used a lane that its vector does not have, or crashed. Change "
        "the kernel that is named, or make its buffer larger.",
    ),
    "RUB-AIE-512": (
        "Impossible place",
        "A kernel, buffer or cascade is placed where the array cannot have it: outside the array, on a tile"
        " that is full, in memory that the kernel does not reach, or with no cascade between the tiles. "
        "Change the location that is named.",
    ),
    "RUB-AIE-513": (
        "The emulation did not finish",
        "The emulated program ran longer than it was allowed, or ended in a way that it did not explain. "
        "Give fewer iterations or a longer limit.",
    ),
    "RUB-AIE-514": (
        "Not modelled",
        "The project uses something whose behaviour the emulation does not model, so it refuses instead of "
        "guessing: the message names it. Use what docs/targets/aie-emulation.md lists.",
    ),
    "RUB-AIE-515": (
        "Kernels share a variable",
        "Two kernels of one class or file would share its static variables in the emulation, while each "
        "tile has its own. Keep state in the kernel's class.",
    ),
}
