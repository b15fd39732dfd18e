"""The polyphase layout on single convolutions and small nets: geometry, lengths, regions, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.layout import conv as conv_module
from rubicc.passes.layout import phases as phase_math
from rubicc.passes.layout import planes as planes_module
from rubicc.passes.layout import rows as rows_module
from rubicc.passes.layout.phases import Geometry, fold, fold_weight, macs_per_output, spread_geometry
from rubicc.passes.layout.polyphase import Polyphase, candidates
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get

FORMULATIONS = ("rows", "gather", "planes")


def one_conv(
    groups: int = 2, inputs: int = 4, outputs: int = 4, taps: int = 9, length: int | str = "T", **attrs: Any
) -> Graph:
    """(N, C, T) through one convolution with bias; pads and the rest as given."""
    attrs = {"pads": [taps // 2, taps // 2], **attrs}
    stride = (attrs.get("strides") or [1])[0]
    span = (attrs.get("dilations") or [1])[0] * (taps - 1) + 1
    known = isinstance(length, int)
    out = (length + sum(attrs["pads"]) - span) // stride + 1 if known else "T_out"
    return graph(
        [node("Conv", "x w b", "y", group=groups, kernel_shape=[taps], **attrs)],
        {"x": ["N", groups * inputs, length]},
        {"y": ["N", groups * outputs, out]},
        {"w": weights(groups * outputs, inputs, taps), "b": weights(groups * outputs)},
    )


def options(formulation: str, phases: int = 4) -> dict[str, Any]:
    return {"formulation": formulation, "phases": phases, "force": True}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FORMULATIONS), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 9),
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 6), st.integers(0, 6), st.integers(2, 6),
    st.integers(0, 13), st.booleans(),
)  # fmt: skip
def test_any_convolution_keeps_its_numbers(
    formulation: str, groups: int, inputs: int, outputs: int, taps: int, stride: int, dilation: int,
    before: int, after: int, phases: int, more: int, static: bool,
) -> None:  # fmt: skip
    """Odd and even kernels, any padding, stride, dilation and length, symbolic and static."""
    length = max(1, dilation * (taps - 1) + 1 - before - after) + more
    built = one_conv(
        groups, inputs, outputs, taps, length if static else "T",
        pads=[before, after], strides=[stride], dilations=[dilation],
    )  # fmt: skip
    keeps = stride == 1 and before + after == dilation * (taps - 1)
    done = apply_and_check(
        "layout.polyphase",
        built,
        options=options(formulation, phases),
        sizes={"T": length, "N": 2},
        random=1,
        expect_changed=keeps or formulation != "planes",
    )
    assert done.graph.op_counts()["Conv"] == 1


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("pads", [[4, 4], [8, 0], [0, 8], [3, 5]])
def test_one_rewritten_graph_serves_every_length(formulation: str, pads: list[int]) -> None:
    before = one_conv(pads=pads)
    after = before.clone()
    assert run_pass(Polyphase(Polyphase.Options(formulation, 4, True)), after).changed  # type: ignore[arg-type]
    for length in range(1, 22):
        x = np.random.default_rng(length).normal(size=(2, 8, length)).astype(np.float32)
        old, new = execute(before, {"x": x})["y"], execute(after, {"x": x})["y"]
        assert new.shape == old.shape
        np.testing.assert_allclose(new, old, rtol=0, atol=2e-5 * np.abs(old).max())


def chain(length: int | str = "T") -> Graph:
    """Two separable layers with a skip, then a head: what basecallers are made of."""
    return graph(
        [
            node("Conv", "x w0 b", "s", kernel_shape=[5], strides=[3], pads=[2, 2]),
            node("Relu", "s", "s1"),
            node("Conv", "s1 g1", "a", group=2, kernel_shape=[9], pads=[4, 4]),
            node("Conv", "a p1 b", "c", kernel_shape=[1]),
            node("Conv", "s1 p2", "skip", kernel_shape=[1]),
            node("Add", "c skip", "d"),
            node("Sigmoid", "d", "e"),
            node("Conv", "e g2", "f", group=2, kernel_shape=[7], pads=[3, 3]),
            node("Conv", "f h", "g", kernel_shape=[1]),
            node("Transpose", "g", "t", perm=[2, 0, 1]),
            node("LogSoftmax", "t", "y", axis=-1),
        ],
        {"x": ["N", 1, length]},
        {"y": [None, "N", 5]},
        {
            "w0": weights(8, 1, 5), "b": weights(8), "g1": weights(8, 4, 9), "g2": weights(8, 4, 7),
            "p1": weights(8, 8, 1), "p2": weights(8, 8, 1, seed=1), "h": weights(5, 8, 1),
        },
    )  # fmt: skip


def test_a_region_has_one_transpose_at_each_end() -> None:
    """Stem writes phases itself; skip, Add and Sigmoid are carried; two convolutions fold in between."""
    done = apply_and_check(
        "layout.polyphase",
        chain(36),
        options=options("planes"),
        sizes={"N": 2},
        expect_ops={"Reshape": 1 + 2 + 2 + 2, "Transpose": 1},
    )
    stem = next(n for n in done.graph.nodes if n.op_type == "Conv")
    assert list(stem.attributes["strides"].value) == [12] and stem.inputs[1].shape == [32, 1, 14]
    assert len(done.graph.outputs[0].shape) == 3


@pytest.mark.parametrize("length", [40, "T"])
def test_positions_that_do_not_exist_are_zeroed_before_they_are_read(length: int | str) -> None:
    """Sigmoid and biases make them nonzero; both convolutions over time need one selection each."""
    done = apply_and_check(
        "layout.polyphase", chain(length), options=options("planes"), sizes={"T": 40, "N": 2}
    )
    assert done.record.op_diff["Where"] == 2 and done.record.op_diff["Transpose"] == 1 + (length == "T")


@pytest.mark.parametrize("formulation", ("rows", "gather"))
def test_rows_fold_each_convolution_by_itself(formulation: str) -> None:
    done = apply_and_check("layout.polyphase", chain(36), options=options(formulation), sizes={"N": 2})
    free, moves = 3 * 4, 2 * 2  # the stem has one group: its frames in a row are channels as they stand
    by_gather = formulation == "gather"
    assert done.record.op_diff["Transpose"] == free + (0 if by_gather else moves)
    assert done.record.op_diff.get("Gather", 0) == (moves if by_gather else 0)


def test_cost_decides() -> None:
    """Long kernels with 8 channels per group fold; short ones, pointwise and wide dense ones stay."""

    def changed(formulation: str, **shape: Any) -> bool:
        built = one_conv(length=1200, **shape)
        return run_pass(Polyphase(Polyphase.Options(formulation)), built.clone()).changed  # type: ignore[arg-type]

    for formulation in ("rows", "planes"):
        assert changed(formulation, groups=8, inputs=8, outputs=8, taps=115)
        assert not changed(formulation, groups=8, inputs=8, outputs=8, taps=3)
        assert not changed(formulation, groups=1, inputs=64, outputs=64, taps=9)
        assert not changed(formulation, groups=1, inputs=64, outputs=64, taps=1)
    few = candidates(one_conv(groups=8, inputs=8, outputs=8, taps=115))
    assert few and few[0] == Polyphase.Options("rows") and len(few) <= 3
    assert candidates(one_conv(groups=1, inputs=64, outputs=64, taps=1)) == ()


def test_a_usual_length_prefers_phases_that_divide_it() -> None:
    """Phases 6 and 8 cost about the same; a remainder costs padding."""
    for length, divisors in ((1200, (2, 3, 4, 6, 8, 12, 16)), (1208, (2, 4, 8))):
        built = one_conv(groups=8, inputs=8, outputs=8, taps=115, length=length)
        run_pass(Polyphase(), built)
        made = next(n for n in built.nodes if n.op_type == "Conv")
        assert made.inputs[1].shape[1] // 8 in divisors
        assert "Pad" not in built.op_counts()


def test_folding_costs_few_multiplications() -> None:
    """The formulas of docs/polyphase.md."""
    long = Geometry(28, 8, 8, 115, before=57, after=57)
    assert fold(long, 4).taps == 31 and macs_per_output(long, 4) / (8 * 115) == pytest.approx(124 / 115)
    short = Geometry(28, 8, 8, 9, before=4, after=4)
    assert macs_per_output(short, 4) / (8 * 9) == pytest.approx(12 / 9)
    assert spread_geometry(Geometry(1, 1, 208, 9, 3, before=4, after=4), 4).taps == 18


def test_what_stays_is_said() -> None:
    """Weights that are computed cannot be rearranged; old operator sets cannot express lengths."""
    built = graph(
        [node("Conv", "x w", "y", kernel_shape=[5], pads=[2, 2])],
        {"x": ["N", 4, "T"], "w": [4, 4, 5]},
        {"y": ["N", 4, "T"]},
    )
    record = run_pass(Polyphase(Polyphase.Options("rows", 2, True)), built)
    assert not record.changed and "not constant" in record.notes[0].what
    with pytest.raises(ValueError, match="phases is 1"):
        Polyphase.Options(phases=1)
    old = one_conv()
    old.model.opset_imports[""] = 13
    assert "older" in run_pass(Polyphase(Polyphase.Options("rows", 2, True)), old).notes[0].what


def _tap_dropped(weight: np.ndarray, geometry: Geometry, *rest: Any) -> np.ndarray:
    made = fold_weight(weight, geometry, *rest).copy()
    made[..., -1] = 0
    return made


def _phases_swapped(weight: np.ndarray, geometry: Geometry, phases: int, *rest: Any) -> np.ndarray:
    made = fold_weight(weight, geometry, phases, *rest)
    groups = made.reshape(geometry.groups, -1, *made.shape[1:])
    return np.ascontiguousarray(groups[:, ::-1].reshape(made.shape))


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("wrong", [_tap_dropped, _phases_swapped])
def test_mutants_of_the_weights_fail(monkeypatch: pytest.MonkeyPatch, formulation: str, wrong: Any) -> None:
    monkeypatch.setattr(conv_module, "fold_weight", wrong)
    wanted = Polyphase.Options(formulation, 4, True)  # type: ignore[arg-type]
    assert_mutant_fails(Polyphase(wanted), chain(), code="RUB-PASS-021", sizes={"T": 36, "N": 2})


def test_a_tail_that_is_not_zeroed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes_module.Writer, "select", lambda self, mask: None)
    wanted = Polyphase.Options("planes", 4, True)
    assert_mutant_fails(Polyphase(wanted), chain(), code="RUB-PASS-021", sizes={"T": 40, "N": 2})


def test_blocks_in_the_wrong_order_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def back_to_front(*args: int) -> tuple[np.ndarray, np.ndarray]:
        to, back = phase_math.block_moves(*args)
        return back, to

    monkeypatch.setattr(rows_module, "block_moves", back_to_front)
    wanted = Polyphase.Options("gather", 4, True)
    assert_mutant_fails(Polyphase(wanted), chain(), code="RUB-PASS-021", sizes={"T": 36, "N": 2})


def test_an_output_in_the_middle_and_several_lengths(nets: dict[str, Graph]) -> None:
    """Values that are graph outputs too leave the region; shared values are left and entered once."""
    built = graph(
        [
            node("Conv", "x w", "a", group=2, kernel_shape=[5], pads=[2, 2]),
            node("Relu", "a", "y"),
            node("Conv", "y w", "b", group=2, kernel_shape=[5], pads=[2, 2]),
            node("Conv", "b w", "c", group=2, kernel_shape=[5], strides=[2], pads=[2, 2]),
            node("Conv", "c w", "d", group=2, kernel_shape=[5], pads=[2, 2]),
            node("ReduceMean", "b", "m", keepdims=1),
            node("Add", "d m", "z"),
        ],
        {"x": ["N", 8, "T"]},
        {"y": ["N", 8, "T"], "z": ["N", 8, "T_out"]},
        {"w": weights(8, 4, 5)},
    )
    for formulation in FORMULATIONS:
        for length in (24, 31):
            apply_and_check(
                "layout.polyphase", built, options=options(formulation), sizes={"T": length, "N": 2}
            )
    for name in ("residual", "residual (traced)"):
        work = nets[name].clone()
        for step in ("cleanup.lift-constants", "cleanup.infer-shapes", "cleanup.fold-constants"):
            run_pass(get(step)(), work)
        for formulation in FORMULATIONS:
            apply_and_check(
                "layout.polyphase", work, options=options(formulation), sizes={"T": 30, "N": 2}, random=1
            )
