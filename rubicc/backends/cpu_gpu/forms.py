"""The forms a model can be emitted in: precision and layout of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rubicc.backends.base import Prepared, Target
from rubicc.backends.cpu_gpu import runtimes, shapes
from rubicc.backends.cpu_gpu.description import CpuGpuPlan, model_bytes
from rubicc.ir.graph import Graph, spec_of

# Simpler first: which one wins where measurements cannot tell them apart.
PRECISION_ORDER = ("fp32", "bf16", "fp16", "mixed", "int8")
LAYOUT_ORDER = ("plain", "polyphase")
# Formulation of the polyphase layout by (runtime, integers) where nothing is measured: docs/polyphase.md.
USUAL_FORMULATION = {("openvino", True): "gather", ("onnxruntime", False): "planes"}
INTEGER = ("int8", "mixed")


@dataclass(frozen=True)
class Form:
    """One way to emit a model.

    Attributes:
        layout_options: of the layout's pass, sorted by name; empty = its defaults.
    """

    precision: str
    layout: str = "plain"
    layout_options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """For people: ``int8 polyphase phases=4``."""
        options = (f"{key}={value}" for key, value in self.layout_options)
        return " ".join([self.precision, *([self.layout] if self.layout != "plain" else []), *options])

    @property
    def rank(self) -> tuple[int, int, str]:
        """Smaller is simpler."""
        return (
            PRECISION_ORDER.index(self.precision),
            LAYOUT_ORDER.index(self.layout),
            str(self.layout_options),
        )

    def usual(self, runtime: str) -> bool:
        """Whether this is the formulation that is fastest in ``runtime`` as a rule; ``auto`` = OpenVINO."""
        runtime = "openvino" if runtime == "auto" else runtime
        usual = USUAL_FORMULATION.get((runtime, self.precision in INTEGER), "rows")
        return dict(self.layout_options).get("formulation", "rows") == usual

    def runtimes(self, target: Target) -> tuple[str, ...]:
        """Runtimes that may execute this form on a target, installed or not."""
        if target.name != "cpu":
            return ("onnxruntime",)
        names = [name for name in runtimes.RUNTIMES if self.layout == "plain" or name != "native"]
        return tuple(name for name in names if self.precision != "bf16" or name != "onnxruntime")


@dataclass
class Maker:
    """Makes and serialises forms of one model, each at most once."""

    build: Callable[[Form], Prepared]
    _made: dict[Form, Prepared] = field(default_factory=dict)
    _bytes: list[tuple[Graph, bytes]] = field(default_factory=list)

    def make(self, form: Form) -> Prepared:
        """The model in ``form``.

        Raises:
            RubiccError: it cannot be had in this form.
        """
        if form not in self._made:
            self._made[form] = self.build(form)
        return self._made[form]

    def bytes_of(self, graph: Graph) -> bytes:
        """``graph`` as ONNX; it must not change any more."""
        for known, content in self._bytes:
            if known is graph:
                return content
        self._bytes.append((graph, model_bytes(graph)))
        return self._bytes[-1][1]


def draft(
    graph: Graph,
    form: Form,
    target: Target,
    names: tuple[str, ...],
    *,
    batch: int | None = None,
    threads: int | None = None,
    streams: int | None = None,
) -> CpuGpuPlan:
    """The plan of a form before anything about it is known but its rules; the first of ``names`` runs it.

    Raises:
        ToolMissing: the GPU provider is missing (RUB-CPU-006).
    """
    inputs = [spec_of(value) for value in graph.inputs]
    batch = batch or shapes.default_batch(graph.meta)
    known = graph.meta is not None and graph.meta.chunk is not None
    static = shapes.bound_shapes(inputs, shapes.sizes(inputs, graph.meta, batch)) if known else {}
    return CpuGpuPlan(
        target=target,
        runtime=names[0],
        runtimes=names,
        precision=form.precision,
        layout=form.layout,
        providers=runtimes.gpu_providers(target) if target.name == "gpu" else (runtimes.CPU_PROVIDER,),
        threads=threads,
        batch=batch,
        streams=streams,
        static_shape=static,
    )


def auto_precisions(target: Target, quantised: bool = False) -> tuple[str, ...]:
    """Precisions that can be faster than fp32 on this machine, fp32 first.

    Args:
        quantised: the model came quantised, and its pipeline has expanded its quantisers already.
    """
    if target.name != "cpu":
        return ("fp32", "fp16")
    bf16 = "openvino" in runtimes.installed() and runtimes.openvino_takes_bf16()
    return ("fp32", *(["bf16"] if bf16 else []), *([] if quantised else ["int8"]))
