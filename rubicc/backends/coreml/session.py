"""Runs an emitted package from disk: in rubicc's interpreter everywhere, in Core ML itself on macOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from rubicc.backends.coreml.description import COREML, HASH_KEY, KEY, MIL, MIL_FP32, Description
from rubicc.errors import ModelRefused, ToolMissing, UsageError
from rubicc.shapes import Shapes
from rubicc.spec import TensorSpec

Arrays = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
_OPEN: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def on_macos() -> bool:
    """Whether Core ML itself is on this machine."""
    return sys.platform == "darwin"


def package_in(folder: Path) -> Path:
    """The one package in an artefact's ``coreml`` folder (or in the artefact).

    Raises:
        ModelRefused: ``RUB-COREML-012`` there is none, or more than one.
    """
    home = folder / "coreml" if (folder / "coreml").is_dir() else folder
    found = sorted(home.glob("*.mlpackage"))
    if len(found) != 1:
        hint = "restore the artefact, or compile again"
        what = f"the folder holds {len(found)} packages instead of one"
        raise ModelRefused("RUB-COREML-012", what, where=folder.name, hint=hint)
    return found[0]


def open_session(folder: str | Path, *, runtime: str | None = None, **_: Any) -> CoremlSession:
    """Open an artefact (or its ``coreml`` folder).

    Args:
        runtime: ``mil`` (rubicc's interpreter; the default), ``mil-fp32`` (the same in float32) or ``coreml``
            (macOS only).

    Raises:
        ModelRefused: damaged or changed (``RUB-COREML-011``, ``RUB-COREML-012``, interpreter's codes).
        ToolMissing: ``RUB-COREML-013`` Core ML is not on this machine.
        UsageError: ``RUB-COREML-010`` unknown runtime.
    """
    return CoremlSession(package_in(Path(folder)), runtime or MIL)


class CoremlSession:
    """A loaded package; ``run`` may be called from several threads at once."""

    streams = 1

    def __init__(self, path: Path, runtime: str) -> None:
        self.path = path
        self.package, self.description = opened(path)
        self.meta = self.description.meta
        self._names = self.description.names
        self.inputs: tuple[TensorSpec, ...] = self.description.inputs
        self.outputs: tuple[TensorSpec, ...] = self.description.outputs
        self.shapes: Shapes = self.description.shapes
        plain = (MIL, *([MIL_FP32] if self.description.precision != "fp32" else []))
        self.runtimes: tuple[str, ...] = (*plain, *([COREML] if on_macos() else []))
        self.runtime = runtime
        self._run: Callable[[Arrays], Outputs] | None = self._runner(runtime)

    @property
    def fixed_length(self) -> int | None:
        """Samples a basecaller must be given at once; ``None`` when any of a range will do."""
        return None if self.shapes.kind == "range" else self.shapes.inputs[0].default[-1]

    @property
    def semantics(self) -> str:
        """In what the package itself computes: ``fp16`` or ``fp32``."""
        return "fp32" if self.description.precision == "fp32" else "fp16"

    def _runner(self, runtime: str) -> Callable[[Arrays], Outputs]:
        semantics = {MIL: self.semantics, MIL_FP32: "fp32"}.get(runtime)
        if semantics is not None:
            return self._interpreter(semantics)
        if runtime == COREML:
            return self._renamed(_core_ml(self.path))
        hint = f"one of {', '.join(self.runtimes)}"
        raise UsageError("RUB-COREML-010", f"unknown runtime {runtime!r}", where=self.path.name, hint=hint)

    def _interpreter(self, semantics: str) -> Callable[[Arrays], Outputs]:
        return self._renamed(lambda feeds: self.package.run(feeds, semantics=semantics))

    def _renamed(self, run: Callable[[Arrays], Outputs]) -> Callable[[Arrays], Outputs]:
        """``run`` with the network's names instead of the package's."""
        names = {spec.name: self._names.get(spec.name, spec.name) for spec in (*self.inputs, *self.outputs)}
        outputs = [spec.name for spec in self.outputs]

        def renamed(feeds: Arrays) -> Outputs:
            made = run({names[name]: array for name, array in feeds.items()})
            return {name: made[names[name]] for name in outputs}

        return renamed

    def run(self, feeds: Arrays) -> Outputs:
        """Outputs by name.

        A batch larger than the package takes is run in pieces, where the network says which axis it is.

        Raises:
            UsageError: ``RUB-COREML-014`` names, types or shapes it does not take; closed.
            RubiccError: what the interpreter raises.
        """
        if self._run is None:
            raise UsageError("RUB-COREML-014", "the session is closed", hint="open it again")
        return self._in_parts(feeds, self._run)

    def run_as(self, feeds: Arrays, semantics: str) -> Outputs:
        """:meth:`run` in the interpreter, all arithmetic in ``fp16``, ``fp32`` or ``fp64``.

        Raises:
            UsageError: as :meth:`run`.
        """
        return self._in_parts(feeds, self._interpreter(semantics))

    def watch(self, feeds: Arrays, names: Collection[str], sink: Callable[[str, np.ndarray], None]) -> None:
        """Give values inside the program to ``sink``, by their names there, in one run of the interpreter.

        Raises:
            UsageError: as :meth:`run`, or the names are not in the program.
        """
        inputs = {self._names.get(name, name): array for name, array in self._checked(feeds).items()}
        self.package.run(inputs, semantics=self.semantics, keep=names, sink=sink)

    def _in_parts(self, feeds: Arrays, run: Callable[[Arrays], Outputs]) -> Outputs:
        made = [run(part) for part in self._parts(self._checked(feeds))]
        if len(made) == 1:
            return made[0]
        axes = self.description.batch_axes
        return {name: np.concatenate([one[name] for one in made], axes[name]) for name in made[0]}

    def _checked(self, feeds: Arrays) -> Outputs:
        """Feeds in the package's element types."""
        wanted = {spec.name: spec for spec in self.inputs}
        if set(feeds) != set(wanted):
            what = f"inputs {', '.join(sorted(feeds)) or 'none'}; the package takes {', '.join(wanted)}"
            raise UsageError("RUB-COREML-014", what, where=self.path.name, hint="give exactly these arrays")
        return {name: self._typed(np.asarray(feeds[name]), spec) for name, spec in wanted.items()}

    def _typed(self, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
        wanted = np.dtype(spec.dtype)
        if array.dtype == wanted:
            return array
        own = self.shapes.of(spec.name).dtype  # the network's; masks may be floats in the package
        if array.dtype.kind in "iub" and not own.startswith("float"):
            return self._number(array, wanted, spec.name)
        hint = "convert with array.astype once you know it is right; a float64 signal is often not normalised"
        what = f"input {spec.name!r} has type {array.dtype}, not {wanted}"
        raise UsageError("RUB-COREML-014", what, where=self.path.name, hint=hint)

    def _number(self, array: np.ndarray, wanted: np.dtype, name: str) -> np.ndarray:
        """Whole numbers in the package's type, all of them unchanged."""
        with np.errstate(invalid="ignore"):  # judged below
            held = array.astype(wanted)
        if not np.array_equal(held.astype(array.dtype), array):
            what = f"input {name!r} holds values that {wanted} cannot"
            hint = "Core ML exchanges 32-bit integers and floats; give smaller numbers"
            raise UsageError("RUB-COREML-014", what, where=self.path.name, hint=hint)
        return held

    def _parts(self, arrays: Outputs) -> list[Outputs]:
        """The feeds cut along the batch into pieces the package takes."""
        if all(self.shapes.of(name).takes(array.shape) for name, array in arrays.items()):
            return [arrays]
        axes = self.description.batch_axes
        sizes = {array.shape[axes[name]] for name, array in arrays.items() if axes.get(name, 99) < array.ndim}
        step = self._largest_batch()
        if axes and len(sizes) == 1 and step is not None:
            (size,) = sizes
            starts = range(0, size, step) if size % step == 0 else range(0, size, 1)
            width = step if size % step == 0 else 1
            parts = [_cut(arrays, axes, start, start + width) for start in starts]
            if all(self.shapes.of(name).takes(a.shape) for part in parts for name, a in part.items()):
                return parts
        given = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
        takes = ", ".join(f"{item.name} {item.describe()}" for item in self.shapes.inputs)
        hint = "pad or cut the input, or compile with other --shapes"
        what = f"shapes {given}; the package takes {takes}"
        raise UsageError("RUB-COREML-014", what, where=self.path.name, hint=hint)

    def _largest_batch(self) -> int | None:
        item = self.shapes.inputs[0]
        axis = self.description.batch_axes.get(item.name)
        return None if axis is None else item.bounds[axis][1]

    def close(self) -> None:
        """Free the program."""
        self._run = None

    def __enter__(self) -> CoremlSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _loaded(path: Path) -> Any:
    """The package; sessions over the same files share one, and with it the decoded weights."""
    from rubicc.backends.coreml.package import MODEL_FILE, WEIGHTS_FILE
    from rubicc.backends.coreml.run.load import load

    files = [file.stat() for name in (MODEL_FILE, WEIGHTS_FILE) if (file := path / name).is_file()]
    key = (path.resolve(), *((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in files))
    package = _OPEN.get(key)
    if package is None:
        package = _OPEN[key] = load(path)
    return package


def opened(path: Path) -> tuple[Any, Description]:
    """A package as the interpreter reads it, and what it says about itself.

    Raises:
        ModelRefused: damaged, changed since it was written, or not made by rubicc.
    """
    from rubicc.backends.coreml.package import content_digest

    package = _loaded(path)
    user = package.metadata.user
    hint = "restore the artefact, or compile again"
    if KEY not in user or HASH_KEY not in user:
        raise ModelRefused("RUB-COREML-011", "the package was not made by rubicc", where=path.name, hint=hint)
    if content_digest(path, HASH_KEY) != user[HASH_KEY]:
        what = "program, weights or metadata are not those that were written"
        raise ModelRefused("RUB-COREML-012", what, where=path.name, hint=hint)
    return package, Description.from_json(user[KEY], path.name)


def _cut(arrays: Outputs, axes: Mapping[str, int], start: int, stop: int) -> Outputs:
    return {name: array.take(range(start, stop), axes[name]) for name, array in arrays.items()}


def _core_ml(path: Path) -> Callable[[Arrays], Outputs]:
    """Core ML itself, on macOS."""
    from rubicc.backends.coreml.tools import coremltools, quiet

    if not on_macos():
        what = "Core ML runs on macOS only; everywhere else the interpreter runs the same file"
        hint = "leave --runtime out, or use --runtime mil"
        raise ToolMissing("RUB-COREML-013", what, where=path.name, hint=hint)
    tools = coremltools()
    try:
        with quiet():
            model = tools.models.MLModel(str(path))
    except (RuntimeError, OSError, ValueError) as err:
        raise ToolMissing("RUB-COREML-013", f"Core ML refuses it: {err}"[:300], where=path.name) from err

    def run(feeds: Arrays) -> Outputs:
        try:
            return {name: np.asarray(array) for name, array in model.predict(dict(feeds)).items()}
        except RuntimeError as err:
            raise ToolMissing("RUB-COREML-013", f"Core ML failed: {err}"[:300], where=path.name) from err

    return run
