"""The pretrained R9 network on its golden chunks, through the emitted files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from backend_nets import compare, export, gru_net

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.compare import layer_gaps
from rubicc.backends.cpu_gpu.emit import emit
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.backends.cpu_gpu.prepare import prepare

pytestmark = pytest.mark.real_data
CPU = Target("cpu")
# dB against torch fp32: measured 123-124 (fp32), 64-65 (fp16), 39 (bf16); limits leave room for
# other CPUs. Golden tensors must be matched to 1e-4 in fp32.
FLOOR = {"fp32": 110.0, "fp16": 50.0, "bf16": 28.0}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_golden_tensors(shared_data: Path, precision: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net = gru_net(96, 5)
    net.load_state_dict(load_file(shared_data / "weights" / "r9_mgru_flipflop.safetensors"))
    with np.load(shared_data / "expected" / "r9_mgru_golden.npz") as golden:
        x, want = golden["x"], golden[next(name for name in golden.files if name != "x")]
    graph = export(net, 4, "flipflop", chunk=3600)
    made = prepare(graph, precision=precision, feeds={"x": x[:1, :, :1200]})
    emit(made.graph, plan(made.graph, CPU, precision=precision, seconds=0.2, batch=4), tmp_path)
    found = compare(tmp_path, {"x": x}, {"y": want})
    print({name: gaps["y"].describe() for name, gaps in found.items()})
    for gaps in found.values():
        assert gaps["y"].snr_db > FLOOR[precision]
        assert precision != "fp32" or gaps["y"].max_abs < 1e-4
    if precision == "fp32":
        rows = layer_gaps(tmp_path, {"x": x[:1]})
        assert {"Conv", "GRU", "MatMul"} <= {row.op for row in rows}
        assert min(row.gap.snr_db for row in rows) > 100
