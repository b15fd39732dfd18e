"""Targets by name: the built-in table, and plugins from the entry-point group ``rubicc.backends``.

Nothing heavy is imported to list targets; a backend is imported by :func:`get`. A broken plugin is a row with
its error in :func:`targets`, never a failure of the others.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, cast

from rubicc.backends.base import Target
from rubicc.errors import ToolMissing, UsageError
from rubicc.plugins import REMEDY, Plugins, Unfit, origin
from rubicc.text import did_you_mean

if TYPE_CHECKING:
    from rubicc.backends.base import Backend

GROUP = "rubicc.backends"
REQUIRED = (
    *("name", "devices", "summary", "folder", "pipeline"),
    *("check", "prepare", "plan", "emit", "readback", "profile_layers", "open_session"),
)


@dataclass(frozen=True)
class TargetInfo:
    """One row of ``rubicc targets``.

    Attributes:
        origin: ``builtin`` or ``distribution version`` of the plugin.
        error: why a plugin's target cannot be used; empty when nothing is known to be wrong.
    """

    name: str
    devices: tuple[str, ...]
    summary: str
    origin: str = "builtin"
    error: str = ""


# name -> (row, "module:attribute" of the backend object)
_BUILTIN: dict[str, tuple[TargetInfo, str]] = {
    "cpu": (
        TargetInfo("cpu", (), "ONNX for ONNX Runtime, OpenVINO and own kernels; fp32 to int8"),
        "rubicc.backends.cpu_gpu.backend:CPU",
    ),
    "gpu": (
        TargetInfo(
            "gpu", ("cuda", "tensorrt", "migraphx"), "ONNX for ONNX Runtime's GPU providers; fp32, fp16"
        ),
        "rubicc.backends.cpu_gpu.backend:GPU",
    ),
    "coreml": (
        TargetInfo(
            "coreml",
            ("iOS16", "iOS17", "iOS18", "iOS26"),
            "ML Program packages for Xcode and the Neural Engine; fp32, fp16, int8 to 1-bit palettes",
        ),
        "rubicc.backends.coreml.backend:BACKEND",
    ),
    "aie": (
        TargetInfo(
            "aie",
            ("vek280", "vck190", "vek385"),
            "Vitis projects for AMD AI Engines, proven in rubicc's own functional emulation; int8, int16",
        ),
        "rubicc.backends.aie.backend:BACKEND",
    ),
}


def builtin(name: str) -> TargetInfo:
    """The row of a built-in target."""
    return _BUILTIN[name][0]


def _accept(point: EntryPoint, offered: Any) -> Any:
    """The backend object of a plugin, which may announce its class."""
    backend = offered() if isinstance(offered, type) else offered
    missing = [name for name in REQUIRED if not hasattr(backend, name)]
    if missing:
        raise Unfit(f"offers no {', '.join(missing)}")
    if backend.name != point.name:
        raise Unfit(f"calls itself {backend.name!r} but is registered as {point.name!r}")
    return backend


PLUGINS = Plugins(GROUP, _BUILTIN, _accept)


def targets() -> tuple[TargetInfo, ...]:
    """Every target, built-in ones first; plugins are loaded to show their devices and failures."""
    rows = [row for row, _ in _BUILTIN.values()]
    for name, package in PLUGINS.versions().items():
        backend, error = PLUGINS.load(name)
        if backend is None:
            rows.append(TargetInfo(name, (), "", package, error))
        else:
            rows.append(TargetInfo(name, tuple(backend.devices), str(backend.summary), package))
    return tuple(rows)


def plugin_versions() -> dict[str, str]:
    """Target name to ``distribution version`` of every installed plugin, for the manifest; loads nothing."""
    return PLUGINS.versions()


def parse_target(text: str) -> Target:
    """``T`` or ``T:device``, checked against the registry.

    Raises:
        UsageError: unknown target (RUB-TGT-001) or device (RUB-TGT-002), with the nearest known name.
        ToolMissing: the target's plugin does not load (RUB-TGT-003).
    """
    name, _, device = text.strip().partition(":")
    devices = _devices(name)
    if device and device not in devices:
        known = f"known: {', '.join(devices)}" if devices else f"it has none: write --target {name}"
        hint = did_you_mean(device, devices, known)
        raise UsageError("RUB-TGT-002", f"target {name!r} has no device {device!r}", hint=hint)
    return Target(name, device)


def get(target: str | Target) -> Backend:
    """The backend of a target, imported now.

    Raises:
        UsageError, ToolMissing: as :func:`parse_target`.
    """
    name = (target if isinstance(target, Target) else parse_target(target)).name
    if name in _BUILTIN:
        module, _, attribute = _BUILTIN[name][1].partition(":")
        return cast("Backend", getattr(importlib.import_module(module), attribute))
    return cast("Backend", _plugin(name))


def _devices(name: str) -> tuple[str, ...]:
    return _BUILTIN[name][0].devices if name in _BUILTIN else tuple(_plugin(name).devices)


def _plugin(name: str) -> Any:
    points = PLUGINS.points()
    if name not in points:
        known = [*_BUILTIN, *points]
        hint = did_you_mean(name, known, f"known: {', '.join(known)}")
        raise UsageError("RUB-TGT-001", f"unknown target {name!r}", hint=hint)
    backend, error = PLUGINS.load(name)
    if backend is None:
        what = f"target {name!r} of {origin(points[name])} could not be loaded: {error}"
        raise ToolMissing("RUB-TGT-003", what, hint=REMEDY)
    return backend
