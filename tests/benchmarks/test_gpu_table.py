"""The GPU table without a GPU: what it says, and its capture and timing on a device made of numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpu_table
import numpy as np
import pytest
from speed import gpu
from speed.baselines import Engine, Refused
from speed.render import details
from speed.results import NetworkResult, PeakRow, Row

from rubicc.evidence.measure import Timing


class Replay:
    """Runs the captured call again, writing into the output captured with it."""

    def __init__(self, call: Callable[[], Any], out: np.ndarray) -> None:
        self.call, self.out = call, out

    def replay(self) -> None:
        self.out[...] = self.call()


class NumpyDevice:
    """A device whose tensors are float16 arrays, and which records what was asked of it."""

    name = "numpy"

    def __init__(self) -> None:
        self.log: list[str] = []

    def put(self, array: np.ndarray) -> np.ndarray:
        self.log.append("put")
        return array.astype(np.float16)

    def fill(self, tensor: np.ndarray, array: np.ndarray) -> None:
        self.log.append("fill")
        tensor[...] = array

    def get(self, tensor: np.ndarray) -> np.ndarray:
        self.log.append("get")
        return tensor.astype(np.float32)

    def warm_up(self, call: Callable[[], Any], times: int) -> None:
        self.log.append(f"warm {times}")
        for _ in range(times):
            call()

    def capture(self, call: Callable[[], Any]) -> tuple[Replay, np.ndarray]:
        self.log.append("capture")
        out = np.zeros_like(call())
        return Replay(call, out), out

    def synchronize(self) -> None:
        self.log.append("wait")


FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_eager_puts_runs_and_gets() -> None:
    device = NumpyDevice()
    (made,) = gpu.eager(lambda x: x * 2, ["x"], device)(FEEDS)
    np.testing.assert_array_equal(made, FEEDS["x"] * 2)
    assert made.dtype == np.float32 and device.log == ["put", "get"]


def test_a_graph_is_captured_once_after_warming_up_and_sees_new_inputs() -> None:
    device = NumpyDevice()
    run = gpu.graphed(lambda x: x + 1, ["x"], FEEDS, device)
    assert device.log == ["put", f"warm {gpu.WARM_UPS}", "capture"]
    for shift in (0, 10):
        (made,) = run({"x": FEEDS["x"] + shift})
        np.testing.assert_array_equal(made, FEEDS["x"] + shift + 1)
    assert device.log[3:] == ["fill", "get"] * 2
    with pytest.raises(Refused, match=r"\(2, 3\).*\(4, 3\)"):
        run({"x": np.zeros((4, 3), np.float32)})


def test_outputs_of_a_replay_are_copies() -> None:
    run = gpu.graphed(lambda x: x + 1, ["x"], FEEDS, NumpyDevice())
    (first,) = run(FEEDS)
    run({"x": FEEDS["x"] + 5})
    np.testing.assert_array_equal(first, FEEDS["x"] + 1)


def test_absent_and_refusing_engines_are_rows_with_reasons() -> None:
    def refuse() -> Engine:
        raise Refused("no such provider")

    made = Engine(lambda feeds: [feeds["x"]], "bf16")
    engines, refused = gpu_table.build(
        {"torch": lambda: made, "cuda": refuse, "tensorrt": refuse}, {"tensorrt": "not installed"}
    )
    assert engines == {"torch": made}
    assert refused == {"cuda": "no such provider", "tensorrt": "not installed"}
    timing = Timing((0.002, 0.002, 0.002))
    rows = tuple(
        gpu_table.row(key, engines.get(key), refused.get(key, ""), timing, FEEDS, FEEDS["x"])
        for key in ("torch", "cuda", "tensorrt")
    )
    assert isinstance(rows[0], Row) and rows[0].snr_db == float("inf") and rows[1].timing is None
    peak = PeakRow("gemm", "bf16", 4_000_000, Timing((0.001,)))
    text = details(NetworkResult("n", "x 2x3", "samples", 6, 2_000_000, rows, (peak,)), gpu.COLUMNS)
    assert "25% bf16" in text and "none: no such provider" in text and "none: not installed" in text


@pytest.mark.skipif(not gpu.lacking(), reason="everything is here")
def test_it_says_what_is_missing_and_exits_with_0(capsys) -> None:
    import torch

    assert torch.cuda.is_available() or gpu_table.main([]) == 0
    said = capsys.readouterr().out
    assert torch.cuda.is_available() or (
        "not measured: torch eager fp16" in said and "nothing is measured" in said
    )


@pytest.mark.gpu
def test_on_a_gpu(capsys) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert gpu_table.main(["--only", "bonito-crf-fast", "--batch", "2", "--rounds", "1"]) == 0
    assert "of peak" in capsys.readouterr().out
