"""Acceptance of the emulation with aie4ml's own kernels and graphs, unmodified, and with mutants of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc.errors import VerificationFailed
from tests.backends.aie_sim_aie4ml import VEK280, copy, emit, emulate, expected

FAST = {"Optimize": "throughput"}
DENSE, CASCADE, CONVOLUTION, SATURATED = CASES = [
    {"name": "dense", "input": [16, 64], "part": VEK280, "layers": [{"out": 32}]},
    {"name": "cascade", "input": [16, 512], "part": VEK280, "layers": [{"out": 64, "exp": 0}]},
    {
        "name": "convolution",
        "input": [1, 16, 16, 32],
        "part": VEK280,
        "config": FAST,
        "layers": [{"out": 32, "k": 3, "pad": 1}],
    },
    {
        "name": "saturated",
        "input": [16, 64],
        "part": VEK280,
        "layers": [{"out": 32, "relu": False, "exp": -4}],
    },
]
CK = {"out": 16, "k": 3, "pad": 1}
MORE: list[dict[str, Any]] = [
    {"name": "row", "input": [1, 128], "part": VEK280, "layers": [{"out": 64}]},
    {
        "name": "mlp",
        "input": [32, 256],
        "part": VEK280,
        "config": FAST,
        "layers": [{"out": 128}, {"out": 64, "relu": False, "exp": 1}],
    },
    {"name": "int16", "input": [16, 64], "part": VEK280, "wide": True, "layers": [{"out": 32, "exp": 4}]},
    {"name": "two", "input": [1, 16, 16, 8], "part": VEK280, "layers": [CK, CK | {"exp": 1}]},
    {"name": "strided", "input": [1, 16, 16, 8], "part": VEK280, "layers": [CK | {"stride": 2}]},
    {"name": "depthwise", "input": [1, 16, 16, 16], "part": VEK280, "layers": [CK | {"group": 16}]},
    {"name": "padded", "input": [1, 16, 16, 3], "part": VEK280, "layers": [CK]},
    {"name": "aie-dense", "input": [16, 512], "part": "xilinx_vck190_base", "layers": [{"out": 64}]},
    {"name": "aie-conv", "input": [1, 16, 16, 8], "part": "xilinx_vck190_base", "layers": [CK | {"out": 8}]},
    {"name": "mlv2-dense", "input": [16, 64], "part": "vek385_base", "layers": [{"out": 32}]},
    {"name": "mlv2-conv", "input": [1, 16, 16, 8], "part": "vek385_base", "layers": [CK]},
]


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return emit(tmp_path_factory.mktemp("aie4ml"), CASES)


@pytest.mark.aie4ml
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_its_kernels_run_exactly(projects: dict[str, Path], case: dict[str, Any], tmp_path: Path) -> None:
    got, built = emulate(projects[case["name"]], tmp_path, case)
    want, facts = expected(projects[case["name"]], case)
    np.testing.assert_array_equal(got, want)
    assert facts["ties"] >= 8 and facts["nonzero"] >= want.size // 4
    assert (facts["saturated"] > 0) == (case is SATURATED)
    kernels = {k["type"].partition("<")[0] for k in built.description["kernels"]}
    names = {
        "dense": {"dense_single"},
        "cascade": {"dense_first", "dense_last"},
        "convolution": {"conv2d_first", "conv2d_middle", "conv2d_last"},
        "saturated": {"dense_single"},
    }
    assert kernels == names[case["name"]]
    assert bool(built.description["shared_buffers"]) == (case is CONVOLUTION)


@pytest.mark.slow
@pytest.mark.aie4ml
def test_more_of_its_projects_run_exactly(tmp_path: Path) -> None:
    made = emit(tmp_path, MORE)
    for case in MORE:
        got, _ = emulate(made[case["name"]], tmp_path / f"{case['name']}-build", case)
        want, facts = expected(made[case["name"]], case)
        assert np.array_equal(got, want), case["name"]
        assert facts["nonzero"] >= want.size // 4, case["name"]


def replaced(file: str, before: str, after: str) -> Callable[[Path], None]:
    """A change of every place of a text in one file of a project."""

    def change(project: Path) -> None:
        path = next(p for p in project.rglob(file))
        text = path.read_text()
        assert before in text, f"{file} no longer holds {before!r}"
        path.write_text(text.replace(before, after))

    return change


KERNEL, CONSTANTS, PLAN = "dense_bias_relu.cpp", "parameters.h", "graph_plan.h"
MUTANTS = {
    "rounding half up": (
        DENSE,
        replaced(CONSTANTS, "rounding_mode::conv_even", "rounding_mode::positive_inf"),
    ),
    "rounding half away": (
        DENSE,
        replaced(CONSTANTS, "rounding_mode::conv_even", "rounding_mode::symmetric_inf"),
    ),
    "swapped accumulator": (DENSE, replaced(KERNEL, "C01.mac(A0, B1);", "C10.mac(A0, B1);")),
    "swapped weight index": (
        DENSE,
        replaced(KERNEL, "(0 * (colB / N) +       j)", "(0 * (colB / N) + (j + 1))"),
    ),
    "shift off by one": (DENSE, replaced(CONSTANTS, "int SHIFT = 9", "int SHIFT = 8")),
    "no saturation": (SATURATED, replaced(CONSTANTS, "saturation_mode::saturate", "saturation_mode::none")),
    "no ReLU": (DENSE, replaced(CONSTANTS, "USE_RELU = true", "USE_RELU = false")),
    "wrong tiling traversal": (
        DENSE,
        replaced(PLAN, "{ .dimension=1, .stride=1, .wrap=8 }", "{ .dimension=1, .stride=1, .wrap=4 }"),
    ),
    "truncating cascade": (
        CASCADE,
        replaced(
            KERNEL,
            "writeincr(outCascade, C00.to_accum());",
            "writeincr(outCascade, aie::from_vector<acc_scalar_t>(C00.template to_vector<int8>(0)));",
        ),
    ),
    "cascade out of order": (
        CASCADE,
        replaced(KERNEL, "writeincr(outCascade, C01.to_accum());", "writeincr(outCascade, C00.to_accum());"),
    ),
    "wrong tiling offset": (CONVOLUTION, replaced(PLAN, "{ 0, 0, 4, 0 }", "{ 0, 0, 5, 0 }")),
}


@pytest.mark.slow
@pytest.mark.aie4ml
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_of_its_projects_are_caught(projects: dict[str, Path], mutant: str, tmp_path: Path) -> None:
    case, change = MUTANTS[mutant]
    project = copy(projects[case["name"]], tmp_path / "project")
    change(project)
    want, _ = expected(projects[case["name"]], case)
    try:
        got, _ = emulate(project, tmp_path / "build", case)
    except VerificationFailed as caught:
        assert caught.code in ("RUB-AIE-504", "RUB-AIE-505", "RUB-AIE-506", "RUB-AIE-507")
        return
    assert (got != want).any()
