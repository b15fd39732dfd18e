"""The one intermediate form: a QONNX graph held in memory by ``onnx_ir``.

``Graph`` adds to ``onnx_ir.Model`` what rubicc relies on everywhere: model metadata, provenance of every
node, weight-sharing copies, and the canonical order of opsets (the ``''`` domain first, because qonnx reads
``opset_import[0]`` as the ONNX opset). It stays thin on purpose: passes edit ``graph.ir`` with onnx_ir's
own API.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir

from rubicc.spec import META_KEY, ModelMeta, TensorSpec

QONNX_DOMAIN = "qonnx.custom_op.general"
QUANTISERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc")
SOURCE_KEY = "rubicc.source"  # PyTorch module path (or original ONNX node name) the node came from
MADE_BY_KEY = "rubicc.made_by"  # pass id that created the node; absent on nodes of the front end


class Graph:
    """A QONNX graph with metadata and provenance.

    Attributes:
        model: the underlying ``onnx_ir.Model``.
        meta: what the model is beside its weights; ``None`` for a bare ONNX file.
    """

    def __init__(self, model: onnx_ir.Model, meta: ModelMeta | None = None) -> None:
        self.model = model
        stored = model.graph.metadata_props.get(META_KEY) or model.metadata_props.get(META_KEY)
        self.meta = meta if meta is not None else (ModelMeta.from_json(stored) if stored else None)
        _order_opsets(model)

    @property
    def ir(self) -> onnx_ir.Graph:
        """The main graph; edit it with onnx_ir's API."""
        return self.model.graph

    @property
    def nodes(self) -> list[onnx_ir.Node]:
        """Main-graph nodes in topological order."""
        return list(self.model.graph)

    @property
    def inputs(self) -> list[onnx_ir.Value]:
        """Inputs that are not initializers."""
        return [v for v in self.model.graph.inputs if v.name not in self.model.graph.initializers]

    @property
    def outputs(self) -> list[onnx_ir.Value]:
        """Graph outputs."""
        return list(self.model.graph.outputs)

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set."""
        return self.model.opset_imports.get("", 0)

    def op_counts(self) -> dict[str, int]:
        """Operator types (``domain::`` prefixed unless standard) and how often each occurs, sorted."""
        counts: dict[str, int] = {}
        for node in self.all_nodes():
            key = op_key(node)
            counts[key] = counts.get(key, 0) + 1
        return dict(sorted(counts.items()))

    def all_nodes(self) -> Iterator[onnx_ir.Node]:
        """Nodes of the main graph and of every nested subgraph."""
        return self.model.graph.all_nodes()

    def clone(self) -> Graph:
        """A copy whose topology is independent and whose weights are shared (no tensor is copied)."""
        return Graph(self.model.clone(), self.meta)

    def to_proto(self) -> onnx.ModelProto:
        """Serialise, with metadata in ``metadata_props``."""
        if self.meta is not None:
            self.model.metadata_props[META_KEY] = self.meta.to_json()
        _order_opsets(self.model)
        return onnx_ir.to_proto(self.model)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, meta: ModelMeta | None = None) -> Graph:
        """Wrap a trusted, already checked proto (files go through :mod:`rubicc.ir.io`)."""
        graph = cls(onnx_ir.from_proto(proto), meta)
        graph.normalise()
        return graph

    def normalise(self) -> None:
        """Bring a foreign graph into our form: weights are no inputs, node names exist and are unique."""
        inputs = self.inputs
        if len(inputs) != len(self.ir.inputs):
            self.ir.inputs.clear()
            self.ir.inputs.extend(inputs)
        if any(node.domain == QONNX_DOMAIN for node in self.all_nodes()):
            self.model.opset_imports.setdefault(QONNX_DOMAIN, 1)  # qonnx itself does not insist on the import
        for value in self.ir.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, onnx_ir.TensorProtoTensor):  # it would copy the weight at every numpy()
                array = tensor.numpy()
                value.const_value = onnx_ir.Tensor(array, tensor.dtype, shape=tensor.shape, name=value.name)
        seen: set[str] = set()
        for index, node in enumerate(self.all_nodes()):
            if not node.name or node.name in seen:
                base = f"{node.op_type}_{index}"
                node.name = base if base not in seen else f"{base}_{len(seen)}"
            seen.add(node.name)


def op_key(node: onnx_ir.Node) -> str:
    """``Conv`` for the standard domain, ``qonnx.custom_op.general::Quant`` otherwise."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def is_quantiser(node: onnx_ir.Node) -> bool:
    """Whether ``node`` is a QONNX quantiser, which no runtime executes."""
    return node.domain == QONNX_DOMAIN and node.op_type in QUANTISERS


def source_of(node: onnx_ir.Node) -> str:
    """Module path the node came from, or its own name when unknown."""
    return node.metadata_props.get(SOURCE_KEY) or node.name or f"<{node.op_type}>"


def spec_of(value: onnx_ir.Value) -> TensorSpec:
    """Interface of a graph input or output; an unnamed free dimension gets a symbol of its own.

    An unknown rank reads as none, an unknown element type as float32.
    """
    shape = tuple(
        dim if isinstance(dim, int) else (str(dim.value) if dim.value else f"{value.name}_{axis}")
        for axis, dim in enumerate(value.shape if value.shape is not None else ())
    )
    dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
    return TensorSpec(value.name or "", shape, dtype)


def inherit_provenance(new: onnx_ir.Node, old: onnx_ir.Node, made_by: str) -> onnx_ir.Node:
    """Mark ``new`` as made by pass ``made_by`` from ``old``; returns ``new``."""
    if SOURCE_KEY in old.metadata_props:
        new.metadata_props[SOURCE_KEY] = old.metadata_props[SOURCE_KEY]
    new.metadata_props[MADE_BY_KEY] = made_by
    return new


def _order_opsets(model: onnx_ir.Model) -> None:
    imports = model.opset_imports
    if "" in imports and next(iter(imports)) != "":
        ordered = {"": imports[""]} | dict(imports)
        imports.clear()
        imports.update(ordered)
