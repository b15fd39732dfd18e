"""``--shapes``: its text, what it means for a network, and what is refused."""

from __future__ import annotations

import pytest

from rubicc.errors import UsageError
from rubicc.shapes import Shapes, parse_shapes, resolve_shapes
from rubicc.spec import ModelMeta, TensorSpec

SIGNAL = (TensorSpec("x", ("N", 1, "T")),)
TOKENS = (TensorSpec("input_ids", ("N", "T"), "int64"), TensorSpec("attention_mask", ("N", "T"), "int64"))
BASECALLER = ModelMeta(
    "net", SIGNAL, (TensorSpec("y", ("F", "N", 5)),), task="basecalling", stride=5, chunk=4000
)
BERT = ModelMeta("bert", TOKENS, (), task="masked-lm", config={"max_position_embeddings": 256})


def test_the_usual_shapes_follow_from_the_model() -> None:
    fixed = resolve_shapes(SIGNAL, BASECALLER, "fixed")
    assert fixed.kind == "fixed" and fixed.default == fixed.bound == {"N": 1, "T": 4000}
    assert fixed.of("x").default == (1, 1, 4000) and fixed.of("x").describe() == "1 x 1 x 4000"
    lists = resolve_shapes(SIGNAL, BASECALLER, "enumerated")
    assert lists.of("x").choices == ((1, 1, 4000), (1, 1, 1000), (1, 1, 2000)) and lists.bound == {"N": 1}
    ranged = resolve_shapes(SIGNAL, BASECALLER, "range")
    assert ranged.of("x").bounds == ((1, 8), (1, 1), (250, 16000)) and ranged.bound == {}
    assert [row["T"] for row in ranged.assignments] == [4000, 250, 16000]
    tokens = resolve_shapes(TOKENS, BERT, "fixed")
    assert [item.default for item in tokens.inputs] == [(1, 256), (1, 256)]


def test_numbers_for_one_input_reach_the_others_through_their_symbols() -> None:
    found = resolve_shapes(TOKENS, BERT, "input_ids=1x64,1x128")
    assert found.kind == "enumerated" and found.of("attention_mask").choices == ((1, 64), (1, 128))
    assert found.of("attention_mask").takes((1, 64)) and not found.of("attention_mask").takes((1, 65))
    ranged = resolve_shapes(TOKENS, BERT, "attention_mask=1..4x16..256")
    assert ranged.kind == "range" and ranged.of("input_ids").bounds == ((1, 4), (16, 256))
    assert ranged.default == {"N": 1, "T": 256}
    assert ranged.of("input_ids").takes((3, 17)) and not ranged.of("input_ids").takes((3, 15))


def test_a_range_of_one_axis_and_a_list_of_one_shape_are_what_they_are() -> None:
    ranged = resolve_shapes(SIGNAL, BASECALLER, "x=1x1x1000..8000")
    assert ranged.kind == "range" and ranged.bound == {"N": 1} and ranged.default["T"] == 4000
    assert resolve_shapes(SIGNAL, BASECALLER, "x=2x1x500,2x1x500").kind == "fixed"
    fixed = (TensorSpec("x", (1, 1, 300)),)
    assert resolve_shapes(fixed, None, "range").kind == "fixed"


def test_shapes_survive_as_plain_values() -> None:
    for text in ("fixed", "enumerated", "range", "x=1x1x50"):
        shapes = resolve_shapes(SIGNAL, BASECALLER, text)
        assert Shapes.from_dict(shapes.to_dict()) == shapes
    with pytest.raises(ValueError):
        Shapes.from_dict({"kind": "other", "inputs": [], "assignments": [{}]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "x=",
        "x=1x0x5",
        "x=1x1xT",
        "x=5..4x1x1",
        "x=1;x=2",
        "x=1x1x4..5,1x1x6",
        "floating",
        "=1x2",
        "x=1.5",
    ],
)
def test_texts_that_say_nothing(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shapes(text)
    assert caught.value.code == "RUB-CLI-003"


@pytest.mark.parametrize(
    ("specs", "meta", "text"),
    [
        (SIGNAL, BASECALLER, "y=1x1x400"),
        (SIGNAL, BASECALLER, "x=1x400"),
        (SIGNAL, BASECALLER, "x=1x2x400"),
        (TOKENS, BERT, "input_ids=1x64;attention_mask=1x65"),
        (TOKENS, BERT, "input_ids=1x64,1x65,1x66;attention_mask=1x64,1x65"),
        (SIGNAL, BASECALLER, "x=" + ",".join(f"1x1x{n}" for n in range(1, 200))),
        (SIGNAL, None, "fixed"),
    ],
)
def test_shapes_that_do_not_fit(specs: tuple[TensorSpec, ...], meta: ModelMeta | None, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_shapes(specs, meta, text)
    assert caught.value.code == "RUB-SPEC-003" and caught.value.hint
