"""Puts the emulation into an emitted project, so that ``make sim`` there needs g++ and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rubicc.backends.aie.sim import tools
from rubicc.backends.aie.sim.build import unit_text

_MAKE = """\
# Functional emulation by rubicc: g++ only, no cycles. From the project's folder:
#   make -f {folder}/emulation.mk
CXX ?= g++
SIM := {folder}
SIM_FLAGS := {flags} -D__AIE_ARCH__={arch} -D__X86SIM__ -I$(SIM)/include {include}
SIM_OBJECTS := $(SIM)/build/app.o $(SIM)/build/runtime.o {objects}

.PHONY: sim
sim: $(SIM)/build/emulation
\tmkdir -p $(SIM)/output/data
\tRUBICC_SIM_OUTPUT=$(SIM)/output ./$(SIM)/build/emulation

$(SIM)/build/emulation: $(SIM_OBJECTS)
\t$(CXX) $^ -o $@

$(SIM)/build/app.o: {app} | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) -c $< -o $@

$(SIM)/build/runtime.o: $(SIM)/runtime/runtime.cpp | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) -O1 -c $< -o $@

$(SIM)/build/unit%.o: $(SIM)/units/unit%.cpp | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) -c $< -o $@

$(SIM)/build:
\tmkdir -p $@
"""


def write_standalone(
    project: Path,
    kernels: Mapping[str, Sequence[str]],
    *,
    arch: int,
    app: str = "app.cpp",
    include: Sequence[str] = ("src", "src/kernels", "."),
    folder: str = "emulation",
) -> list[str]:
    """Write headers, runtime, units and ``emulation.mk`` below ``project/folder``.

    Args:
        project: the emitted project.
        kernels: kernel source (path below the project) -> classes the graph makes from it, as C++ spells
            them.
        arch: 10, 20 or 22, as in :func:`build`.
        app: file with the graph object and main().
        include: folders for ``#include`` below the project.
        folder: where below the project.

    Returns:
        The files written, below the project.
    """
    written: list[str] = []

    def put(name: str, text: bytes) -> None:
        path = project / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        written.append(f"{folder}/{name}")

    for name, body in tools.sources().items():
        put(name, body)
    for number, (source, classes) in enumerate(sorted(kernels.items())):
        entries = [f"adf::sim::kernel_entry<{name}>" for name in sorted(classes)]
        put(f"units/unit{number}.cpp", unit_text([f"../../{source}"], entries).encode())
    text = _MAKE.format(
        folder=folder,
        flags=" ".join(tools.FLAGS),
        arch=arch,
        app=app,
        include=" ".join(f"-I{name}" for name in include),
        objects=" ".join(f"$(SIM)/build/unit{n}.o" for n in range(len(kernels))),
    )
    put("emulation.mk", text.encode())
    return written
