"""The AI Engine target, as the registry hands it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir

from rubicc.backends.aie.session import AieSession, open_session
from rubicc.backends.base import (
    EmitResult,
    Finding,
    LayerProfile,
    Plan,
    Predicted,
    Prepared,
    Run,
    Target,
    Twin,
    Widths,
)
from rubicc.ir.graph import Graph


class AieBackend:
    """Vitis projects for AMD AI Engines; see :class:`rubicc.backends.base.Backend`."""

    folder = "aie"
    pipeline = "aie"
    default_precision = "int8"
    device_runtime = "device"  # no latency is measured here: the emulation knows no time
    bounded = True
    requantises = True  # the model's own quantisers are replaced, so data is needed for those as well
    proof_items = 3
    calibrated: ClassVar[tuple[str, ...]] = ("int8", "w8a16", "int16", "mixed")
    exact_precisions: ClassVar[tuple[str, ...]] = ()
    wants: ClassVar[tuple[str, ...]] = ("shapes", "name", "example", "device_facts")

    def __init__(self, name: str, devices: tuple[str, ...], summary: str) -> None:
        self.name = name
        self.devices = devices
        self.summary = summary

    def check(self, graph: Graph, target: Target) -> list[Finding]:
        """See :func:`rubicc.backends.aie.check.check`."""
        from rubicc.backends.aie.check import check

        return check(graph, target)

    def prepare(self, graph: Graph, target: Target, **options: Any) -> Prepared:
        """See :func:`rubicc.backends.aie.prepare.prepare`."""
        from rubicc.backends.aie.prepare import prepare

        return prepare(graph, target, **options)

    def plan(self, graph: Graph, target: Target, **options: Any) -> Plan:
        """See :func:`rubicc.backends.aie.target_plan.plan`."""
        from rubicc.backends.aie.target_plan import plan

        return plan(graph, target, **options)

    def emit(self, graph: Graph, plan: Plan, folder: Path) -> EmitResult:
        """See :func:`rubicc.backends.aie.emit.emit`."""
        from rubicc.backends.aie.emit import emit
        from rubicc.backends.aie.target_plan import AieTargetPlan

        return emit(graph, cast(AieTargetPlan, plan), folder)

    def widths(self, target: Target, node: ir.Node, granularity: str) -> Widths:
        """See :func:`rubicc.backends.aie.widths.widths`."""
        from rubicc.backends.aie.widths import widths

        return widths(target, node, granularity)

    def predict(self, graph: Graph, target: Target, feeds: Mapping[str, np.ndarray]) -> Predicted:
        """See :func:`rubicc.backends.aie.predict.predict`."""
        from rubicc.backends.aie.predict import predict

        return predict(graph, target, feeds)

    def twins(self, graph: Graph, plan: Plan, folder: Path) -> AbstractContextManager[Sequence[Twin]]:
        """See :func:`rubicc.backends.aie.twin.twins`."""
        from rubicc.backends.aie.twin import twins

        return twins(graph, folder)

    def readback(self, folder: Path) -> Graph | None:
        """The integer-only graph."""
        from rubicc.backends.aie.artefact import opened

        return opened(folder).graph

    def profile_layers(
        self, folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None
    ) -> LayerProfile:
        """See :func:`rubicc.backends.aie.layers.profile_layers`."""
        from rubicc.backends.aie.layers import profile_layers

        return profile_layers(folder, feeds, reference)

    def judge(self, folder: Path) -> tuple[str, Run]:
        """The integer network in numpy: a second opinion on new data."""
        session = open_session(folder, runtime="integer")
        return "the integer network in numpy", session.run

    def open_session(self, folder: Path, **options: Any) -> AieSession:
        """See :func:`rubicc.backends.aie.session.open_session`."""
        return open_session(folder, **options)


def _backend() -> AieBackend:
    from rubicc.backends.registry import builtin

    info = builtin("aie")
    return AieBackend(info.name, info.devices, info.summary)


BACKEND = _backend()
