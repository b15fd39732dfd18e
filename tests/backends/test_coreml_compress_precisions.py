"""Precisions by name: what each stands for on a target, from the passes to the package on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from coreml_weights import node, read, write
from onnx import TensorProto, helper, numpy_helper

from rubicc.backends.base import Target
from rubicc.backends.coreml.backend import CoremlBackend
from rubicc.backends.coreml.compress import precisions
from rubicc.backends.coreml.prepare import prepare
from rubicc.backends.coreml.run.load import load
from rubicc.errors import UsageError
from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, Graph

RNG = np.random.default_rng(12)
TIME, BATCH = 24, 2


def network() -> Graph:
    """Every kind of weight: look-up, convolutions (plain, grouped, transposed), GRU, LSTM, MatMul, Gemm."""

    def w(*shape: int) -> np.ndarray:
        return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "table": w(64, 32) * 5, "k": w(64, 32, 3), "g": w(64, 16, 5), "t": w(64, 48, 2), "m": w(48, 64),
        "gw": w(1, 96, 64), "gr": w(1, 96, 32), "lw": w(2, 96, 32), "lr": w(2, 96, 24), "f": w(40, 48),
        "b": w(40, 1)[:, 0], "flat": np.array([-1, 48]), "axes": np.array([1]),
    }  # fmt: skip
    nodes = [
        node("Gather", "table i", "e", axis=0),
        node("Transpose", "e", "et", perm=[0, 2, 1]),
        node("Conv", "et k", "c", pads=[1, 1]),
        node("Relu", "c", "cr"),
        node("Conv", "cr g", "d", group=4, pads=[2, 2]),
        node("ConvTranspose", "d t", "u", strides=[2]),
        node("Transpose", "u", "ut", perm=[2, 0, 1]),
        node("MatMul", "ut m", "p"),
        node("GRU", "p gw gr", "gy", hidden_size=32, linear_before_reset=1),
        node("Squeeze", "gy axes", "gs"),
        node("LSTM", "gs lw lr", "ly", hidden_size=24, direction="bidirectional"),
        node("Transpose", "ly", "lt", perm=[0, 2, 1, 3]),
        node("Reshape", "lt flat", "lf"),
        node("Gemm", "lf f b", "y", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "everything",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [BATCH, TIME])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2 * TIME * BATCH, 40])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX_DOMAIN, 2)]
    return Graph.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


@pytest.fixture(scope="module")
def everything() -> Graph:
    return network()


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 64, (BATCH, TIME))


def snr(ref: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(ref).sum() / np.square(got - ref).sum()))


def output(graph: Graph, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(next(iter(execute(graph, {"i": tokens}).values())))


AFFINE, SHIFT = {"constexpr_affine_dequantize"}, {"constexpr_blockwise_shift_scale"}
LUT, SPARSE = {"constexpr_lut_to_dense"}, {"constexpr_sparse_to_dense"}
# precision, target -> operators, least SNR against the float network, bytes per weight at most
NAMED: list[tuple[str, str, set[str], float, float]] = [
    ("int8", "iOS16", AFFINE, 33, 1.25),
    ("int8", "iOS18", SHIFT, 33, 1.25),
    ("int4", "iOS17", LUT, 10, 0.7),
    ("int4", "iOS18", SHIFT, 12, 0.75),
    ("palette2", "iOS16", LUT, 2, 0.45),
    ("palette3", "iOS17", LUT, 10, 0.7),
    ("palette3", "iOS18", LUT, 6, 0.7),
    ("palette4", "iOS18", LUT, 12, 0.85),
    ("palette6", "iOS16", LUT, 22, 1.0),
    ("palette8", "iOS18", LUT, 32, 1.4),
    ("sparse", "iOS16", SPARSE, 3, 2.2),
    ("sparse", "iOS18", SPARSE, 3, 2.2),
]


@pytest.mark.parametrize(("precision", "target", "kinds", "least", "share"), NAMED)
def test_a_network_of_all_weights(
    precision: str, target: str, kinds: set[str], least: float, share: float,
    everything: Graph, tokens: np.ndarray, tmp_path: Path,
) -> None:  # fmt: skip
    """The package computes what the compressed graph does, and that is near the float one."""
    before = everything.to_proto().SerializeToString(deterministic=True)
    made, _ = precisions.compressed(everything, precision, target)
    assert everything.to_proto().SerializeToString(deterministic=True) == before  # a copy
    assert snr(output(everything, tokens), output(made, tokens)) > least
    lowered = write(made, tmp_path, target, "fp32")
    found = read(tmp_path / "Net.mlpackage", lowered, "fp32")
    recurrent = 4 if target >= "iOS18" else 2  # before, a GRU is composed of plain weights
    assert set(found.kinds) == kinds and len(found.records) == 5 + recurrent + 2  # LSTM: two directions
    assert all(record.form != "plain" for record in found.records)
    (feature,) = found.package.main.inputs
    (got,) = found.package.run({feature.name: tokens.astype(np.int32)}, semantics="fp32").values()
    assert snr(output(made, tokens), np.asarray(got)) > 90
    elements = sum(record.elements for record in found.records)
    assert sum(record.nbytes for record in found.records) < share * elements + 200 * len(found.records)


def test_every_weight_on_disk_is_the_graphs(everything: Graph, tmp_path: Path) -> None:
    """Each in the order that its operator wants: turned, stacked by gate, by direction."""
    for precision, target in (("int8", "iOS17"), ("int4", "iOS18"), ("palette4", "iOS18")):
        made, _ = precisions.compressed(everything, precision, target)
        home = tmp_path / precision
        lowered = write(made, home, target)
        found = read(home / "Net.mlpackage", lowered, "fp16")
        names = [n.outputs[0].name or "" for n in made.nodes if n.op_type in ("Quant", "Gather")]
        kept = execute(made, {"i": np.zeros((BATCH, TIME), np.int64)}, keep=names)
        known = {values_of(part) for name in names for part in _parts(np.asarray(kept[name]))}
        for record, value in zip(found.records, found.values, strict=True):
            assert values_of(value) in known, record


def values_of(array: np.ndarray) -> bytes:
    """Its numbers in fp16 whatever their order, how often each occurs, one zero."""
    return np.sort(array.astype(np.float16).reshape(-1) + np.float16(0)).tobytes()


def _parts(whole: np.ndarray) -> list[np.ndarray]:
    """A weight, and its directions one by one where it may have some."""
    return [whole, *(whole if whole.ndim >= 3 and len(whole) == 2 else [])]


def test_widths_that_a_target_lacks_become_the_next() -> None:
    def bits(precision: str, target: str) -> tuple[Any, ...]:
        (step,) = precisions.STEPS(precision, target)
        codes = [one.code for one in precisions.decisions(precision, target)]
        return step.id, step.options["bits"], codes

    palette = "quantize.palettize"
    assert bits("palette3", "iOS17") == (palette, 4, ["RUB-COREML-D34"])
    assert bits("palette3", "iOS18") == (palette, 3, [])
    assert bits("palette5", "iOS18") == (palette, 6, ["RUB-COREML-D34"])
    assert bits("palette7", "iOS16") == (palette, 8, ["RUB-COREML-D34"])
    assert bits("palette8", "iOS16") == (palette, 8, [])
    assert bits("int4", "iOS17") == (palette, 4, ["RUB-COREML-D33"])
    assert bits("int4", "iOS26") == ("quantize.weights", 4, [])
    with pytest.raises(KeyError):
        precisions.STEPS("palette9", "iOS18")


def test_names_are_those_of_the_settings() -> None:
    from rubicc.settings import COMPRESSED

    assert {*precisions.NAMES, "w8a8"} == {*COMPRESSED, "int8"}


def test_options_of_passes_reach_them_or_are_refused(everything: Graph) -> None:
    made, _ = precisions.compressed(
        everything,
        "int8",
        "iOS17",
        options={"quantize.weights": {"granularity": "tensor", "recurrent": False}},
    )
    quants = [n for n in made.nodes if n.op_type == "Quant"]
    assert {n.inputs[1].const_value.numpy().size for n in quants} == {1}  # type: ignore[union-attr]
    assert len(quants) == 5
    precisions.idle({"quantize.weights": {}, "cleanup.deduplicate": {}}, "int8", "iOS17")
    for precision, pass_id in (
        ("fp16", "quantize.weights"),
        ("int4", "quantize.weights"),
        ("w8a8", "quantize.sparsify"),
    ):
        with pytest.raises(UsageError, match="RUB-COREML-304"):
            precisions.idle({pass_id: {}}, precision, "iOS17")
    with pytest.raises(UsageError, match="RUB-PASS-003"):
        precisions.compressed(everything, "int8", "iOS17", options={"quantize.weights": {"bitz": 4}})


def test_passes_that_prepare_runs_are_known_to_the_driver() -> None:
    ids = {
        step.id
        for name in precisions.NAMES
        for target in ("iOS17", "iOS18")
        for step in precisions.STEPS(name, target)
    }
    assert set(CoremlBackend.preparing) == ids


@pytest.mark.parametrize(
    ("precision", "pass_id"), [("int4", "quantize.weights"), ("palette2", "quantize.palettize")]
)
def test_rounding_for_products_looks_at_inputs(
    precision: str, pass_id: str, everything: Graph, tokens: np.ndarray
) -> None:
    options = {pass_id: {"rounding": "optimised"}}
    with pytest.raises(UsageError, match="RUB-COREML-303"):
        precisions.compressed(everything, precision, "iOS18", options=options)
    made, _ = precisions.compressed(everything, precision, "iOS18", options=options, feeds=[{"i": tokens}])
    plain, _ = precisions.compressed(everything, precision, "iOS18")
    other = np.random.default_rng(77).integers(0, 64, (BATCH, TIME))
    exact = output(everything, tokens)
    assert snr(exact, output(made, tokens)) > snr(exact, output(plain, tokens)) + 0.5
    assert made.op_counts() == plain.op_counts()
    assert np.isfinite(output(made, other)).all()


def test_equal_graphs_give_equal_packages(everything: Graph, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        made, _ = precisions.compressed(everything, "palette4", "iOS18")
        write(made, tmp_path / name, "iOS18")
        folder = tmp_path / name / "Net.mlpackage"
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert load(tmp_path / "a" / "Net.mlpackage").main.opset == "CoreML8"


def test_the_network_is_legal(everything: Graph) -> None:
    onnx.checker.check_model(everything.to_proto())


def three() -> Graph:
    """Three convolutions with ReLU between."""
    rng = np.random.default_rng(5)
    sizes = {"k": (32, 16, 5), "l": (32, 32, 3), "m": (8, 32, 1)}
    kernels = {name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    arrays = [numpy_helper.from_array(kernel, name) for name, kernel in kernels.items()]
    nodes = [
        node("Conv", "x k", "a", pads=[2, 2]),
        node("Relu", "a", "b"),
        node("Conv", "b l", "c", pads=[1, 1]),
        node("Relu", "c", "d"),
        node("Conv", "d m", "y"),
    ]
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 40]) for n, c in (("x", 16), ("y", 8))]
    proto = helper.make_graph(nodes, "three", io[:1], io[1:], arrays)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Graph.from_proto(model)


def test_w8a8_has_scales_that_fp16_holds(tmp_path: Path) -> None:
    """Integers, scales and zero points on disk are the graph's, of activations and of weights."""
    graph, x = three(), {"x": np.random.default_rng(6).normal(size=(1, 16, 40)).astype(np.float32)}
    made = prepare(graph, Target("coreml", "iOS17"), precision="w8a8", feeds=x).graph
    scales = [n.inputs[1].const_value.numpy() for n in made.nodes if n.op_type == "Quant"]  # type: ignore[union-attr]
    assert len(scales) == 2 and all(np.array_equal(s, s.astype(np.float16)) for s in scales)
    lowered = write(made, tmp_path, "iOS17")
    found = read(tmp_path / "Net.mlpackage", lowered, "fp16")
    assert not found.codes and found.kinds == ("constexpr_affine_dequantize",)
    kinds = [op.type for op in found.package.main.operations()]
    assert kinds.count("quantize") == kinds.count("dequantize") == 1
    (wanted,) = (np.asarray(y) for y in execute(made, x).values())
    (got,) = (np.asarray(y) for y in found.package.run(x, semantics="fp32").values())
    assert snr(wanted, got) > 50
    (exact,) = (np.asarray(y) for y in execute(graph, x).values())
    assert snr(exact, wanted) > 35
