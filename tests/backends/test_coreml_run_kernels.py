"""Kernels that coremltools evaluates nowhere, against formulas written out here, PyTorch, or examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_bare import add, bare, main_block, set_type, written
from coreml_kernels import one
from torch.nn import functional as F

from rubicc.backends.coreml.run.load import load
from rubicc.errors import ModelRefused

RNG = np.random.default_rng(5)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


IMAGE = random(1, 4, 5, 6)
LINE = random(2, 4, 9)
TALL = random(2, 50)
GRID = np.arange(8, dtype=np.float32).reshape(1, 4, 1, 2)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()


def whole_transposed(weight: np.ndarray, stride: int, groups: int = 1) -> np.ndarray:
    return F.conv_transpose1d(tensor(LINE), tensor(weight), stride=stride, groups=groups).numpy()


DECONV = random(4, 3, 5)
GROUPED = random(4, 2, 3)
KERNEL = random(3, 4, 4)
ROWS: dict[str, tuple[str, dict[str, Any], np.ndarray]] = {
    "cumsum without itself": (
        "cumsum",
        {"x": np.array([1, 2, 3], np.float32), "axis": 0, "exclusive": np.True_},
        np.array([0, 1, 3]),
    ),
    "cumsum from behind without itself": (
        "cumsum",
        {"x": np.array([1, 2, 3], np.float32), "axis": 0, "exclusive": np.True_, "reverse": np.True_},
        np.array([5, 3, 0]),
    ),
    "reverse_sequence": (
        "reverse_sequence",
        {"x": np.arange(8).reshape(2, 4), "lengths": [2, 3], "seq_axis": 1, "batch_axis": 0},
        np.array([[1, 0, 2, 3], [6, 5, 4, 7]]),
    ),
    # The example in the operator's documentation.
    "reshape, zeros count from the last axis": (
        "reshape",
        {"x": TALL, "shape": [1, 0, -1, 0]},
        TALL.reshape(1, 1, 2, 50),
    ),
    "reshape, zeros count from the first axis up to iOS 16": (
        "reshape",
        {"x": LINE, "shape": [0, 0, -1]},
        LINE,
    ),
    "sliding_windows": (
        "sliding_windows",
        {"x": np.arange(6, dtype=np.float32).reshape(1, 6), "axis": 1, "size": 3, "stride": 2},
        np.array([[[0, 1, 2], [2, 3, 4]]]),
    ),
    # TensorFlow's documented examples, channels first.
    "depth_to_space": (
        "depth_to_space",
        {"x": np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1), "block_size": 2},
        np.array([[[[1, 2], [3, 4]]]]),
    ),
    "depth_to_space of several channels": (
        "depth_to_space",
        {"x": np.arange(1, 13, dtype=np.float32).reshape(1, 12, 1, 1), "block_size": 2},
        np.array([[[[1, 4], [7, 10]], [[2, 5], [8, 11]], [[3, 6], [9, 12]]]]),
    ),
    "space_to_depth": (
        "space_to_depth",
        {"x": np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2), "block_size": 2},
        np.arange(1, 5).reshape(1, 4, 1, 1),
    ),
    "space_to_batch": (
        "space_to_batch",
        {
            "x": np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2),
            "block_shape": [2, 2],
            "paddings": np.zeros((2, 2), np.int32),
        },
        np.arange(1, 5).reshape(4, 1, 1, 1),
    ),
    "batch_to_space": (
        "batch_to_space",
        {
            "x": np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1),
            "block_shape": [2, 2],
            "crops": np.array([[0, 0], [1, 0]], np.int32),
        },
        np.array([[[[2], [4]]]]),
    ),
    "pixel_shuffle": (
        "pixel_shuffle",
        {"x": GRID, "upscale_factor": 2},
        F.pixel_shuffle(tensor(GRID), 2).numpy(),
    ),
    "gather_nd": (
        "gather_nd",
        {"x": IMAGE, "indices": np.array([[0, 3], [0, 1]], np.int32)},
        IMAGE[0, [3, 1]],
    ),
    "gather_nd in batches": (
        "gather_nd",
        {"x": LINE, "indices": np.array([[[3]], [[1]]], np.int32), "batch_dims": 1},
        np.stack([LINE[0, 3], LINE[1, 1]])[:, None],
    ),
    "scatter": (
        "scatter",
        {
            "data": np.zeros((2, 3), np.float32),
            "indices": np.array([2, 0], np.int32),
            "updates": np.array([[1, 2], [3, 4]], np.float32),
            "axis": 1,
            "mode": "update",
        },
        np.array([[2, 0, 1], [4, 0, 3]]),
    ),
    "scatter that adds twice": (
        "scatter",
        {
            "data": np.ones(3, np.float32),
            "indices": np.array([1, 1], np.int32),
            "updates": np.array([2, 3], np.float32),
            "mode": "add",
        },
        np.array([1, 6, 1]),
    ),
    "scatter that multiplies": (
        "scatter",
        {
            "data": np.full(3, 2, np.float32),
            "indices": np.array([1, 1], np.int32),
            "updates": np.array([2, 3], np.float32),
            "mode": "mul",
        },
        np.array([2, 12, 2]),
    ),
    "scatter_nd that takes the smaller": (
        "scatter_nd",
        {
            "data": np.ones((2, 2), np.float32),
            "indices": np.array([[0, 1], [1, 0]], np.int32),
            "updates": np.array([-1, 5], np.float32),
            "mode": "min",
        },
        np.array([[1, -1], [1, 1]]),
    ),
    "scatter_along_axis": (
        "scatter_along_axis",
        {
            "data": np.zeros((2, 3), np.float32),
            "indices": np.array([[2], [0]], np.int32),
            "updates": np.array([[5], [6]], np.float32),
            "axis": 1,
            "mode": "sub",
        },
        np.array([[0, 0, -5], [-6, 0, 0]]),
    ),
    "slice_update": (
        "slice_update",
        {
            "x": np.zeros((2, 3), np.float32),
            "update": np.array([7, 8], np.float32),
            "begin": [1, 2],
            "end": [2, 0],
            "stride": [1, -1],
            "squeeze_mask": np.array([True, False]),
        },
        np.array([[0, 0, 0], [0, 8, 7]]),
    ),
    "crop": ("crop", {"x": IMAGE, "crop_height": [1, 2], "crop_width": [0, 3]}, IMAGE[..., 1:3, :3]),
    "conv same, an odd pad behind": (
        "conv",
        {"x": LINE, "weight": KERNEL, "pad_type": "same"},
        F.conv1d(F.pad(tensor(LINE), [1, 2]), tensor(KERNEL)).numpy(),
    ),
    "conv same_lower, an odd pad before": (
        "conv",
        {"x": LINE, "weight": KERNEL, "pad_type": "same_lower"},
        F.conv1d(F.pad(tensor(LINE), [2, 1]), tensor(KERNEL)).numpy(),
    ),
    "conv with strides, dilations and unequal pads": (
        "conv",
        {"x": LINE, "weight": KERNEL, "pad_type": "custom", "pad": [3, 1], "strides": [2], "dilations": [2]},
        F.conv1d(F.pad(tensor(LINE), [3, 1]), tensor(KERNEL), stride=2, dilation=2).numpy(),
    ),
    "conv_transpose cut at both ends": (
        "conv_transpose",
        {"x": LINE, "weight": DECONV, "pad_type": "custom", "pad": [2, 1], "strides": [3]},
        whole_transposed(DECONV, 3)[..., 2:-1],
    ),
    "conv_transpose same": (
        "conv_transpose",
        {"x": LINE, "weight": DECONV, "pad_type": "same", "strides": [2]},
        whole_transposed(DECONV, 2)[..., 1:19],
    ),
    "conv_transpose in groups, to a given shape": (
        "conv_transpose",
        {
            "x": LINE,
            "weight": GROUPED,
            "groups": 2,
            "strides": [2],
            "output_shape": [2, 4, 20],
            "bias": np.ones(4, np.float32),
        },
        1 + np.pad(whole_transposed(GROUPED, 2, 2), [(0, 0), (0, 0), (0, 1)]),
    ),
    "max_pool same": (
        "max_pool",
        {"x": -np.abs(LINE), "kernel_sizes": [4], "strides": [2], "pad_type": "same"},
        F.max_pool1d(F.pad(-tensor(LINE).abs(), [1, 2], value=-np.inf), 4, 2).numpy(),
    ),
    "avg_pool that counts padding": (
        "avg_pool",
        {"x": LINE, "kernel_sizes": [4], "strides": [2], "pad_type": "custom", "pad": [1, 2]},
        F.avg_pool1d(F.pad(tensor(LINE), [1, 2]), 4, 2).numpy(),
    ),
    "avg_pool that leaves padding out": (
        "avg_pool",
        {
            "x": LINE,
            "kernel_sizes": [4],
            "strides": [2],
            "pad_type": "custom",
            "pad": [1, 2],
            "exclude_padding_from_average": np.True_,
        },
        (F.avg_pool1d(F.pad(tensor(LINE), [1, 2]), 4, 2) * 4 / torch.tensor([3.0, 4, 4, 4, 2])).numpy(),
    ),
    "l2_pool": (
        "l2_pool",
        {"x": LINE, "kernel_sizes": [3], "strides": [3], "pad_type": "valid"},
        np.sqrt(np.square(LINE.astype(np.float64)).reshape(2, 4, 3, 3).sum(-1)),
    ),
    "resize_bilinear, corners aligned": (
        "resize_bilinear",
        {
            "x": IMAGE,
            "target_size_height": 7,
            "target_size_width": 4,
            "sampling_mode": "STRICT_ALIGN_CORNERS",
        },
        F.interpolate(tensor(IMAGE), (7, 4), mode="bilinear", align_corners=True).numpy(),
    ),
    "resize_bilinear, pixel centres": (
        "resize_bilinear",
        {"x": IMAGE, "target_size_height": 7, "target_size_width": 4, "sampling_mode": "UNALIGN_CORNERS"},
        F.interpolate(tensor(IMAGE), (7, 4), mode="bilinear", align_corners=False).numpy(),
    ),
    "resize_bilinear, top left corners": (
        "resize_bilinear",
        {
            "x": np.array([[[[0, 2, 4]]]], np.float32),
            "target_size_height": 1,
            "target_size_width": 6,
            "sampling_mode": "DEFAULT",
        },
        np.array([[[[0, 1, 2, 3, 4, 4]]]]),
    ),
    "resize_nearest_neighbor": (
        "resize_nearest_neighbor",
        {"x": IMAGE, "target_size_height": 7, "target_size_width": 4},
        F.interpolate(tensor(IMAGE), (7, 4), mode="nearest").numpy(),
    ),
    "upsample_bilinear": (
        "upsample_bilinear",
        {"x": IMAGE, "scale_factor_height": 2.0, "scale_factor_width": 3.0, "align_corners": np.False_},
        F.interpolate(tensor(IMAGE), scale_factor=(2, 3), mode="bilinear").numpy(),
    ),
    "local_response_norm": (
        "local_response_norm",
        {"x": IMAGE, "size": 3, "alpha": 0.5, "beta": 0.6, "k": 1.5},
        F.local_response_norm(tensor(IMAGE), 3, np.float32(0.5), float(np.float32(0.6)), 1.5).numpy(),
    ),
    "instance_norm": (
        "instance_norm",
        {"x": LINE, "gamma": np.arange(4, dtype=np.float32), "beta": np.ones(4, np.float32), "epsilon": 0.25},
        F.instance_norm(
            tensor(LINE), weight=torch.arange(4).double(), bias=torch.ones(4).double(), eps=0.25
        ).numpy(),
    ),
    "batch_norm": (
        "batch_norm",
        {
            "x": LINE,
            "mean": np.arange(4, dtype=np.float32),
            "variance": np.arange(1, 5, dtype=np.float32),
            "epsilon": 0.25,
        },
        F.batch_norm(tensor(LINE), torch.arange(4).double(), torch.arange(1, 5).double(), eps=0.25).numpy(),
    ),
    "einsum": (
        "einsum",
        {"values": [LINE, LINE], "equation": "bct,bct->bt"},
        np.square(LINE.astype(np.float64)).sum(1),
    ),
    "attention with a mask of bools": (
        "scaled_dot_product_attention",
        {"query": LINE, "key": LINE, "value": LINE, "attn_mask": np.tri(4, dtype=bool)},
        F.scaled_dot_product_attention(tensor(LINE), tensor(LINE), tensor(LINE), is_causal=True).numpy(),
    ),
    "dequantize along an axis": (
        "dequantize",
        {
            "input": np.array([[0, 255], [1, 2]], np.uint8),
            "scale": np.array([2, 0.5], np.float32),
            "zero_point": np.array([1, 2], np.uint8),
            "axis": 1,
        },
        np.array([[-2, 126.5], [0, 0]]),
    ),
}
WHOLE = {"reverse_sequence": "int32"}
OTHER = {
    "reshape, zeros count from the first axis up to iOS 16": "CoreML6",
    "slice_update": "CoreML8",
    "attention with a mask of bools": "CoreML8",
}


@pytest.mark.parametrize("name", ROWS)
def test_kernel(name: str, tmp_path: Path) -> None:
    kind, given, want = ROWS[name]
    made = one(tmp_path, kind, WHOLE.get(name, "fp32"), opset=OTHER.get(name, "CoreML7"), **given)
    assert made.shape == want.shape
    assert np.allclose(made, want, rtol=1e-12, atol=1e-9 if name == "local_response_norm" else 1e-12)


def test_lists_grow_and_keep_what_was_written(tmp_path: Path) -> None:
    model = bare((2,))
    block = main_block(model)

    def grown(kind: str, name: str, **given: Any) -> None:
        made = add(block, kind, [], **given).outputs.add(name=name)
        set_type(made.type.listType.type, "fp32", (2,))

    grown("make_list", "l0", init_length=1, dynamic_length=np.True_, dtype="fp32")
    grown("list_write", "l1", ls="%l0", index=0, value="%x")
    grown("list_write", "l2", ls="%l1", index=2, value=np.array([5, 6], np.float32))
    grown("list_scatter", "l3", ls="%l2", indices=[1], value=np.array([[7, 8]], np.float32))
    add(block, "list_length", [("n", "int32", ())], ls="%l3")
    add(block, "list_read", [("r", "fp32", (2,))], ls="%l3", index=2)
    add(block, "list_gather", [("g", "fp32", (2, 2))], ls="%l3", indices=[1, 0])
    add(block, "list_length", [("m", "int32", ())], ls="%l1")
    add(block, "identity", [("y", "fp32", (2,))], x="%r")
    made = load(written(tmp_path, model)).run({"x": np.array([1, 2], np.float32)}, keep=["n", "m", "g"])
    assert made["n"] == 3 and made["m"] == 1, "a list is a value: writing makes another"
    assert np.array_equal(made["y"], [5, 6]) and np.array_equal(made["g"], [[7, 8], [1, 2]])


def test_indices_count_from_the_end_up_to_ios16_only(tmp_path: Path) -> None:
    given = {"x": np.arange(3, dtype=np.float32), "indices": np.array([-1], np.int32)}
    assert one(tmp_path, "gather", opset="CoreML6", **given) == [2]
    (tmp_path / "b").mkdir()
    with pytest.raises(ModelRefused, match="index -1 for an axis of 3"):
        one(tmp_path / "b", "gather", **given)
