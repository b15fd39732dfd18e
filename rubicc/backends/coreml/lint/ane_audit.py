"""Where Core ML really places a package: its compute plan as JSON. Runs on a Mac, by itself.

    python ane_audit.py Name.mlpackage -o audit.json [--units ALL|CPU_AND_NE|CPU_AND_GPU|CPU_ONLY]

Needs macOS 14.4 or later and coremltools 8 or later (`pip install coremltools`); nothing of rubicc. For every
operation it writes the device that Core ML prefers, those that it supports, and its share of the cost.
`rubicc` sets the file beside the rules of ane.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORMAT, SCHEMA_VERSION = "rubicc-ane-audit", 1
UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
DEVICES = {"MLNeuralEngineComputeDevice": "ANE", "MLGPUComputeDevice": "GPU", "MLCPUComputeDevice": "CPU"}


def device(found: Any) -> str:
    """``ANE``, ``GPU`` or ``CPU`` for a device object of coremltools."""
    return DEVICES.get(type(found).__name__, type(found).__name__)


def walk(plan: Any, block: Any, path: str) -> Iterator[dict[str, Any]]:
    """One row per operation of a block and of those inside; constants have no device and are left out."""
    for operation in block.operations:
        kind = operation.operator_name.split(".")[-1]
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        name = operation.outputs[0].name if operation.outputs else ""
        if kind != "const":
            yield {
                "path": path,
                "name": name,
                "type": kind,
                "preferred": None if usage is None else device(usage.preferred_compute_device),
                "supported": [] if usage is None else [device(d) for d in usage.supported_compute_devices],
                "cost": None if cost is None else cost.weight,
            }
        for number, inner in enumerate(operation.blocks or []):
            yield from walk(plan, inner, f"{path}/{name}[{number}]")


def dump(plan: Any, package: str, units: str, system: dict[str, str]) -> dict[str, Any]:
    """The whole file for a compute plan."""
    program = plan.model_structure.program
    if program is None:
        raise SystemExit(f"{package} is no ML Program: there is nothing to audit")
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "package": package,
        "units": units,
        "system": system,
        "functions": {
            name: list(walk(plan, function.block, name)) for name, function in program.functions.items()
        },
    }


def load(path: Path, units: str) -> tuple[Any, dict[str, str]]:
    """Compute plan of a package (compiled first) or of a compiled model, and what it was made on."""
    import coremltools
    from coremltools.models.compute_plan import MLComputePlan

    system = {
        "macos": platform.mac_ver()[0],
        "machine": platform.machine(),
        "coremltools": coremltools.__version__,
    }
    unit = coremltools.ComputeUnit[units]
    if path.suffix == ".mlmodelc":
        return MLComputePlan.load_from_path(str(path), unit), system
    with tempfile.TemporaryDirectory() as folder:
        compiled = str(Path(folder) / f"{path.stem}.mlmodelc")
        coremltools.models.utils.compile_model(str(path), compiled)
        return MLComputePlan.load_from_path(compiled, unit), system


def refuse_elsewhere() -> None:
    """Compute plans exist on macOS 14.4 and later only."""
    if sys.platform != "darwin":
        raise SystemExit(f"ane_audit runs on macOS 14.4 or later, where Core ML is; this is {sys.platform}")
    release = tuple(int(part) for part in platform.mac_ver()[0].split(".")[:2])
    if release < (14, 4):
        raise SystemExit(
            f"ane_audit needs macOS 14.4 or later for compute plans; this is {platform.mac_ver()[0]}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dump and say in one line what it found."""
    parser = argparse.ArgumentParser(
        description="Where Core ML places a package: its compute plan as JSON.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("package", type=Path, help="Name.mlpackage or Name.mlmodelc")
    parser.add_argument("-o", "--output", type=Path, default=Path("audit.json"))
    parser.add_argument("--units", choices=UNITS, default="ALL")
    args = parser.parse_args(argv)
    refuse_elsewhere()
    if not args.package.is_dir():
        raise SystemExit(f"{args.package} is no package folder")
    plan, system = load(args.package, args.units)
    found = dump(plan, args.package.name, args.units, system)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [row for rows in found["functions"].values() for row in rows if row["preferred"]]
    on_engine = sum(row["preferred"] == "ANE" for row in rows)
    print(f"{on_engine} of {len(rows)} operations prefer the Neural Engine; written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
