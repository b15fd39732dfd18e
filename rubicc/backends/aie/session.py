"""Runs an emitted project from disk: in the functional emulation, or as the integer network in numpy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from rubicc.backends.aie import reference, sim
from rubicc.backends.aie.artefact import Emitted, opened
from rubicc.backends.aie.genuine import require_genuine
from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.project.framing import Framing
from rubicc.backends.aie.project.write import UNITS_AT_ONCE, architecture, sim_limits
from rubicc.errors import UsageError
from rubicc.ir.graph import spec_of
from rubicc.spec import TensorSpec

Arrays = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
SIM, INTEGER = "sim", "integer"
RUNTIMES = (SIM, INTEGER)


class Emulated:
    """A project compiled for the functional emulation; segments run one after the other.

    Args:
        project: its folder, which is only read.
        keep: folder for the programs; a temporary one when ``None``.
    """

    def __init__(self, project: Path, plan: AiePlan, net: Net, keep: Path | None = None) -> None:
        self.plan, self.net, self.framing = plan, net, Framing(plan, net)
        self._home = None if keep is not None else tempfile.TemporaryDirectory(prefix="rubicc-aie-")
        root = keep if self._home is None else Path(self._home.name)
        assert root is not None
        self.built = [
            sim.built_once(
                project,
                root / f"segment{segment.index}",
                arch=architecture(plan),
                defines=(f"RUBICC_SEGMENT={segment.index}",),
                batch=UNITS_AT_ONCE,
            )
            for segment in plan.segments
        ]
        self.reports: list[dict[str, Any]] = []

    def run(self, feeds: Arrays) -> Outputs:
        """Integers ``(N, C, T)`` by input edge to integers by output edge, as :func:`reference.run`."""
        values = {name: np.asarray(array) for name, array in feeds.items()}
        count = len(next(iter(values.values())))
        for segment, built in zip(self.plan.segments, self.built, strict=True):
            units = self.framing.units(count, segment)
            iterations = str(units // self.framing.turn)
            found = sim.run(
                built,
                self.framing.feeds(values, segment),
                environment={"RUBICC_ITERATIONS": iterations},
                limits=sim_limits(self.plan),
            )
            self.reports.append(found.report)
            values |= self.framing.results(found.outputs, segment, count)
        return {name: values[name] for name in self.net.outputs}


_COMPILED: WeakValueDictionary[str, Emulated] = WeakValueDictionary()


def emulated(files: Emitted) -> Emulated:
    """The compiled project of an artefact; sessions over the same files share one."""
    found = _COMPILED.get(files.digest)
    if found is None:
        require_genuine(files)
        found = _COMPILED[files.digest] = Emulated(files.project, files.plan, files.net)
    return found


def open_session(folder: str | Path, *, runtime: str | None = None, **_: Any) -> AieSession:
    """Open an artefact (or its ``aie`` folder).

    Args:
        runtime: ``sim``, our functional emulation of the emitted project (the default), or ``integer``, the
            integer network in numpy.

    Raises:
        ModelRefused: ``RUB-AIE-005`` the files are not those that were written; ``RUB-AIE-006`` not those
            that rubicc writes.
        UsageError: ``RUB-AIE-001`` unknown runtime.
        ToolMissing: ``RUB-AIE-501`` no compiler for the emulation.
    """
    return AieSession(opened(Path(folder)), runtime or SIM)


class AieSession:
    """An emitted project; ``run`` may be called from several threads at once."""

    streams = 1
    runtimes = RUNTIMES

    def __init__(self, files: Emitted, runtime: str) -> None:
        if runtime not in RUNTIMES:
            hint = f"one of {', '.join(RUNTIMES)}"
            raise UsageError(
                "RUB-AIE-001", f"unknown runtime {runtime!r}", where=str(files.folder.name), hint=hint
            )
        self.files, self.runtime = files, runtime
        self.meta = files.graph.meta
        self.inputs: tuple[TensorSpec, ...] = tuple(spec_of(value) for value in files.graph.inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(spec_of(value) for value in files.graph.outputs)
        self._array: Emulated | None = emulated(files) if runtime == SIM else None
        self._open = True

    @property
    def fixed_length(self) -> int | None:
        """Samples a basecaller must be given at once."""
        last = self.inputs[0].shape[-1]
        return last if isinstance(last, int) else None

    def run(self, feeds: Arrays) -> Outputs:
        """Outputs by name; a batch of any size where the network says which axis it is.

        Raises:
            UsageError: ``RUB-AIE-004`` names, types or shapes it does not take; closed.
            VerificationFailed: what the emulation finds (``RUB-AIE-5xx``).
        """
        parts = self._parts(self._checked(feeds))
        host = self.files.host
        fed = [host.integers(part) for part in parts]
        integers = {name: np.concatenate([one[name] for one in fed]) for name in fed[0]}
        made = self.integers(integers)
        each = len(next(iter(integers.values()))) // len(parts)
        done = [
            host.finish({n: a[i * each : (i + 1) * each] for n, a in made.items()}, part)
            for i, part in enumerate(parts)
        ]
        if len(done) == 1:
            return done[0]
        axes = self.files.batch_axes
        return {name: np.concatenate([one[name] for one in done], axes[name]) for name in done[0]}

    def integers(self, feeds: Arrays) -> Outputs:
        """The array alone: integers ``(N, C, T)`` by edge name, in and out."""
        if self._array is not None:
            return self._array.run(feeds)
        return reference.run(self.files.net, feeds)

    def _checked(self, feeds: Arrays) -> Outputs:
        if not self._open:
            raise UsageError("RUB-AIE-004", "the session is closed", hint="open it again")
        wanted = {spec.name: spec for spec in self.inputs}
        if set(feeds) != set(wanted):
            what = f"inputs {', '.join(sorted(feeds)) or 'none'}; the project takes {', '.join(wanted)}"
            raise UsageError("RUB-AIE-004", what, hint="give exactly these arrays")
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        for name, array in arrays.items():
            if array.dtype != np.dtype(wanted[name].dtype):
                what = f"input {name!r} has type {array.dtype}, not {wanted[name].dtype}"
                hint = "convert with array.astype once you know it is right"
                raise UsageError("RUB-AIE-004", what, hint=hint)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                hint = "remove NaN and infinity; integers have none"
                raise UsageError("RUB-AIE-004", f"input {name!r} holds values that are not finite", hint=hint)
        return arrays

    def _parts(self, arrays: Outputs) -> list[Outputs]:
        """The feeds cut into items of the shape the network was compiled for."""
        wanted = {spec.name: spec.shape for spec in self.inputs}
        if all(array.shape == wanted[name] for name, array in arrays.items()):
            return [arrays]
        axes = self.files.batch_axes
        if axes:
            step = {wanted[name][axes[name]] for name in arrays}
            counts = {a.shape[axes[name]] for name, a in arrays.items() if a.ndim == len(wanted[name])}
            if len(step) == len(counts) == 1:
                (width,), (count,) = step, counts
                assert isinstance(width, int)
                parts = [
                    {n: a.take(range(i, i + width), axes[n]) for n, a in arrays.items()}
                    for i in range(0, count - width + 1, width)
                ]
                right = all(a.shape == wanted[n] for part in parts for n, a in part.items())
                if parts and count % width == 0 and right:
                    return parts
        given = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
        takes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in wanted.items())
        hint = "pad or cut the input, or compile with other --shapes"
        raise UsageError("RUB-AIE-004", f"shapes {given}; the project takes {takes}", hint=hint)

    def close(self) -> None:
        """Free the compiled emulation."""
        self._array, self._open = None, False

    def __enter__(self) -> AieSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
