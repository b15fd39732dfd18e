"""The whole project in a folder; equal plan, network and example give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.backends.aie import reference, sim
from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan, Plio, Segment
from rubicc.backends.aie.project.framing import ANY, Framing
from rubicc.backends.aie.project.graph import GraphWriter, Instance, data_file
from rubicc.backends.aie.project.text import identifier, project_name, template, words

VITIS = "2025.2"
UNITS_AT_ONCE = 12  # kernel sources compiled together: each compilation reads the headers again
ARCHITECTURES = {"AIE": 10, "AIE-ML": 20, "AIE-MLv2": 22}
PLATFORMS = {
    "vck190": "xilinx_vck190_base_202520_1",
    "vek280": "xilinx_vek280_base_202520_1",
    "vek385": "vek385_base",
}
HOST_BATCH = 64  # sequences in each lane that the host program sends at once


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: below the project's folder, sorted.
        kernels: kernel sources and the classes the graph makes of them.
    """

    files: tuple[str, ...]
    kernels: Mapping[str, Sequence[str]]


def architecture(plan: AiePlan) -> int:
    """The number that compilers know the plan's architecture by (``__AIE_ARCH__``)."""
    return ARCHITECTURES[device(plan.device).generation]


def write(
    plan: AiePlan,
    net: Net,
    folder: Path,
    *,
    name: str,
    example: Mapping[str, np.ndarray],
    kernels: Callable[[AiePlan, Net, Path], Mapping[str, Instance]] | None = None,
) -> Written:
    """Write the project.

    Args:
        name: of the model.
        example: integers ``(N, C, T)`` by input edge, for the files of the simulations.
        kernels: writes kernels and tells their classes by tile; rubicc's own when ``None``.

    Raises:
        Unsupported: ``RUB-AIE-401``: a name in the plan is none in C++; the kernels' codes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(plan, net, folder, project_name(name))
    if kernels is None:
        from rubicc.backends.aie import kernels as own

        kernels = own.write
    made = kernels(plan, net, folder)
    writer.put("src/graph.h", GraphWriter(plan, net, made, writer.name).text())
    writer.simulations(example)
    writer.movers()
    writer.host()
    writer.build_files()
    sources: dict[str, list[str]] = {}
    for kernel in made.values():
        if kernel.cls not in sources.setdefault(kernel.source, []):
            sources[kernel.source].append(kernel.cls)
    sim.write_standalone(
        folder,
        sources,
        arch=architecture(plan),
        defines=[f"RUBICC_SEGMENT={segment.index}" for segment in plan.segments],
        limits=sim_limits(plan),
        batch=UNITS_AT_ONCE,
    )
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return Written(tuple(files), sources)


def sim_limits(plan: AiePlan) -> dict[str, int]:
    """What the functional emulation holds a project of ``plan`` to."""
    names = {"columns": "columns", "rows": "rows", "tile_bytes": "memory_bytes"}
    return {name: int(plan.facts[fact]) for name, fact in names.items() if plan.facts.get(fact) is not None}


class _Writer:
    """Everything but the graph and the kernels."""

    def __init__(self, plan: AiePlan, net: Net, folder: Path, name: str) -> None:
        self.plan, self.net, self.folder, self.name = plan, net, folder, name
        self.framing = Framing(plan, net)
        self.steps: dict[str, int] = {}

    def put(self, name: str, text: str) -> None:
        """Write one file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def simulations(self, example: Mapping[str, np.ndarray]) -> None:
        """``app.cpp``, ``data/`` and what it must give."""
        self.steps = {name: array.shape[2] for name, array in example.items()}
        count = len(next(iter(example.values())))
        values = dict(example) | reference.run(self.net, example, keep=True)
        iterations = []
        for segment in self.plan.segments:
            units = self.framing.units(count, segment)
            iterations.append(units // self.framing.turn)
            feeds = self.framing.feeds(values, segment)
            for plio in self.framing.plios(segment, "in"):
                self.put(data_file(plio), _lines(feeds[plio.name], self._per_line(plio)))
            for plio in self.framing.plios(segment, "out"):
                expected = self.framing.expected(values[plio.edge], plio, segment)
                self.put(f"data/expected/{plio.name}.txt", _lines(expected, self._per_line(plio)))
        numbers = ", ".join(map(str, iterations))
        self.put("app.cpp", template("app.cpp.tmpl", {"NAME": words(self.name), "ITERATIONS": numbers}))
        self.put("emulation/compare.cpp", template("compare.cpp.tmpl", {}))

    def _per_line(self, plio: Plio) -> int:
        return plio.bits // self.net.edges[plio.edge].type.bits

    def movers(self) -> None:
        """``pl/`` and ``system.cfg``."""
        bits, mhz = self.plan.plios[0].bits, self.plan.plios[0].mhz
        for kernel in ("mm2s", "s2mm"):
            self.put(f"pl/{kernel}.cpp", template(f"{kernel}.cpp.tmpl", {"BITS": bits}))
            values = {"KERNEL": kernel, "MHZ": f"{mhz:g}"}
            self.put(f"pl/{kernel}.cfg", template("mover.cfg.tmpl", values))
        lines = ["# One mover per PLIO; names of PLIOs are those of src/graph.h.", "[connectivity]"]
        for kernel, direction in (("mm2s", "in"), ("s2mm", "out")):
            names = [identifier(p.name) for p in self.plan.plios if p.direction == direction]
            lines.append(f"nk={kernel}:{len(names)}:{'.'.join(f'{kernel}_{name}' for name in names)}")
            for name in names:
                ends = (f"{kernel}_{name}.to", f"ai_engine_0.{name}")
                if direction == "out":
                    ends = (f"ai_engine_0.{name}", f"{kernel}_{name}.from")
                lines.append(f"sc={ends[0]}:{ends[1]}")
        lines += ["[clock]", f"defaultFreqHz={round(mhz * 1e6)}"]
        self.put("system.cfg", "\n".join(lines) + "\n")

    def host(self) -> None:
        """``host/``: framing, constants of the plan, XRT program."""
        outputs, rest = self._finish()
        values = {
            "NAME": words(self.name),
            "USAGE": self._usage(),
            "FILES": "\n".join(self._file(end, name) for end, name in self._ends()),
            "REST": rest,
            "BATCH": HOST_BATCH * self.plan.lanes,
        }
        self.put("host/host.cpp", template("host.cpp.tmpl", values))
        self.put("host/framing.h", template("framing.h.tmpl", {}))
        self.put("host/plan.h", self._constants(outputs))

    def _ends(self) -> list[tuple[str, str]]:
        """Files of the host program: what they are called in its usage, and the edge."""
        ends = [(f"IN{i}", name) for i, name in enumerate(self.net.inputs)]
        return ends + [(f"OUT{i}", name) for i, name in enumerate(self.net.outputs)]

    def _usage(self) -> str:
        return " ".join(end for end, _ in self._ends())

    def _file(self, end: str, name: str) -> str:
        """What a file of the host program holds."""
        edge, steps = self.net.edges[name], self._steps(name)
        axes = f"[sequence][{edge.channels} channels][{steps} steps]"
        if end.startswith("OUT"):
            axes = f"[sequence][{steps} steps][{edge.channels} channels]"
        return f"// {end}: float32 {axes}, {words(name)}"

    def _finish(self) -> tuple[dict[str, bool], str]:
        """Whether an output ends in a log-softmax, and what else the host has to do itself.

        The host program makes numbers of integers, and log-softmax where the model has one output.
        """
        ops = [work.what.rpartition("::")[2] for work in self.net.host if ": " not in work.what]
        done = {"Quant", "Transpose", "Identity"}
        log_softmax = ops.count("LogSoftmax") == 1 and len(self.net.outputs) == 1
        done |= {"LogSoftmax"} if log_softmax else set()
        left = sorted({op for op in ops if op not in done})
        told = f"Left to whoever reads them: {words(', '.join(left))}." if left else "Nothing is left to do."
        return dict.fromkeys(self.net.outputs, log_softmax), told

    def _steps(self, edge: str) -> int:
        """Time steps of a sequence as the model has them."""
        if edge in self.steps:
            return self.steps[edge]
        return self.plan.lengths[edge] // self.plan.lanes

    def _constants(self, outputs: Mapping[str, bool]) -> str:
        plan, edges = self.plan, self._memory_edges()
        fed = ", ".join(str(edges.index(name)) for name in self.net.inputs)
        made = ", ".join(f"{{{edges.index(name)}, {_flag(log)}}}" for name, log in outputs.items())
        turn = self.framing.turn
        lines = [
            "// The plan's numbers for framing.h and host.cpp.",
            "#pragma once",
            '#include "framing.h"',
            "struct plio {",
            "  const char* kernel;",
            "  bool is_input;",
            "  int segment, edge, first, count, bits;",
            "};",
            "struct segment_plan {",
            "  int flush;",
            "  bool reverse;",
            "};",
            "struct output {",
            "  int edge;",
            "  bool log_softmax;",
            "};",
            f"constexpr rubicc::constants CONSTANTS{{{plan.block}, {plan.period}, {plan.lanes}, {turn}}};",
            "constexpr rubicc::edge EDGES[] = {",
            *(f"    {{{self._edge(edge)}}},  // {words(edge)}" for edge in edges),
            "};",
            "constexpr plio PLIOS[] = {",
            *(f"    {{{row}}}," for row in self._ports(edges)),
            "};",
            "constexpr segment_plan SEGMENTS[] = {",
            *(f"    {{{s.flush}, {_flag(s.reverse)}}}," for s in plan.segments),
            "};",
            f"constexpr int INPUTS[] = {{{fed}}};",
            f"constexpr output OUTPUTS[] = {{{made}}};",
        ]
        return "\n".join(lines) + "\n"

    def _memory_edges(self) -> list[str]:
        """Edges between the array and memory, in a fixed order."""
        return sorted({plio.edge for plio in self.plan.plios})

    def _edge(self, name: str) -> str:
        edge, packing = self.net.edges[name], self.framing.packing(name)
        stage = self.framing.stages.get(name)
        pads = (0, 0) if packing is None else packing.pads
        numbers = [edge.channels, edge.type.bits, int(edge.type.signed), edge.exponent]
        numbers += [self.plan.lengths[name], 0 if stage is None else stage.lag, self.framing.slots(name)]
        numbers += [1 if packing is None else packing.stride, 0 if packing is None else packing.taps, *pads]
        return ", ".join(map(str, [*numbers, self._steps(name)]))

    def _ports(self, edges: list[str]) -> list[str]:
        rows = []
        for segment in self.plan.segments:
            for direction, kernel in (("in", "mm2s"), ("out", "s2mm")):
                for plio in self.framing.plios(segment, direction):
                    numbers = (segment.index, edges.index(plio.edge), plio.blocks.first, plio.blocks.count)
                    name = f'"{kernel}:{{{kernel}_{identifier(plio.name)}}}"'
                    rows.append(
                        f"{name}, {_flag(direction == 'in')}, {', '.join(map(str, numbers))}, {plio.bits}"
                    )
        return rows

    def _platform(self) -> str:
        return PLATFORMS.get(self.plan.device, "the platform of your board")

    def _segments(self) -> str:
        return " ".join(str(segment.index) for segment in self.plan.segments)

    def _outputs(self, segment: Segment) -> str:
        names = " ".join(identifier(plio.name) for plio in self.framing.plios(segment, "out"))
        return f"OUTPUTS_{segment.index} := {names}"

    def build_files(self) -> None:
        """Makefile, ``aie.cfg``, README."""
        plan = self.plan
        values = {
            "NAME": words(self.name),
            "DEVICE": words(plan.device),
            "VITIS": VITIS,
            "PLATFORM": self._platform(),
            "SEGMENTS": self._segments(),
            "OUTPUTS": "\n".join(self._outputs(segment) for segment in plan.segments),
            "PROJECT": self.name,
        }
        self.put("Makefile", template("Makefile.tmpl", values))
        self.put("aie.cfg", template("aie.cfg.tmpl", {"MHZ": f"{plan.plios[0].mhz:g}"}))
        first = self.net.inputs[0]
        rows = [
            f"* `{words(name)}`: {e.channels} channels of {e.type}, one step is 2^{e.exponent}"
            for name, e in sorted(self.net.edges.items())
            if name in (*self.net.inputs, *self.net.outputs)
        ]
        program = plan.facts["program_bytes"]
        readme = {
            "NAME": words(self.name),
            "DEVICE": words(plan.device),
            "TILES": len(plan.tiles),
            "COLUMNS": plan.facts["columns"],
            "ROWS": plan.facts["rows"],
            "VITIS": VITIS,
            "PROJECT": self.name,
            "PLATFORM": self._platform(),
            "SEGMENTS": self._segments(),
            "USAGE": self._usage(),
            "PROGRAM": "size not public" if program is None else f"{program:,} bytes",
            "MHZ": f"{plan.plios[0].mhz:g}",
            "THROUGHPUT": throughput(plan),
            "HOST": "\n".join(f"* {line}" for line in host_work(plan, self.net)),
            "BLOCK": plan.block,
            "LENGTH": plan.lengths[first],
            "PERIOD": plan.period,
            "LANES": plan.lanes,
            "EDGES": "\n".join(rows),
        }
        self.put("README.md", template("README.md.tmpl", readme))


def throughput(plan: AiePlan) -> str:
    """The estimate with its band, for people."""
    found = plan.throughput
    low, high = (value / 1e6 for value in found.samples_band)
    return (
        f"{found.samples / 1e6:.2f} million input samples per second ({low:.2f} to {high:.2f}), "
        f"tiles busy {found.busy:.0%} on average"
    )


def host_work(plan: AiePlan, net: Net) -> list[str]:
    """What stays on the host, row by row."""
    rows = [words(work.what) + (f" ({words(work.node)})" if work.node else "") for work in net.host]
    for stage in plan.stages:
        if stage.packing is not None:
            p = stage.packing
            rows.append(
                f"windows of {p.taps} steps every {p.stride} laid into frames of {p.bytes} bytes for "
                f"{words(stage.source or stage.layer)}"
            )
    if plan.lanes > 1:
        rows.append(f"{plan.lanes} sequences interleaved frame by frame")
    for segment in plan.segments:
        if segment.reverse:
            rows.append(f"frames of {', '.join(map(words, segment.inputs))} read from the last to the first")
    return rows


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _lines(values: np.ndarray, per_line: int) -> str:
    """Numbers as PLIO files have them: as many in a line as a transfer holds."""
    texts = ["x" if value == ANY else str(value) for value in values.tolist()]
    return "".join(" ".join(texts[i : i + per_line]) + "\n" for i in range(0, len(texts), per_line))
