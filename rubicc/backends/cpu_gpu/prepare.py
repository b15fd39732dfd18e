"""Makes a graph legal for the runtimes, in one form or in the best of several.

A form is a precision and a layout. Order within one: quantised first (judged by its own accuracy), then
quantisers into what runtimes execute, then the layout: among QuantizeLinear and DequantizeLinear it moves
integers, before them ONNX Runtime would move floats (rubicall-fp int8 389 ms instead of 138).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from rubicc.backends.base import Gate, Prepared, Target
from rubicc.backends.cpu_gpu import engines
from rubicc.backends.cpu_gpu.check import quantisers
from rubicc.backends.cpu_gpu.forms import INTEGER, Form, Maker, auto_precisions
from rubicc.backends.cpu_gpu.fp16 import FP16_SNR, MARGIN_DB, to_fp16
from rubicc.evidence.decision import Decision
from rubicc.evidence.gaps import DEFAULT_SNR
from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import Step
from rubicc.passes.registry import get
from rubicc.quantities import MaxGap

MIXED_MARGIN_DB = 2.0  # islands are chosen on calibration data, and other data will judge
LAYOUT_PASS, QDQ_PASS = "layout.polyphase", "quantize.to-qdq"
Arrays = Mapping[str, np.ndarray]
LAYOUT: tuple[Step, ...] = (
    Step("cleanup.lift-constants", "the layout looks for weights among the initializers"),
    Step("cleanup.infer-shapes", "it plans from the shapes of convolutions"),
    Step(LAYOUT_PASS, "the layout asked for, or one of those that are measured"),
    Step("cleanup.deduplicate", "neighbouring regions compute the same lengths"),
    Step("cleanup.eliminate-dead", "weights in their old order are no longer used"),
    Step("cleanup.infer-shapes", "rewritten nodes get shapes before a backend plans from them"),
    Step("cleanup.name-nodes", "names follow the final nodes and their provenance"),
)


@dataclass(frozen=True)
class Material:
    """What a form is made from.

    Attributes:
        graph: in fp32, left as it is.
        feeds: real input by which precisions are judged; ``None`` = seeded arrays, which say little.
        calib: inputs that show quantisation the ranges of values; empty = ``feeds``.
        max_gap: limit the artefact will be held to; fp16 must stay 6 dB clear of its SNR.
        options: of passes, by id.
        seconds: time for finding out which nodes must stay in a higher precision, when some must.
        quantised: the model came quantised: it is not quantised again.
        quantise_outputs: for ONNX Runtime, whose integer kernels want the outputs of operators quantised too.
        recurrent: what is rounded of GRU and LSTM: with ``inputs`` the native kernels compute them in
            integers; others only read fewer bytes, and have that from ``weights`` alone.
    """

    graph: Graph
    feeds: Arrays | None = None
    calib: Sequence[Arrays] = ()
    max_gap: MaxGap = field(default_factory=MaxGap)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 60.0
    quantised: bool = False
    quantise_outputs: bool = False
    recurrent: Literal["weights", "inputs"] = "weights"

    def snr(self, precision: str) -> float:
        """What the outputs must keep, in dB."""
        return DEFAULT_SNR[precision] if self.max_gap.snr is None else self.max_gap.snr


def prepare(graph: Graph, *, precision: str = "fp32", layout: str = "plain", **material: Any) -> Prepared:
    """One form of ``graph``, which is left as it is.

    Args:
        precision: ``fp16`` converts the graph, ``int8`` and ``mixed`` quantise it; ``fp32`` and ``bf16``
            leave its types alone.
        layout: ``polyphase`` rewrites convolutions along time.
        material: the other fields of :class:`Material`.

    Raises:
        VerificationFailed: the precision is not accurate enough (RUB-CPU-050, RUB-PASS).
        Unsupported: a quantiser cannot be expanded (RUB-PASS-010).
    """
    return build(Material(graph, **material), Form(precision, layout))


def choose(
    graph: Graph,
    target: Target,
    *,
    precision: str = "fp32",
    layout: str = "plain",
    runtime: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
    seconds: float = 0.0,
    objective: str | None = None,
    gate: Gate | None = None,
    cache: Mapping[str, Any] | None = None,
    **material: Any,
) -> Prepared:
    """The form asked for, or with ``auto`` the fastest accurate one by measurement (by rule the simplest).

    Args:
        seconds: of measuring; 0 = nothing is measured.
        others: see :func:`prepare` and :func:`rubicc.backends.cpu_gpu.plan.plan`.

    Raises:
        UsageError: an impossible combination (RUB-CPU-020).
        RubiccError: as :func:`prepare` and :func:`rubicc.backends.cpu_gpu.tune.tune`.
    """
    from rubicc.backends.cpu_gpu.arena import Ask
    from rubicc.backends.cpu_gpu.plan import possible
    from rubicc.backends.cpu_gpu.tune import tune

    possible(target, runtime, precision, layout, threads, batch, streams)
    integers: Literal["weights", "inputs"] = "inputs" if runtime in ("auto", "native") else "weights"
    made = Material(graph, quantise_outputs=runtime == "onnxruntime", recurrent=integers, **material)
    forms = forms_of(made, target, precision, layout, runtime)
    maker = Maker(lambda form: build(made, form))
    if len(forms) == 1 or seconds <= 0:
        form, tuned = forms[0], None
        prepared = maker.make(form)
    else:
        ask = Ask(target, runtime, threads, batch, streams, seconds, objective, gate, None, cache)
        engines.release()
        tuned = tune(maker, forms, graph, ask)
        prepared, form = tuned.prepared, tuned.form
    chosen: dict[str, Any] = {"precision": form.precision, "layout": form.layout, "tuned": tuned}
    if form.layout_options:
        chosen["passes"] = {LAYOUT_PASS: dict(form.layout_options)}
    return replace(prepared, chosen=chosen)


def forms_of(made: Material, target: Target, precision: str, layout: str, runtime: str) -> list[Form]:
    """Forms to choose from, the simplest first."""
    precisions = (precision,) if precision != "auto" else auto_precisions(target, made.quantised)
    precisions = tuple(p for p in precisions if (p, runtime) != ("bf16", "onnxruntime"))
    forms = [Form(p) for p in precisions if layout != "polyphase"]
    if layout == "polyphase" or (layout == "auto" and runtime != "native"):
        given = tuple(sorted(made.options.get(LAYOUT_PASS, {}).items()))
        found = [given] if given else layouts_of(made.graph)
        if layout == "polyphase" and not found:
            found = [()]  # asked for by name: what keeps the pass from it is for the pass to say
        forms += [Form(p, "polyphase", options) for p in precisions for options in found]
    return sorted(forms, key=lambda form: (*form.rank[:2], not form.usual(runtime), form.rank))


def layouts_of(graph: Graph) -> list[tuple[tuple[str, Any], ...]]:
    """Options of the polyphase layout worth measuring for this graph; empty where it has nothing to do."""
    from rubicc.passes.layout import polyphase

    default = get(LAYOUT_PASS).Options()
    names = [option.name for option in fields(default)]
    # The formulation is always said: without one, all would be measured again.
    found = [
        tuple(
            (n, v)
            for n in sorted(names)
            if (v := getattr(one, n)) != getattr(default, n) or n == "formulation"
        )
        for one in polyphase.candidates(graph)
    ]
    return list(dict.fromkeys(found))


def build(made: Material, form: Form) -> Prepared:
    """The material in one form.

    Raises:
        RubiccError: as :func:`prepare`.
    """
    graph = made.graph
    decisions: list[Decision] = []
    evidence: dict[str, Any] = {}
    if form.precision in INTEGER and not made.quantised and not _is_integer(graph):
        graph, decisions, evidence = _quantised(made, form.precision)
    if quantisers(graph):
        graph, more = expand_quantisers(graph, integer=form.precision in INTEGER)
        decisions += more
    if form.layout == "polyphase":
        graph = graph.clone()
        records = run_pipeline(graph, LAYOUT, overrides={LAYOUT_PASS: dict(form.layout_options)})
        decisions += [decision for record in records for decision in record.decisions]
    if form.precision == "fp16":
        snr_db = FP16_SNR if made.max_gap.snr is None else made.max_gap.snr + MARGIN_DB
        half = to_fp16(graph, made.feeds, snr_db=snr_db, seconds=made.seconds)
        graph, evidence = half.graph, evidence | half.evidence
        decisions += half.decisions
    return Prepared(graph, tuple(decisions), evidence)


def expand_quantisers(graph: Graph, *, integer: bool = False) -> tuple[Graph, list[Decision]]:
    """A copy without QONNX quantisers, and what was decided on the way.

    Args:
        integer: 8-bit ones become QuantizeLinear and DequantizeLinear, from which runtimes make integer
            kernels.
    """
    steps = (
        Step("cleanup.lift-constants", "expansion folds quantisers of initializers"),
        *([Step(QDQ_PASS, "8-bit quantisers become what runtimes compute in integers")] if integer else []),
        Step("lower.expand-quant", "runtimes execute no quantisers"),
        Step("cleanup.eliminate-dead", "full-precision weights behind folded quantisers"),
        Step("cleanup.name-nodes", "new nodes get names that follow their provenance"),
    )
    expanded = graph.clone()
    records = run_pipeline(expanded, steps)
    return expanded, [decision for record in records for decision in record.decisions]


def _is_integer(graph: Graph) -> bool:
    """Whether the model came quantised: its own scales are kept."""
    return any(node.op_type == "DequantizeLinear" for node in graph.all_nodes()) or bool(quantisers(graph))


def _quantised(made: Material, precision: str) -> tuple[Graph, list[Decision], dict[str, Any]]:
    """The float graph with QONNX quantisers, calibrated."""
    from rubicc.passes.quantize.post_training import Options, quantise

    feeds = list(made.calib) or ([made.feeds] if made.feeds is not None else [])
    gate = made.snr(precision) + MIXED_MARGIN_DB if precision == "mixed" else None
    options = Options(quantise_outputs=made.quantise_outputs, recurrent=made.recurrent)
    found = quantise(made.graph, feeds, gate_db=gate, options=options)
    return found.graph, list(found.decisions), dict(found.evidence)
