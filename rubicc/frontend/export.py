"""PyTorch to ONNX: the two exporters, what each is used for, and what neither may do silently.

* Eager modules are traced by the TorchScript exporter. It keeps one ``Conv``/``GRU``/``LSTM`` node per layer,
  names nodes by module path, honours symbolic batch and time for recurrent layers, and takes 30 ms where the
  dynamo exporter takes seconds. The dynamo exporter bakes the time axis of recurrent nets into the graph
  without an error (torch 2.13), so it is never used for them.
* Exported programs (``.pt2``) and modules that cannot be traced go through the dynamo exporter.

Neither is believed: :mod:`rubicc.frontend.lower` re-executes every graph at a second shape.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnx_ir

from rubicc.errors import ModelRefused
from rubicc.frontend.sequences import split_sequences
from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.spec import TensorSpec
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

OPSET = 20  # newest both exporters write by default under torch 2.13; qonnx, ORT and OpenVINO execute it
Feeds = dict[str, np.ndarray]


def is_recurrent(module: torch.nn.Module) -> bool:
    """Whether any submodule is a torch RNN, LSTM or GRU."""
    import torch

    return any(isinstance(sub, torch.nn.RNNBase) for sub in module.modules())


def is_brevitas(module: torch.nn.Module) -> bool:
    """Whether any submodule comes from Brevitas."""
    return any(type(sub).__module__.startswith("brevitas.") for sub in module.modules())


def trace(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    feeds: Feeds,
    outputs: Sequence[TensorSpec],
) -> onnx.ModelProto:
    """Export an eager module with the TorchScript exporter; Brevitas quantisers become Quant nodes.

    Weights stay where they are: they are inputs of the graph, by their names in the module, until
    :func:`to_graph` puts them in. The exporter would write them into one string after another, four times the
    network at its highest. Brevitas' own exporter needs them inside.

    Args:
        module: in eval mode.
        inputs: specs whose string dimensions stay symbolic.
        feeds: one example array per input.
        outputs: specs whose string dimensions stay symbolic.

    Raises:
        ModelRefused: ``RUB-LOW-001`` when torch cannot trace or express the module.
    """
    import torch

    _refuse_quantised_recurrence(module)
    args = tuple(torch.from_numpy(feeds[spec.name]) for spec in inputs)
    axes = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*inputs, *outputs)
    }
    options: dict[str, Any] = {
        "input_names": [spec.name for spec in inputs],
        "output_names": [spec.name for spec in outputs],
        "dynamic_axes": axes,
        "opset_version": OPSET,
        "dynamo": False,
        # Folding and batch-norm fusion belong to our passes, where they are executed before and after.
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
    }
    with quiet_torch(), torch.no_grad():
        try:
            if is_brevitas(module):
                from brevitas.export import export_qonnx

                proto = export_qonnx(module, args=args, **options)
            else:
                buffer = io.BytesIO()
                options["export_params"] = False
                with _weights_not_copied():
                    torch.onnx.export(module, args, cast(Any, buffer), **options)  # the tracer takes a stream
                proto = onnx.load_from_string(buffer.getvalue())
        except Exception as err:
            raise _export_error(module, err) from err
    _drop_static_inputs(proto)
    if not proto.graph.node:
        # Brevitas' QuantLSTM does exactly this: success is reported and the graph is empty.
        raise ModelRefused(
            "RUB-LOW-003",
            "the exporter reported success and wrote an empty graph",
            where=type(module).__name__,
            hint="replace layers the exporter does not know (quantised recurrent layers are one such kind)",
        )
    return proto


@contextlib.contextmanager
def _weights_not_copied() -> Iterator[None]:
    """The tracer's shape inference without the weights' values, which it writes into a message of its own.

    It needs none of them: shapes are those of its tensors, and rubicc infers its own afterwards.
    """
    import torch

    name = "_jit_pass_onnx_graph_shape_type_inference"
    infer = getattr(torch._C, name)
    setattr(torch._C, name, lambda graph, weights, opset: infer(graph, {}, opset))
    try:
        yield
    finally:
        setattr(torch._C, name, infer)


def export_program(
    program: torch.export.ExportedProgram | torch.nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    feeds: Feeds | None = None,
) -> onnx.ModelProto:
    """Export with the dynamo exporter (exported programs, or modules the tracer cannot take).

    Raises:
        ModelRefused: ``RUB-LOW-001`` when torch cannot translate the program; ``RUB-LOW-004`` when it is
            recurrent and keeps a dynamic time axis.
    """
    import torch

    options: dict[str, Any] = {"dynamo": True, "optimize": False, "verbose": False, "opset_version": OPSET}
    options["input_names"] = [spec.name for spec in inputs]
    options["output_names"] = [spec.name for spec in outputs]
    args: tuple[Any, ...] = ()
    if isinstance(program, torch.export.ExportedProgram):
        _refuse_dynamic_recurrence(program)
    else:
        assert feeds is not None
        args = tuple(torch.from_numpy(feeds[spec.name]) for spec in inputs)
        dims: dict[str, Any] = {}
        options["dynamic_shapes"] = tuple(
            {
                axis: dims.setdefault(dim, torch.export.Dim(dim))
                for axis, dim in enumerate(spec.shape)
                if isinstance(dim, str)
            }
            for spec in inputs
        )
    with quiet_torch(), torch.no_grad():
        try:
            result = torch.onnx.export(program, args, **options)
        except Exception as err:
            raise _export_error(program, err) from err
    assert result is not None
    return result.model_proto


def parameters(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers by name, over the module's own memory."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}


def to_graph(
    proto: onnx.ModelProto, meta: Any, root: str, weights: Mapping[str, np.ndarray] | None = None
) -> Graph:
    """Wrap an exporter's proto; exporter notes become ``rubicc.source`` and everything else is dropped.

    Args:
        root: what nodes of the outermost forward() say they come from; the model's class name.
        weights: values of inputs that are none, by name.

    The dynamo exporter writes Python stack traces with paths of this machine into the file; nothing of that
    may reach an artefact.
    """
    graph = Graph.from_proto(proto, meta)
    _put_in(graph, weights or {})
    _separate_parameters(graph)
    split_sequences(graph)
    for node in graph.all_nodes():
        source = _source(node)
        node.metadata_props.clear()
        node.doc_string = None
        node.metadata_props[SOURCE_KEY] = source or root
    for value in [*graph.ir.inputs, *graph.ir.outputs, *graph.ir.initializers.values()]:
        value.metadata_props.clear()
    graph.ir.metadata_props.clear()
    graph.model.metadata_props.clear()
    graph.model.producer_name = "rubicc"
    graph.model.producer_version = None
    graph.ir.name = "main"
    return graph


def _put_in(graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
    for value in list(graph.ir.inputs):
        name = value.name or ""
        if name in weights:
            graph.ir.inputs.remove(value)
            value.const_value = onnx_ir.Tensor(weights[name], name=name)
            value.shape = onnx_ir.Shape(weights[name].shape)
            graph.ir.register_initializer(value)


def _separate_parameters(graph: Graph) -> None:
    """Undo the tracer's merging of equal initializers (fresh batch norms, zero biases).

    It writes ``Identity(first) -> second`` for parameters that happen to hold equal numbers. They are
    different parameters: counted separately, and trained separately later. Tied parameters have one name and
    stay one.
    """
    for node in graph.nodes:
        tensor = node.inputs[0].const_value if node.op_type == "Identity" and node.inputs[0] else None
        old = node.outputs[0]
        if tensor is None or old.is_graph_output():
            continue
        name = old.name
        old.name = f"{name}_alias"
        own = onnx_ir.Value(
            name=name,
            shape=onnx_ir.Shape(tensor.numpy().shape),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=onnx_ir.Tensor(tensor.numpy(), name=name),
        )
        graph.ir.register_initializer(own)
        old.replace_all_uses_with(own)
        graph.ir.remove(node, safe=True)


def _source(node: onnx_ir.Node) -> str:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if scopes:
        with contextlib.suppress(ValueError, SyntaxError):
            named = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
            return named[-1] if named else ""
    name = node.name or ""
    if not name.startswith("/"):
        return ""
    path: list[str] = []
    for part in name.split("/")[1:-1]:
        # children of a Sequential repeat their parent's name: /block/block.0/Conv
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def _drop_static_inputs(proto: onnx.ModelProto) -> None:
    """Initializers listed as graph inputs (Brevitas' exporter does it) are weights, not inputs."""
    weights = {init.name for init in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _refuse_quantised_recurrence(module: torch.nn.Module) -> None:
    for path, sub in module.named_modules():
        kind = type(sub)
        if kind.__module__.startswith("brevitas.") and kind.__name__ in ("QuantLSTM", "QuantRNN"):
            raise ModelRefused(
                "RUB-LOW-003",
                f"Brevitas {kind.__name__} cannot be exported: its exporter writes an empty graph or an "
                "operator nothing executes",
                where=path or kind.__name__,
                hint="train the recurrent layer in float and quantise it in the graph",
            )


def _refuse_dynamic_recurrence(program: torch.export.ExportedProgram) -> None:
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    recurrent = sorted(n for n in names if any(n.startswith(f"aten.{op}.") for op in ("lstm", "gru")))
    if recurrent and program.range_constraints:
        raise ModelRefused(
            "RUB-LOW-004",
            f"the exported program is recurrent ({', '.join(recurrent)}) and has symbolic dimensions; "
            "torch's exporter would bake the length into the graph without saying so",
            hint="export the .pt2 with static shapes, or give rubicc the checkpoint instead of the program",
        )


def _export_error(model: object, err: Exception) -> ModelRefused:
    return ModelRefused(
        "RUB-LOW-001",
        f"torch could not express the model as ONNX: {type(err).__name__}: {first_line(err, 300)}",
        where=type(model).__name__,
        hint="-vv prints torch's whole message; data-dependent Python and custom autograd are usual causes",
    )


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence exporter chatter (deprecations, tracer notes): it says nothing our checks do not test."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
