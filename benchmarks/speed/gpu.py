"""GPU engines and their timing, behind an interface that a machine without a GPU can test.

Every engine takes numpy arrays and gives numpy arrays, copies to and from the device included, as the CPU
table does; :class:`Peak` alone stays on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from speed.baselines import Engine, Refused, refusals
from speed.networks import Arrays, Case
from speed.peaks import Peak

if TYPE_CHECKING:
    import torch

COLUMNS = {
    "torch": "torch eager fp16",
    "compile": "torch.compile fp16",
    "graph": "CUDA graph fp16",
    "cuda": "ours CUDA fp16",
    "tensorrt": "ours TensorRT fp16",
}
GEMM = 8192
WARM_UPS = 3  # before capture: libraries choose algorithms and allocate workspaces at their first calls
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class Graph(Protocol):
    """A captured sequence of kernels."""

    def replay(self) -> None:
        """Run it on the tensors it was captured with."""


class Device(Protocol):
    """What is needed of a GPU."""

    name: str

    def put(self, array: np.ndarray) -> Any:
        """A device tensor of the array; floats in half precision."""

    def fill(self, tensor: Any, array: np.ndarray) -> None:
        """Overwrite a device tensor."""

    def get(self, tensor: Any) -> np.ndarray:
        """A float32 array of a device tensor, when everything before it is done."""

    def warm_up(self, call: Callable[[], Any], times: int) -> None:
        """Call on a stream of its own and wait."""

    def capture(self, call: Callable[[], Any]) -> tuple[Graph, Any]:
        """Record what the call launches, without running it; and its outputs."""

    def synchronize(self) -> None:
        """Wait for all work."""


@dataclass(frozen=True)
class Lack:
    """Something this machine does not have, and what is not measured for it."""

    what: str
    columns: tuple[str, ...]


def lacking() -> list[Lack]:
    """What is missing here; empty where everything can be measured."""
    import onnxruntime
    import torch

    missing = []
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "no CUDA device" if built else f"torch {torch.__version__} is built without CUDA"
        missing.append(Lack(why, ("torch", "compile", "graph")))
    present = onnxruntime.get_available_providers()
    for column, provider in PROVIDERS.items():
        if provider not in present:
            why = f"onnxruntime {onnxruntime.__version__} has no {provider} (pip install onnxruntime-gpu)"
            missing.append(Lack(why, (column,)))
    return missing


class CudaDevice:
    """The first CUDA device of torch."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.name = torch.cuda.get_device_name(0)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """See :class:`Device`."""
        tensor = self.torch.from_numpy(array).to("cuda")
        return tensor.half() if tensor.is_floating_point() else tensor

    def fill(self, tensor: torch.Tensor, array: np.ndarray) -> None:
        """See :class:`Device`."""
        tensor.copy_(self.torch.from_numpy(array))

    def get(self, tensor: torch.Tensor) -> np.ndarray:
        """See :class:`Device`."""
        return tensor.float().cpu().numpy()

    def warm_up(self, call: Callable[[], Any], times: int) -> None:
        """See :class:`Device`."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for _ in range(times):
                call()
        self.torch.cuda.current_stream().wait_stream(stream)

    def capture(self, call: Callable[[], Any]) -> tuple[Graph, Any]:
        """See :class:`Device`."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            made = call()
        return graph, made

    def synchronize(self) -> None:
        """See :class:`Device`."""
        self.torch.cuda.synchronize()


def eager(module: Callable[..., Any], names: Sequence[str], device: Device) -> Callable[[Arrays], Any]:
    """``module`` on the device, kernel by kernel. The module lies there already, in half precision."""

    def run(feeds: Arrays) -> list[np.ndarray]:
        return _fetched(module(*(device.put(feeds[name]) for name in names)), device)

    return run


def graphed(
    module: Callable[..., Any], names: Sequence[str], feeds: Arrays, device: Device
) -> Callable[[Arrays], Any]:
    """``module`` captured once for the shapes of ``feeds``; a call fills its inputs and replays it.

    Raises:
        Refused: in a call with other shapes.
    """
    inputs = {name: device.put(feeds[name]) for name in names}

    def call() -> Any:
        return module(*inputs.values())

    device.warm_up(call, WARM_UPS)
    graph, made = device.capture(call)
    shapes = {name: feeds[name].shape for name in names}

    def run(feeds: Arrays) -> list[np.ndarray]:
        for name in names:
            if feeds[name].shape != shapes[name]:
                raise Refused(f"captured for {name} {shapes[name]}, given {feeds[name].shape}")
            device.fill(inputs[name], feeds[name])
        graph.replay()
        return _fetched(made, device)

    return run


def _fetched(made: Any, device: Device) -> list[np.ndarray]:
    return [device.get(value) for value in (made if isinstance(made, tuple) else (made,))]


def torch_engines(case: Case, device: Device) -> dict[str, Callable[[], Engine]]:
    """Builders of the three torch columns; the module is moved to the device by the first of them."""
    names = [spec.name for spec in case.meta.inputs]

    def module() -> torch.nn.Module:
        return case.module.eval().to("cuda").half()

    def compiled() -> Any:
        import torch

        torch._dynamo.reset()
        return torch.compile(module())

    return {
        "torch": lambda: _built(lambda: eager(module(), names, device), "", case),
        "compile": lambda: _built(lambda: eager(compiled(), names, device), "inductor", case),
        "graph": lambda: _built(lambda: graphed(module(), names, case.feeds, device), "captured once", case),
    }


def artefact(case: Case, provider: str, out: Path) -> Engine:
    """``rubicc compile --target gpu:PROVIDER --precision fp16``, opened as a user opens it."""
    import rubicc
    from rubicc.errors import RubiccError

    try:
        rubicc.compile(
            case.path, out=out, target=f"gpu:{provider}", precision="fp16", batch=case.network.batch
        )
        session = rubicc.load(out)
    except RubiccError as err:
        raise Refused(str(err).splitlines()[0][:300]) from err
    names = [spec.name for spec in session.outputs]

    def run(feeds: Arrays) -> list[np.ndarray]:
        made = session.run(feeds)
        return [made[name] for name in names]

    return _built(lambda: run, f"onnxruntime {PROVIDERS[provider]}", case)


def _built(make: Callable[[], Callable[[Arrays], Any]], detail: str, case: Case) -> Engine:
    import torch

    start = time.perf_counter()
    with refusals(), torch.no_grad():
        inner = make()
        inner(case.feeds)

    def run(feeds: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            made: list[np.ndarray] = inner(feeds)
        return made

    # Half precision runs on the same matrix units at the same rate as bf16: one peak for both.
    return Engine(run, "bf16", detail, time.perf_counter() - start)


def peak(device: Device) -> Peak:
    """bf16 matrix product on the device, waited for."""
    import torch

    a, b = (torch.randn(GEMM, GEMM, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        torch.mm(a, b)
        device.synchronize()

    return Peak(f"torch bf16 GEMM {GEMM}", "bf16", GEMM**3, run)
