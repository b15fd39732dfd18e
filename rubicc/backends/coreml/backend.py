"""The Core ML target, as the registry hands it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import onnx_ir as ir

from rubicc.backends.base import (
    Checked,
    EmitResult,
    Facts,
    Finding,
    LayerProfile,
    Plan,
    Prepared,
    Run,
    Target,
    Twin,
    Widths,
)
from rubicc.backends.coreml.description import COREML, PLAIN, CoremlPlan
from rubicc.backends.coreml.session import CoremlSession, open_session
from rubicc.ir.graph import Graph

if TYPE_CHECKING:
    pass


class CoremlBackend:
    """ML Program packages for Apple devices; see :class:`rubicc.backends.base.Backend`."""

    folder = "coreml"
    suffix = ".mlpackage"
    pipeline = "coreml"
    default_precision = "fp16"
    device_runtime = COREML
    bounded = True
    frees_source = True
    calibrated: ClassVar[tuple[str, ...]] = ("w8a8",)
    exact_precisions: ClassVar[tuple[str, ...]] = PLAIN
    preparing: ClassVar[tuple[str, ...]] = ("quantize.weights", "quantize.palettize", "quantize.sparsify")
    wants: ClassVar[tuple[str, ...]] = ("shapes", "assets", "name", "example", "strict")

    def __init__(self, name: str, devices: tuple[str, ...], summary: str) -> None:
        self.name = name
        self.devices = devices
        self.summary = summary

    def check(self, graph: Graph, target: Target) -> list[Finding]:
        """See :func:`rubicc.backends.coreml.check.check`."""
        from rubicc.backends.coreml.check import check

        return check(graph, target)

    def check_files(self, path: Path, target: Target, *, strict: bool, audit: Path | None) -> Checked:
        """See :func:`rubicc.backends.coreml.check.check_package`."""
        from rubicc.backends.coreml.check import check_package

        return check_package(path, target, strict=strict, audit=audit)

    def prepare(self, graph: Graph, target: Target, **options: Any) -> Prepared:
        """See :func:`rubicc.backends.coreml.prepare.prepare`."""
        from rubicc.backends.coreml.prepare import prepare

        return prepare(graph, target, **options)

    def plan(self, graph: Graph, target: Target, **options: Any) -> CoremlPlan:
        """See :func:`rubicc.backends.coreml.plan.plan`."""
        from rubicc.backends.coreml.plan import plan

        return plan(graph, target, **options)

    def emit(self, graph: Graph, plan: Plan, folder: Path) -> EmitResult:
        """See :func:`rubicc.backends.coreml.emit.emit`."""
        from rubicc.backends.coreml.emit import emit

        return emit(graph, cast(CoremlPlan, plan), folder)

    def widths(self, target: Target, node: ir.Node, granularity: str) -> Widths:
        """See :func:`rubicc.backends.coreml.compress.widths.widths`."""
        from rubicc.backends.coreml.compress.widths import widths

        return widths(target, node, granularity)

    def twins(self, graph: Graph, plan: Plan, _: Path) -> AbstractContextManager[Sequence[Twin]]:
        """See :func:`rubicc.backends.coreml.twin.twins`."""
        from rubicc.backends.coreml.twin import twins

        return twins(graph, cast(CoremlPlan, plan))

    def readback(self, folder: Path) -> Graph | None:
        """A package is no ONNX graph; sessions read it."""
        return None

    def profile_layers(
        self, folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None
    ) -> LayerProfile:
        """See :func:`rubicc.backends.coreml.layers.profile_layers`."""
        from rubicc.backends.coreml.layers import profile_layers

        return profile_layers(folder, feeds, reference)

    def judge(self, folder: Path) -> tuple[str, Run]:
        """The package in float64: what its own precision costs on new data."""
        session = open_session(folder)
        return "the package in float64", lambda feeds: session.run_as(feeds, "fp64")

    def facts(self, folder: Path) -> Facts:
        """See :func:`rubicc.backends.coreml.layers.facts`."""
        from rubicc.backends.coreml.layers import facts

        return facts(folder)

    def open_session(self, folder: Path, **options: Any) -> CoremlSession:
        """See :func:`rubicc.backends.coreml.session.open_session`."""
        return open_session(folder, **options)


def _backend() -> CoremlBackend:
    from rubicc.backends.registry import builtin

    info = builtin("coreml")
    return CoremlBackend(info.name, info.devices, info.summary)


BACKEND = _backend()
