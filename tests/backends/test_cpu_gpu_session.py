from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from backend_nets import signal

from rubicc.backends.base import Session
from rubicc.backends.cpu_gpu.run import open_session
from rubicc.errors import ModelRefused, RubiccError, ToolMissing, UsageError

RUNTIMES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_equals_the_source_at_odd_shapes(built, runtime: str) -> None:
    with open_session(built.folder, runtime=runtime, threads=1) as session:
        assert isinstance(session, Session) and session.runtime == runtime
        for n, t in ((1, 97), (3, 241), (2, 240), (5, 20), (1, 1000)):
            x = signal(n, t)
            got, want = session.run({"x": x})["y"], built.expected(x)["y"]
            assert got.shape == want.shape and got.dtype == np.float32
            np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_is_deterministic_and_safe_from_many_threads(built, runtime: str) -> None:
    arrays = [signal(1 + i % 3, 200 + 40 * (i % 3), seed=i) for i in range(24)]
    with open_session(built.folder, runtime=runtime, threads=2, streams=2) as session:
        alone = [session.run({"x": x})["y"] for x in arrays]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda x: session.run({"x": x})["y"], arrays))
        mapped = [out["y"] for out in session.map({"x": x} for x in arrays)]
    for one, two, three in zip(alone, together, mapped, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_outputs_belong_to_the_caller(conv, runtime: str) -> None:
    with open_session(conv.folder, runtime=runtime) as session:
        first = session.run({"x": signal(seed=1)})["y"]
        kept = first.copy()
        session.run({"x": signal(seed=2)})
        np.testing.assert_array_equal(first, kept)


def test_thread_counts_do_not_change_the_numbers_beyond_rounding(gru) -> None:
    x = signal(4, 400)
    for runtime in RUNTIMES:
        results = []
        for threads in (1, 2):
            with open_session(gru.folder, runtime=runtime, threads=threads) as session:
                assert session.threads == threads
                results.append(session.run({"x": x})["y"])
        np.testing.assert_allclose(*results, atol=2e-6)


def test_openvino_is_held_to_float32(gru) -> None:
    x = signal(4, 400)
    with open_session(gru.folder, runtime="openvino") as session:
        assert np.abs(session.run({"x": x})["y"] - gru.expected(x)["y"]).max() < 5e-6


def test_the_artefact_folder_above_is_accepted(conv) -> None:
    with open_session(conv.folder.parent) as session:
        assert session.meta == conv.graph.meta
        assert [spec.name for spec in session.inputs] == ["x"] and session.outputs[0].shape[2] == 5


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ({}, "RUB-CPU-032"),
        ({"x": signal(), "y": signal()}, "RUB-CPU-032"),
        ({"x": signal().astype(np.float64)}, "RUB-CPU-033"),
        ({"x": (signal() * 100).astype(np.int16)}, "RUB-CPU-033"),
        ({"x": signal().tolist()}, "RUB-CPU-033"),
        ({"x": signal()[:, 0]}, "RUB-CPU-034"),
        ({"x": np.repeat(signal(), 2, axis=1)}, "RUB-CPU-034"),
        ({"x": signal()[:0]}, "RUB-CPU-034"),
        ({"x": signal()[:, :, :0]}, "RUB-CPU-034"),
    ],
)
def test_inputs_the_model_does_not_take(conv, feeds, code: str) -> None:
    for runtime in RUNTIMES:
        with open_session(conv.folder, runtime=runtime) as session, pytest.raises(UsageError, match=code):
            session.run(feeds)


def test_views_and_fortran_order_are_fine(conv) -> None:
    x = signal(4, 480)
    view = np.asfortranarray(x)[::2, :, ::2]
    with open_session(conv.folder, runtime="openvino") as session:
        np.testing.assert_allclose(session.run({"x": view})["y"], conv.expected(view.copy())["y"], atol=2e-6)


def edited(folder: Path, target: Path, change) -> Path:
    shutil.copytree(folder, target)
    data = json.loads((target / "runtime.json").read_text())
    change(data)
    (target / "runtime.json").write_text(json.dumps(data))
    return target


def test_a_wrong_stride_is_refused_when_it_runs(gru, tmp_path: Path) -> None:
    folder = edited(gru.folder, tmp_path / "a", lambda d: d["meta"].update(stride=5))
    with open_session(folder) as session, pytest.raises(ModelRefused, match="stride 5"):
        session.run({"x": signal()})


def test_an_output_of_another_width_is_refused(gru, tmp_path: Path) -> None:
    folder = edited(gru.folder, tmp_path / "a", lambda d: d["outputs"][0].update(shape=["T", "N", 8]))
    with open_session(folder) as session, pytest.raises(ModelRefused, match="RUB-CPU-036"):
        session.run({"x": signal()})


def test_usage_errors_of_opening(conv) -> None:
    for options in ({"runtime": "tensorflow"}, {"threads": -1}, {"streams": 0}):
        with pytest.raises(UsageError, match="RUB-CPU-020"):
            open_session(conv.folder, **options)
    with pytest.raises(ModelRefused, match="RUB-CPU-031"):
        open_session(conv.folder / "nowhere")


def test_a_missing_runtime_names_its_package(conv, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ToolMissing, match="pip install openvino") as caught:
        open_session(conv.folder, runtime="openvino")
    assert caught.value.exit_code == 7


def test_a_missing_gpu_provider_is_never_replaced_by_the_cpu(conv, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a CUDA provider")
    cuda = {"providers": ["CUDAExecutionProvider"]}
    folder = edited(conv.folder, tmp_path / "a", lambda d: d["onnxruntime"].update(cuda))
    with pytest.raises(ToolMissing, match="onnxruntime-gpu"):
        open_session(folder)


def test_a_closed_session_says_so(conv) -> None:
    session = open_session(conv.folder)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({"x": signal()})


def test_map_propagates_errors_and_takes_inputs_lazily(conv) -> None:
    taken = []

    def feeds():
        for i in range(100):
            taken.append(i)
            yield {"x": signal(1, 100, seed=i)}

    with open_session(conv.folder, streams=2) as session:
        results = session.map(feeds())
        next(results)
        assert len(taken) <= 4
        with pytest.raises(UsageError, match="RUB-CPU-033"):
            list(session.map([{"x": signal()}, {"x": signal().astype("f8")}]))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_split_batch_is_put_together_in_order(built, runtime: str) -> None:
    with open_session(built.folder, runtime=runtime, threads=2, streams=2) as session:
        for n in (1, 2, 3, 8):
            x = signal(n, 240, seed=n)
            got = session.run_split({"x": x})["y"]
            np.testing.assert_allclose(got, built.expected(x)["y"], atol=2e-6)
        with pytest.raises(UsageError, match="RUB-CPU-032"):
            session.run_split({"z": signal()})
        with pytest.raises(UsageError, match="RUB-CPU-033"):
            session.run_split({"x": signal(4).astype("f8")})


def test_a_batch_whose_place_is_unknown_is_not_split(conv, tmp_path: Path) -> None:
    folder = edited(conv.folder, tmp_path / "a", lambda d: d["outputs"][0].update(shape=["T", "M", 5]))
    with open_session(folder, streams=2) as session:
        x = signal(4)
        np.testing.assert_allclose(session.run_split({"x": x})["y"], conv.expected(x)["y"], atol=2e-6)


def places(data, path=()):
    """Paths of every value inside a JSON document."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def test_a_description_with_any_one_value_replaced_runs_right_or_is_refused(gru, tmp_path: Path) -> None:
    """Every value of runtime.json by every kind of wrong value: a rubicc error, or the right numbers."""
    folder = Path(shutil.copytree(gru.folder, tmp_path / "a"))
    path = folder / "runtime.json"
    original = path.read_text()
    x = signal(1, 60)
    want = gru.expected(x)["y"]
    refused = 0
    for place in [p for p in places(json.loads(original)) if p]:
        for wrong in (None, -1, 3.5, "../x", [], {}, [1, None], {"a": 1}, True, 10**30):
            data = json.loads(original)
            inner = data
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            path.write_text(json.dumps(data))
            try:
                with open_session(folder, threads=1) as session:
                    got = session.run({"x": x})["y"]
            except RubiccError:
                refused += 1
            else:
                np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"{place} {wrong}")
    assert refused > 100
