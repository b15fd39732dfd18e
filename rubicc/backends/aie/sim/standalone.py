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
# Each program is the same kernels around another graph object.
PROGRAMS := {programs}
{defines}
export RUBICC_SIM_LIMITS := {limits}
SIM_FLAGS := {flags} -MMD -D__AIE_ARCH__={arch} -D__X86SIM__ -I$(SIM)/include {include}
SIM_OBJECTS := $(SIM)/build/runtime.o {objects}

.PHONY: sim
.SECONDARY:
sim: $(PROGRAMS:%=$(SIM)/build/emulation%)
\trm -rf $(SIM)/output && mkdir -p $(SIM)/output/data
\t@for n in $(PROGRAMS); do RUBICC_SIM_OUTPUT=$(SIM)/output ./$(SIM)/build/emulation$$n || exit 1; done

$(SIM)/build/emulation%: $(SIM)/build/app%.o $(SIM_OBJECTS)
\t$(CXX) $^ -o $@

$(SIM)/build/app%.o: {app} | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) $(DEFINES_$*) -c $< -o $@

$(SIM)/build/runtime.o: $(SIM)/runtime/runtime.cpp | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) -O1 -c $< -o $@

$(SIM)/build/unit%.o: $(SIM)/units/unit%.cpp | $(SIM)/build
\t$(CXX) $(SIM_FLAGS) -c $< -o $@

$(SIM)/build:
\tmkdir -p $@

-include $(wildcard $(SIM)/build/*.d)
"""


def write_standalone(
    project: Path,
    kernels: Mapping[str, Sequence[str]],
    *,
    arch: int,
    app: str = "app.cpp",
    include: Sequence[str] = ("src", "src/kernels", "."),
    folder: str = "emulation",
    defines: Sequence[str] = ("",),
    limits: Mapping[str, int] | None = None,
    batch: int = 1,
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
        defines: for every program that is run, the macro (``NAME=VALUE``) its graph object is compiled with.
        limits: of the device, as in :func:`run`.
        batch: kernel sources compiled together, as in :func:`build`.

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
    ordered = sorted(kernels)
    starts = range(0, len(ordered), max(1, batch))
    for number, start in enumerate(starts):
        group = ordered[start : start + max(1, batch)]
        classes = sorted({name for source in group for name in kernels[source]})
        entries = [f"adf::sim::kernel_entry<{name}>" for name in classes]
        put(f"units/unit{number}.cpp", unit_text([f"../../{source}" for source in group], entries).encode())
    text = _MAKE.format(
        folder=folder,
        programs=" ".join(map(str, range(len(defines)))),
        defines="\n".join(f"DEFINES_{n} := {f'-D{text}' if text else ''}" for n, text in enumerate(defines)),
        limits=";".join(f"{name}={value}" for name, value in (limits or {}).items()),
        flags=" ".join(tools.FLAGS),
        arch=arch,
        app=app,
        include=" ".join(f"-I{name}" for name in include),
        objects=" ".join(f"$(SIM)/build/unit{n}.o" for n in range(len(starts))),
    )
    put("emulation.mk", text.encode())
    return written
