"""Whole packages: states, several functions, flexible shapes, kept values, feeds, semantics, observer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_packages import built, converted, ran, snr
from torch import Tensor, nn

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.run.load import load
from rubicc.errors import UsageError


class Memory(nn.Module):
    """Adds what it is fed to what it was fed before, and writes a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 3, dtype=torch.float16))
        self.register_buffer("last", torch.zeros(4, 3, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x)
        self.last[1:3] = x
        return self.total * 2 + self.last[1:3]


def stateful(folder: Path) -> Any:
    return converted(
        folder,
        Memory(),
        (torch.ones(2, 3, dtype=torch.float16),),
        target="iOS18",
        precision="fp16",
        states={"total": (2, 3), "last": (4, 3)},
    )


def test_a_state_lives_across_calls_and_only_where_it_is_handed_over(tmp_path: Path) -> None:
    package = stateful(tmp_path)
    (name,) = package.main.block.outputs
    dtype = {"fp16": np.float16, "fp32": np.float32}[package.interface.inputs[0].dtype]
    x = np.arange(6, dtype=dtype).reshape(2, 3)
    state = package.new_state()
    assert sorted(state.names()) == ["last", "total"]
    for turn in (1, 2, 3):
        made = package.run({"x0": x}, state=state)[name]
        assert np.array_equal(made, 2 * turn * x + x)
        assert np.array_equal(state["total"], turn * x)
    assert np.array_equal(state["last"][1:3], x) and not state["last"][0].any()
    assert np.array_equal(package.run({"x0": x})[name], 3 * x), "without a state every call begins at zero"


def test_a_state_of_another_semantics_is_refused(tmp_path: Path) -> None:
    package = stateful(tmp_path)
    dtype = {"fp16": np.float16, "fp32": np.float32}[package.interface.inputs[0].dtype]
    with pytest.raises(UsageError, match="RUB-COREML-260"):
        package.run({"x0": np.ones((2, 3), dtype)}, semantics="fp64", state=package.new_state("fp16"))


def test_several_functions_share_weights_and_run_by_name(tmp_path: Path) -> None:
    ct = tools.coremltools()
    torch.manual_seed(0)
    body, heads = nn.Linear(4, 4), (nn.Linear(4, 2), nn.Linear(4, 3))
    nets = [nn.Sequential(body, nn.Tanh(), head) for head in heads]
    given = (torch.randn(5, 4),)
    whole = ct.utils.MultiFunctionDescriptor()
    for place, module in enumerate(nets):
        folder = tmp_path / str(place)
        folder.mkdir()
        converted(folder, module, given, target="iOS18")
        whole.add_function(str(folder / "net.mlpackage"), "main", f"head{place}")
    whole.default_function_name = "head1"
    with tools.quiet():
        ct.utils.save_multifunction(whole, str(tmp_path / "both.mlpackage"))
    package = load(tmp_path / "both.mlpackage")
    assert sorted(package.program.functions) == ["head0", "head1"] and package.default == "head1"
    for place, module in enumerate(nets):
        name = f"head{place}"
        (made,) = package.run({"x0": given[0].numpy()}, semantics="fp32", function=name).values()
        assert snr(made, module(*given).detach().numpy()) > 110
    assert ran(package, given)[0].shape == (5, 3)
    with pytest.raises(UsageError, match="head0, head1"):
        package.machine("fp32", "main")


class Flexible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 5, stride=2, padding=2)
        self.gru = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).transpose(1, 2)
        return self.gru(y)[0] + y.mean(1, keepdim=True)[..., :3]


def test_a_range_of_shapes(tmp_path: Path) -> None:
    ct = tools.coremltools()
    module = Flexible()
    shape = ct.Shape((1, 2, ct.RangeDim(8, 64, default=16)))
    package = converted(tmp_path, module, (torch.randn(1, 2, 16),), shapes=[shape])
    shapes = package.interface.inputs[0].shapes
    assert shapes is not None and shapes.form == "range"
    for length in (8, 16, 33, 64):
        given = (torch.randn(1, 2, length),)
        assert snr(ran(package, given)[0], module(*given).detach().numpy()) > 100
    for length in (7, 65):
        with pytest.raises(UsageError, match=r"RUB-COREML-261.*8\.\.64"):
            ran(package, (torch.randn(1, 2, length),))


def test_shapes_one_by_one(tmp_path: Path) -> None:
    ct = tools.coremltools()
    module = Flexible()
    shape = ct.EnumeratedShapes(shapes=[(1, 2, 12), (2, 2, 20)], default=(1, 2, 12))
    package = converted(tmp_path, module, (torch.randn(1, 2, 12),), shapes=[shape])
    for sizes in ((1, 2, 12), (2, 2, 20)):
        given = (torch.randn(sizes),)
        assert snr(ran(package, given)[0], module(*given).detach().numpy()) > 100
    with pytest.raises(UsageError, match="1x2x12 or 2x2x20"):
        ran(package, (torch.randn(1, 2, 20),))


def test_an_image_classifier(tmp_path: Path) -> None:
    """Images come as arrays of pixels, scale and bias are in the program; out come a label and a table."""
    ct = tools.coremltools()
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)).eval()
    with tools.quiet():
        model = ct.convert(
            torch.jit.trace(module, torch.rand(1, 3, 6, 7)),
            inputs=[ct.ImageType(name="image", shape=(1, 3, 6, 7), scale=1 / 255, bias=[0.1, 0.2, 0.3])],
            classifier_config=ct.ClassifierConfig(["adenine", "cytosine", "guanine"]),
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "image.mlpackage"))
    package = load(tmp_path / "image.mlpackage")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 7)).astype(np.float32)
    made = package.run({"image": pixels}, semantics="fp32")
    scaled = torch.from_numpy(pixels) / 255 + torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    want = dict(zip(("adenine", "cytosine", "guanine"), module(scaled)[0].tolist(), strict=True))
    assert made["classLabel"] == max(want, key=lambda label: want[label])
    assert made["classLabel_probs"] == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
def test_an_exported_program(tmp_path: Path) -> None:
    """The other half of coremltools' front end: torch.export instead of TorchScript."""
    ct = tools.coremltools()
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, 2, 12, 0.0, norm_first=True)
    ).eval()
    ids = torch.randint(0, 9, (5, 2), dtype=torch.int32)
    with tools.quiet():
        program = torch.export.export(module, (ids,)).run_decompositions({})
        target, single = ct.target.iOS17, ct.precision.FLOAT32
        model = ct.convert(
            program, minimum_deployment_target=target, compute_precision=single, skip_model_load=True
        )
        model.save(str(tmp_path / "exported.mlpackage"))
    package = load(tmp_path / "exported.mlpackage")
    (made,) = package.run({package.interface.inputs[0].name: ids.numpy()}, semantics="fp32").values()
    assert snr(made, module(ids).detach().numpy()) > 100


def test_runs_in_several_threads_give_the_same(tmp_path: Path) -> None:
    package = small(tmp_path)
    feeds = [np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32) for seed in range(8)]
    alone = [package.run({"x0": x}) for x in feeds]
    package.close()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: package.run({"x0": x}), feeds))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_interpreter_knows_nothing_of_the_lowering() -> None:
    """Else a fault of the lowering could hide in the one that checks it."""
    import rubicc.backends.coreml.run as room

    sources = [path.read_text() for path in Path(room.__file__).parent.rglob("*.py")]
    assert len(sources) > 20
    for text in sources:
        for other in ("lowering", "compress", "emit", "package", "prepare"):
            assert f"coreml.{other}" not in text


def small(folder: Path, precision: str = "fp16") -> Any:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    return converted(folder, module, (torch.randn(5, 3),), precision=precision)


def test_feeds_that_do_not_fit_are_refused_with_what_does(tmp_path: Path) -> None:
    package = small(tmp_path)
    x = np.zeros((5, 3), np.float32)
    for feeds, message in (
        ({}, "'x0' is missing"),
        ({"x0": x, "x1": x}, "no input 'x1'; inputs are x0"),
        ({"x0": x.astype(np.float64)}, "float64, not fp32"),
        ({"x0": x.T}, r"\(3, 5\); it takes 5x3"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            package.run(feeds)
        assert caught.value.code == "RUB-COREML-261"


def test_unknown_semantics_and_values_are_named(tmp_path: Path) -> None:
    package = small(tmp_path)
    x = {"x0": np.zeros((5, 3), np.float32)}
    with pytest.raises(UsageError, match="fp16, fp32, fp64"):
        package.run(x, semantics="bf16")
    with pytest.raises(UsageError, match="'nowhere'"):
        package.run(x, keep=["nowhere"])


def test_values_inside_can_be_kept_and_watched(tmp_path: Path) -> None:
    package = small(tmp_path)
    rng = np.random.default_rng(1)
    x = {"x0": rng.standard_normal((5, 3)).astype(np.float32)}
    inner = next(op.outputs[0].name for op in package.main.operations() if op.type == "sigmoid")
    made = package.run(x, keep=[inner])
    assert made[inner].shape == (5, 4) and made[inner].dtype == np.float16
    seen: list[tuple[str, str, tuple[int, ...]]] = []
    package.machine("fp16").run(x, observe=lambda *found: seen.append(found))
    assert seen[0] == ("x0", "fp32", (5, 3)) and (inner, "fp16", (5, 4)) in seen
    operations = [op for op in package.main.operations() if op.type != "const"]
    assert len(seen) == 1 + len(operations)


def test_semantics_differ_as_they_say(tmp_path: Path) -> None:
    """fp16 rounds what is declared fp16 when it is stored; fp32 and fp64 do not, and hold their own type."""
    package = small(tmp_path)
    x = {"x0": np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)}
    inner = next(op.outputs[0].name for op in package.main.operations() if op.type == "sigmoid")
    made = {name: package.run(x, semantics=name, keep=[inner])[inner] for name in ("fp16", "fp32", "fp64")}
    assert {name: array.dtype.name for name, array in made.items()} == {
        "fp16": "float16",
        "fp32": "float32",
        "fp64": "float64",
    }
    assert (
        np.array_equal(made["fp32"], made["fp64"].astype(np.float32)) or snr(made["fp32"], made["fp64"]) > 120
    )
    assert 50 < snr(made["fp16"].astype(np.float32), made["fp32"]) < 90


def test_one_rounding_per_operation_and_sums_in_fp32(tmp_path: Path) -> None:
    """A sum of 4097 ones: an fp16 accumulator would stop at 2048; what is stored loses the last one."""
    ct = tools.coremltools()
    from coremltools.converters.mil import mil
    from coremltools.converters.mil.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1, 4097), dtype=mil.types.fp16)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        total = mb.reduce_sum(x=x, axes=[1], name="total")
        return mb.sub(x=total, y=np.float16(4000), name="rest")

    package = load(built(tmp_path, program))
    x = {"x": np.ones((1, 4097), np.float16)}
    made = package.run(x, keep=["total"])
    assert made["total"] == 4096, "rounded when stored: fp16 has no 4097"
    assert made["rest"] == 96, "the next operation reads what was stored"
    assert package.run(x, semantics="fp32")["rest"] == 97


def test_machines_share_decoded_weights_and_let_go_of_them(tmp_path: Path) -> None:
    package = small(tmp_path, "fp32")
    x = {"x0": np.zeros((5, 3), np.float32)}
    package.run(x, semantics="fp16")
    shared = dict(package.shared)
    assert shared, "weights lie in the weight file"
    package.run(x, semantics="fp32")
    assert all(package.shared[key] is tensor for key, tensor in shared.items())
    del shared
    package.close()
    assert not package.shared
