"""The error of every layer: the emitted model, read back from disk, beside our own executor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from rubicc.backends.cpu_gpu.run import home_of, translated
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.evidence.gaps import LayerGap
from rubicc.evidence.gaps import layer_gaps as gaps_of_layers
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, op_key, source_of

Arrays = Mapping[str, np.ndarray]
_DOUBLE = np.dtype(np.float64)


def model_of(folder: str | Path) -> bytes:
    """The emitted model's bytes, verified.

    Raises:
        ModelRefused: files damaged or changed (RUB-CPU-030, 031).
    """
    path = home_of(Path(folder))
    with translated(path.name):
        return runner.read_model(path, runner.read_description(path))


def layer_gaps(
    folder: str | Path,
    feeds: Arrays,
    *,
    reference: Graph | None = None,
    dtype: np.dtype | None = _DOUBLE,
) -> list[LayerGap]:
    """Gap of every node's outputs: the emitted model in ONNX Runtime against our executor, in node order.

    Runs a copy of the emitted model in which every intermediate value is an output, with ONNX Runtime's graph
    optimisations off (fused values do not exist). The errors are those that arrive at a layer: its own and
    its inputs'. All values are held at once: give one batch item.

    Args:
        reference: graph to execute as the reference; ``None`` = the emitted graph itself. Give the fp32 graph
            for an fp16 artefact.
        dtype: floating type of the reference execution; ``None`` = the types the graph declares.
    """
    emitted = Graph.from_proto(onnx.load_from_string(model_of(folder)))
    rows = [
        (value.name, node.name or "", op_key(node), source_of(node))
        for node in emitted.nodes
        for value in node.outputs
        if value.name and node.op_type != "Constant"
    ]
    wanted = reference or emitted
    produced = {value.name for node in wanted.nodes for value in node.outputs if value.name}
    names = [row[0] for row in rows if row[0] in produced]
    ref = execute(wanted, dict(feeds), dtype=dtype, keep=names)
    floating = [row for row in rows if row[0] in ref and ref[row[0]].dtype.kind == "f"]
    return gaps_of_layers(ref, _intermediates(emitted, feeds, [row[0] for row in floating]), floating)


def _intermediates(graph: Graph, feeds: Arrays, names: list[str]) -> dict[str, np.ndarray]:
    """Named values of ``graph`` as ONNX Runtime computes them."""
    import onnxruntime as ort

    exposed = graph.clone()
    present = {value.name for value in exposed.ir.outputs}
    by_name: dict[str | None, ir.Value] = {v.name: v for node in exposed.nodes for v in node.outputs}
    exposed.ir.outputs.extend(by_name[name] for name in names if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        exposed.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = [output.name for output in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True))
