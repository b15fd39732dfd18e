"""Graphs changed at random in their structure: every tool of this room answers or refuses, none crashes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from ir_graphs import conv_quant, graph, info
from onnx import helper, numpy_helper

from rubicc.errors import RubiccError
from rubicc.ir.costs import costs
from rubicc.ir.executor import execute
from rubicc.ir.io import load_graph, save_graph
from rubicc.ir.receptive import receptive_field
from rubicc.ir.shapes import infer_shapes
from rubicc.ir.verify import broken_rules

NUMBERS = (-1, 0, 1, 2, 3, 7, 63, -(1 << 62), 1 << 62, 1 << 31)
BIND = {"N": 1, "T": 24}


def attention() -> onnx.ModelProto:
    """Embedding, attention with shape arithmetic, layer norm: the operators a language model uses."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.normal(size=(9, 8)).astype(np.float32),
        "wq": rng.normal(size=(8, 8)).astype(np.float32),
        "ones": np.ones(8, np.float32),
        "zero": np.array([0], np.int64),
        "tail": np.array([8], np.int64),
        "all": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("MatMul", ["e", "wq"], ["q"], name="query"),
        helper.make_node("Transpose", ["e"], ["k"], name="key", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["s"], name="score"),
        helper.make_node("Softmax", ["s"], ["p"], name="soft", axis=-1),
        helper.make_node("MatMul", ["p", "e"], ["c"], name="context"),
        helper.make_node("Shape", ["ids"], ["dims"], name="dims"),
        helper.make_node("Slice", ["dims", "zero", "all"], ["lead"], name="lead"),
        helper.make_node("Concat", ["lead", "tail"], ["full"], name="full", axis=0),
        helper.make_node("Reshape", ["c", "full"], ["r"], name="shape"),
        helper.make_node("LayerNormalization", ["r", "ones", "ones"], ["y"], name="norm", axis=-1),
    ]
    return graph(nodes, [info("ids", ["N", "T"], np.int64)], [info("y", ["N", "T", 8])], constants).to_proto()


def mutate(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    """One random change: a name, an attribute, an operator, a tensor, a type or a dim."""

    def pick(items):
        return items[int(rng.integers(len(items)))]

    body = proto.graph
    node, value = pick(body.node), pick([*body.input, *body.output, *body.value_info])
    kind = pick(("input", "attribute", "drop", "operator", "node", "tensor", "arity", "type", "dim"))
    if kind == "input" and node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(
            ["", "nope", *(o for n in body.node for o in n.output)]
        )
    elif kind == "attribute" and node.attribute:
        attribute = pick(node.attribute)
        if attribute.ints:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = pick(NUMBERS)
        else:
            attribute.i = pick(NUMBERS)
    elif kind == "drop" and node.attribute:
        del node.attribute[int(rng.integers(len(node.attribute)))]
    elif kind == "operator":
        node.op_type = pick(body.node).op_type
    elif kind == "node" and len(body.node) > 1:
        del body.node[int(rng.integers(len(body.node)))]
    elif kind == "tensor":
        tensor = pick(body.initializer)
        array = numpy_helper.to_array(tensor)
        array = array.T if rng.random() < 0.5 else np.full_like(array, pick(NUMBERS[:7]))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    elif kind == "arity" and node.input:
        del node.input[int(rng.integers(len(node.input)))]
    elif kind == "type":
        value.type.tensor_type.elem_type = int(rng.integers(1, 13))
    elif kind == "dim" and value.type.tensor_type.shape.dim:
        pick(value.type.tensor_type.shape.dim).dim_value = pick(NUMBERS)


def run_on_ones(g) -> None:
    feeds = {}
    for value in g.inputs:
        dims = [d if isinstance(d, int) else (1 if i == 0 else 24) for i, d in enumerate(value.shape or ())]
        if np.prod(dims, dtype=object) > 10**6:
            return
        feeds[value.name] = np.ones(dims, value.dtype.numpy())
    execute(g, feeds)


def survive(rounds: int, seed: int, folder) -> tuple[int, int]:
    """Loaded and refused counts; any exception that is no RubiccError escapes and fails the test."""
    rng = np.random.default_rng(seed)
    sources = [conv_quant().to_proto().SerializeToString(), attention().SerializeToString()]
    tools: tuple[Callable, ...] = (
        broken_rules,
        lambda g: infer_shapes(g, BIND),
        lambda g: costs(g, BIND),
        receptive_field,
        run_on_ones,
        lambda g: save_graph(g, folder / "out.onnx"),
    )
    loaded = refused = 0
    for index in range(rounds):
        proto = onnx.ModelProto.FromString(sources[index % 2])
        for _ in range(int(rng.integers(1, 3))):
            mutate(proto, rng)
        (folder / "in.onnx").write_bytes(proto.SerializeToString())
        try:
            g = load_graph(folder / "in.onnx")
        except RubiccError:
            refused += 1
            continue
        loaded += 1
        for tool in tools:
            try:
                tool(g)
            except RubiccError as err:
                assert err.code.startswith("RUB-IR-")
    return loaded, refused


def test_structured_mutations(tmp_path):
    loaded, refused = survive(120, 0, tmp_path)
    assert loaded > 20 and refused > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_structured_mutations_at_length(tmp_path, seed):
    survive(1500, seed, tmp_path)
