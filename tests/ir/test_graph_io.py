"""Reading and writing legal graphs: round trips, equal bytes, external data, functions, odd names."""

from __future__ import annotations

import os
import resource

import numpy as np
import onnx
import onnxruntime
import pytest
from ir_graphs import OPSETS, conv_quant, graph, info, proto
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper

from rubicc.errors import ModelRefused, UsageError
from rubicc.ir import io
from rubicc.ir.executor import execute
from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.ir.io import graph_sha256, load_graph, save_graph
from rubicc.ir.limits import Limits, bounded_elements
from rubicc.ir.verify import verify
from rubicc.spec import ModelMeta, TensorSpec

RNG = np.random.default_rng(2)
X = RNG.normal(size=(2, 4, 31)).astype(np.float32)


def test_round_trip_keeps_everything(tmp_path):
    g = conv_quant()
    g.meta = ModelMeta(
        "custom", (TensorSpec("x", ("N", 4, "T")),), (TensorSpec("y", ("N", 8, "T")),), stride=3
    )
    g.nodes[2].metadata_props[SOURCE_KEY] = "encoder.conv"
    save_graph(g, tmp_path / "a.onnx")
    back = load_graph(tmp_path / "a.onnx")
    verify(back)
    assert back.meta == g.meta
    assert back.nodes[2].metadata_props[SOURCE_KEY] == "encoder.conv"
    assert back.op_counts() == g.op_counts()
    np.testing.assert_array_equal(execute(back, {"x": X})["y"], execute(g, {"x": X})["y"])


def test_equal_graphs_give_equal_bytes_and_loading_changes_nothing(tmp_path):
    for name, order in (("a", ("one", "two")), ("b", ("two", "one"))):
        g = conv_quant()
        for key in order:
            g.model.metadata_props[key] = key
            g.nodes[0].metadata_props[key] = key
        save_graph(g, tmp_path / f"{name}.onnx")
    save_graph(load_graph(tmp_path / "a.onnx"), tmp_path / "c.onnx")
    first = (tmp_path / "a.onnx").read_bytes()
    assert first == (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    other = conv_quant(seed=1)
    assert graph_sha256(other) != graph_sha256(conv_quant()) == graph_sha256(conv_quant())


def test_streamed_bytes_are_the_message_protobuf_would_write(tmp_path):
    g = conv_quant()
    save_graph(g, tmp_path / "a.onnx")
    ours = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(ours, full_check=False)
    whole = g.to_proto()
    assert list(ours.graph.node) == list(whole.graph.node)
    for a, b in zip(ours.graph.initializer, whole.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


@pytest.mark.parametrize(
    "dtype", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.BOOL]
)
def test_narrow_element_types_survive(tmp_path, dtype):
    weight = helper.make_tensor("w", dtype, [5], [1, 0, 1, 1, 0])
    node = helper.make_node("Cast", ["w"], ["c"], to=1)
    p = proto([node, helper.make_node("Add", ["x", "c"], ["y"])], [info("x", [5])], [info("y", [5])])
    p.opset_import[0].version = 21
    p.graph.initializer.append(weight)
    g = Graph.from_proto(p)
    save_graph(g, tmp_path / "a.onnx")
    back = load_graph(tmp_path / "a.onnx")
    got = execute(back, {"x": np.zeros(5, np.float32)})["y"]
    np.testing.assert_array_equal(got, [1, 0, 1, 1, 0])


def test_external_data_written_read_and_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "EXTERNAL_FROM", 64)
    g = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", ["N", 40])],
        [info("y", ["N", 7])],
        {"w": RNG.normal(size=(40, 7)).astype(np.float32)},
    )
    path = tmp_path / "big[1].onnx"
    save_graph(g, path)
    first = sorted(p.name for p in tmp_path.iterdir())
    assert len(first) == 2 and path.stat().st_size < 1000
    back = load_graph(path)
    x = RNG.normal(size=(3, 40)).astype(np.float32)
    np.testing.assert_array_equal(execute(back, {"x": x})["y"], execute(g, {"x": x})["y"])
    assert graph_sha256(back) == graph_sha256(g)
    session = onnxruntime.InferenceSession(str(path))
    np.testing.assert_allclose(
        session.run(None, {"x": x})[0], execute(g, {"x": x})["y"], rtol=1e-5, atol=1e-5
    )
    back.ir.initializers["w"].const_value = onnx_tensor(np.ones((40, 7), np.float32))
    save_graph(back, path)
    second = sorted(p.name for p in tmp_path.iterdir())
    assert len(second) == 2 and second != first, "old data file must go, new one has another name"


def onnx_tensor(array):
    import onnx_ir

    return onnx_ir.Tensor(array)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    save_graph(conv_quant(), path)
    before = path.read_bytes()

    def broken(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UsageError) as error:
        save_graph(conv_quant(seed=9), path)
    assert error.value.code == "RUB-IR-049"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_writing_into_no_folder_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="RUB-IR-049"):
        save_graph(conv_quant(), tmp_path / "absent" / "a.onnx")


def test_functions_are_inlined(tmp_path):
    local = helper.make_opsetid("local", 1)
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], OPSETS
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    p = proto([call], [info("x", [3])], [info("y", [3])], opsets=[*OPSETS, local], functions=[twice])
    (tmp_path / "f.onnx").write_bytes(p.SerializeToString())
    g = load_graph(tmp_path / "f.onnx")
    verify(g)
    assert g.op_counts() == {"Add": 1}
    np.testing.assert_array_equal(execute(g, {"x": np.ones(3, np.float32)})["y"], [2, 2, 2])


def test_static_inputs_and_nameless_nodes_are_brought_into_form(tmp_path):
    nodes = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"])]
    p = proto(nodes, [info("x", [3]), info("w", [3])], [info("y", [3])], {"w": np.ones(3, np.float32)})
    (tmp_path / "s.onnx").write_bytes(p.SerializeToString())
    g = load_graph(tmp_path / "s.onnx")
    verify(g)
    assert [v.name for v in g.inputs] == ["x"]
    assert len({n.name for n in g.nodes}) == 2


def test_qonnx_domain_without_import_is_read(tmp_path):
    p = conv_quant().to_proto()
    del p.opset_import[1:]
    (tmp_path / "q.onnx").write_bytes(p.SerializeToString())
    verify(load_graph(tmp_path / "q.onnx"))


def test_qonnx_datatype_annotations_survive(tmp_path):
    wrapper = ModelWrapper(conv_quant().to_proto())
    wrapper.set_tensor_datatype("w", DataType["INT4"])
    wrapper.set_tensor_datatype("xq", DataType["UINT8"])
    wrapper.save(str(tmp_path / "a.onnx"))
    save_graph(load_graph(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    back = ModelWrapper(str(tmp_path / "b.onnx"))
    assert back.get_tensor_datatype("w") == DataType["INT4"]
    assert back.get_tensor_datatype("xq") == DataType["UINT8"]


def test_names_are_never_paths(tmp_path):
    """Names that look like paths or commands are data: read, written, run, and no file appears."""
    odd = "../../etc/passwd; rm -rf $(HOME) \n\u202e"
    weight = np.ones(3, np.float32)
    p = proto(
        [helper.make_node("Add", ["x", odd], ["y"], name=odd + "n")], [info("x", [3])], [info("y", [3])]
    )
    p.graph.initializer.append(numpy_helper.from_array(weight, odd))
    (tmp_path / "a.onnx").write_bytes(p.SerializeToString())
    g = load_graph(tmp_path / "a.onnx")
    save_graph(g, tmp_path / "b.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    np.testing.assert_array_equal(execute(g, {"x": weight})["y"], [2, 2, 2])


def test_limits_can_be_tightened(tmp_path):
    save_graph(conv_quant(), tmp_path / "a.onnx")
    for limits in (Limits(file_bytes=100), Limits(nodes=3), Limits(rank=2)):
        with pytest.raises(ModelRefused, match="RUB-IR-041"):
            load_graph(tmp_path / "a.onnx", limits)


def test_bounded_elements():
    assert bounded_elements([2, 3, 0]) == 0
    assert bounded_elements([]) == 1
    for shape in ([1 << 40], [1 << 62, 1 << 62], [-1, 4]):
        with pytest.raises(ModelRefused, match="RUB-IR-047"):
            bounded_elements(shape)


def test_weights_are_not_copied(tmp_path):
    """160 MB of weights: reading, verifying, inferring and hashing stay within the file plus one copy."""
    size = 40 << 20
    g = graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [info("x", ["N", size])],
        [info("y", ["N", size])],
        {"w": np.zeros(size, np.float32)},
    )
    save_graph(g, tmp_path / "a.onnx")
    data = g.ir.initializers["w"].const_value.numpy()
    assert np.shares_memory(g.clone().ir.initializers["w"].const_value.numpy(), data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = graph_sha256(g)
    verify(g)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 << 10, f"{grown} KiB more for hashing and verifying"
    back = load_graph(tmp_path / "a.onnx")
    assert graph_sha256(back) == digest
