"""Compressed weights: every form that coremltools.optimize writes decodes to what coremltools says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_packages import converted, ran, snr
from torch import nn

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.run.constexpr import DoesNotFit, decode
from rubicc.backends.coreml.run.load import load

Change = Callable[[Any, Any], Any]


def net() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv1d(8, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, groups=2),
        nn.Flatten(),
        nn.Linear(160, 8),
    )


def quantised(**options: Any) -> Change:
    """Weights to whole numbers."""

    def change(ct: Any, model: Any) -> Any:
        cto = ct.optimize.coreml
        joint = options.pop("joint", False)
        config = cto.OpLinearQuantizerConfig(weight_threshold=0, **options)
        return cto.linear_quantize_weights(
            model, config=cto.OptimizationConfig(global_config=config), joint_compression=joint
        )

    return change


def palettised(**options: Any) -> Change:
    """Weights to palettes."""

    def change(ct: Any, model: Any) -> Any:
        cto = ct.optimize.coreml
        joint = options.pop("joint", False)
        config = cto.OpPalettizerConfig(weight_threshold=0, **options)
        return cto.palettize_weights(
            model, config=cto.OptimizationConfig(global_config=config), joint_compression=joint
        )

    return change


def pruned(share: float = 0.4) -> Change:
    """Small weights to zero."""

    def change(ct: Any, model: Any) -> Any:
        cto = ct.optimize.coreml
        config = cto.OpMagnitudePrunerConfig(target_sparsity=share, weight_threshold=0)
        return cto.prune_weights(model, config=cto.OptimizationConfig(global_config=config))

    return change


def both(first: Change, second: Change) -> Change:
    return lambda ct, model: second(ct, first(ct, model))


SPARSE = "constexpr_sparse_to_dense"
LUT = "constexpr_lut_to_dense"
SHIFT = "constexpr_blockwise_shift_scale"
# Name -> target, change, operators that must be in the package, least dB to the uncompressed network.
FORMS: dict[str, tuple[str, Change, set[str], float]] = {
    "int8": ("iOS16", quantised(mode="linear_symmetric"), {"constexpr_affine_dequantize"}, 35),
    "uint8": ("iOS17", quantised(mode="linear", dtype="uint8"), {"constexpr_affine_dequantize"}, 35),
    "int8-ios18": ("iOS18", quantised(mode="linear", granularity="per_tensor"), {SHIFT}, 30),
    "int4-blocks": ("iOS18", quantised(dtype="int4", granularity="per_block", block_size=4), {SHIFT}, 12),
    "palette-1-bit": ("iOS16", palettised(mode="kmeans", nbits=1), {LUT}, 0),
    "palette-4-bits": ("iOS16", palettised(mode="uniform", nbits=4), {LUT}, 12),
    "palette-6-bits": ("iOS17", palettised(mode="uniform", nbits=6), {LUT}, 25),
    "palette-3-bits": ("iOS18", palettised(mode="uniform", nbits=3), {LUT}, 5),
    "palette-groups": (
        "iOS18",
        palettised(mode="uniform", nbits=4, granularity="per_grouped_channel", group_size=4),
        {LUT},
        14,
    ),
    "palette-scaled": (
        "iOS18",
        palettised(mode="uniform", nbits=4, enable_per_channel_scale=True),
        {LUT, SHIFT},
        14,
    ),
    "palette-vectors": ("iOS18", palettised(mode="kmeans", nbits=4, cluster_dim=2), {LUT}, 5),
    "palette-of-integers": (
        "iOS18",
        both(palettised(mode="uniform", nbits=4), quantised(joint=True, granularity="per_tensor")),
        {LUT, SHIFT},
        12,
    ),
    "sparse": ("iOS16", pruned(), {SPARSE}, 3),
    "sparse-ios18": ("iOS18", pruned(), {SPARSE}, 3),
    "sparse-palette": (
        "iOS18",
        both(pruned(), palettised(mode="uniform", nbits=4, joint=True)),
        {SPARSE, "constexpr_lut_to_sparse"},
        3,
    ),
    "sparse-integers": (
        "iOS18",
        both(pruned(), quantised(joint=True)),
        {SPARSE, "constexpr_sparse_blockwise_shift_scale"},
        3,
    ),
}


# Clustering takes seconds, and the others are like forms that are here.
SLOW = ("palette-1-bit", "palette-vectors", "palette-6-bits", "sparse-ios18", "uint8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FORMS]
)
def test_a_compressed_network_gives_what_its_decompressed_form_gives(name: str, tmp_path: Path) -> None:
    target, change, wanted, least = FORMS[name]
    module, given = net(), (torch.randn(2, 8, 12),)
    plain: list[Any] = []

    def kept(ct: Any, model: Any) -> Any:
        changed = change(ct, model)
        plain.append(ct.optimize.coreml.decompress_weights(changed))
        return changed

    package = converted(tmp_path, module, given, target=target, change=kept)
    types = {operation.type for operation in package.main.operations()}
    assert wanted <= types
    plain[0].save(str(tmp_path / "plain.mlpackage"))
    reference = load(tmp_path / "plain.mlpackage")
    assert not any(operation.type.startswith("constexpr_") for operation in reference.main.operations())
    (got,), (want,) = ran(package, given), ran(reference, given)
    assert snr(got, want) >= 110
    with torch.no_grad():
        assert snr(got, module(*given).numpy()) >= least


def test_weights_stored_in_half_are_cast(tmp_path: Path) -> None:
    """iOS 16's constexpr_cast, which coremltools writes no more, from the MIL builder."""
    from coreml_packages import built

    ct = tools.coremltools()
    from coremltools.converters.mil.mil import Builder as mb

    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)

    @mb.program(input_specs=[mb.TensorSpec((2, 4))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.constexpr_cast(source_val=weight, output_dtype="fp32"), name="y")

    x = np.ones((2, 4), np.float32)
    package = load(built(tmp_path, program, "iOS16"))
    assert "constexpr_cast" in {operation.type for operation in package.main.operations()}
    assert snr(package.run({"x": x}, semantics="fp32")["y"], x @ weight.astype(np.float32).T) > 120


def test_a_palette_of_vectors_lies_along_its_axis() -> None:
    """Two groups of one row, each with its own palette of two vectors of two."""
    codes = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    lut = np.array([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]], np.float32)
    parts = {"indices": codes, "lut": lut, "vector_axis": np.int32(0)}
    (made,) = decode("constexpr_lut_to_dense", parts, np.dtype(np.float32), 100)
    assert made.tolist() == [[1, 3, 3], [2, 4, 4], [7, 5, 5], [8, 6, 6]]
    (across,) = decode(
        "constexpr_lut_to_dense", {**parts, "vector_axis": np.int32(-1)}, np.dtype(np.float32), 100
    )
    assert across.tolist() == [[1, 2, 3, 4, 3, 4], [7, 8, 5, 6, 5, 6]]


CODES = np.arange(8, dtype=np.uint8).reshape(2, 4)
LUT4 = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 1, 8, 1)
# What must be refused: operator, parts, part of the message.
BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "scale of another length": (
        "constexpr_affine_dequantize",
        {
            "quantized_data": CODES,
            "zero_point": np.int8(0),
            "scale": np.ones(3, np.float32),
            "axis": np.int32(0),
        },
        "along an axis",
    ),
    "axis": (
        "constexpr_affine_dequantize",
        {"quantized_data": CODES, "zero_point": np.int8(0), "scale": np.float32(1), "axis": np.int32(2)},
        "axis 2",
    ),
    "blocks that do not divide": (
        "constexpr_blockwise_shift_scale",
        {"data": CODES, "scale": np.ones((2, 3), np.float32)},
        "blocks",
    ),
    "offsets of another shape": (
        "constexpr_blockwise_shift_scale",
        {"data": CODES, "scale": np.ones((2, 1), np.float32), "offset": np.zeros((1, 1), np.int8)},
        "offsets",
    ),
    "codes past the palette": (
        "constexpr_lut_to_dense",
        {"indices": CODES, "lut": LUT4[:, :, :4]},
        "codes up to 7",
    ),
    "palette of another rank": ("constexpr_lut_to_dense", {"indices": CODES, "lut": LUT4[0]}, "palettes"),
    "packed codes too few": (
        "constexpr_lut_to_dense",
        {"indices": CODES.reshape(-1), "lut": np.zeros(16, np.float32), "shape": np.array([100], np.uint32)},
        "bytes for 100 codes",
    ),
    "more values than the mask": (
        "constexpr_sparse_to_dense",
        {"nonzero_data": np.ones(3, np.float32), "mask": np.eye(2, dtype=np.uint8)},
        "3,",
    ),
    "unknown part": ("constexpr_blockwise_shift_scale", {"data": CODES, "scales": CODES}, "parameters"),
    "giant shape": (
        "constexpr_sparse_to_dense",
        {
            "nonzero_data": np.ones(1, np.float32),
            "mask": np.ones(1, np.uint8),
            "shape": np.array([1 << 20, 1 << 20], np.uint32),
        },
        "shape",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_parts_that_contradict_each_other_are_refused(name: str) -> None:
    kind, parts, message = BROKEN[name]
    with pytest.raises(DoesNotFit, match=message):
        decode(kind, parts, np.dtype(np.float32), 1000)


def test_compressed_values_are_rounded_only_under_fp16(tmp_path: Path) -> None:
    """scale * code is stored as fp16 by the program; differences of weights show whether it was."""
    torch.manual_seed(6)
    module, one = nn.Linear(4, 4, bias=False), torch.eye(4)
    package = converted(
        tmp_path, module, (one,), target="iOS18", precision="fp16", change=quantised(mode="linear_symmetric")
    )
    (weights,) = ran(package, (one,), "fp32")
    between = torch.tensor([[1.0, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, -1], [1, 0, 0, -1]])
    (half,), (full,) = ran(package, (between,), "fp16"), ran(package, (between,), "fp32")
    rounded = weights.astype(np.float16).astype(np.float32)
    assert np.array_equal(half.astype(np.float16), (between.numpy() @ rounded).astype(np.float16))
    assert not np.array_equal(half.astype(np.float16), full.astype(np.float16))
    assert np.array_equal(full, between.numpy() @ weights)
