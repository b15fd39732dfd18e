"""Kernels against coremltools' own value inference: one program, every operation on constants."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import built

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.run.kernels import KERNELS
from rubicc.backends.coreml.run.load import load

RNG = np.random.default_rng(17)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 1)).astype(np.float32)
UNIT = RNG.uniform(0.1, 0.9, (3, 4)).astype(np.float32)
I = RNG.integers(-9, 9, (2, 3, 4)).astype(np.int32)  # noqa: E741
J = RNG.integers(1, 5, (2, 3, 4)).astype(np.int32)
IMAGE = RNG.standard_normal((1, 4, 4, 6)).astype(np.float32)
YES = I > 0
NO = J > 2
Q = RNG.integers(-128, 128, (2, 3)).astype(np.int8)

Row = tuple[str, dict[str, Any]]

UNARY = (
    "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "round",
    "sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "sqrt", "square", "tan", "tanh",
    "relu", "relu6", "abs",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "real_div", "floor_div", "mod", "maximum", "minimum", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal",
)  # fmt: skip
REDUCE = (
    "reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_l1_norm",
    "reduce_l2_norm", "reduce_log_sum_exp", "reduce_sum_square",
)  # fmt: skip

ROWS: list[Row] = [
    *((name, {"x": UNIT}) for name in UNARY),
    *((name, {"x": X}) for name in ("abs", "ceil", "floor", "round", "sign", "tanh", "erf")),
    *((name, {"x": X, "y": Y}) for name in BINARY),
    *((name, {"x": I, "y": J}) for name in BINARY),
    *((name, {"x": X, "axes": [0, -1], "keep_dims": keep}) for name in REDUCE for keep in (False, True)),
    *((name, {"x": I, "axes": [1]}) for name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")),
    ("reduce_log_sum", {"x": UNIT, "axes": [1]}),
    *((name, {"x": X, "axis": 1, "keep_dims": True}) for name in ("reduce_argmax", "reduce_argmin")),
    *((name, {"x": YES, "y": NO}) for name in ("logical_and", "logical_or", "logical_xor")),
    ("logical_not", {"x": YES}),
    ("pow", {"x": UNIT, "y": UNIT}),
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.25}),
    ("threshold", {"x": X, "alpha": 0.1}),
    ("inverse", {"x": UNIT, "epsilon": 1e-2}),
    ("log", {"x": UNIT, "epsilon": 1e-2}),
    ("log", {"x": UNIT}),
    ("rsqrt", {"x": UNIT, "epsilon": 1e-2}),
    ("rsqrt", {"x": UNIT}),
    ("cast", {"x": X * 3, "dtype": "int32"}),
    ("cast", {"x": X, "dtype": "bool"}),
    ("cast", {"x": I, "dtype": "fp32"}),
    ("cast", {"x": UNIT, "dtype": "fp16"}),
    ("cast", {"x": X * 30, "dtype": "int8"}),
    ("select", {"cond": YES, "a": X, "b": np.zeros_like(X)}),
    ("elu", {"x": X, "alpha": 0.7}),
    ("leaky_relu", {"x": X, "alpha": 0.2}),
    ("clamped_relu", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("linear_activation", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("scaled_tanh", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("sigmoid_hard", {"x": X, "alpha": 0.2, "beta": 0.5}),
    ("thresholded_relu", {"x": X, "alpha": 0.2}),
    ("prelu", {"x": IMAGE, "alpha": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}),
    (
        "softplus_parametric",
        {"x": IMAGE, "alpha": np.arange(1, 5, dtype=np.float32), "beta": UNIT[0]},
    ),
    *(("gelu", {"x": X, "mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    ("softmax", {"x": X, "axis": 1}),
    ("cumsum", {"x": X, "axis": 1, "reverse": True}),
    ("cumsum", {"x": X, "axis": -1}),
    ("band_part", {"x": X, "lower": 1, "upper": 0}),
    ("fill", {"shape": np.array([2, 3], np.int32), "value": np.float32(1.5)}),
    ("non_zero", {"x": np.array([[0, 1], [2, 0]], np.int32)}),
    ("one_hot", {"indices": np.array([1, 0, 3], np.int32), "one_hot_vector_size": 4}),
    ("range_1d", {"start": 2, "end": 11, "step": 3}),
    ("range_1d", {"start": 0.0, "end": 1.0, "step": 0.25}),
    ("tile", {"x": X, "reps": [1, 2, 3]}),
    *(("argsort", {"x": X, "axis": axis, "ascending": up}) for axis, up in ((1, True), (-1, False))),
    *(
        ("topk", {"x": X, "k": 2, "axis": axis, "ascending": up})
        for axis, up in ((1, False), (-1, True))
    ),
    ("flatten2d", {"x": X, "axis": 2}),
    ("shape", {"x": X}),
    ("concat", {"values": [X, 2 * X], "axis": 1}),
    ("stack", {"values": [X, 2 * X], "axis": 1}),
    ("split", {"x": X, "num_splits": 2, "axis": 2}),
    ("split", {"x": X, "split_sizes": [1, 2], "axis": 1}),
    ("identity", {"x": X}),
    *(
        ("pad", {"x": X, "pad": [1, 2, 0, 1], "mode": mode, "constant_val": 0.5})
        for mode in ("constant", "reflect", "replicate")
    ),
    ("expand_dims", {"x": X, "axes": [0, -1]}),
    ("squeeze", {"x": X[None, :, :1], "axes": [0, 2]}),
    ("reshape", {"x": X, "shape": [4, -1]}),
    ("transpose", {"x": X, "perm": [2, 0, -2]}),
    ("reverse", {"x": X, "axes": [0, 2]}),
    ("reverse_sequence", {"x": X, "lengths": [1, 3], "seq_axis": 1, "batch_axis": 0}),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": [0, 2, -1],
            "end": [1, 0, -5],
            "stride": [1, -1, -2],
            "squeeze_mask": [True, False, False],
        },
    ),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": [0, 1, 1],
            "end": [2, 3, 1],
            "begin_mask": [True, False, False],
            "end_mask": [False, False, True],
        },
    ),
    ("slice_by_size", {"x": X, "begin": [0, 1, 1], "size": [2, -1, 2]}),
    ("sliding_windows", {"x": X, "axis": 2, "size": 2, "stride": 1}),
    ("depth_to_space", {"x": IMAGE, "block_size": 2}),
    ("space_to_depth", {"x": IMAGE, "block_size": 2}),
    ("pixel_shuffle", {"x": IMAGE, "upscale_factor": 2}),
    ("pixel_unshuffle", {"x": IMAGE, "downscale_factor": np.uint32(2)}),
    ("gather", {"x": X, "indices": np.array([[2, 0], [1, 1]], np.int32), "axis": 1}),
    ("gather", {"x": X, "indices": np.array([[2, 0], [1, 1]], np.int32), "axis": 1, "batch_dims": 1}),
    ("gather_along_axis", {"x": X, "indices": np.zeros((2, 2, 4), np.int32) + 1, "axis": 1}),
    ("gather_nd", {"x": X, "indices": np.array([[1, 2], [0, 0]], np.int32)}),
    ("matmul", {"x": X, "y": X, "transpose_y": True}),
    ("matmul", {"x": X[0], "y": Y, "transpose_x": True}),
    ("linear", {"x": X, "weight": UNIT, "bias": np.ones(3, np.float32)}),
    ("layer_norm", {"x": X, "axes": [-1], "gamma": UNIT[0], "beta": UNIT[1]}),
    ("l2_norm", {"x": X}),
    ("quantize", {"input": X, "scale": np.float32(0.05), "zero_point": np.int8(3), "output_dtype": "int8"}),
    (
        "quantize",
        {"input": X, "scale": np.array([0.01, 0.1, 0.05], np.float32), "axis": 1, "output_dtype": "uint8"},
    ),
    ("dequantize", {"input": Q, "scale": np.float32(0.05), "zero_point": np.int8(3)}),
    ("dequantize", {"input": Q, "scale": np.array([0.5, 0.25, 2], np.float32), "axis": 1}),
]  # fmt: skip


def evaluated(folder: Path, target: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> what coremltools says, what the interpreter makes, for all rows that coremltools evaluates."""
    ct = tools.coremltools()
    from coremltools.converters.mil.mil import Builder as mb

    want: dict[str, np.ndarray] = {}

    @mb.program(input_specs=[mb.TensorSpec((2,))], opset_version=getattr(ct.target, target))
    def program(x: Any) -> Any:
        for place, (kind, given) in enumerate(ROWS):
            # Copies: band_part's value inference changes its argument.
            made = getattr(mb, kind)(**copy.deepcopy(given), name=f"{kind}_{place}")
            for item in made if isinstance(made, tuple | list) else (made,):
                if item.val is not None:
                    want[item.name] = np.asarray(item.val)
        return mb.identity(x=x, name="done")

    package = load(built(folder, program, target))
    made = package.run({"x": np.zeros(2, np.float32)}, semantics="fp16", keep=list(want))
    return {name: (value, made[name]) for name, value in want.items()}


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_kernels_agree_with_value_inference(target: str, tmp_path: Path) -> None:
    found = evaluated(tmp_path, target)
    kinds = {name.rsplit("_", 1)[0] for name in found}
    assert len(kinds) >= 70, f"only {len(kinds)} operators have a value: {sorted(kinds)}"
    wrong = {}
    for name, (want, got) in found.items():
        if want.shape != got.shape:
            wrong[name] = f"{got.shape} for {want.shape}"
        elif want.dtype.kind == "f":
            if not np.allclose(got, want, rtol=2e-6, atol=2e-6):
                wrong[name] = f"off by {np.abs(got - want).max()}"
        elif not np.array_equal(got, want):
            wrong[name] = f"{got.tolist()} for {want.tolist()}"[:200]
    assert not wrong


def test_every_operator_of_coremltools_has_a_kernel_or_a_reason() -> None:
    """Operators without a kernel, each for a reason; anything new in coremltools fails here."""
    tools.coremltools()
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    elsewhere = {"const", "cond", "while_loop", "_const_symbolic"}
    no_reference = {"random_bernoulli", "random_categorical", "random_normal", "random_uniform"}
    for_images = {"crop_resize", "affine", "resample", "non_maximum_suppression"}
    never_written = {"conv_quantized"}
    missing = {name for name in SSAOpRegistry.core_ops if name not in KERNELS}
    constants = {name for name in missing if name.startswith("constexpr_")}
    assert missing - constants == elsewhere | no_reference | for_images | never_written
    from rubicc.backends.coreml.run.constexpr import DECODERS

    assert constants == set(DECODERS)
