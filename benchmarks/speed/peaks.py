"""What this machine can compute: dense kernels, timed in the same turns as the networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GEMM = 2048
CHANNELS, KERNEL, LENGTH, BATCH, LAYERS = 512, 9, 1800, 2, 3
MACS = LAYERS * BATCH * LENGTH * CHANNELS * CHANNELS * KERNEL


@dataclass(frozen=True)
class Peak:
    """``run`` computes ``macs`` multiply-accumulates in ``precision``."""

    name: str
    precision: str
    macs: int
    run: Callable[[], object]


def peaks(threads: int) -> list[Peak]:
    """Matrix products in torch, convolutions in OpenVINO and in our own kernels where those are built.

    The fastest of a precision is its peak.
    """
    native = (_native(precision, threads) for precision in ("fp32", "bf16", "int8"))
    return [
        *(_gemm(precision) for precision in ("fp32", "bf16")),
        *(_convolution(precision, threads) for precision in ("fp32", "bf16", "int8")),
        *(peak for peak in native if peak is not None),
    ]


def _gemm(precision: str) -> Peak:
    """torch (oneDNN or MKL): ``2048 x 2048`` by ``2048 x 2048``."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(GEMM, GEMM, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(GEMM, GEMM, dtype=dtype)

    def run() -> object:
        with torch.no_grad():
            return torch.mm(a, b, out=out)

    return Peak(f"torch {precision} GEMM {GEMM}", precision, GEMM**3, run)


def _convolution(precision: str, threads: int) -> Peak:
    """OpenVINO (oneDNN): a chain of dense convolutions; int8 means uint8 activations and int8 weights.

    A chain, because the float input of the first layer must be converted and the float output of the last
    be written; both are paid once.
    """
    from rubicc.backends.cpu_gpu.templates.run import import_openvino

    core = import_openvino().Core()
    hint = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}[precision]  # int8: of what is left in float
    compiled = core.compile_model(
        core.read_model(convolution_model(quantised=precision == "int8")),
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint},
    )
    request = compiled.create_infer_request()
    x = _signal()
    name = f"OpenVINO {precision} conv {CHANNELS} channels k {KERNEL}"
    return Peak(name, precision, MACS, lambda: request.infer({"x": x}, share_inputs=True, share_outputs=True))


def _native(precision: str, threads: int) -> Peak | None:
    """The same chain in rubicc's kernels; ``None`` where they cannot be built or do not take it."""
    from rubicc.errors import RubiccError

    x = _signal()
    try:
        from rubicc.backends.cpu_gpu.native.engine import NativeEngine

        model = convolution_model(quantised=precision == "int8")
        engine = NativeEngine(model, {"precision": precision}, threads, 1)
        engine.infer({"x": x})
    except (RubiccError, ImportError):
        return None
    name = f"rubicc native {precision} conv {CHANNELS} channels k {KERNEL}"
    return Peak(name, precision, MACS, lambda: engine.infer({"x": x}))


def _signal() -> np.ndarray:
    return np.random.default_rng(0).random((BATCH, CHANNELS, LENGTH), np.float32)


def convolution_model(*, quantised: bool) -> bytes:
    """``LAYERS`` times convolution and ReLU, in QDQ form or plain, as a serialised model ``x`` to ``y``."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    scale = np.full(CHANNELS, 1e-4, np.float32)
    constants: dict[str, np.ndarray] = {}
    if quantised:
        constants |= {"scale": np.array(1 / 255, np.float32), "zero": np.array(0, np.uint8)}
        constants |= {"weight_scale": scale, "weight_zero": np.zeros(CHANNELS, np.int8)}
    nodes, last = [], "x"
    for layer in range(LAYERS):
        stored = rng.integers(-127, 128, (CHANNELS, CHANNELS, KERNEL)).astype(np.int8)
        constants[f"w{layer}"] = stored if quantised else stored * scale[:, None, None]
        weight, (q, d, w, c) = f"w{layer}", (f"{kind}{layer}" for kind in "qdvc")
        if quantised:
            nodes += [
                helper.make_node("QuantizeLinear", [last, "scale", "zero"], [q]),
                helper.make_node("DequantizeLinear", [q, "scale", "zero"], [d]),
                helper.make_node("DequantizeLinear", [weight, "weight_scale", "weight_zero"], [w], axis=0),
            ]
            last, weight = d, w
        nodes.append(helper.make_node("Conv", [last, weight], [c], pads=[KERNEL // 2] * 2))
        last = "y" if layer == LAYERS - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [c], [last]))
    shape = [BATCH, CHANNELS, LENGTH]
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())
