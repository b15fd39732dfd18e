"""A graph becomes a MIL program, node by node, in the precision it will have: nothing is converted later.

coremltools' own conversion builds the program in float32, casts and cleans it in some ninety passes, and
copies the weights on the way. Here constants are made once in their final type, fusions are found on the
graph, and the only clean-up is the removal of what nobody reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rubicc.backends.base import Target, refuse
from rubicc.backends.coreml import compress, tools
from rubicc.backends.coreml.lowering import fuse
from rubicc.backends.coreml.lowering.check import refusals
from rubicc.backends.coreml.lowering.context import Context, Var, Weight
from rubicc.backends.coreml.lowering.converters import CONVERTERS, FUSED
from rubicc.backends.coreml.lowering.facts import Facts, is_op, kind_of
from rubicc.errors import RubiccError, Unsupported
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.ir.shapes import infer_shapes
from rubicc.shapes import Shapes

_EXCHANGED = {"fp16": "float16", "fp32": "float32", "int32": "int32"}


@dataclass(frozen=True)
class Lowered:
    """A MIL program and what is known about it.

    Attributes:
        program: ``coremltools.converters.mil.mil.Program`` with the function ``main``.
        weights: constants of the program -> the initializers they hold.
        names: inputs and outputs of the graph -> their names in the program.
        types: inputs and outputs of the graph -> ``float16``, ``float32`` or ``int32``, as exchanged.
        provenance: MIL operations -> names of the nodes they come from.
    """

    program: Any
    decisions: tuple[Decision, ...]
    weights: Mapping[str, Weight]
    names: Mapping[str, str]
    types: Mapping[str, str]
    provenance: Mapping[str, str]


def lower(
    graph: Graph,
    *,
    target: str = "",
    precision: str = "fp16",
    shapes: Shapes | None = None,
    half_io: bool = False,
) -> Lowered:
    """Write ``graph`` as a MIL program.

    Args:
        graph: after the pipeline; left as it is.
        target: ``iOS16`` to ``iOS26``, empty for the default.
        precision: type that floats are computed in, ``fp16`` or ``fp32``; inputs and outputs stay fp32.
        shapes: symbols that have one number are bound to it; the others stay free in the program.
        half_io: floating inputs and outputs are float16 in an fp16 program.

    Raises:
        Unsupported: codes ``RUB-COREML-101`` to ``-107``, with all findings.
        ToolMissing: ``RUB-COREML-001``.
    """
    inferred = infer_shapes(graph, shapes.bound if shapes is not None else None)
    opset = tools.opset(target)
    refuse(refusals(Facts(inferred, opset)), Target("coreml", opset.name))
    tools.coremltools()
    with tools.quiet(), _own_names():
        context = Context(inferred, opset, precision)
        return _Writer(context, precision if half_io else "fp32").write()


@contextmanager
def _own_names() -> Iterator[None]:
    """The builder numbers nameless constants per process; here it starts at nought, for equal bytes."""
    from coremltools.converters.mil.mil import Builder

    before, Builder.name_count = Builder.name_count, defaultdict(int)
    try:
        yield
    finally:
        Builder.name_count = before


class _Writer:
    """Writes the function ``main``.

    Args:
        exchanged: type of floating inputs and outputs.
    """

    def __init__(self, context: Context, exchanged: str) -> None:
        self.context = context
        self.exchanged = exchanged
        self.fusions = fuse.find(context)
        self.covered = set(fuse.roots(self.fusions))
        self.names: dict[str, str] = {}
        self.types: dict[str, str] = {}

    def write(self) -> Lowered:
        """The program."""
        from coremltools.converters.mil.mil import Function, Program

        context = self.context
        inputs = {self._public(value): value for value in context.graph.inputs}
        outputs = [(self._public(value), value) for value in context.graph.outputs]
        places = {name: self._placeholder(value) for name, value in inputs.items()}
        with Function(places, opset_version=context.opset.target) as function:
            for name, value in inputs.items():
                self._read(value, function.inputs[name])
            for node in context.graph.ir:
                self._node(node)
            function.set_outputs([self._output(name, value) for name, value in outputs])
        _prune(function)
        program = Program()
        program.add_function("main", function)
        kept = {op.name for op in function.operations}
        weights = {name: weight for name, weight in context.weights.items() if name in kept}
        return Lowered(
            program,
            (*context.decisions.values(), *compress.decisions(weights.values())),
            weights,
            self.names,
            self.types,
            {name: node for name, node in context.provenance.items() if name in kept},
        )

    def _public(self, value: ir.Value) -> str:
        """Name of an input or output, reserved before any operation can take it."""
        name = value.name or ""
        if name not in self.names:
            self.names[name] = self.context.unique(name)
            if self.names[name] != name:
                what = f"{name!r} is called {self.names[name]!r}"
                self.context.decide(
                    "RUB-COREML-D16", name, what, "names in a Core ML program are identifiers"
                )
        return self.names[name]

    def _placeholder(self, value: ir.Value) -> Any:
        context, kind = self.context, kind_of(value)
        only_float = kind != "float" and _read_as_float(value)
        dtype = self.exchanged if kind == "float" or only_float else "int32"
        declared = value.dtype.name if value.dtype is not None else "FLOAT"
        what = f"input {declared.lower()} becomes {dtype}"
        if only_float:
            reason = "the network reads it as a float; the Neural Engine cannot cast whole numbers"
            context.decide("RUB-COREML-D19", value.name or "", what, reason)
        elif declared not in ("FLOAT", "INT32") and not (kind == "float" and dtype == "fp16"):
            context.decide("RUB-COREML-D14", value.name or "", what, "Core ML does not exchange that type")
        self.types[value.name or ""] = _EXCHANGED[dtype]
        shape = tuple(_dim(dim) for dim in context.dims(value) or ())
        return context.mb.placeholder(shape=shape, dtype=context.types.string_to_builtin(dtype))

    def _read(self, value: ir.Value, var: Var) -> None:
        """Casts come first, so that what only moves the input is already in the program's type."""
        context = self.context
        boolean = kind_of(value) == "bool" and context.type_of(var) == "int32"
        context.set(value, context.cast(var, "bool" if boolean else None))

    def _node(self, node: ir.Node) -> None:
        if node in self.covered or all(self.context.is_constant(value) for value in node.outputs):
            return
        if node.outputs and node.outputs[0] in self.context.preset:
            self.context.set(node.outputs[0], self.context.preset[node.outputs[0]])
            return
        fusion = self.fusions.get(node)
        try:
            if fusion is not None:
                FUSED[fusion.kind](self.context, fusion)
            else:
                CONVERTERS[op_key(node)].run(self.context, node)
        except RubiccError:
            raise
        except (ValueError, TypeError, AttributeError, AssertionError, IndexError, KeyError) as err:
            raise Unsupported(
                "RUB-COREML-107",
                f"{op_key(node)}: {str(err) or type(err).__name__}",
                where=f"node {node.name!r} from {source_of(node)}",
                hint="report it with `rubicc env`; --shapes fixed may avoid it",
            ) from err

    def _output(self, name: str, value: ir.Value) -> Var:
        """The variable of an output, in the type it is exchanged in and under its own name."""
        context = self.context
        var = context.var(value, "keep")
        have = context.type_of(var)
        wanted = self.exchanged if have in ("fp16", "fp32") else "int32"
        self._say_output_type(value, wanted)
        self.types[value.name or ""] = _EXCHANGED[wanted]
        own = var.op is not None and not var.op.op_type.startswith("const") and not var.consuming_blocks
        if have == wanted and own and var.name not in self.names.values():
            context._names.discard(var.name)
            var.set_name(name)
            return var
        made = context.unique(f"{name}_out")
        context.provenance[made] = context.provenance.get(var.op.name, "") if var.op is not None else ""
        make = context.mb.identity if have == wanted else context.mb.cast
        result = make(x=var, name=made) if have == wanted else make(x=var, dtype=wanted, name=made)
        result.set_name(name)
        return result

    def _say_output_type(self, value: ir.Value, wanted: str) -> None:
        declared = value.dtype.name if value.dtype is not None else "FLOAT"
        if declared not in ("FLOAT", "INT32") and wanted != "fp16":
            what = f"output {declared.lower()} becomes {wanted}"
            self.context.decide(
                "RUB-COREML-D14", value.name or "", what, "Core ML does not exchange that type"
            )


def _read_as_float(value: ir.Value) -> bool:
    """Whether every reader of a whole number casts it to a float first, as it is done with masks."""
    readers = [use.node for use in value.uses()]
    casts = all(is_op(node, "Cast") and kind_of(node.outputs[0]) == "float" for node in readers)
    return bool(readers) and casts and not value.is_graph_output()


def _dim(dim: int | str | None) -> Any:
    """A number, or the one MIL symbol of a graph's symbol."""
    if isinstance(dim, int):
        return dim
    from coremltools.converters.mil.mil import Symbol, get_new_symbol
    from coremltools.converters.mil.mil.types.symbolic import k_used_symbols

    if dim is None:
        return get_new_symbol()
    name = f"dim_{dim}"
    return k_used_symbols[name] if name in k_used_symbols else Symbol(name)


def _prune(function: Any) -> None:
    """Remove operations whose results nobody reads: bypassed movements, constants never asked for."""
    for op in reversed(list(function.operations)):
        if all(not var.child_ops and not var.consuming_blocks for var in op.outputs):
            function.remove_ops([op])
