"""aie4ml's projects for the acceptance tests; expected values come from the weights, in numpy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc.backends.aie import sim
from tests.backends.aie_sim_projects import need_compiler

PINNED = "0.2.1"
ARCHITECTURE = {"xilinx_vek280_base": 20, "xilinx_vck190_base": 10, "vek385_base": 22}
VEK280 = "xilinx_vek280_base"


def interpreter() -> str:
    """A Python with aie4ml: this one, or $RUBICC_AIE4ML_PYTHON; the test skips without."""
    named = os.environ.get("RUBICC_AIE4ML_PYTHON", "")
    if named:
        return named
    try:
        found = version("aie4ml")
    except PackageNotFoundError:
        pytest.skip("aie4ml is not installed: pip install 'rubicc[aie]', or set RUBICC_AIE4ML_PYTHON")
    if found != PINNED:
        pytest.skip(f"aie4ml {found} is installed; the acceptance is written for {PINNED}")
    return sys.executable


def emit(folder: Path, cases: list[dict[str, Any]]) -> dict[str, Path]:
    """Emit every case below ``folder``; a test fails where aie4ml refuses one."""
    need_compiler()
    python = interpreter()
    for number, case in enumerate(cases):
        case.update(folder=str(folder / case["name"]), seed=number)
    listing = folder / "cases.json"
    listing.write_text(json.dumps(cases))
    script = Path(__file__).with_name("aie4ml_emit.py")
    command = [python, str(script), str(listing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    for case in cases:
        refused = folder / case["name"] / "refused.txt"
        assert not refused.is_file(), f"{case['name']}: {refused.read_text()}"
    return {case["name"]: folder / case["name"] for case in cases}


def convolution(x: np.ndarray, w: np.ndarray, stride: int, pads: tuple[int, int], group: int) -> np.ndarray:
    """x (N, H, W, C) and w (O, C / group, kh, kw) -> (N, H', W', O), all int64."""
    per_in, per_out = w.shape[1], w.shape[0] // group
    x = np.pad(x, ((0, 0), (pads[0],) * 2, (pads[1],) * 2, (0, 0)))
    height, width = ((d - k) // stride + 1 for d, k in zip(x.shape[1:3], w.shape[2:], strict=True))
    out = np.zeros((x.shape[0], height, width, w.shape[0]), np.int64)
    for g in range(group):
        for ky in range(w.shape[2]):
            for kx in range(w.shape[3]):
                window = x[:, ky : ky + stride * height : stride, kx : kx + stride * width : stride]
                part = window[:, :height, :width, g * per_in : (g + 1) * per_in]
                mine = slice(g * per_out, (g + 1) * per_out)
                out[..., mine] += part @ w[mine, :, ky, kx].T
    return out


def expected(project: Path, case: dict[str, Any]) -> tuple[np.ndarray, dict[str, int]]:
    """Integers the network gives, and how much of the test they are: nonzero, saturated, exact ties."""
    kept = np.load(project / "reference.npz")
    x = kept["x"].astype(np.int64)
    image = x.ndim == 5
    x = x[:, 0] if image else x
    exponent, facts = -4, {"nonzero": 0, "saturated": 0, "ties": 0}
    for n, layer in enumerate(case["layers"]):
        w, b = kept[f"w{n}"].astype(np.int64), kept[f"b{n}"].astype(np.int64)
        if image:
            pads = layer.get("above", layer["pad"]), layer["pad"]
            sums = convolution(x, w, layer.get("stride", 1), pads, layer.get("group", 1)) + b
        else:
            sums = x @ w + b
        shift = layer.get("exp", -1) - exponent + 6
        exponent = layer.get("exp", -1)
        low, rest = sums >> shift, sums & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        y = low + ((rest > half) | ((rest == half) & (low % 2 == 1)))
        facts["ties"] += int((rest == half).sum())
        facts["saturated"] += int((np.abs(y) > 127).sum())
        y = np.clip(y, -128, 127)
        x = np.maximum(y, 0) if layer.get("relu", True) else y
    facts["nonzero"] = int(np.count_nonzero(x))
    return x[:, None] if image else x, facts


def emulate(project: Path, into: Path, case: dict[str, Any], **options: Any) -> tuple[np.ndarray, sim.Built]:
    """Build and run a project with its own input files; its output put together from its ports."""
    built = sim.build(project, into, arch=ARCHITECTURE[case["part"]], **options)
    outcome = sim.run(built)
    layout = json.loads((project / "layout.json").read_text())
    out = np.full((2, *layout["ports"][0]["shape"]), 10**6, np.int64)
    for port in layout["ports"]:
        values = outcome.outputs[f"PLIO_ofm_{port['port']}"].reshape(2, port["transfer"])
        tile = values[:, : int(np.prod(port["tile"]))].reshape(2, *port["tile"])
        target, source = [slice(None)], [slice(None)]
        for origin, span, extent in zip(port["origin"], port["tile"], port["shape"], strict=True):
            first, last = max(0, origin), min(extent, origin + span)
            target.append(slice(first, last))
            source.append(slice(first - origin, last - origin))
        out[tuple(target)] = tile[tuple(source)]
    assert out.max() < 10**6  # every element came through some port
    return out, built


def copy(project: Path, to: Path) -> Path:
    return Path(shutil.copytree(project, to))
