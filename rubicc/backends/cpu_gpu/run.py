"""Runs emitted files from disk, through the same ``run.py`` that ships in the artefact."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rubicc.backends.cpu_gpu import engines
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import ModelRefused, RubiccError, ToolMissing, UsageError
from rubicc.spec import ModelMeta, TensorSpec

_KINDS: dict[str, type[RubiccError]] = {
    "input": UsageError,
    "refused": ModelRefused,
    "missing": ToolMissing,
    "failed": ToolMissing,
}


def open_session(
    folder: str | Path,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    streams: int | None = 1,
) -> CpuGpuSession:
    """Open an artefact (or its ``cpu_gpu`` folder).

    Args:
        runtime: ``None`` = the one recorded in the artefact.
        threads: threads in all; ``None`` = recorded, else the CPUs this process may use.
        streams: callers served at the same time, each with threads/streams threads. 1 gives the shortest
            single call; ``None`` = recorded, else as many as threads: with :meth:`CpuGpuSession.map` or
            :meth:`CpuGpuSession.run_split` the highest throughput.

    Raises:
        ModelRefused: files damaged, changed or of another version (RUB-CPU-030, 031).
        ToolMissing: the runtime or GPU provider is missing or refuses the model (RUB-CPU-006, 008, 009).
        UsageError: unknown runtime, fewer than one thread (RUB-CPU-020).
    """
    return CpuGpuSession(Path(folder), runtime, threads, streams)


class CpuGpuSession:
    """A loaded artefact; every method may be called from several threads at once."""

    def __init__(self, folder: Path, runtime: str | None, threads: int | None, streams: int | None) -> None:
        folder = home_of(folder)
        with translated(folder.name):
            self._model: runner.Model | None = runner.Model(folder, runtime, threads, streams, engines.start)
        model = self._model
        self.description: dict[str, Any] = model.description
        self.inputs = tuple(_spec(item) for item in model.inputs)
        self.outputs = tuple(_spec(item) for item in model.outputs)
        self.meta = _meta(model.meta, folder.name)
        self.runtime: str = model.runtime
        self.runtimes: tuple[str, ...] = tuple(model.description.get("runtimes", (model.runtime,)))
        self.threads: int = model.threads
        self.streams: int = model.streams
        self._pool: ThreadPoolExecutor | None = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name.

        Raises:
            UsageError: names, types or shapes the model does not take (RUB-CPU-032 to 034).
            ModelRefused: the output contradicts the recorded shapes or stride (RUB-CPU-036).
            ToolMissing: the runtime failed (RUB-CPU-035).
        """
        if self._model is None:
            raise UsageError("RUB-CPU-020", "the session is closed", hint="open it again")
        with translated(self.runtime):
            return self._model.run(dict(feeds))

    def run_split(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """:meth:`run` with the batch cut into ``streams`` parts that run at the same time.

        For models whose batch items do not see each other (basecallers). Recurrent networks gain most: their
        steps are too small to share among threads. A model that does not say where the batch stands in its
        outputs runs in one piece.
        """
        first = self.inputs[0]
        symbol = first.shape[0] if first.shape else 1
        axes = {spec.name: spec.shape.index(symbol) for spec in self.outputs if symbol in spec.shape}
        same = all(spec.shape and spec.shape[0] == symbol for spec in self.inputs)
        size = feeds[first.name].shape[0] if first.name in feeds and np.ndim(feeds[first.name]) else 0
        parts = min(self.streams, size)
        if parts < 2 or not isinstance(symbol, str) or not same or len(axes) != len(self.outputs):
            return self.run(feeds)
        edges = [size * i // parts for i in range(parts + 1)]
        cuts = [{name: array[a:b] for name, array in feeds.items()} for a, b in pairwise(edges)]
        done = [future.result() for future in [self.submit(cut) for cut in cuts]]
        return {name: np.concatenate([out[name] for out in done], axis) for name, axis in axes.items()}

    def submit(self, feeds: Mapping[str, np.ndarray]) -> Future[dict[str, np.ndarray]]:
        """Start :meth:`run` on one of ``streams`` worker threads."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.streams, thread_name_prefix="rubicc-session")
        return self._pool.submit(self.run, feeds)

    def map(self, many: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """Outputs of many inputs in their order, ``streams`` at a time, taking ``streams + 1`` ahead."""
        waiting: deque[Future[dict[str, np.ndarray]]] = deque()
        for feeds in many:
            waiting.append(self.submit(feeds))
            if len(waiting) > self.streams:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        """Wait for running calls and free the runtime."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._model = None

    def __enter__(self) -> CpuGpuSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class translated:
    """Turns the standalone runner's errors into rubicc's, which carry exit codes."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(err, runner.ArtefactError):
            raise _KINDS[err.kind](err.code, err.what, where=self.where, hint=err.hint) from err


def home_of(folder: Path) -> Path:
    """The ``cpu_gpu`` folder of an artefact; a folder that is one already is returned as it is."""
    nested = folder / "cpu_gpu"
    return nested if not (folder / "runtime.json").exists() and nested.is_dir() else folder


def _meta(data: Mapping[str, Any] | None, where: str) -> ModelMeta | None:
    try:
        return ModelMeta.from_dict(data) if data is not None else None
    except UsageError as err:
        raise ModelRefused("RUB-CPU-031", f"runtime.json: {err.what}", where=where, hint=err.hint) from err


def _spec(item: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(item["name"], tuple(item["shape"]), item["dtype"])
