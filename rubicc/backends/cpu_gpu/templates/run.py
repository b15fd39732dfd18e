"""Runs the model in this folder with ONNX Runtime or OpenVINO. Needs numpy and one of the two, nothing else.
(Where rubicc is installed, its own kernels can run it too: --runtime native.)

    python run.py input.npz -o output.npz            arrays by input name in, arrays by output name out
    python run.py --info                             what goes in and out

    model = load(); outputs = model.run({"x": array})

Everything it must know stands in runtime.json. The model is refused when its bytes are not the recorded ones.
Copied unchanged from rubicc, which runs artefacts through this very file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
MAX_JSON_BYTES = 4 << 20
LEVELS = {"all": "ORT_ENABLE_ALL", "basic": "ORT_ENABLE_BASIC", "disabled": "ORT_DISABLE_ALL"}
EXIT = {"input": 2, "refused": 3, "missing": 7, "failed": 7}


class ArtefactError(Exception):
    """What went wrong (``kind``: input, refused, missing, failed), under a code of ``rubicc explain``."""

    def __init__(self, kind: str, code: str, what: str, hint: str = "") -> None:
        super().__init__(kind, code, what, hint)
        self.kind, self.code, self.what, self.hint = kind, code, what, hint

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.what}" + (f" · {self.hint}" if self.hint else "")


def read_description(folder: Path) -> dict[str, Any]:
    """``runtime.json``, checked as far as running the model depends on it."""
    path = folder / "runtime.json"
    try:
        raw = read_file(path, MAX_JSON_BYTES)
        if len(raw) > MAX_JSON_BYTES:
            what = f"runtime.json is over {MAX_JSON_BYTES} bytes"
            raise ArtefactError("refused", "RUB-CPU-031", what, "compile again")
        data = json.loads(raw.decode("utf-8"))
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            version = data.get("schema_version") if isinstance(data, dict) else None
            raise ArtefactError(
                "refused",
                "RUB-CPU-031",
                f"runtime.json has schema_version {version!r}, this program reads {SCHEMA_VERSION}",
                "use the run.py that lies beside it, or compile again",
            )
        _check_form(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ArtefactError(
            "refused",
            "RUB-CPU-031",
            f"runtime.json cannot be used: {type(err).__name__}: {err}",
            "compile again",
        ) from err
    return data


def _check_form(data: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for anything running the model would stumble over."""
    file, ort, ov, meta = data["model"]["file"], data["onnxruntime"], data["openvino"], data["meta"]
    rules = {
        "model file": isinstance(file, str) and Path(file).name == file and file not in ("", ".", ".."),
        "sha256": isinstance(data["model"]["sha256"], str),
        "runtime": isinstance(data["runtime"], str) and isinstance(data["precision"], str),
        "runtimes": _are(data["runtimes"], str),
        "threads": all(n is None or (_size(n) and n <= 1024) for n in (data["threads"], data.get("streams"))),
        "batch": _size(data["batch"]),
        "inputs": all(_is_tensor(spec) for spec in [*data["inputs"], *data["outputs"]]),
        "onnxruntime": _are(ort["providers"], str) and ort["graph_optimization_level"] in LEVELS,
        "openvino": ov["inference_precision"] in ("f32", "f16", "bf16")
        and ov["execution_mode"] in ("ACCURACY", "PERFORMANCE"),
        "static_shapes": isinstance(ov["static_shapes"], list)
        and all(_are(dims, int) for item in ov["static_shapes"] for dims in item.values()),
        "meta": meta is None or isinstance(meta, dict),
        "stride": not meta or meta.get("stride") is None or _size(meta["stride"]),
    }
    wrong = [name for name, holds in rules.items() if not holds]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} has the wrong form")


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and bool(values) and all(type(v) is kind for v in values)


def _size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_tensor(spec: dict[str, Any]) -> bool:
    np.dtype(spec["dtype"])
    dims = spec["shape"]
    named = isinstance(spec["name"], str) and isinstance(spec["dtype"], str)
    return named and isinstance(dims, list) and all(isinstance(d, str) or _size(d) for d in dims)


def read_file(path: Path, limit: int | None = None) -> bytes:
    """A regular file, up to one byte more than ``limit``; a pipe would keep us waiting for ever."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("not a regular file")
        return file.read() if limit is None else file.read(limit + 1)


def read_model(folder: Path, data: dict[str, Any]) -> bytes:
    """The model's bytes, hashed as read, so that what was checked is what runs."""
    want = data["model"]
    try:
        content = read_file(folder / want["file"])
    except OSError as err:
        what = f"{want['file']} cannot be read: {err.strerror or err}"
        raise ArtefactError("refused", "RUB-CPU-030", what, "copy or compile the artefact again") from err
    digest = hashlib.sha256(content).hexdigest()
    if digest != want["sha256"]:
        raise ArtefactError(
            "refused",
            "RUB-CPU-030",
            f"{want['file']} has sha256 {digest[:16]}…, runtime.json says {str(want['sha256'])[:16]}…",
            "the file was changed or damaged after it was compiled: restore it or compile again",
        )
    return content


def cores() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class OrtEngine:
    """ONNX Runtime. ``run`` is thread-safe; each of ``streams`` callers gets threads/streams threads."""

    name = "onnxruntime"

    def __init__(self, model: bytes, data: dict[str, Any], threads: int, streams: int) -> None:
        try:
            import onnxruntime as ort
        except ImportError as err:
            raise ArtefactError(
                "missing", "RUB-CPU-009", f"onnxruntime cannot be imported: {err}", "pip install onnxruntime"
            ) from err
        config = data["onnxruntime"]
        providers = config["providers"]
        absent = [p for p in providers if p not in ort.get_available_providers()]
        if absent:
            raise ArtefactError(
                "missing", "RUB-CPU-006", f"ONNX Runtime here has no {absent[0]}", PACKAGES.get(absent[0], "")
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, threads // streams)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        level = LEVELS[config["graph_optimization_level"]]
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        # Spinning burns a core between calls, which other streams, decoders and processes need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=providers)
        except Exception as err:
            raise ArtefactError(
                "failed", "RUB-CPU-008", f"ONNX Runtime refuses the model: {first_line(err)}"
            ) from err
        # ONNX Runtime falls back to its CPU silently when a GPU library is missing: that is another target.
        if self._session.get_providers()[0] != providers[0]:
            raise ArtefactError(
                "missing",
                "RUB-CPU-006",
                f"{providers[0]} could not be started",
                PACKAGES.get(providers[0], ""),
            )

    def names(self) -> tuple[list[set[str]], list[set[str]]]:
        """Names of each input and output in the file."""
        session = self._session
        return [{v.name} for v in session.get_inputs()], [{v.name} for v in session.get_outputs()]

    def infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in the order of the file."""
        return list(self._session.run(None, feeds))


def import_openvino() -> Any:
    """The openvino package without its telemetry.

    On import it reports to a web service and writes an identifier to ``~/intel``, unless the package that
    does so cannot be imported.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoEngine:
    """OpenVINO. One request per concurrent caller; shapes listed as static get their own compiled model."""

    name = "openvino"

    def __init__(self, model: bytes, data: dict[str, Any], threads: int, streams: int) -> None:
        try:
            openvino = import_openvino()
        except ImportError as err:
            raise ArtefactError(
                "missing", "RUB-CPU-009", f"openvino cannot be imported: {err}", "pip install openvino"
            ) from err
        # The binding looks numpy up at the first ``.data`` and lets go of the interpreter's lock meanwhile: a
        # second thread arriving then waits for ever with the lock held. So the first one is here.
        np.array(openvino.Tensor(np.zeros(1, np.float32)).data)
        self._core = openvino.Core()
        self._properties = {
            # Without this OpenVINO computes fp32 models in bf16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": data["openvino"]["inference_precision"],
            "EXECUTION_MODE_HINT": data["openvino"]["execution_mode"],
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # two pinned processes share one core and leave the others idle
            # Reads in one piece have a length each; OpenVINO would keep kernels of the last 5,000 of them.
            "CPU_RUNTIME_CACHE_CAPACITY": 64,
        }
        planned = data["openvino"]["static_shapes"]
        # A caller may cut the batch (first axis) into one part per stream.
        parts = [{k: [max(1, v[0] // streams), *v[1:]] for k, v in item.items() if v} for item in planned]
        self._static = [_shape_key(item) for item in [*planned, *parts]]
        self._lock = threading.Lock()
        self._requests: dict[Any, queue.SimpleQueue[Any]] = {}
        self._compiled: dict[Any, Any] = {}
        try:
            self._model = self._core.read_model(model)
            self._compiled[None] = self._core.compile_model(self._model, "CPU", self._properties)
        except RuntimeError as err:
            raise ArtefactError(
                "failed", "RUB-CPU-008", f"OpenVINO refuses the model: {first_line(err)}"
            ) from err
        self._requests[None] = queue.SimpleQueue()

    def names(self) -> tuple[list[set[str]], list[set[str]]]:
        """Names of each input and output in the file; a value may have several."""
        return [v.get_names() for v in self._model.inputs], [v.get_names() for v in self._model.outputs]

    def infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in the order of the file; copies, because a request's memory is used again."""
        key = self._variant({name: list(array.shape) for name, array in feeds.items()})
        idle = self._requests[key]
        try:
            request = idle.get_nowait()
        except queue.Empty:
            request = self._compiled[key].create_infer_request()
        request.infer(feeds)
        outputs = [np.array(request.get_output_tensor(i).data) for i in range(len(self._model.outputs))]
        idle.put(request)
        return outputs

    def _variant(self, shapes: dict[str, list[int]]) -> Any:
        key = _shape_key(shapes)
        if key not in self._static:
            return None
        with self._lock:
            if key not in self._compiled:
                model = self._model.clone()
                model.reshape(shapes)
                self._requests[key] = queue.SimpleQueue()
                self._compiled[key] = self._core.compile_model(model, "CPU", self._properties)
        return key


def native_engine(model: bytes, data: dict[str, Any], threads: int, streams: int) -> Any:
    """rubicc's own kernels, compiled on this machine; they come with rubicc, not with an artefact."""
    others = [name for name in data["runtimes"] if name != "native"]
    way = f"install rubicc and a C++ compiler{', or use --runtime ' + others[0] if others else ''}"
    try:
        from rubicc.backends.cpu_gpu.native.engine import NativeEngine
    except ImportError as err:
        what = f"runtime native needs rubicc, which cannot be imported: {err}"
        raise ArtefactError("missing", "RUB-CPU-009", what, way) from err
    try:
        return NativeEngine(model, data, threads, streams)
    except ArtefactError:
        raise
    except Exception as err:
        kind = "missing" if getattr(err, "exit_code", 0) == EXIT["missing"] else "failed"
        what = getattr(err, "what", "") or f"the native runtime refuses the model: {first_line(err)}"
        raise ArtefactError(kind, getattr(err, "code", "RUB-CPU-008"), what, way) from err


PACKAGES = {
    "CUDAExecutionProvider": "needs an NVIDIA GPU, driver, CUDA, cuDNN and `pip install onnxruntime-gpu`",
    "TensorrtExecutionProvider": "needs an NVIDIA GPU, TensorRT and `pip install onnxruntime-gpu`",
    "MIGraphXExecutionProvider": "needs an AMD GPU with ROCm and `pip install onnxruntime-migraphx`",
}
ENGINES: dict[str, Any] = {"onnxruntime": OrtEngine, "openvino": OpenVinoEngine, "native": native_engine}


def _start(name: str, model: bytes, data: dict[str, Any], threads: int, streams: int) -> Any:
    return ENGINES[name](model, data, threads, streams)


class Model:
    """A loaded model. ``run`` checks its inputs and may be called from several threads at once.

    Attributes:
        inputs, outputs: ``{"name", "dtype", "shape"}``; a text in a shape is a free dimension.
        meta: what the model is (normalisation, stride, alphabet, decoder), or ``None``.
        runtime, threads, streams: what executes, with how many threads in all, for how many callers at once.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str | None = None,
        threads: int | None = None,
        streams: int | None = 1,
        start: Any = None,
    ) -> None:
        data = read_description(folder)
        self.description = data
        self.inputs: list[dict[str, Any]] = data["inputs"]
        self.outputs: list[dict[str, Any]] = data["outputs"]
        self.meta: dict[str, Any] | None = data["meta"]
        self.runtime = runtime or data["runtime"]
        self.threads = threads or data["threads"] or cores()
        self.streams = (data.get("streams") or self.threads) if streams is None else streams
        self._names = [spec["name"] for spec in self.outputs]
        if self.runtime not in ENGINES:
            raise ArtefactError(
                "input", "RUB-CPU-020", f"unknown runtime {self.runtime!r}", f"known: {', '.join(ENGINES)}"
            )
        if self.runtime not in data["runtimes"]:
            raise ArtefactError(
                "input", "RUB-CPU-020", f"this model was compiled for {data['runtimes']}, not {self.runtime}"
            )
        if self.threads < 1 or self.streams < 1:
            raise ArtefactError("input", "RUB-CPU-020", "threads and streams must be at least 1")
        self._engine = (start or _start)(
            self.runtime, read_model(folder, data), data, self.threads, self.streams
        )
        for specs, names in zip((self.inputs, self.outputs), self._engine.names(), strict=True):
            said = [spec["name"] for spec in specs]
            if len(said) != len(names) or any(a not in b for a, b in zip(said, names, strict=True)):
                raise ArtefactError("refused", "RUB-CPU-031", f"runtime.json names {said}, the model {names}")

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for arrays by input name; ArtefactError for inputs the model does not take."""
        arrays = self._checked(feeds)
        try:
            outputs = self._engine.infer(arrays)
        except Exception as err:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise ArtefactError(
                "failed", "RUB-CPU-035", f"{self.runtime} failed on {shapes}: {first_line(err)}"
            ) from err
        result = dict(zip(self._names, outputs, strict=True))
        self._check_outputs(arrays, result)
        return result

    def _checked(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec["name"] for spec in self.inputs]
        if sorted(feeds) != sorted(names):
            raise ArtefactError(
                "input",
                "RUB-CPU-032",
                f"inputs given: {sorted(feeds)}",
                f"the model takes exactly {sorted(names)}",
            )
        symbols: dict[str, int] = {}
        return {spec["name"]: _checked_array(spec, feeds[spec["name"]], symbols) for spec in self.inputs}

    def _check_outputs(self, feeds: dict[str, np.ndarray], result: dict[str, np.ndarray]) -> None:
        """The recorded shapes and stride hold: a wrong stride would give wrong DNA without any error."""
        for spec in self.outputs:
            shape = result[spec["name"]].shape
            fixed = [
                (want, got) for want, got in zip(spec["shape"], shape, strict=False) if isinstance(want, int)
            ]
            if spec["shape"] and (len(shape) != len(spec["shape"]) or any(w != g for w, g in fixed)):
                raise ArtefactError(
                    "refused",
                    "RUB-CPU-036",
                    f"output {spec['name']} is {list(shape)}, recorded {spec['shape']}",
                )
        stride = (self.meta or {}).get("stride")
        if stride and (self.meta or {}).get("task") == "basecalling":
            samples = feeds[self.inputs[0]["name"]].shape[-1]
            frames = result[self._names[0]].shape[0]
            if abs(frames * stride - samples) >= 2 * stride:
                raise ArtefactError(
                    "refused",
                    "RUB-CPU-036",
                    f"{samples} samples gave {frames} frames, recorded stride {stride}",
                )


def _checked_array(spec: dict[str, Any], array: Any, symbols: dict[str, int]) -> np.ndarray:
    name, want = spec["name"], np.dtype(spec["dtype"])
    if not isinstance(array, np.ndarray) or array.dtype != want:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ArtefactError(
            "input",
            "RUB-CPU-033",
            f"input {name} is {got}, the model takes {want}",
            f"array.astype('{want}')",
        )
    fits = array.ndim == len(spec["shape"]) and array.size > 0
    for dim, size in zip(spec["shape"], array.shape, strict=False):
        expected = dim if isinstance(dim, int) else symbols.setdefault(dim, size)
        fits = fits and size == expected
    if not fits:
        raise ArtefactError(
            "input",
            "RUB-CPU-034",
            f"input {name} has shape {list(array.shape)}",
            f"it must fit {spec['shape']}",
        )
    return np.ascontiguousarray(array)


def _shape_key(shapes: dict[str, list[int]]) -> tuple[Any, ...]:
    return tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))


def first_line(err: BaseException) -> str:
    """The first line that says something: runtimes put source positions before it."""
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't", "Summary:")
    lines = [line.strip(" -") for line in str(err).splitlines() if line.strip()]
    return ([line for line in lines if not line.startswith(noise)] or lines or [type(err).__name__])[0][:300]


def load(
    folder: str | Path | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    streams: int | None = 1,
) -> Model:
    """The model of ``folder`` (this file's own by default), its bytes verified."""
    return Model(Path(folder) if folder else Path(__file__).resolve().parent, runtime, threads, streams)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the compiled model beside this file.")
    parser.add_argument("input", nargs="?", help=".npz with one array per input")
    parser.add_argument("-o", "--output", help=".npz to write")
    parser.add_argument("--runtime", choices=sorted(ENGINES))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--info", action="store_true", help="print inputs, outputs and metadata as JSON")
    args = parser.parse_args(argv)
    try:
        model = load(runtime=args.runtime, threads=args.threads)
        if args.info:
            shown = {key: getattr(model, key) for key in ("runtime", "threads", "inputs", "outputs", "meta")}
            print(json.dumps(shown, indent=2, sort_keys=True))
            return 0
        if not args.input or not args.output:
            parser.error("give input.npz and -o output.npz, or --info")
        _write(Path(args.output), model.run(_read(Path(args.input))))
    except ArtefactError as err:
        print(err, file=sys.stderr)
        return EXIT[err.kind]
    return 0


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as err:
        raise ArtefactError(
            "input", "RUB-CPU-037", f"{path.name} is not an .npz of plain arrays: {err}"
        ) from err


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    staged = path.with_name(path.name + ".partial")
    try:
        with staged.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]
        os.replace(staged, path)
    except OSError as err:
        raise ArtefactError("input", "RUB-CPU-037", f"{path.name} cannot be written: {err.strerror}") from err


if __name__ == "__main__":
    sys.exit(main())
