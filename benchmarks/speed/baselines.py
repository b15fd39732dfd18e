"""What a user gets without rubicc: torch, ONNX Runtime and OpenVINO as their documentation says.

Each function gives an :class:`Engine` with numpy arrays in and out, or raises :class:`Refused`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speed.networks import Arrays, Case

Precision = Literal["fp32", "bf16", "int8"]
OPSET = 18


class Refused(Exception):
    """An engine does not take the network; the text says why."""


@dataclass(frozen=True)
class Engine:
    """One candidate.

    Attributes:
        run: one call: arrays in, outputs in the model's order out.
        precision: what its matrix products are computed in: the peak it is held to.
        detail: what was done to get there.
        load_seconds: building or compiling it, first call included.
    """

    run: Callable[[Arrays], list[np.ndarray]]
    precision: Precision
    detail: str = ""
    load_seconds: float = 0.0


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Any failure of a foreign library is a refusal with its first line."""
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    except Refused:
        raise
    except Exception as err:  # torch, ONNX Runtime and OpenVINO share no base class
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise Refused(f"{type(err).__name__}: {(lines or ['no message'])[0][:200]}") from err


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantisers log and print; the table is the output of this program."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def torch_eager(case: Case) -> Engine:
    """The module under ``no_grad`` in eval mode."""
    return _torch_engine(case, case.module.eval(), "")


def torch_compiled(case: Case) -> Engine:
    """``torch.compile`` with its defaults (inductor); compiling is paid in ``load_seconds``."""
    import torch

    torch._dynamo.reset()
    return _torch_engine(case, torch.compile(case.module.eval()), "inductor")


def _torch_engine(case: Case, call: Any, detail: str) -> Engine:
    import torch

    names = [spec.name for spec in case.meta.inputs]

    def run(feeds: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            made = call(*(torch.from_numpy(feeds[name]) for name in names))
        return [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]

    return _opened(lambda: run, "fp32", detail, case)


def export(case: Case, path: Path, *, dynamo: bool = False) -> Path:
    """The module as one ONNX file at the measured shapes, which lets runtimes fold and plan the most."""
    import torch

    with refusals(), torch.no_grad():
        names = [spec.name for spec in case.meta.inputs]
        args = tuple(torch.from_numpy(case.feeds[name]) for name in names)
        torch.onnx.export(
            case.module.eval(),
            args,
            str(path),
            input_names=names,
            output_names=[spec.name for spec in case.meta.outputs],
            opset_version=OPSET,
            dynamo=dynamo,
        )
    return path


def quantised(case: Case, model: Path, path: Path, how: Literal["static", "dynamic"]) -> Path:
    """``model`` in int8 by ONNX Runtime's own tools.

    ``static``: QDQ, activations uint8 and weights int8 per channel, min-max on the calibration batches, after
    its pre-processing. ``dynamic``: weights int8, activations quantised as they come.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with refusals():
        ready = path.with_suffix(".ready.onnx")
        try:
            quant_pre_process(str(model), str(ready))
        except AssertionError:  # its symbolic shape inference does not know every graph
            quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        if how == "dynamic":
            q.quantize_dynamic(str(ready), str(path), weight_type=q.QuantType.QInt8, per_channel=True)
            return path
        q.quantize_static(
            str(ready),
            str(path),
            _reader(case.calibration),
            quant_format=q.QuantFormat.QDQ,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            per_channel=True,
        )
    return path


def integer_layers(model: Path) -> str:
    """How many operators of each kind a quantised file computes in integers, e.g. ``5 DynamicQuantizeLSTM``.

    QDQ files: operators whose weight is dequantised.
    """
    import onnx

    nodes = onnx.load(str(model), load_external_data=False).graph.node
    dequantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    counts: dict[str, int] = {}
    for node in nodes:
        integer = node.op_type in ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QLinearConv")
        heavy = node.op_type in ("Conv", "MatMul", "Gemm") and len(node.input) > 1
        if integer or (heavy and set(node.input[:2]) <= dequantised):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    recurrent = {node.op_type for node in nodes} & {"GRU", "LSTM"}
    said = [f"{count} {op}" for op, count in sorted(counts.items())]
    return ", ".join([*said, *(f"{op} stays in float" for op in sorted(recurrent))]) or "nothing in int8"


def _reader(batches: tuple[Arrays, ...]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out the batches once."""

        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Arrays | None:
            """The next batch, or nothing."""
            return next(self.left, None)

    return Reader()


def ort(case: Case, model: Path, precision: Precision, threads: int, detail: str = "") -> Engine:
    """A session with default options and the given number of threads."""
    import onnxruntime

    def build() -> Callable[[Arrays], list[np.ndarray]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return lambda feeds: list(session.run(None, feeds))

    return _opened(build, precision, detail, case)


def openvino(
    case: Case,
    model: Path,
    precision: Precision,
    threads: int,
    properties: Mapping[str, Any] | None = None,
    detail: str = "",
) -> Engine:
    """A compiled model with default properties, ``properties`` and the given number of threads."""
    from rubicc.backends.cpu_gpu.templates.run import import_openvino

    ov = import_openvino()

    def build() -> Callable[[Arrays], list[np.ndarray]]:
        core = ov.Core()
        compiled = core.compile_model(
            core.read_model(str(model)), "CPU", {"INFERENCE_NUM_THREADS": threads, **(properties or {})}
        )
        request = compiled.create_infer_request()
        # Outputs are views that live until the next call: the most generous reading of "arrays out".
        return lambda feeds: list(request.infer(feeds, share_inputs=True, share_outputs=True).values())

    return _opened(build, precision, detail, case)


def _opened(build: Callable[[], Any], precision: Precision, detail: str, case: Case) -> Engine:
    """Build, and call once: some refuse only then, and compiling is paid there."""
    start = time.perf_counter()
    with refusals():
        run = build()
        run(case.feeds)
    return Engine(run, precision, detail, time.perf_counter() - start)
