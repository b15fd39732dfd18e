"""What a legal graph is, as a table of rules.

``verify`` runs after reading, after every pass in tests, and under ``--check``. It reads no weights beyond
quantiser settings and normalisation statistics, so it takes milliseconds on networks of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir import rules_ops
from rubicc.ir.graph import QONNX_DOMAIN, Graph, op_key, source_of
from rubicc.ir.limits import DEFAULT
from rubicc.ir.scan import MAX_OPSET, MIN_OPSET

Found = Iterator[tuple[str, str]]
_QONNX_ARITY = {"Quant": (4, 4), "IntQuant": (4, 4), "BipolarQuant": (2, 2), "Trunc": (5, 6)}
_QONNX_ATTRIBUTES = {"signed": "INT", "narrow": "INT", "rounding_mode": "STRING"}
_LISTED = 12  # findings printed in one message


@dataclass(frozen=True)
class Rule:
    """One rule: catalogue code, what it demands, and a check yielding (where, what is wrong)."""

    id: str
    what: str
    check: Callable[[Graph], Found]


@dataclass(frozen=True)
class Broken:
    """One place where a rule does not hold."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule} {self.where}: {self.what}"


def verify(graph: Graph) -> None:
    """Check every rule of :data:`RULES`.

    Raises:
        VerificationFailed: the code of the first broken rule; the message lists all broken ones.
    """
    broken = broken_rules(graph)
    if not broken:
        return
    listed = "; ".join(str(b) for b in broken[:_LISTED])
    more = f"; and {len(broken) - _LISTED} more" if len(broken) > _LISTED else ""
    raise VerificationFailed(
        broken[0].rule,
        f"the graph is not legal, {len(broken)} findings: {listed}{more}",
        where=broken[0].where,
        hint="rerun with --check to find the pass that broke it",
    )


def broken_rules(graph: Graph) -> list[Broken]:
    """All findings in rule order.

    Rules on operators assume a sound structure, so they run only when the structural ones hold.
    """
    for table in (STRUCTURE, OPERATORS):
        found = [Broken(rule.id, *finding) for rule in table for finding in rule.check(graph)]
        if found:
            return found
    return []


def place(node: ir.Node) -> str:
    """Words that place a node: name, operator, source."""
    return f"{node.name!r} ({op_key(node)}, from {source_of(node)})"


def _bodies(graph: Graph) -> list[ir.Graph]:
    found, queue = [], [graph.ir]
    while queue:
        body = queue.pop()
        found.append(body)
        queue += [inner for node in body for inner in _inner(node)]
    return found


def _inner(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.value)
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.value
    return graphs


def _opset(graph: Graph) -> Found:
    imports = graph.model.opset_imports
    if next(iter(imports), None) != "":
        yield "model", "the ONNX operator set ('') must be the first import (qonnx reads the first)"
    elif not MIN_OPSET <= imports[""] <= MAX_OPSET:
        yield "model", f"opset {imports['']} is outside {MIN_OPSET} to {MAX_OPSET}"


def _domains(graph: Graph) -> Found:
    for node in graph.all_nodes():
        if node.domain not in ("", QONNX_DOMAIN):
            yield place(node), f"unknown domain {node.domain!r}"
        elif node.domain and node.domain not in graph.model.opset_imports:
            yield place(node), f"domain {node.domain!r} is not imported"


def _schema(graph: Graph, node: ir.Node) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, max(graph.opset, 1), "")
    except onnx.defs.SchemaError:
        return None


def _operators(graph: Graph) -> Found:
    for node in graph.all_nodes():
        if node.domain == QONNX_DOMAIN and node.op_type not in _QONNX_ARITY:
            yield place(node), f"{node.op_type} is no quantiser rubicc knows"
        elif node.domain == "" and _schema(graph, node) is None:
            yield place(node), f"{node.op_type} does not exist in opset {graph.opset}"


def _arity(graph: Graph) -> Found:
    for node in graph.all_nodes():
        given, made = len(node.inputs), len(node.outputs)
        if node.domain == QONNX_DOMAIN and node.op_type in _QONNX_ARITY:
            low, high = _QONNX_ARITY[node.op_type]
            required, outputs = range(low), (1, 1)
        elif node.domain == "" and (schema := _schema(graph, node)) is not None:
            low, high = schema.min_input, schema.max_input
            outputs = (schema.min_output, schema.max_output)
            single = onnx.defs.OpSchema.FormalParameterOption.Single
            required = range(sum(1 for i in schema.inputs if i.option == single))
        else:
            continue
        if not low <= given <= high:
            yield place(node), f"{given} inputs, {low} to {high} expected"
        elif any(node.inputs[i] is None for i in required if i < given):
            yield place(node), "a required input is missing"
        if not outputs[0] <= made <= outputs[1]:
            yield place(node), f"{made} outputs, {outputs[0]} to {outputs[1]} expected"


def _attributes(graph: Graph) -> Found:
    for node in graph.all_nodes():
        if node.domain == QONNX_DOMAIN:
            for name, attribute in node.attributes.items():
                if _QONNX_ATTRIBUTES.get(name) != attribute.type.name:
                    yield place(node), f"attribute {name!r} ({attribute.type.name}) does not exist"
        schema = _schema(graph, node) if node.domain == "" else None
        if schema is None:
            continue
        for name, attribute in node.attributes.items():
            declared = schema.attributes.get(name)
            if declared is None:
                yield place(node), f"attribute {name!r} does not exist"
            elif (wanted := str(declared.type).rpartition(".")[2]) != attribute.type.name:
                yield place(node), f"attribute {name!r} is {attribute.type.name}, not {wanted}"
        for name, declared in schema.attributes.items():
            if declared.required and name not in node.attributes:
                yield place(node), f"attribute {name!r} is required"


def _value_names(graph: Graph) -> Found:
    owner: dict[str, ir.Value] = {}
    for body in _bodies(graph):
        made = [v for node in body for v in node.outputs if v.name or v.uses()]
        for value in (*body.inputs, *body.initializers.values(), *made):
            if not value.name:
                yield "graph", "a value that is read has no name"
            elif owner.setdefault(value.name, value) is not value:
                yield f"value {value.name!r}", "two values have this name"


def _node_names(graph: Graph) -> Found:
    seen: set[str] = set()
    for node in graph.all_nodes():
        if not node.name or node.name in seen:
            yield place(node), "node name is empty or given twice"
        seen.add(node.name or "")


def _order(graph: Graph) -> Found:
    yield from _order_in(graph.ir, set())


def _order_in(body: ir.Graph, outer: set[ir.Value]) -> Found:
    local = {value for node in body for value in node.outputs}
    ready = outer | set(body.inputs) | set(body.initializers.values())
    for node in body:
        for value in node.inputs:
            if value is not None and value in local and value not in ready:
                yield place(node), f"reads {value.name!r} before it is made"
        for inner in _inner(node):
            yield from _order_in(inner, set(ready))
        ready.update(node.outputs)


def _dangling(graph: Graph) -> Found:
    yield from _dangling_in(graph.ir, set())


def _dangling_in(body: ir.Graph, outer: set[ir.Value]) -> Found:
    scope = outer | set(body.inputs) | set(body.initializers.values())
    scope |= {value for node in body for value in node.outputs}
    for node in body:
        for value in node.inputs:
            if value is not None and value not in scope:
                yield place(node), f"input {value.name!r} comes from nowhere in this graph"
        for inner in _inner(node):
            yield from _dangling_in(inner, scope)
    if outer:  # outputs of the main graph have a rule of their own
        for value in body.outputs:
            if value not in scope:
                yield f"value {value.name!r}", "output of a nested graph comes from nowhere"


def _outputs(graph: Graph) -> Found:
    made = {value for node in graph.ir for value in node.outputs}
    made |= set(graph.ir.inputs) | set(graph.ir.initializers.values())
    if not graph.outputs:
        yield "graph", "it has no outputs"
    for value in graph.outputs:
        if value not in made:
            yield f"output {value.name!r}", "nothing makes it"
    if len(set(graph.outputs)) != len(graph.outputs):
        yield "graph", "one value is two outputs (put an Identity between)"


def _interface_types(graph: Graph) -> Found:
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if value.dtype is None or value.shape is None:
                yield f"{kind} {value.name!r}", "element type or rank is unknown"


def _initializers(graph: Graph) -> Found:
    for body in _bodies(graph):
        for name, value in body.initializers.items():
            where, tensor = f"initializer {name!r}", value.const_value
            if tensor is None:
                yield where, "it has no data"
            elif value.dtype is not None and value.dtype != tensor.dtype:
                yield where, f"declared {value.dtype.name}, data are {tensor.dtype.name}"
            elif value.shape is not None and tuple(value.shape) != tuple(tensor.shape):
                yield where, f"declared {value.shape}, data are {tensor.shape}"
            elif value.producer() is not None:
                yield where, f"node {value.producer()} also makes it"


def _static_inputs(graph: Graph) -> Found:
    for body in _bodies(graph):
        for value in body.inputs:
            if value.name in body.initializers:
                yield f"input {value.name!r}", "it is also an initializer; weights are no inputs"


def _nesting(graph: Graph) -> Found:
    stack = [(graph.ir, 0)]
    while stack:
        body, depth = stack.pop()
        if depth > DEFAULT.nesting:
            yield f"graph {body.name!r}", f"nested deeper than {DEFAULT.nesting}"
            return
        stack += [(inner, depth + 1) for node in body for inner in _inner(node)]


def _no_functions(graph: Graph) -> Found:
    for key in graph.model.functions:
        yield "model", f"function {key[1]!r} is not inlined"
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                yield place(node), f"attribute {attribute.name!r} refers to a function parameter"


def _metadata(graph: Graph) -> Found:
    if graph.meta is None:
        return
    for kind, specs, values in (
        ("input", graph.meta.inputs, graph.inputs),
        ("output", graph.meta.outputs, graph.outputs),
    ):
        said, names = [spec.name for spec in specs], [value.name for value in values]
        if said and said != names:
            yield "metadata", f"{kind}s are {said} there, {names} in the graph"


STRUCTURE: tuple[Rule, ...] = (
    Rule("RUB-IR-010", "the ONNX operator set is imported first, in a supported version", _opset),
    Rule("RUB-IR-011", "every node's domain is known and imported", _domains),
    Rule("RUB-IR-012", "every operator exists in its operator set", _operators),
    Rule("RUB-IR-013", "nodes have as many inputs and outputs as their operator", _arity),
    Rule("RUB-IR-014", "attributes exist, have their type, and required ones are there", _attributes),
    Rule("RUB-IR-015", "value names are unique and not empty", _value_names),
    Rule("RUB-IR-016", "node names are unique and not empty", _node_names),
    Rule("RUB-IR-017", "values are made before they are read (no cycles)", _order),
    Rule("RUB-IR-018", "every input of a node comes from this graph or one around it", _dangling),
    Rule("RUB-IR-019", "there are outputs and each is made", _outputs),
    Rule("RUB-IR-020", "inputs and outputs have an element type and a rank", _interface_types),
    Rule("RUB-IR-021", "initializers have data of their declared type and shape", _initializers),
    Rule("RUB-IR-022", "no initializer is also an input", _static_inputs),
    Rule("RUB-IR-023", f"graphs nest at most {DEFAULT.nesting} deep", _nesting),
    Rule("RUB-IR-024", "functions are inlined", _no_functions),
    Rule("RUB-IR-025", "model metadata names the graph's inputs and outputs", _metadata),
)


def _per_node(check: Callable[[Graph, ir.Node], Iterator[str]]) -> Callable[[Graph], Found]:
    def run(graph: Graph) -> Found:
        for node in graph.all_nodes():
            for what in check(graph, node):
                yield place(node), what

    return run


OPERATORS: tuple[Rule, ...] = (
    Rule("RUB-IR-026", "operand types agree as the operator demands", _per_node(rules_ops.types_agree)),
    Rule("RUB-IR-027", "operands of elementwise operators broadcast", _per_node(rules_ops.broadcastable)),
    Rule("RUB-IR-028", "convolution weights fit input channels and groups", _per_node(rules_ops.convolution)),
    Rule("RUB-IR-029", "recurrent weights fit their gates", _per_node(rules_ops.recurrent)),
    Rule(
        "RUB-IR-030", "normalisation parameters fit, variances are not negative", _per_node(rules_ops.norms)
    ),
    Rule("RUB-IR-031", "matrix operands have a common inner size", _per_node(rules_ops.products)),
    Rule("RUB-IR-032", "QONNX quantisers are sane", _per_node(rules_ops.quantisers)),
    Rule("RUB-IR-033", "(de)quantisation scales are positive", _per_node(rules_ops.linear_quantisation)),
    Rule("RUB-IR-034", "declared shapes are the ones that follow from the inputs", rules_ops.shapes_hold),
)

RULES: tuple[Rule, ...] = STRUCTURE + OPERATORS
