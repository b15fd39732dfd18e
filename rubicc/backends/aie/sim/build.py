"""Compiles a project's own graph and kernels with the emulation's headers.

Two steps, because a template kernel's members stand in its ``.cpp`` alone: the graph is compiled and asked
what it holds, then every kernel source is compiled together with the classes that the graph makes from it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubicc.backends.aie.sim import tools
from rubicc.backends.aie.sim.failures import raise_failure
from rubicc.errors import VerificationFailed

_OURS = ("vtable", "typeinfo", "guard variable", "VTT", "DW.ref", "adf::sim::")


@dataclass(frozen=True)
class Built:
    """A project compiled for emulation.

    Attributes:
        project: its folder; PLIO files are looked for below it unless ``run`` is told otherwise.
        program: the executable.
        description: the graph as it built itself: kernels, ports, shared buffers, PLIOs, nets
            (the JSON of describe.cpp).
        static_bytes: per kernel source, bytes of constants and static variables its unit holds.
    """

    project: Path
    program: Path
    description: dict[str, Any]
    static_bytes: dict[str, int]


def build(
    project: Path,
    into: Path,
    *,
    arch: int = 20,
    app: str = "app.cpp",
    include: Sequence[str] | None = None,
    defines: Sequence[str] = (),
    batch: int = 1,
    jobs: int | None = None,
) -> Built:
    """Compile a project.

    Args:
        project: folder of the project; nothing in it is changed.
        into: folder for what is compiled; made where it is missing.
        arch: 10 for AIE, 20 for AIE-ML, 22 for AIE-MLv2.
        app: the file with the graph object and main(), below the project.
        include: folders for ``#include``, below the project; all that hold headers when None.
        defines: further macros, ``NAME`` or ``NAME=VALUE``.
        batch: kernel sources compiled together; above 1 only where their names do not clash.
        jobs: compilations at once; the machine's cores when None.

    Raises:
        VerificationFailed: it does not compile (RUB-AIE-502), or its graph is wrong (RUB-AIE-503, 504, ...).
        ToolMissing: no compiler (RUB-AIE-501).
    """
    project, into = project.resolve(), into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    ready = tools.prepared(arch)
    folders = [project / name for name in include] if include is not None else _header_folders(project)
    base = [
        tools.compiler(),
        *tools.flags(arch),
        "-include",
        str(ready / "all.h"),
        *(f"-D{name}" for name in defines),
        *(f"-I{folder}" for folder in folders),
    ]
    main = into / "app.o"
    tools.call([*base, "-c", str(project / app), "-o", str(main)], into, app)
    description = _describe(main, ready / "runtime.o", into)
    units = _units(project, into, description, batch)
    objects = [unit.with_suffix(".o") for unit in units]

    def compile_unit(unit: Path) -> None:
        command = [*base, "-c", str(unit), "-o", str(unit.with_suffix(".o"))]
        tools.call(command, into, ", ".join(path.name for path in units[unit]))

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        list(pool.map(compile_unit, units))
    program = into / "emulation"
    link = [tools.compiler(), str(main), *map(str, objects), str(ready / "runtime.o"), "-o", str(program)]
    tools.call(link, into, "the project")
    sizes: dict[str, int] = {}
    for names, made in zip(units.values(), objects, strict=True):
        _check_statics(made, description, names)
        if len(names) == 1:
            sizes[str(names[0].relative_to(project))] = _static_bytes(made)
    return Built(project, program, description, sizes)


def _header_folders(project: Path) -> list[Path]:
    """Every folder of the project that holds a header, nearest first."""
    found = {p.parent for p in project.rglob("*") if p.suffix in (".h", ".hpp", ".hh")}
    return sorted(found | {project}, key=lambda p: (len(p.parts), str(p)))


def _describe(main: Path, runtime: Path, into: Path) -> dict[str, Any]:
    """Build the graph without its kernels and let it say what it holds."""
    program, text = into / "describe", into / "graph.json"
    text.unlink(missing_ok=True)
    # Kernels are not there yet; they are not called either.
    loose = "-Wl,--unresolved-symbols=ignore-all"
    link = [tools.compiler(), str(main), str(runtime), loose, "-o", str(program)]
    tools.call(link, into, "the graph")
    done = subprocess.run(
        [str(program)],
        cwd=into,
        capture_output=True,
        timeout=tools.SECONDS,
        check=False,
        env={**os.environ, "RUBICC_SIM_DESCRIBE": str(text)},
    )
    if done.returncode or not text.is_file():
        raise_failure(done.returncode, done.stderr, "the graph")
    found: dict[str, Any] = json.loads(text.read_text())
    return found


def _units(project: Path, into: Path, description: dict[str, Any], batch: int) -> dict[Path, list[Path]]:
    """Write one unit per ``batch`` kernel sources: the sources and the classes the graph makes from them."""
    entries: dict[Path, set[str]] = {}
    for kernel in description["kernels"]:
        path = find_source(project, kernel["source"])
        entries.setdefault(path, set())
        if kernel["type"]:
            entries[path].add(kernel["entry"])
    ordered = sorted(entries)
    units: dict[Path, list[Path]] = {}
    for number, start in enumerate(range(0, len(ordered), max(1, batch))):
        group = ordered[start : start + max(1, batch)]
        unit = into / f"unit{number}.cpp"
        unit.write_text(unit_text([str(p) for p in group], sorted(set().union(*(entries[p] for p in group)))))
        units[unit] = group
    return units


def unit_text(paths: Sequence[str], entries: Sequence[str]) -> str:
    """C++ of one unit: kernel sources, then the classes to be made from them."""
    lines = [f'#include "{path}"' for path in paths]
    lines.append("#include <rubicc_sim/entry.h>")
    lines += [f"template struct {entry};" for entry in entries]
    return "\n".join(lines) + "\n"


def find_source(project: Path, name: str) -> Path:
    """The file that ``source(kernel)`` names: a path below the project, or a name found once in it.

    Raises:
        VerificationFailed: not there, several, or outside the project (RUB-AIE-503).
    """
    odd = any(c in name for c in '"\\\n') or Path(name).is_absolute() or ".." in Path(name).parts
    direct = [project / name, project / "src" / name]
    found = [] if odd else [p for p in direct if p.is_file()][:1]
    if not odd and not found:
        found = [p for p in project.rglob(Path(name).name) if str(p).endswith(f"/{name}") and p.is_file()]
    if len(found) != 1:
        what = f"is there {len(found)} times" if found else "is not there"
        what = "names a path outside it" if odd else what
        raise VerificationFailed("RUB-AIE-503", f"the kernel source {name[:80]!r} {what}", where=project.name)
    return found[0].resolve()


def _symbols(made: Path) -> list[tuple[str, int, str]]:
    """(section, bytes, name) of the data an object file holds; empty where binutils are missing."""
    try:
        done = subprocess.run(
            ["nm", "-S", "-C", "-f", "sysv", str(made)],
            capture_output=True,
            timeout=tools.SECONDS,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    rows = []
    for line in done.stdout.splitlines():
        parts = [part.strip() for part in line.rsplit("|", 6)]
        if len(parts) == 7 and parts[3] in ("OBJECT", "TLS") and parts[4] and not parts[0].startswith(_OURS):
            rows.append((parts[6], int(parts[4], 16), parts[0]))
    return rows


def _static_bytes(made: Path) -> int:
    return sum(size for _, size, _ in _symbols(made))


def _check_statics(made: Path, description: dict[str, Any], names: list[Path]) -> None:
    """Refuse static variables that several kernels would share."""
    here = [k for k in description["kernels"] if any(str(p).endswith(f"/{k['source']}") for p in names)]
    for section, _, variable in _symbols(made):
        if not section.startswith((".data", ".bss")) or ".ro" in section:
            continue
        # A template's own static names the arguments of its class; any other is everybody's in the file.
        owners = [
            k for k in here if "<" in k["type"] and k["type"].partition("<")[2][:-1].strip() in variable
        ]
        if len(owners or here) > 1:
            raise VerificationFailed(
                "RUB-AIE-515",
                f"{len(owners or here)} kernels of {names[0].name} share the variable {variable[:120]}",
                where=names[0].name,
                hint="keep state in the kernel's class",
            )
