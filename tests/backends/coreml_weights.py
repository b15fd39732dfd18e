"""Packages made of one weight, and what is stored in them, read from disk by the interpreter's own parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rubicc.backends.coreml import compress, lowering, tools
from rubicc.backends.coreml.package import WEIGHTS_FILE, Facts, write_package
from rubicc.backends.coreml.run.constexpr import decode
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Function, Operation, Package
from rubicc.evidence.decision import Decision
from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, SOURCE_KEY, Graph, spec_of
from rubicc.shapes import resolve_shapes

Nodes = list[onnx.NodeProto]
MOST = 1 << 27
FACTS = Facts("one weight", "the author", "MIT")


@dataclass(frozen=True)
class Read:
    """A package read back.

    Attributes:
        kinds: constexpr operators in file order.
        values: result of every constexpr operation that ends a weight, in the arithmetic asked for.
        parts: stored arrays of each constexpr operation, codes widened to 8 bits.
        types: element types of those arrays, ``uint4``.
        records: what compression says of the weights.
        nbytes: of weight.bin.
        package: as loaded.
    """

    kinds: tuple[str, ...]
    values: tuple[np.ndarray, ...]
    parts: tuple[Mapping[str, Any], ...]
    types: tuple[Mapping[str, str], ...]
    records: tuple[compress.Stored, ...]
    decisions: tuple[Decision, ...]
    nbytes: int
    package: Package

    @property
    def codes(self) -> set[str]:
        """Codes of the decisions about weights."""
        return {one.code for one in self.decisions if one.code.startswith("RUB-COREML-D3")}

    def run(self, semantics: str) -> np.ndarray:
        """The weight as the whole package computes it: what comes out for zeros."""
        (feature,) = self.package.main.inputs
        shape = tuple(int(n) for n in feature.type.shape if n is not None)  # type: ignore[union-attr]
        (y,) = self.package.run({feature.name: np.zeros(shape, np.float32)}, semantics=semantics).values()
        return np.asarray(y)


def node(op: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """``node("Quant", "w s z b", "q", signed=1)``."""
    domain = QONNX_DOMAIN if op in ("Quant", "BipolarQuant") else domain
    made = helper.make_node(op, inputs.split(), [output], name=f"n_{output}", domain=domain, **attributes)
    made.metadata_props.add(key=SOURCE_KEY, value=f"m.{output}")
    return made


def net(nodes: Nodes, constants: Mapping[str, Any], weight: str, shape: tuple[int, ...]) -> Graph:
    """``y = x + weight``, all of ``shape``: what is added is the weight, whatever its form."""
    arrays = {name: _float32(value) for name, value in constants.items()}
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in "xy"]
    graph = helper.make_graph(
        [*nodes, node("Add", f"x {weight}", "y")],
        "weight",
        io[:1],
        io[1:],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX_DOMAIN, 2)]
    return Graph.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def _float32(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def computed(graph: Graph, shape: tuple[int, ...]) -> np.ndarray:
    """The weight as the executor of graphs sees it, float32."""
    (y,) = execute(graph, {"x": np.zeros(shape, np.float32)}).values()
    return np.asarray(y)


def write(graph: Graph, folder: Path, target: str, precision: str = "fp16") -> lowering.Lowered:
    """Lower and save ``folder/Net.mlpackage``."""
    shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, "fixed")
    lowered = lowering.lower(graph, target=target, precision=precision, shapes=shapes)
    given = {item.name: item for item in shapes.inputs}
    write_package(
        folder / "Net.mlpackage", lowered.program, tools.OPSETS[target], given, FACTS, hash_key="hash"
    )
    return lowered


def stored(graph: Graph, folder: Path, target: str, precision: str = "fp16", *, arithmetic: str = "") -> Read:
    """Save ``graph`` and read its compressed weights back.

    Args:
        arithmetic: float type that codes and scales are multiplied in; that of the program when empty.
    """
    lowered = write(graph, folder, target, precision)
    return read(folder / "Net.mlpackage", lowered, arithmetic or precision)


def read(path: Path, lowered: lowering.Lowered, arithmetic: str) -> Read:
    """Every constexpr operation of a saved package, decoded."""
    package = load(path)
    dtype = np.dtype({"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}[arithmetic])
    held: dict[str, np.ndarray] = {}
    kinds, parts, types, ends = [], [], [], []
    for operation in package.main.operations():
        if operation.type.startswith("constexpr_"):
            given, kept = _parts(package.main, operation, held)
            made = decode(operation.type, given, dtype, MOST)
            held |= {out.name: array for out, array in zip(operation.outputs, made, strict=True)}
            ends += [made[0]] if len(made) == 1 else []
            kinds.append(operation.type)
            parts.append(given)
            types.append(kept)
    weights = path / WEIGHTS_FILE
    return Read(
        tuple(kinds),
        tuple(ends),
        tuple(parts),
        tuple(types),
        tuple(one for one in lowered.weights.values() if isinstance(one, compress.Stored)),
        lowered.decisions,
        weights.stat().st_size if weights.exists() else 0,
        package,
    )


def _parts(
    main: Function, operation: Operation, held: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and element types of an operation's parameters."""
    arrays: dict[str, Any] = {name: one.value() for name, one in operation.attributes.items()}
    types = {name: str(one.type).partition("[")[0] for name, one in operation.attributes.items()}
    for name, argument in operation.inputs.items():
        constant = main.constant(argument)
        if constant is None:
            arrays[name] = held[argument.names[0]]
        else:
            arrays[name] = constant.value()
            types[name] = str(constant.type).partition("[")[0]
    return arrays, types


def quantised(
    weight: np.ndarray, scale: Any, bits: float, *, block: int = 0, zero: Any = 0.0, **attributes: Any
) -> Graph:
    """``x + Quant(weight)``; with ``block``, scales (rows, blocks, 1) of blocks along the last axis."""
    given = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND", **attributes}
    constants = {
        "w": weight,
        "s": np.asarray(scale, np.float32),
        "z": np.asarray(zero, np.float32),
        "b": np.float32(bits),
    }
    if not block:
        return net([node("Quant", "w s z b", "q", **given)], constants, "q", weight.shape)
    constants["w"] = weight.reshape(len(weight), -1, block)
    constants["shape"] = np.asarray(weight.shape, np.int64)
    nodes = [node("Quant", "w s z b", "parts", **given), node("Reshape", "parts shape", "q")]
    return net(nodes, constants, "q", weight.shape)


def integers(weight: np.ndarray, scale: Any, low: int, high: int, zero: Any = 0) -> np.ndarray:
    """Codes as QONNX defines them: clip, then round half to even."""
    steps = weight.astype(np.float32) / np.asarray(scale, np.float32) + np.float32(zero)
    return np.rint(np.clip(steps, low, high)).astype(np.int32)


def half(array: Any) -> np.ndarray:
    """The nearest numbers that fp16 holds, as float32."""
    return np.asarray(array, np.float16).astype(np.float32)
