"""Deliberate faults in the lowering: every one is caught by the proof that each compilation runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coreml_builds
import numpy as np
import onnx_ir as ir
import pytest

from rubicc.backends.coreml.lowering import gru, norm, recurrent
from rubicc.backends.coreml.lowering.context import Context
from rubicc.errors import VerificationFailed

Inputs = dict[str, Any]
Change = Callable[[Context, Inputs], Inputs]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    home = tmp_path_factory.mktemp("nets")

    @functools.cache
    def make(name: str, target: str) -> Any:
        return coreml_builds.build(name, home, target)

    return make


def emitting(
    kind: str, change: Change, only: Callable[[Context, Inputs], bool] | None = None, instead: str = ""
) -> Any:
    """A fault in every MIL operation ``kind`` that ``only`` picks.

    Its inputs are changed before it is made, or another operation is made ``instead``.
    """

    def install(patch: pytest.MonkeyPatch) -> None:
        made = Context.op

        def op(self: Context, name: str, node: ir.Node, part: str = "", **inputs: Any) -> Any:
            if name == kind and (only is None or only(self, inputs)):
                name, inputs = instead or kind, change(self, dict(inputs))
            return made(self, name, node, part, **inputs)

        patch.setattr(Context, "op", op)

    return install


def setting(holder: Any, name: str, value: Any) -> Any:
    """A fault in a constant or function of the lowering."""
    return lambda patch: patch.setattr(holder, name, value)


def dropped(*names: str) -> Change:
    return lambda c, inputs: {key: value for key, value in inputs.items() if key not in names}


def replaced(**values: Any) -> Change:
    return lambda c, inputs: {**inputs, **values}


def array_changed(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Change:
    """One constant operand with other numbers in it."""

    def change(c: Context, inputs: Inputs) -> Inputs:
        var = inputs[name]
        held = np.asarray(getattr(var, "val", var))
        return {**inputs, name: np.array(how(held), held.dtype, order="C")}

    return change


def padded_later(c: Context, inputs: Inputs) -> Inputs:
    pads = list(inputs["pad"])
    return {**inputs, "pad": [*pads[:-2], pads[-2] + 1, pads[-1] - 1]}


def has_padding(c: Context, inputs: Inputs) -> bool:
    return "pad" in inputs and inputs["pad"][-1] > 0


def slightly_off(array: np.ndarray) -> np.ndarray:
    """One weight one per cent larger."""
    array = array.copy()
    at = np.unravel_index(np.argmax(np.abs(array)), array.shape)
    array[at] *= array.dtype.type(1.01)
    return array


def halved(array: np.ndarray) -> np.ndarray:
    return array / 2


def not_reversed(c: Context, inputs: Inputs) -> Inputs:
    return {**inputs, "axes": [0] if inputs["x"].shape[0] == 1 else [1]}


def unmasked(c: Context, inputs: Inputs) -> Inputs:
    """The addend of the scores is left away: padding is attended to."""
    x = inputs["x"]
    return {**inputs, "y": c.scalar_like(x, 0.0)}


def is_mask(c: Context, inputs: Inputs) -> bool:
    x, y = inputs["x"], inputs["y"]
    return getattr(y, "val", None) is None and tuple(x.shape) != tuple(getattr(y, "shape", ()))


FAULTS: Mapping[str, tuple[str, str, Any]] = {
    "conv: padding one later": ("conv", "iOS17", emitting("conv", padded_later, has_padding)),
    "conv: bias forgotten": ("conv", "iOS17", emitting("conv", dropped("bias"))),
    "conv: taps backwards": (
        "conv", "iOS17", emitting("conv", array_changed("weight", lambda a: a[..., ::-1]))
    ),
    "conv: one weight 1 % off": ("conv", "iOS17", emitting("conv", array_changed("weight", slightly_off))),
    "log softmax: over another axis": ("conv", "iOS17", emitting("reduce_log_sum_exp", replaced(axes=[-2]))),
    "gru: gates in ONNX's order": ("gru", "iOS18", setting(gru, "_MIL_ORDER", (0, 1, 2))),
    "gru: reset before the product": ("gru", "iOS18", emitting("gru", dropped("reset_after", "input_bias"))),
    "gru in two steps: step too large for the linear part of tanh": (
        "gru", "iOS17", setting(gru, "STEP", 2.0**-4)
    ),
    "gru: backward layer runs forward": ("gru", "iOS18", emitting("reverse", not_reversed)),
    "lstm: gates in ONNX's order": ("lstm", "iOS17", setting(recurrent, "_LSTM_ORDER", (0, 1, 2, 3))),
    "lstm: bias of one side only": ("lstm", "iOS17", emitting("lstm", array_changed("bias", halved))),
    "softmax: over another axis": ("bert", "iOS17", emitting("softmax", replaced(axis=3))),
    "gelu: by tanh": ("bert", "iOS17", emitting("gelu", replaced(mode="TANH_APPROXIMATION"))),
    "layer norm: epsilon of another order": (
        "bert", "iOS17", setting(norm, "epsilon_for", lambda value, dtype: 1e-3)
    ),
    "layer norm: scale forgotten": ("bert", "iOS17", emitting("layer_norm", dropped("gamma", "beta"))),
    "attention: mask forgotten": ("bert", "iOS17", emitting("add", unmasked, is_mask)),
    "gather: the next row": (
        "bert", "iOS17", emitting("gather", array_changed("x", lambda a: np.roll(a, 1, axis=0)))
    ),
    "quantised: one step of an activation 1 % off": (
        "quantised", "iOS17", emitting("quantize", array_changed("scale", lambda a: a * 1.01))
    ),
    "quantised: rounded down": ("quantised", "iOS16", emitting("round", replaced(), None, "floor")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "target"), sorted({(net, target) for net, target, _ in FAULTS.values()}))
def test_without_a_fault_the_proof_passes(
    name: str, target: str, built: Callable[[str, str], Any], tmp_path: Path
) -> None:
    made = coreml_builds.finish(built(name, f"coreml:{target}"), tmp_path / "out")
    gaps = made.proof.gaps
    assert min(gap.snr_db for key, gap in gaps.items() if key.endswith("mil against the source")) > 45
    assert min(gap.snr_db for key, gap in gaps.items() if "lowered from" in key) > 100


# One of a kind always runs; what resembles one of them is slow.
ALIKE = ("backward", "one weight", "one step", "another axis", "in two steps")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.slow if any(text in name for text in ALIKE) else ())
        for name in FAULTS
    ],
)
def test_a_fault_is_caught(
    fault: str, built: Callable[[str, str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, target, install = FAULTS[fault]
    made = built(name, f"coreml:{target}")
    install(monkeypatch)
    with pytest.raises(VerificationFailed) as caught:
        coreml_builds.finish(made, tmp_path / "out")
    assert caught.value.code == "RUB-DRV-001"
