from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import rubicc.backends.codes
import rubicc.backends.cpu_gpu.codes
from rubicc.backends.base import Target, refuse
from rubicc.backends.cpu_gpu import check as module
from rubicc.backends.cpu_gpu.check import check
from rubicc.errors import ToolMissing, Unsupported
from rubicc.ir.graph import QONNX_DOMAIN, SOURCE_KEY, Graph

CPU = Target("cpu")


def chain(*ops: tuple[str, str], dtype: int = TensorProto.FLOAT, shape: list | None = None) -> Graph:
    """x -> op -> op -> ... -> y; every op is (type, domain)."""
    nodes = [
        helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], name=f"node{i}", domain=domain)
        for i, (op, domain) in enumerate(ops)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("v0", dtype, shape or ["N", 3, 3])],
        [helper.make_tensor_value_info(f"v{len(ops)}", dtype, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vendor", 1)]
    made = Graph.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    for node in made.nodes:
        node.metadata_props[SOURCE_KEY] = f"net.{node.name}"
    return made


def quantised(op_type: str = "Quant") -> Graph:
    constants = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("s", 0.25), ("z", 0.0), ("b", 4.0))
    ]
    node = helper.make_node(op_type, ["x", "s", "z", "b"], ["y"], name="q", domain=QONNX_DOMAIN)
    node.attribute.extend(
        [
            helper.make_attribute("signed", 1),
            helper.make_attribute("narrow", 0),
            helper.make_attribute("rounding_mode", "ROUND"),
        ]
    )
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", value[:1], value[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX_DOMAIN, 1)]
    return Graph.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def test_networks_pass_without_findings(built) -> None:
    assert check(built.graph, CPU) == []


def test_all_refusals_at_once_with_node_source_and_remedy() -> None:
    graph = chain(("Relu", ""), ("Frob", "vendor"), ("Blorp", "vendor"), dtype=TensorProto.STRING)
    found = check(graph, CPU)
    rules = [f.rule for f in found if f.severity == "error"]
    assert rules.count("RUB-CPU-002") == 2 and rules.count("RUB-CPU-004") == 2
    frob = next(f for f in found if "Frob" in f.reason)
    assert (frob.node, frob.source) == ("node1", "net.node1") and frob.remedy
    with pytest.raises(Unsupported) as caught:
        refuse(found, CPU)
    assert caught.value.exit_code == 4 and len(caught.value.findings) == len(found)


def test_operator_of_one_runtime_only_is_a_warning_that_names_the_other() -> None:
    (found,) = check(chain(("Relu", ""), ("Det", "")), CPU)
    assert (found.rule, found.severity, found.node) == ("RUB-CPU-001", "warning", "node1")
    assert "openvino" in found.reason


def test_operator_of_no_runtime_is_an_error_for_each_and_spares_the_good_nodes() -> None:
    found = check(chain(("Relu", ""), ("Nonsense", ""), ("Relu", "")), CPU)
    assert {(f.rule, f.severity, f.node) for f in found} == {("RUB-CPU-001", "error", "node1")}
    assert {f.reason.split()[0] for f in found} == {"onnxruntime", "openvino"}


def test_a_refusal_no_operator_explains_is_still_an_error() -> None:
    constants = [onnx.numpy_helper.from_array(np.ones((5, 7), np.float32), "w")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "y")]
    proto = helper.make_graph([node], "g", value[:1], value[1:], constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = check(Graph.from_proto(model), CPU)
    assert {f.severity for f in found} == {"error"} and {f.rule for f in found} == {"RUB-CPU-008"}
    assert "m" in {f.node for f in found}, "ONNX Runtime names the node"


@pytest.mark.parametrize("op_type", ["Quant", "IntQuant"])
def test_quantisers_are_a_warning_and_the_graph_is_judged_expanded(op_type: str) -> None:
    graph = quantised(op_type)
    found = check(graph, CPU)
    assert [(f.rule, f.severity, f.node) for f in found if f.rule != "RUB-CPU-005"] == [
        ("RUB-CPU-003", "warning", "q")
    ]
    assert "Quant" in next(iter(graph.op_counts())), "check must not change the graph"


def test_free_length_without_a_chunk_is_a_warning_and_unknown_rank_an_error() -> None:
    found = check(chain(("Relu", ""), shape=["N", "L", 3]), CPU)
    assert [(f.rule, f.severity) for f in found] == [("RUB-CPU-005", "warning")]
    graph = chain(("Relu", ""))
    graph.inputs[0].shape = None
    assert ("RUB-CPU-005", "error") in [(f.rule, f.severity) for f in check(graph, CPU)]


def test_model_too_large_for_one_file(conv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MODEL_BYTES", 100)
    assert "RUB-CPU-007" in [f.rule for f in check(conv.graph, CPU)]


def test_gpu_without_provider_is_an_error_with_the_package(conv) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a CUDA provider")
    (found,) = check(conv.graph, Target("gpu", "cuda"))
    assert (found.rule, found.severity) == ("RUB-CPU-006", "error")
    assert "onnxruntime-gpu" in found.remedy
    with pytest.raises(ToolMissing) as caught:
        refuse([found], Target("gpu", "cuda"))
    assert caught.value.exit_code == 7
    both = [found, *check(chain(("Relu", ""), ("Frob", "vendor")), CPU)]
    with pytest.raises(Unsupported):
        refuse(both, Target("gpu", "cuda"))
    assert "migraphx" in check(conv.graph, Target("gpu", "migraphx"))[0].remedy


def test_every_code_of_this_room_is_catalogued_and_used() -> None:
    room = Path(rubicc.backends.codes.__file__).parent
    known = {**rubicc.backends.codes.CODES, **rubicc.backends.cpu_gpu.codes.CODES}
    texts = [p.read_text() for p in room.rglob("*.py") if p.name != "codes.py"]
    used = {code for text in texts for code in re.findall(r"RUB-(?:CPU|TGT)-D?\d+", text)}
    assert used == set(known)
    assert all(title and len(text) > 40 for title, text in known.values())
