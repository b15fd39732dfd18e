"""Runs a compiled project on files or arrays."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.aie.sim import tools
from rubicc.backends.aie.sim.build import Built
from rubicc.backends.aie.sim.failures import raise_failure
from rubicc.errors import UsageError, VerificationFailed

PATIENCE = 20  # seconds of waiting for each second of a processor: others compute as well
_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float")


@dataclass(frozen=True)
class Outcome:
    """What an emulated run left.

    Attributes:
        outputs: per output PLIO's name, its values in order; bfloat16 as uint16 patterns from raw files.
        report: iterations, iterations per kernel, bytes per tile.
        text: what the program printed.
    """

    outputs: dict[str, np.ndarray]
    report: dict[str, Any]
    text: str


def run(
    built: Built,
    inputs: Mapping[str, np.ndarray | bytes] | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    seconds: float = tools.SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run an emulated project once.

    Args:
        built: the project.
        inputs: per input PLIO's name, its values (the port's element type) or raw bytes; the project's own
            files when None.
        limits: of the device, in place of the architecture's: ``columns``, ``rows``, ``tile_bytes``,
            ``bank_bytes``, ``memory_tile_bytes``.
        seconds: of a processor allowed.
        environment: further variables for the program.

    Raises:
        VerificationFailed: the program broke a rule (RUB-AIE-5xx), or took too long (RUB-AIE-513).
        UsageError: inputs that do not fit the PLIOs (RUB-AIE-508).
    """
    plios = built.description["plios"]
    with tempfile.TemporaryDirectory(prefix="rubicc-aie-") as text:
        home = Path(text)
        for plio in plios:
            target = _below(home, plio["file"])
            target.parent.mkdir(parents=True, exist_ok=True)
            if plio["input"] and inputs is None:
                given = _below(built.project, plio["file"])
                if given.is_file():
                    shutil.copyfile(given, target)
        if inputs is not None:
            _write(home, plios, inputs)
        variables = {
            **os.environ,
            **(environment or {}),
            "RUBICC_SIM_INPUT": text,
            "RUBICC_SIM_OUTPUT": text,
            "RUBICC_SIM_REPORT": str(home / "emulation-report.json"),
            "RUBICC_SIM_LIMITS": ";".join(f"{k}={v}" for k, v in (limits or {}).items()),
        }
        status, printed, said = _executed([str(built.program)], home, variables, seconds)
        report = home / "emulation-report.json"
        if status or not report.is_file():
            raise_failure(status, said, "the emulated program")
        outputs = {p["name"]: _read(_below(home, p["file"]), p["type"]) for p in plios if not p["input"]}
        return Outcome(outputs, json.loads(report.read_text()), printed.decode(errors="replace"))


def _executed(
    command: list[str], home: Path, variables: Mapping[str, str], seconds: float
) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr of a program that gets ``seconds`` of a processor.

    The limit is on the processor's time: a busy machine is no fault of the program. One that sleeps instead
    of computing ends after :data:`PATIENCE` times as long.
    """
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(variables)
    ) as process:
        if hasattr(resource, "prlimit"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_CPU)
                allowed = math.ceil(seconds)
                soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (soft, hard))
        try:
            printed, said = process.communicate(timeout=seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            if process.returncode != -signal.SIGXCPU:
                return process.returncode, printed, said
    raise VerificationFailed("RUB-AIE-513", f"the emulation ran longer than {seconds:g} s")


def _below(home: Path, name: str) -> Path:
    """The file of a PLIO, which must lie below the folder it is given in."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise VerificationFailed("RUB-AIE-508", f"a PLIO's file {name[:80]!r} lies outside the project")
    return home / name


def _write(home: Path, plios: list[dict[str, Any]], inputs: Mapping[str, np.ndarray | bytes]) -> None:
    wanted = {p["name"]: p for p in plios if p["input"]}
    if set(inputs) != set(wanted):
        odd = sorted(set(inputs) ^ set(wanted))
        raise UsageError("RUB-AIE-508", f"inputs do not fit the PLIOs: {', '.join(odd)[:200]}")
    for name, values in inputs.items():
        plio = wanted[name]
        target = home / plio["file"]
        if isinstance(values, bytes):
            if target.suffix == ".txt":
                raise UsageError("RUB-AIE-508", f"PLIO {name} reads text; give it an array")
            target.write_bytes(values)
            continue
        if plio["type"] not in _TYPES:
            raise UsageError("RUB-AIE-508", f"PLIO {name} holds {plio['type']}; give it raw bytes")
        exact = np.asarray(values).astype(_dtype(plio["type"]))
        if not np.array_equal(exact, values):
            raise UsageError("RUB-AIE-508", f"the values for PLIO {name} do not fit {plio['type']}")
        if target.suffix == ".txt":
            target.write_text("\n".join(map(str, exact.ravel().tolist())) + "\n")
        else:
            target.write_bytes(exact.tobytes())


def _read(path: Path, kind: str) -> np.ndarray:
    if path.suffix == ".txt":
        return np.array(path.read_text().split(), dtype=np.float64 if "float" in kind else np.int64)
    return np.fromfile(path, dtype=_dtype(kind))


def _dtype(kind: str) -> np.dtype[Any]:
    """Little-endian numpy type of a port's elements; bfloat16 as its 16-bit pattern."""
    names = {"float": "float32", "bfloat16": "uint16"}
    return np.dtype(names.get(kind, kind)).newbyteorder("<")
