"""Small ONNX graphs as packages on disk: lowered, saved, run by the interpreter, held to the executor."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rubicc.backends.coreml import lowering, tools
from rubicc.backends.coreml.lowering import Lowered
from rubicc.backends.coreml.package import Facts, write_package
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Package
from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, SOURCE_KEY, Graph, spec_of
from rubicc.shapes import Shapes, resolve_shapes

FACTS = Facts("a graph", "the author", "MIT")
TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
Feeds = Mapping[str, np.ndarray]
_HOME = tempfile.TemporaryDirectory()  # goes with the process; packages read their weights when first run
_QONNX = frozenset({"Quant", "IntQuant", "BipolarQuant", "Trunc"})


@dataclass(frozen=True)
class Net:
    """A lowered graph and its package, read back from disk."""

    graph: Graph
    lowered: Lowered
    package: Package

    @property
    def counts(self) -> Counter[str]:
        """Operations by type, constants not counted."""
        return Counter(op.type for op in self.package.main.operations() if op.type != "const")

    @property
    def codes(self) -> set[str]:
        """Codes of the decisions."""
        return {decision.code for decision in self.lowered.decisions}

    def run(self, feeds: Feeds, semantics: str = "fp64") -> dict[str, np.ndarray]:
        """Outputs by the graph's names; feeds are brought to the package's types."""
        names, types = self.lowered.names, self.lowered.types
        typed = {names[name]: np.asarray(array).astype(types[name]) for name, array in feeds.items()}
        made = self.package.run(typed, semantics=semantics)
        return {value.name or "": made[names[value.name or ""]] for value in self.graph.outputs}

    def wanted(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """What the executor makes of the feeds in float64."""
        return {k: np.asarray(v) for k, v in execute(self.graph, dict(feeds), dtype=np.float64).items()}

    def gap(self, feeds: Feeds, semantics: str = "fp64") -> float:
        """Largest difference to the executor, relative to the largest value of that output."""
        worst = 0.0
        made = self.run(feeds, semantics)
        for name, want in self.wanted(feeds).items():
            have = made[name].astype(np.float64)
            assert have.shape == want.shape, (name, have.shape, want.shape)
            want = want.astype(np.float64)
            assert np.array_equal(np.isnan(have), np.isnan(want)), name
            if want.size:
                differences = np.abs(np.nan_to_num(have - want))
                worst = max(worst, float(differences.max()) / max(float(np.nanmax(np.abs(want))), 1e-30))
        return worst


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """``node("Conv", "x w", "y", group=2)``; ``-`` leaves an operand out."""
    names = [["" if name == "-" else name for name in side.split()] for side in (inputs, outputs)]
    domain = QONNX_DOMAIN if op in _QONNX else ""
    made = helper.make_node(op, *names, name=f"n_{outputs.split()[0]}", domain=domain, **attributes)
    made.metadata_props.add(key=SOURCE_KEY, value=f"net.{outputs.split()[0]}")
    return made


def net(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Mapping[str, Sequence[int | str] | None] | str = "y",
    types: Mapping[str, int] | None = None,
    opset: int = 20,
) -> Graph:
    """A graph; float64 constants become float32, inputs and outputs are floats unless ``types`` says else."""
    kinds = dict(types or {})
    shapes = dict.fromkeys(outputs.split()) if isinstance(outputs, str) else dict(outputs)

    def info(name: str, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)

    arrays = {name: _single(np.asarray(value)) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [info(name, list(shape)) for name, shape in inputs.items()],
        [info(name, None if shape is None else list(shape)) for name, shape in shapes.items()],
        [
            numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), name)
            for name, a in arrays.items()
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX_DOMAIN, 2)]
    return Graph.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def compiled(
    graph: Graph,
    *,
    target: str = "iOS17",
    precision: str = "fp32",
    shapes: str | Shapes = "",
    half_io: bool = False,
) -> Net:
    """Lower, write, read back.

    Args:
        shapes: text as for ``--shapes``; needed where an input has free dimensions.
    """
    if isinstance(shapes, str):
        specs = [spec_of(value) for value in graph.inputs]
        fixed = ";".join(f"{spec.name}={'x'.join(map(str, spec.shape))}" for spec in specs)
        shapes = resolve_shapes(specs, graph.meta, shapes or fixed)
    lowered = lowering.lower(graph, target=target, precision=precision, shapes=shapes, half_io=half_io)
    path = Path(tempfile.mkdtemp(dir=_HOME.name)) / "Net.mlpackage"
    items = {lowered.names[item.name]: item for item in shapes.inputs}
    write_package(path, lowered.program, tools.OPSETS[target], items, FACTS, hash_key="hash")
    return Net(graph, lowered, load(path))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, float32."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


class Build:
    """Collects nodes one by one; what nobody reads becomes an output.

    Args:
        feeds: the inputs, by name, with the array that they are run on.
    """

    def __init__(self, **feeds: Any) -> None:
        self.feeds = {name: np.asarray(array) for name, array in feeds.items()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: Any) -> str:
        """Name of a new initializer; float64 becomes float32, plain integers int64."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def __call__(self, op: str, *operands: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; operands are names, arrays (constants), or ``None``. Name or names of its outputs."""
        names = [
            one if isinstance(one, str) else "-" if one is None else self.constant(one) for one in operands
        ]
        made = [f"{op.lower()}{len(self.nodes)}" + (f"_{k}" if outputs > 1 else "") for k in range(outputs)]
        self.nodes.append(node(op, " ".join(names), " ".join(made), **attributes))
        return made[0] if outputs == 1 else tuple(made)

    def graph(self, opset: int = 20, **shapes: Sequence[int | str]) -> Graph:
        """The graph; ``shapes`` are of inputs with free dimensions."""
        read = {name for one in self.nodes for name in one.input}
        ends = [name for one in self.nodes for name in one.output if name not in read]
        kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in self.feeds.items()}
        kinds |= _types_of(self.nodes, self.feeds, self.constants, ends, opset)
        inputs = {name: shapes.get(name, array.shape) for name, array in self.feeds.items()}
        return net(self.nodes, inputs, self.constants, outputs=dict.fromkeys(ends), types=kinds, opset=opset)


def _types_of(nodes: Any, feeds: Feeds, constants: Feeds, ends: Sequence[str], opset: int) -> dict[str, int]:
    """Element types of outputs, as onnx infers them; float where it does not."""
    made = [numpy_helper.from_array(_single(array), name) for name, array in constants.items()]
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    inputs = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in ends]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX_DOMAIN, 2)]
    model = helper.make_model(
        helper.make_graph(nodes, "types", inputs, outputs, made), opset_imports=imports, ir_version=10
    )
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    return {one.name: one.type.tensor_type.elem_type or TensorProto.FLOAT for one in inferred}


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array
