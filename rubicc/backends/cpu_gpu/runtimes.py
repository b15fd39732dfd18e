"""What the installed runtimes offer: availability, kernels, refusals. The only place that asks them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.util import find_spec

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.templates.run import PACKAGES, first_line, import_openvino
from rubicc.errors import ToolMissing

RUNTIMES = ("onnxruntime", "openvino", "native")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "mixed")
CPU_PROVIDER = "CPUExecutionProvider"
# TensorRT hands what it cannot take to CUDA. None of them may hand over to the CPU.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "migraphx": ("MIGraphXExecutionProvider",),
}
_UNCONVERTED = re.compile(r"No conversion rule found for operations: (.+)")


@dataclass(frozen=True)
class Refusal:
    """Why a runtime does not take a model; ``ops`` are the operators it named (may be empty)."""

    runtime: str
    message: str
    ops: tuple[str, ...] = ()


def installed() -> tuple[str, ...]:
    """Runtimes that can be used here, without loading them."""
    return tuple(name for name in RUNTIMES if not missing(name))


def missing(name: str) -> str:
    """Why a runtime cannot be used here; empty when it can."""
    if name == "native":
        if find_spec("rubicc.backends.cpu_gpu.native.engine") is None:
            return "this rubicc has no native kernels"
        from rubicc.backends.cpu_gpu.native.engine import available

        return available()
    return "" if find_spec(name) is not None else f"{name} is not installed"


@functools.cache
def ort_kernels() -> dict[tuple[str, str], tuple[tuple[int, int, frozenset[str]], ...]]:
    """(domain, operator) → (first opset, last opset, all element types) of ONNX Runtime's CPU kernels."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    table: dict[tuple[str, str], list[tuple[int, int, frozenset[str]]]] = {}
    for kernel in state.get_all_opkernel_def():
        first, last = kernel.version_range
        types = {
            text.removeprefix("tensor(").removesuffix(")")
            for types in kernel.type_constraints.values()
            for text in types
        }
        table.setdefault((kernel.domain, kernel.op_name), []).append((first, last, frozenset(types)))
    return {key: tuple(rows) for key, rows in table.items()}


def gpu_providers(target: Target) -> tuple[str, ...]:
    """Providers for ``gpu[:device]``; without a device the best one present.

    Raises:
        ToolMissing: none is installed (RUB-CPU-006), with the package to install.
    """
    import onnxruntime

    present = onnxruntime.get_available_providers()
    wanted = [target.device] if target.device else ["tensorrt", "cuda", "migraphx"]
    for device in wanted:
        if all(provider in present for provider in PROVIDERS[device]):
            return PROVIDERS[device]
    first = PROVIDERS[wanted[0]][0] if target.device else "CUDAExecutionProvider"
    raise ToolMissing(
        "RUB-CPU-006",
        f"target {target} needs {' or '.join(PROVIDERS[device][0] for device in wanted)}, and ONNX Runtime "
        f"{onnxruntime.__version__} here has only {', '.join(present)}",
        hint=PACKAGES[first],
    )


def try_onnxruntime(model: bytes) -> Refusal | None:
    """Create a real session of ONNX Runtime's CPU provider; ``None`` when it takes the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(model, options, providers=[CPU_PROVIDER])
    except Exception as err:  # its exceptions share no base class
        return Refusal("onnxruntime", first_line(err))
    return None


def try_openvino(model: bytes) -> Refusal | None:
    """Compile the model with OpenVINO's CPU plugin; ``None`` when it takes the model."""
    openvino = import_openvino()
    try:
        core = openvino.Core()
        core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
    except RuntimeError as err:
        found = _UNCONVERTED.search(str(err))
        ops = tuple(re.findall(r"([A-Za-z_][\w.]*?)(?:-\d+)?(?:,|\s|$)", found.group(1))) if found else ()
        return Refusal("openvino", first_line(err), ops)
    return None


def openvino_takes_bf16() -> bool:
    """Whether this CPU computes in bf16 when OpenVINO is asked to."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def versions() -> dict[str, str]:
    """Versions of the installed runtimes."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in RUNTIMES[:2]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # e.g. onnxruntime-gpu provides the module under another name
            found[name] = "unknown" if find_spec(name) else "absent"
    return found
