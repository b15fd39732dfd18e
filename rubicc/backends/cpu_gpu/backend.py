"""The two targets of this backend, as the registry hands them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir

from rubicc.backends.base import EmitResult, Finding, LayerProfile, Plan, Prepared, Target, Widths
from rubicc.backends.cpu_gpu.description import CpuGpuPlan
from rubicc.backends.cpu_gpu.run import CpuGpuSession, open_session
from rubicc.ir.graph import Graph


class CpuGpuBackend:
    """ONNX for ONNX Runtime, OpenVINO and our own kernels; see :class:`rubicc.backends.base.Backend`."""

    folder = "cpu_gpu"
    pipeline = "cpu_gpu"
    pipelines: ClassVar[dict[str, str]] = {"int8": "cpu_gpu_integer", "mixed": "cpu_gpu_integer"}

    def __init__(self, name: str, devices: tuple[str, ...], summary: str) -> None:
        self.name = name
        self.devices = devices
        self.summary = summary

    def check(self, graph: Graph, target: Target) -> list[Finding]:
        """See :func:`rubicc.backends.cpu_gpu.check.check`."""
        from rubicc.backends.cpu_gpu.check import check

        return check(graph, target)

    def prepare(self, graph: Graph, target: Target, **options: Any) -> Prepared:
        """See :func:`rubicc.backends.cpu_gpu.prepare.choose`."""
        from rubicc.backends.cpu_gpu.prepare import choose

        return choose(graph, target, **options)

    def plan(self, graph: Graph, target: Target, **options: Any) -> CpuGpuPlan:
        """See :func:`rubicc.backends.cpu_gpu.plan.plan`."""
        from rubicc.backends.cpu_gpu.plan import plan

        return plan(graph, target, **options)

    def emit(self, graph: Graph, plan: Plan, folder: Path) -> EmitResult:
        """See :func:`rubicc.backends.cpu_gpu.emit.emit`."""
        from rubicc.backends.cpu_gpu.emit import emit

        return emit(graph, cast(CpuGpuPlan, plan), folder)

    def widths(self, target: Target, node: ir.Node, granularity: str) -> Widths:
        """See :func:`rubicc.backends.cpu_gpu.widths.widths`."""
        from rubicc.backends.cpu_gpu.widths import widths

        return widths(target, node, granularity)

    def readback(self, folder: Path) -> Graph | None:
        """The emitted ``model.onnx``, read from disk with the limits of any other file."""
        from rubicc.ir.io import load_graph

        return load_graph(folder / "model.onnx")

    def profile_layers(
        self, folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None
    ) -> LayerProfile:
        """See :func:`rubicc.backends.cpu_gpu.layers.profile_layers`."""
        from rubicc.backends.cpu_gpu.layers import profile_layers

        return profile_layers(folder, feeds, reference)

    def open_session(self, folder: Path, **options: Any) -> CpuGpuSession:
        """See :func:`rubicc.backends.cpu_gpu.run.open_session`."""
        return open_session(folder, **options)


def _row(name: str) -> tuple[str, tuple[str, ...], str]:
    from rubicc.backends.registry import builtin

    info = builtin(name)
    return info.name, info.devices, info.summary


CPU = CpuGpuBackend(*_row("cpu"))
GPU = CpuGpuBackend(*_row("gpu"))
