"""Runs a compiled project on files or arrays."""

from __future__ import annotations

import json
import os
import shutil
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
        seconds: time allowed.
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
        try:
            command = [str(built.program)]
            done = subprocess.run(
                command, cwd=home, capture_output=True, timeout=seconds, check=False, env=variables
            )
        except subprocess.TimeoutExpired as err:
            raise VerificationFailed("RUB-AIE-513", f"the emulation ran longer than {seconds:g} s") from err
        report = home / "emulation-report.json"
        if done.returncode or not report.is_file():
            raise_failure(done.returncode, done.stderr, "the emulated program")
        outputs = {p["name"]: _read(_below(home, p["file"]), p["type"]) for p in plios if not p["input"]}
        return Outcome(outputs, json.loads(report.read_text()), done.stdout.decode(errors="replace"))


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
