"""Runs a program in the native kernels."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from rubicc.backends.cpu_gpu.native import build, structs
from rubicc.backends.cpu_gpu.native.assemble import Assembled, assemble
from rubicc.backends.cpu_gpu.native.program import Program
from rubicc.errors import UsageError

MAX_ITEMS, MAX_FRAMES = 1 << 16, 1 << 27


def available() -> str:
    """Why the native runtime cannot be used here; empty when it can."""
    return "" if build.compiler() else "no C++ compiler (g++ or clang++) was found"


class Kernels:
    """A program opened in the compiled kernels; ``run`` may be called from several threads at once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._library = _library()
        self._parts: Assembled = assemble(program)
        self._handle = self._library.rb_open(ctypes.byref(self._parts.spec))
        if not self._handle:
            raise MemoryError("the native kernels could not be opened")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.rb_close(self._handle)
            self._handle = None

    def run(self, x: np.ndarray, threads: int = 1, seconds: np.ndarray | None = None) -> np.ndarray:
        """Output for ``x`` (N, C, T) float32: (T', N, C') or (N, C', T') as the program says.

        Args:
            seconds: float64, one per step, to which the time of each is added (threads' times added up).

        Raises:
            UsageError: ``x`` is too short for a convolution without padding, or too large (RUB-CPU-062).
        """
        x = np.ascontiguousarray(x, np.float32)
        items, channels, length = x.shape
        frames = self._library.rb_frames(self._handle, length) if length <= MAX_FRAMES else 0
        first = self.program.buffers[self.program.input]
        if frames < 1 or items > MAX_ITEMS or channels != first.channels:
            raise UsageError("RUB-CPU-062", f"the native kernels cannot run an input of shape {x.shape}")
        made = self.program.buffers[self.program.output].channels
        shape = (frames, items, made) if self.program.layout == "TNC" else (items, made, frames)
        out = np.empty(shape, np.float32)
        failed = self._library.rb_run(
            self._handle, x.ctypes.data, out.ctypes.data, items, length, max(1, threads),
            None if seconds is None else seconds.ctypes.data,
        )  # fmt: skip
        if failed:
            raise MemoryError(f"no memory for an input of shape {x.shape}")
        return out


def _library() -> ctypes.CDLL:
    library = build.library()
    structs.check(library)
    library.rb_open.restype = ctypes.c_void_p
    library.rb_open.argtypes = [ctypes.c_void_p]
    library.rb_close.argtypes = [ctypes.c_void_p]
    library.rb_close.restype = None
    library.rb_frames.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.rb_run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32] * 3 + [ctypes.c_void_p]
    library.rb_features.restype = ctypes.c_char_p
    return library


def features() -> tuple[str, ...]:
    """Instruction sets the compiled kernels use: of ``avx512``, ``vnni``, ``bf16``."""
    return tuple(_library().rb_features().decode().split())


class NativeEngine:
    """The engine of a session: see ``templates/run.py`` for its siblings."""

    name = "native"

    def __init__(self, model: bytes, data: dict[str, Any], threads: int, streams: int) -> None:
        import onnx

        from rubicc.backends.cpu_gpu.native.lower import lower
        from rubicc.ir.graph import Graph

        graph = Graph.from_proto(onnx.load_from_string(model))
        self._names = [{v.name} for v in graph.inputs], [{v.name} for v in graph.outputs]
        self._kernels = Kernels(lower(graph, precision=data["precision"]))
        self._threads = max(1, threads // streams)

    def names(self) -> tuple[list[set[str | None]], list[set[str | None]]]:
        """Names of each input and output in the file."""
        return self._names

    def infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs in the order of the file."""
        return [self._kernels.run(feeds[self._kernels.program.input_name], self._threads)]
