"""Programs that contradict themselves or want too much: a catalogued error, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_bare import (
    ARRAYS,
    add,
    bare,
    constant,
    main_block,
    messages,
    set_type,
    set_value,
    weights,
    written,
)
from coreml_hostile import DATA, X, Y, refused, relu_of_x, weighted

from rubicc.backends.coreml.run.limits import MIB, Limits
from rubicc.backends.coreml.run.load import load


def changed(change: Callable[[Any], Any]) -> Callable[[], Any]:
    """The sound model with something changed."""

    def make() -> Any:
        model = relu_of_x()
        change(model)
        return model

    return make


def with_operations(*operations: tuple[str, list[Any], dict[str, Any]]) -> Callable[[], Any]:
    """A model of these operations; the last makes y."""

    def make() -> Any:
        model = bare()
        for kind, results, given in operations:
            add(main_block(model), kind, results, **given)
        return model

    return make


def giant(kind: str, /, **given: Any) -> Callable[[], Any]:
    """One operation that makes something far too large; its result's size is left open."""
    result = [("y", "fp32", (None, None))]
    return with_operations((kind, result, given))


def set_rank(model: Any) -> None:
    main_block(model).operations[0].outputs[0].type.tensorType.rank = 5


def set_size(size: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        held = main_block(model).operations[0].outputs[0].type.tensorType
        held.dimensions[0].constant.size = size

    return change


def neural_network(model: Any) -> None:
    model.neuralNetwork.SetInParent()


def other_opset(model: Any) -> None:
    model.mlProgram.functions["main"].opset = "CoreML99"


def newer_opset(model: Any) -> None:
    model.specificationVersion = 7


def no_block(model: Any) -> None:
    del model.mlProgram.functions["main"].block_specializations["CoreML7"]


def described_otherwise(model: Any) -> None:
    model.description.input[0].name = "z"


def described_as_whole_numbers(model: Any) -> None:
    model.description.output[0].type.multiArrayType.dataType = ARRAYS["int32"]


def too_few_values(model: Any) -> None:
    block = main_block(model)
    made = constant(block, "w", np.ones((2, 3), np.float32))
    del made.attributes["val"].immediateValue.tensor.floats.values[2:]


def value_of_another_type(model: Any) -> None:
    made = constant(main_block(model), "w", np.ones((2, 3), np.float32))
    made.attributes["val"].Clear()
    set_value(made.attributes["val"], np.ones((2, 3), np.int32))


def const_without_value(model: Any) -> None:
    made = main_block(model).operations.add(type="const")
    set_type(made.outputs.add(name="w").type, "fp32", ())


def parameter_without_binding(model: Any) -> None:
    main_block(model).operations[0].inputs["x"].arguments[0].ClearField("name")


def nested(depth: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        block = main_block(model)
        for _ in range(depth):
            made = block.operations.add(type="cond")
            block = made.blocks.add()

    return change


def loop(condition: Callable[[Any], None], body: Callable[[Any], None] | None = None) -> Callable[[], Any]:
    """y = while_loop over x."""

    def make() -> Any:
        model = bare()
        made = add(main_block(model), "while_loop", Y, loop_vars=["%x"])
        for place in ("c", "b"):
            block = made.blocks.add()
            set_type(block.inputs.add(name=f"x{place}").type, "fp32", (2, 3))
            block.outputs.append(f"{place}_out")
        condition(made.blocks[0])
        (body or (lambda block: add(block, "relu", [("b_out", "fp32", (2, 3))], x="%xb")))(made.blocks[1])
        return model

    return make


def always(block: Any) -> None:
    constant(block, "c_out", np.True_)


def no_condition(block: Any) -> None:
    add(block, "relu", [("c_out", "fp32", (2, 3))], x="%xc")


def growing(block: Any) -> None:
    add(block, "concat", [("b_out", "fp32", (None, 3))], values=["%xb", "%xb"], axis=0)


def growing_list() -> Any:
    """A list written far behind its end."""
    model = bare()
    block = main_block(model)
    made = add(block, "make_list", [], init_length=1, dtype="fp32")
    made.outputs.add(name="l").type.listType.type.tensorType.dataType = 11
    wide = add(block, "list_write", [], ls="%l", index=2_000_000_000, value="%x")
    wide.outputs.add(name="m").type.CopyFrom(made.outputs[0].type)
    add(block, "list_length", [("n", "int32", ())], ls="%m")
    add(block, "relu", Y, x="%x")
    return model


def cycle_through_a_block() -> Any:
    """A branch that reads what the branch itself makes."""
    model = bare()
    block = main_block(model)
    constant(block, "p", np.True_)
    made = add(block, "cond", Y, pred="%p")
    for name in ("a", "b"):
        inner = made.blocks.add()
        add(inner, "relu", [(name, "fp32", (2, 3))], x="%y")
        inner.outputs.append(name)
    return model


def palette(codes: np.ndarray, lut: np.ndarray) -> Callable[[], Any]:
    def make() -> Any:
        model = bare(opset="CoreML8", specification=9)
        block = main_block(model)
        add(block, "constexpr_lut_to_dense", [("w", "fp32", (2, 3))], indices=codes, lut=lut)
        add(block, "add", Y, x="%x", y="%w")
        return model

    return make


def sparse(shape: tuple[int, ...], mask: np.ndarray, values: np.ndarray) -> Callable[[], Any]:
    """iOS 16's form: parameters are attributes."""

    def make() -> Any:
        model = bare(opset="CoreML6", specification=7)
        block = main_block(model)
        made = add(block, "constexpr_sparse_to_dense", [("w", "fp32", shape)])
        set_value(made.attributes["mask"], mask)
        set_value(made.attributes["nonzero_data"], values)
        set_value(made.attributes["shape"], np.array(shape, np.int32))
        add(block, "add", Y, x="%x", y="%w")
        return model

    return make


CODES_6 = np.arange(6, dtype=np.uint8).reshape(2, 3)
ALONG = np.ones((4, 1), np.float32)
TALL = np.ones((50_000, 1), np.float32)
PROGRAMS: dict[str, tuple[Callable[[], Any], str]] = {
    "another kind of model": (changed(neural_network), "RUB-COREML-211"),
    "specification from the future": (
        changed(lambda m: setattr(m, "specificationVersion", 99)),
        "RUB-COREML-212",
    ),
    "operator set not known": (changed(other_opset), "RUB-COREML-212"),
    "operator set newer than the file": (changed(newer_opset), "RUB-COREML-212"),
    "no block for the operator set": (changed(no_block), "RUB-COREML-212"),
    "rank and dimensions differ": (changed(set_rank), "RUB-COREML-213"),
    "negative dimension": (changed(set_size((1 << 64) - 3)), "RUB-COREML-213"),
    "too few values": (changed(too_few_values), "RUB-COREML-214"),
    "value of another type": (changed(value_of_another_type), "RUB-COREML-214"),
    "description names another input": (changed(described_otherwise), "RUB-COREML-216"),
    "description gives another type": (changed(described_as_whole_numbers), "RUB-COREML-216"),
    "const without a value": (changed(const_without_value), "RUB-COREML-217"),
    "parameter bound to nothing": (changed(parameter_without_binding), "RUB-COREML-217"),
    "blocks nested too deep": (changed(nested(30)), "RUB-COREML-203"),
    "blocks nested past protobuf's depth": (changed(nested(60)), "RUB-COREML-210"),
    "name never made": (with_operations(("relu", Y, {"x": "%nobody"})), "RUB-COREML-230"),
    "operations in a circle": (
        with_operations(
            ("relu", [("a", "fp32", (2, 3))], {"x": "%b"}), ("relu", [("b", "fp32", (2, 3))], {"x": "%a"})
        ),
        "RUB-COREML-230",
    ),
    "a block that reads its own result": (cycle_through_a_block, "RUB-COREML-230"),
    "name made twice": (
        with_operations(("relu", Y, {"x": "%x"}), ("abs", Y, {"x": "%x"})),
        "RUB-COREML-231",
    ),
    "operation not known": (with_operations(("teleport", Y, {"x": "%x"})), "RUB-COREML-232"),
    "random numbers": (with_operations(("random_normal", Y, {"shape": [2, 3]})), "RUB-COREML-232"),
    "constexpr not known": (with_operations(("constexpr_magic", Y, {})), "RUB-COREML-232"),
    "parameter missing": (with_operations(("leaky_relu", Y, {"x": "%x"})), "RUB-COREML-233"),
    "parameter not known": (with_operations(("relu", Y, {"x": "%x", "beta": 1.0})), "RUB-COREML-233"),
    "two element types": (
        with_operations(("add", Y, {"x": "%x", "y": np.ones((2, 3), np.int32)})),
        "RUB-COREML-233",
    ),
    "text where a tensor belongs": (with_operations(("relu", Y, {"x": "many"})), "RUB-COREML-233"),
    "a million axes": (
        with_operations(("reduce_sum", Y, {"x": "%x", "axes": np.zeros(1_100_000, np.int32)})),
        "RUB-COREML-233",
    ),
    "codes past the palette": (palette(CODES_6, np.zeros((1, 1, 4, 1), np.float32)), "RUB-COREML-234"),
    "palette of another rank": (palette(CODES_6, np.zeros((1, 8, 1), np.float32)), "RUB-COREML-234"),
    "mask of another size": (
        sparse((2, 3), np.array([255], np.uint8), np.ones(7, np.float32)),
        "RUB-COREML-234",
    ),
    "compressed weight of a terabyte": (
        sparse((1 << 20, 1 << 20), np.array([1], np.uint8), np.ones(1, np.float32)),
        "RUB-COREML-242",
    ),
    "matrices that do not fit": (
        with_operations(("matmul", Y, {"x": "%x", "y": np.ones((7, 3), np.float32)})),
        "RUB-COREML-240",
    ),
    "axis that is not there": (with_operations(("softmax", Y, {"x": "%x", "axis": 9})), "RUB-COREML-240"),
    "index past the end": (
        with_operations(("gather", Y, {"x": "%x", "indices": np.array([0, 7], np.int32), "axis": 0})),
        "RUB-COREML-240",
    ),
    "division of whole numbers by zero": (
        with_operations(
            ("floor_div", [("i", "int32", ())], {"x": np.int32(1), "y": np.int32(0)}),
            ("relu", Y, {"x": "%x"}),
        ),
        "RUB-COREML-240",
    ),
    "kernel wider than its input": (
        with_operations(
            ("expand_dims", [("e", "fp32", (1, 2, 3))], {"x": "%x", "axes": [0]}),
            ("conv", Y, {"x": "%e", "weight": np.ones((2, 2, 9), np.float32)}),
        ),
        "RUB-COREML-240",
    ),
    "result of another shape": (
        with_operations(("transpose", Y, {"x": "%x", "perm": [1, 0]})),
        "RUB-COREML-241",
    ),
    "result of another type": (
        with_operations(("cast", [("y", "fp32", (2, 3))], {"x": "%x", "dtype": "int32"})),
        "RUB-COREML-240",
    ),
    "number of results": (
        with_operations(("relu", [*Y, ("z", "fp32", (2, 3))], {"x": "%x"})),
        "RUB-COREML-241",
    ),
    "loop that changes its shape": (loop(always, growing), "RUB-COREML-241"),
    "loop on something that is no condition": (loop(no_condition), "RUB-COREML-240"),
    "giant fill": (giant("fill", shape=[1 << 30, 1 << 10], value=1.0), "RUB-COREML-242"),
    "giant range": (
        with_operations(
            ("range_1d", [("y", "fp32", (None,))], {"start": 0, "end": 2_000_000_000, "step": 1})
        ),
        "RUB-COREML-242",
    ),
    "giant tile": (giant("tile", x="%x", reps=[1 << 20, 1 << 20]), "RUB-COREML-242"),
    "giant sum by broadcasting": (giant("add", x=TALL, y=TALL.T), "RUB-COREML-242"),
    "giant product": (giant("matmul", x=TALL, y=TALL.T), "RUB-COREML-242"),
    "giant pad": (giant("pad", x="%x", pad=[1 << 30, 0, 0, 1 << 10]), "RUB-COREML-242"),
    "giant one-hot": (
        giant("one_hot", indices=np.zeros(1000, np.int32), one_hot_vector_size=1 << 30),
        "RUB-COREML-242",
    ),
    "list written far behind its end": (growing_list, "RUB-COREML-242"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_contradict_themselves_or_want_too_much_are_refused(name: str, tmp_path: Path) -> None:
    make, code = PROGRAMS[name]
    refused(written(tmp_path, make()), code)


def doubled(times: int) -> Any:
    """y = x joined to itself again and again."""
    model = bare()
    last = "%x"
    for turn in range(times):
        name = "y" if turn == times - 1 else f"t{turn}"
        add(main_block(model), "concat", [(name, "fp32", (None, 3))], values=[last, last], axis=0)
        last = f"%{name}"
    return model


def test_a_concat_that_doubles_forty_times_stops_at_the_limit(tmp_path: Path) -> None:
    error = refused(written(tmp_path, doubled(40)), "RUB-COREML-242", Limits(live_bytes=64 * MIB))
    assert "concat" in error.where


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf's wire format that holds bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    made = bytearray()
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def with_block(block: bytes) -> bytes:
    """The sound model's bytes with another block: never made as messages here, they would take a gigabyte."""
    model_pb, mil = messages()
    numbers = [
        message.DESCRIPTOR.fields_by_name[name].number
        for message, name in (
            (model_pb.Model, "mlProgram"),
            (mil.Program, "functions"),
            (mil.Function, "block_specializations"),
        )
    ]
    model = relu_of_x()
    function = model.mlProgram.functions["main"]
    function.block_specializations.clear()
    inner = function.SerializeToString() + field(numbers[2], field(1, b"CoreML7") + field(2, block))
    model.ClearField("mlProgram")
    return model.SerializeToString() + field(
        numbers[0], field(numbers[1], field(1, b"main") + field(2, inner))
    )


def test_a_million_operations_are_refused_before_they_are_made(tmp_path: Path) -> None:
    one = field(3, main_block(relu_of_x()).operations[0].SerializeToString())
    error = refused(written(tmp_path, with_block(one * 1_000_000)), "RUB-COREML-203")
    assert "50000 operations" in error.what


def test_millions_of_empty_messages_are_refused_before_they_are_made(tmp_path: Path) -> None:
    """Two bytes each in the file, a hundred in memory."""
    path = written(tmp_path, with_block(field(1, b"") * 4_000_000))
    error = refused(path, "RUB-COREML-203", Limits(messages=300_000))
    assert "300000 messages" in error.what


def test_a_file_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, relu_of_x())
    assert "larger than 100 bytes" in refused(path, "RUB-COREML-203", Limits(model_bytes=100)).what


def test_constants_beyond_the_limit_are_not_decoded(tmp_path: Path) -> None:
    path = written(tmp_path, weighted(), bytes(weights((2, DATA))))
    assert "pass the limit of 20 bytes" in refused(path, "RUB-COREML-242", Limits(constants_bytes=20)).what


def test_a_loop_without_end_ends(tmp_path: Path) -> None:
    error = refused(written(tmp_path, loop(always)()), "RUB-COREML-243", Limits(iterations=2000))
    assert "2000 turns" in error.what and "while_loop" in error.where
    assert Limits().iterations <= 100_000, "by default a loop ends after seconds, not hours"


def test_a_run_that_takes_too_many_steps_or_seconds_ends(tmp_path: Path) -> None:
    path = written(tmp_path, loop(always)())
    assert "50 operations" in refused(path, "RUB-COREML-243", Limits(steps=50)).what
    assert "seconds" in refused(path, "RUB-COREML-243", Limits(seconds=0.0)).what


def test_products_that_take_hours_are_not_begun(tmp_path: Path) -> None:
    wide = np.ones((1, 1 << 12), np.float32)
    made = with_operations(
        ("matmul", [("p", "fp32", (1, 1))], {"x": wide, "y": wide.T}), ("relu", Y, {"x": "%x"})
    )
    path = written(tmp_path, made())
    assert "multiplications" in refused(path, "RUB-COREML-243", Limits(products=1 << 11)).what
    assert load(path).run(X, semantics="fp32")["y"].shape == (2, 3)
    line = "conv", [("p", "fp32", (1, 1, 1))], {"x": wide[None], "weight": wide[None]}
    (tmp_path / "b").mkdir()
    path = written(tmp_path / "b", with_operations(line, ("relu", Y, {"x": "%x"}))())
    assert "conv" in refused(path, "RUB-COREML-243", Limits(products=1 << 11)).where


def recurrent(steps: int) -> Any:
    """An rnn of one unit over a made-up sequence: time without memory."""
    model = bare()
    block = main_block(model)
    one = np.ones((1, 1), np.float32)
    add(block, "fill", [("s", "fp32", (steps, 1, 1))], shape=[steps, 1, 1], value=0.5)
    results = [("o", "fp32", (1, 1, 1)), ("h", "fp32", (1, 1))]
    given = {"initial_h": one, "weight_ih": one, "weight_hh": one, "output_sequence": np.False_}
    add(block, "rnn", results, x="%s", **given)
    add(block, "relu", Y, x="%x")
    return model


def test_the_steps_of_a_recurrent_layer_count(tmp_path: Path) -> None:
    path = written(tmp_path, recurrent(5000))
    assert "rnn" in refused(path, "RUB-COREML-243", Limits(steps=1000)).where
    assert load(path).run(X, semantics="fp32")["y"].shape == (2, 3)


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(PROGRAMS) >= 40
