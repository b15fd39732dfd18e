"""The mixed-precision network as a package: bits on disk are the graph's, bytes are what they must be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coreml_weights import FACTS, read

from rubicc.backends.coreml import compress, lowering, tools
from rubicc.backends.coreml.package import write_package
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.rewrite import constant
from rubicc.shapes import resolve_shapes

pytestmark = pytest.mark.slow
PARAMETERS = 3_314_549


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """rubicall with seeded weights, as read from a checkpoint."""
    entry, path = registry.get("rubicall"), tmp_path_factory.mktemp("zoo") / "rubicall.pt"
    checkpoint.save(path, entry.build(seed=0), entry.meta())
    return lower(read_model(path), (), 0).graph


def theory(graph: Graph) -> int:
    """Bytes of all parameters: codes in the bits of their quantisers, all others and scales in fp16."""
    bits, counted = 0, set()
    for node in graph.nodes:
        if node.op_type == "Quant" and (weight := constant(node.inputs[0])) is not None:
            width, scale = constant(node.inputs[3]), constant(node.inputs[1])
            assert width is not None and scale is not None
            bits += weight.size * int(width.reshape(-1)[0]) + 16 * scale.size
            counted.add(node.inputs[0])
    quantised = {value for node in graph.nodes if node.op_type == "Quant" for value in node.inputs}
    for value in graph.ir.initializers.values():
        array = constant(value)
        if array is not None and array.dtype == np.float32 and value not in quantised:
            bits += 16 * array.size
    return bits // 8


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_bits_and_bytes_are_the_networks(source: Graph, target: str, tmp_path: Path) -> None:
    least = theory(source)
    assert 5_500_000 < least < 2 * PARAMETERS
    shapes = resolve_shapes([spec_of(v) for v in source.inputs], source.meta, "fixed")
    graph = infer_shapes(source.clone(), shapes.bound)
    run_pipeline(graph, PIPELINES["coreml"])
    lowered = lowering.lower(graph, target=target, precision="fp16", shapes=shapes)
    path = tmp_path / "Net.mlpackage"
    given = {item.name: item for item in shapes.inputs}
    write_package(path, lowered.program, tools.OPSETS[target], given, FACTS, hash_key="hash")

    found = read(path, lowered, "fp64")
    codes = Counter(record.bits for record in found.records)
    assert codes == {16: 35, 8: 22}
    assert all(record.width == record.bits for record in found.records)
    names = {n.outputs[0].name or "": n for n in graph.nodes if n.op_type == "Quant"}
    weights = {name: n for name, n in names.items() if constant(n.inputs[0]) is not None}
    feeds = {item.name: np.zeros(item.default, np.float32) for item in shapes.inputs}
    values = execute(graph, feeds, keep=list(weights))
    wanted: Counter[bytes] = Counter()
    for name, node in weights.items():
        scale, width = constant(node.inputs[1]), constant(node.inputs[3])
        assert scale is not None and width is not None
        if int(width.reshape(-1)[0]) == 8:
            wanted[np.sort(np.rint(np.asarray(values[name]) / scale).astype(np.int8), None).tobytes()] += 1
    kept = Counter(
        np.sort(parts.get("data", parts.get("quantized_data")), None).tobytes() for parts in found.parts
    )
    assert kept == wanted  # every 8-bit code of every weight
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert total <= 1.05 * least, f"{total} bytes for {least}: {total / least:.4f}"
    assert {"RUB-COREML-D31", "RUB-COREML-D32"} == found.codes
    assert all(isinstance(one, compress.Stored) for one in found.records)
