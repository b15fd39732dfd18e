"""Time and peak memory of `rubicc compile` beside exporting the same network from torch alone.

    python benchmarks/compile_cost.py [ARCH ...]        default: rubicall-fp

Both run in processes of their own, in turns, three times; minimum and median are printed. Peak memory is
the process's ru_maxrss. Export alone means: read the checkpoint, torch.onnx.export (each of torch's two
exporters), save the file. Compile means everything `rubicc compile --target cpu` does, proof and report
included.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 3
MEASURE = """
import json, resource, sys, time
start = time.perf_counter()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - start, peak]))
"""
EXPORT = """
import torch
from rubicc.models.registry import get
module = get({arch!r}).build()
module.load_state_dict(torch.load({model!r}, weights_only=True)["state_dict"])
torch.onnx.export(module.eval(), (torch.randn(2, 1, 3600),), {out!r}, dynamo={dynamo}, verbose=False)
"""
COMPILE = """
from rubicc.cli.main import main
flags = ["--target", "cpu", "-o", {out!r}, "--force", "-q", "--format", "json"]
assert main(["compile", {model!r}, *flags]) == 0
"""


def measure(body: str) -> tuple[float, float]:
    """(seconds, MiB) of one run in a new process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE.format(body=body)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main(archs: list[str]) -> None:
    """Print one Markdown table."""
    print("| network | what | wall s, min | median | peak MiB, min | median |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for arch in archs:
            model = str(Path(home) / f"{arch}.pt")
            create = ["models", "create", arch, "--seed", "0", "-o", model, "-q"]
            command = [sys.executable, "-m", "rubicc", *create]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            file = str(Path(home) / f"{arch}.onnx")
            bodies = {
                "torch export, TorchScript": EXPORT.format(arch=arch, model=model, out=file, dynamo=False),
                "torch export, dynamo": EXPORT.format(arch=arch, model=model, out=file, dynamo=True),
                "rubicc compile": COMPILE.format(model=model, out=str(Path(home) / arch)),
            }
            rows: dict[str, list[tuple[float, float]]] = {name: [] for name in bodies}
            for _ in range(ROUNDS):
                for name, body in bodies.items():
                    rows[name].append(measure(body))
            for name, runs in rows.items():
                wall, peak = zip(*runs, strict=True)
                print(f"| {arch} | {name} | {min(wall):.1f} | {statistics.median(wall):.1f} "
                      f"| {min(peak):.0f} | {statistics.median(peak):.0f} |")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:] or ["rubicall-fp"])
