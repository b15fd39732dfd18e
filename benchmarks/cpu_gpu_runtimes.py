"""Runtimes, static shapes, streams and precisions of the CPU backend, measured in turns on this machine.

    python benchmarks/cpu_gpu_runtimes.py [--seconds 8] [--threads 2]

Two networks of real size with random weights: a grouped-convolution CTC net (224 channels) and the five-layer
GRU(96) flip-flop net. Ratios are the point; absolute times move with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "backends"))

from backend_nets import conv_net, export, gru_net

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.bench import bench
from rubicc.backends.cpu_gpu.emit import emit
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.backends.cpu_gpu.prepare import prepare

CPU = Target("cpu")


def variants(graph, home: Path) -> dict[str, Path]:
    """Artefacts that differ in one thing each."""
    made = {}
    for name, runtime, precision in (
        ("ort fp32", "onnxruntime", "fp32"),
        ("ort fp16", "onnxruntime", "fp16"),
        ("ov fp32 static", "openvino", "fp32"),
        ("ov fp32 dynamic", "openvino", "fp32"),
        ("ov fp16 static", "openvino", "fp16"),
        ("ov bf16 static", "openvino", "bf16"),
    ):
        ready = prepare(graph, precision=precision).graph
        folder = home / name.replace(" ", "-")
        emit(ready, plan(ready, CPU, runtime=runtime, precision=precision), folder)
        if "dynamic" in name:
            path = folder / "runtime.json"
            data = json.loads(path.read_text())
            data["openvino"]["static_shapes"] = []
            path.write_text(json.dumps(data))
        made[name] = folder
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    nets = {
        "conv": export(conv_net(224, 28), 3, "ctc", 3600),
        "gru": export(gru_net(96, 5), 4, "flipflop", 3600),
    }
    for net, graph in nets.items():
        with tempfile.TemporaryDirectory() as home:
            folders = variants(graph, Path(home))
            for streams in (1, args.threads):
                result = bench(folders, seconds=args.seconds, threads=args.threads, streams=streams)
                for row in result.rows:
                    t = row.timing
                    print(
                        f"{net:5} streams {streams} {row.name:16} {row.shapes}  min {t['min_ms']:8.2f}  "
                        f"median {t['median_ms']:8.2f} ms  noise {t['noise']:5.0%}  "
                        f"{row.positions_per_second / 1e6:6.2f} Msamples/s  "
                        f"peak {(row.peak_bytes or 0) >> 20} MiB"
                    )


if __name__ == "__main__":
    main()
