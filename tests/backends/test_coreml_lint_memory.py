"""Activation memory: the static count against buffers that Python itself frees, and against shapes as run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from lint_programs import half, read, save

from rubicc.backends.coreml.lint import audit, memory, memory_of_graph, peak_bytes, shapes_at, timeline
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Block, Function, Package, TensorType
from rubicc.errors import UsageError
from rubicc.ir.graph import Graph

VIEWS = ("reshape", "squeeze", "expand_dims", "identity", "flatten2d")


class Heap:
    """Counts bytes of the buffers alive."""

    def __init__(self) -> None:
        self.live = self.peak = 0


class Buffer:
    """A place in memory that lives as long as Python holds it."""

    def __init__(self, heap: Heap, nbytes: int) -> None:
        self.heap, self.nbytes = heap, nbytes
        heap.live += nbytes

    def __del__(self) -> None:
        self.heap.live -= self.nbytes


def simulated(function: Function) -> int:
    """Peak of running a function of fixed shapes without constants, operation by operation."""
    heap = Heap()
    held = {value.name: Buffer(heap, size(value.type)) for value in function.inputs}
    heap.peak = heap.live
    run_block(heap, function.block, held, frozenset())
    return heap.peak


def run_block(heap: Heap, block: Block, held: dict[str, Buffer], needed: frozenset[str]) -> None:
    """Execute; ``needed`` are names that the surroundings read afterwards."""
    operations = [op for op in block.operations if op.type != "const"]
    for index, op in enumerate(operations):
        later = operations[index + 1 :]
        kept = needed | set(block.outputs) | {name for rest in later for name in read_by(rest)}
        reads = [name for name in read_by(op) if name in held]
        made = {}
        for value in op.outputs:
            view = op.type in VIEWS and len(reads) == 1
            made[value.name] = held[reads[0]] if view else Buffer(heap, size(value.type))
        heap.peak = max(heap.peak, heap.live)
        for inner in op.blocks:
            own: dict[str, Buffer] = dict(held)
            run_block(heap, inner, own, kept | set(held))
            del own
        held |= made
        del made
        for name in [name for name in held if name not in kept]:
            del held[name]


def read_by(op: Any) -> set[str]:
    names = {name for argument in op.inputs.values() for name in argument.names}
    for block in op.blocks:
        names |= set(block.outputs)
        for inner in block.operations:
            names |= read_by(inner)
    return names


def size(kind: Any) -> int:
    return (kind.nbytes or 0) if isinstance(kind, TensorType) else 0


def tangle(seed: int) -> Any:
    """A builder of a random network of elementwise operations, views, splits and concatenations."""
    chance = random.Random(seed)

    def build(mb: Any, x: Any) -> list[Any]:
        values = [x]
        for _ in range(25):
            a, b = chance.choice(values), chance.choice(values)
            kind = chance.randrange(6)
            if kind == 0:
                values.append(mb.relu(x=a))
            elif kind == 1 and a.shape == b.shape:
                values.append(mb.add(x=a, y=b))
            elif kind == 2 and a.shape[0] * 2 <= 64:
                values.append(mb.concat(values=[a, a], axis=0))
            elif kind == 3 and a.shape[0] % 2 == 0:
                values += mb.split(x=a, num_splits=2, axis=0)
            elif kind == 4:
                values.append(mb.reshape(x=a, shape=list(a.shape)[::-1]))
            elif kind == 5:
                wide = mb.cast(x=a, dtype="fp32")
                values.append(mb.cast(x=wide, dtype="fp16"))
        return chance.sample(values[1:], 2)

    return build


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_against_a_simulation(tmp_path: Path, seed: int) -> None:
    package = read(tmp_path, {"x": ((8, 96), "fp16")}, tangle(seed))
    found = memory(package)
    assert found.peak == simulated(package.main)
    made = [v for op in package.main.operations() if op.type != "const" for v in op.outputs]
    assert found.largest == max(size(value.type) for value in [*package.main.inputs, *made])
    assert found.largest <= found.peak <= found.aligned_peak and found.largest_name and found.peak_at
    assert memory(package, storage="fp32").peak >= found.peak >= memory(package, storage="fp16").peak


def test_figures_by_hand(tmp_path: Path) -> None:
    """x -> a -> b -> y, x lives to the end because y adds it; rows of 40 bytes are stored in 64."""

    def build(mb: Any, x: Any) -> Any:
        a = mb.tile(x=x, reps=[1, 3], name="a")
        b = mb.slice_by_index(x=a, begin=[0, 0], end=[10, 20], name="b")
        return mb.add(x=mb.expand_dims(x=b, axes=[0], name="v"), y=x, name="y")

    package = read(tmp_path, {"x": ((10, 20), "fp16")}, build)
    found = memory(package)
    x, a, b = 400, 1200, 400
    assert (found.peak, found.peak_at) == (x + a + b, "b") and (found.largest, found.largest_name) == (a, "a")
    assert found.aligned_peak == 10 * 64 + 10 * 128 + 10 * 64 and found.aligned_largest == 10 * 128
    assert memory(package, storage="fp32").peak == 2 * found.peak
    assert peak_bytes(package) == found.peak
    assert timeline(package) == [("a", x + a), ("b", x + a + b), ("v", x + b), ("y", x + b + b)]


def test_nested_blocks(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, flag: Any) -> Any:
        def small() -> Any:
            return mb.relu(x=x, name="small")

        def large() -> Any:
            wide = mb.tile(x=x, reps=[1, 4], name="wide")
            return mb.slice_by_index(x=mb.relu(x=wide, name="again"), begin=[0, 0], end=[8, 32], name="back")

        chosen = mb.cond(
            pred=mb.cast(x=mb.squeeze(x=flag, axes=[0]), dtype="bool", name="yes"),
            _true_fn=small,
            _false_fn=large,
            name="c",
        )
        return mb.add(x=chosen, y=x, name="y")

    package = read(tmp_path, {"x": ((8, 32), "fp16"), "flag": ((1,), "int32")}, build)
    x = 8 * 32 * 2
    # x and the result of cond, the predicate, and in the larger branch two values of 4x at once
    assert memory(package).peak == x + x + 1 + 8 * x == simulated(package.main)


def flexible(folder: Path) -> Package:
    import coremltools as ct
    from coremltools.converters.mil.mil import get_new_symbol

    def build(mb: Any, x: Any) -> Any:
        y = mb.conv(x=x, weight=half(16, 8, 1, 3), pad_type="same", strides=[1, 2], name="half_as_long")
        return mb.concat(values=[mb.relu(x=y), y], axis=1, name="y")

    shape = ct.Shape((1, 8, 1, ct.RangeDim(64, 4096, default=256)))
    inputs = {"x": ((1, 8, 1, get_new_symbol()), "fp16")}
    return load(save(folder, inputs, build, flexible={"x": shape}))


def test_flexible_shapes_are_measured_as_run(tmp_path: Path) -> None:
    package = flexible(tmp_path)
    with pytest.raises(UsageError) as err:
        memory(package)
    assert err.value.code == "RUB-COREML-403" and err.value.hint
    for length in (256, 64, 1000):
        shapes = shapes_at(package, {"x": (1, 8, 1, length)})
        assert shapes["half_as_long"] == (1, 16, 1, length // 2) and shapes["x"] == (1, 8, 1, length)
        expected = 2 * (2 * 16 * length // 2 + 32 * length // 2)  # conv, relu, concat while y is made
        assert (
            memory(package, shapes=shapes).peak == peak_bytes(package, {"x": (1, 8, 1, length)}) == expected
        )
    assert peak_bytes(package) == 2 * (2 * 16 * 128 + 32 * 128)  # the default shape
    found = audit(package)["memory"]
    assert found["inputs"] == {"x": [1, 8, 1, 256]} and found["fp16"]["peak"] == peak_bytes(package)
    with pytest.raises(UsageError) as err:
        shapes_at(package, {"x": (1, 8, 1, 5000)})
    assert err.value.code == "RUB-COREML-261"


def test_declared_shapes_are_those_of_a_run(tmp_path: Path) -> None:
    """The static count stands on declared shapes: running gives the same ones."""
    package = read(tmp_path, {"x": ((8, 96), "fp16")}, tangle(3))
    assert shapes_at(package) == {}
    seen = shapes_at(package, {"x": (8, 96)})
    types = {name: kind for name, kind in package.main.types.items() if isinstance(kind, TensorType)}
    assert len(seen) > 20 and all(types[name].shape == shape for name, shape in seen.items())


GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 8, T] x) => (float[N, 16, T] y)
<float[16, 8, 1] w, int64[3] shape = {0, 16, -1}, float[1] one = {1}> {
    c = Conv (x, w)
    two = Add (one, one)
    v = Reshape (c, shape)
    r = Relu (v)
    y = Mul (r, two)
}
"""


def graph() -> Graph:
    model = onnx.parser.parse_model(GRAPH)
    weight = onnx.numpy_helper.from_array(np.ones((16, 8, 1), np.float32), "w")
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, weight])
    return Graph.from_proto(model)


@pytest.mark.parametrize(("items", "length"), [(1, 100), (2, 100), (1, 4000)])
def test_memory_of_a_graph(items: int, length: int) -> None:
    found = memory_of_graph(graph(), {"N": items, "T": length})
    value = items * 16 * length * 2
    # Reshape shares storage; constants and what follows from them are not counted.
    assert found.peak == 2 * value and found.peak_at in ("", *(n.name for n in graph().nodes))
    assert found.largest == value
    assert memory_of_graph(graph(), {"N": items, "T": length}, "fp32").peak == 2 * found.peak


def test_a_graph_with_free_shapes_has_no_one_memory() -> None:
    with pytest.raises(UsageError) as err:
        memory_of_graph(graph(), {"N": 1})
    assert err.value.code == "RUB-COREML-403"
