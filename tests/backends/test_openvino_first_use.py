"""The first calls of a session may come from several threads at once (they deadlocked in one of six runs)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FIRST_USE = """
import threading
import numpy as np
from onnx import TensorProto, helper
from rubicc.backends.cpu_gpu.templates.run import OpenVinoEngine

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64, 64])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64, 64])
nodes = [helper.make_node("MatMul", ["x", "x"], ["h"]), helper.make_node("MatMul", ["h", "x"], ["y"])]
graph = helper.make_graph(nodes, "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 10
options = {"inference_precision": "f32", "execution_mode": "ACCURACY", "static_shapes": []}
engine = OpenVinoEngine(model.SerializeToString(), {"openvino": options}, 2, 2)
barrier = threading.Barrier(8)

def call():
    feeds = {"x": np.ones((20, 64, 64), np.float32)}
    barrier.wait()
    engine.infer(feeds)

threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.slow
def test_first_calls_from_many_threads() -> None:
    home = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": home}
    for _ in range(20):
        # A deadlock holds the interpreter's lock, so only somebody outside can end it.
        done = subprocess.run([sys.executable, "-c", _FIRST_USE], env=env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
