"""What every backend is: the protocol, and the values that pass between its rooms.

``check`` → ``prepare`` → ``plan`` → ``emit`` → ``open_session``. A backend either takes the whole graph or
refuses it with the whole table of findings; it never half-succeeds. Importing this imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from rubicc.errors import ToolMissing, Unsupported
from rubicc.evidence.decision import Decision
from rubicc.quantities import MaxGap
from rubicc.spec import ModelMeta, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from rubicc.evidence.gaps import Gap
    from rubicc.evidence.report import NotMeasured
    from rubicc.ir.graph import Graph

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Target:
    """A parsed ``--target T[:device]``; ``device`` is empty when none was named."""

    name: str
    device: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.device}" if self.device else self.name


@dataclass(frozen=True)
class Finding:
    """One row of ``rubicc check``.

    Attributes:
        rule: catalogue code of the rule.
        severity: ``error`` refuses the graph, ``warning`` does not.
        node: node (or graph input/output) name; empty when the finding concerns the whole model.
        source: module path the node came from.
        reason: what breaks the rule, with the number or name.
        remedy: how to mend it.
        missing_tool: nothing is wrong with the model; something is not installed here.
    """

    rule: str
    severity: Severity
    node: str
    source: str
    reason: str
    remedy: str
    missing_tool: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def refuse(findings: Sequence[Finding], target: Target) -> None:
    """Raise when any finding is an error; the exception carries all of them.

    Raises:
        Unsupported: with the code of the first error and the whole table.
        ToolMissing: when the only errors are things not installed here.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        if all(finding.missing_tool for finding in errors):
            raise ToolMissing(first.rule, first.reason, hint=first.remedy)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        where = " ".join(part for part in (first.node, f"({first.source})" if first.source else "") if part)
        raise Unsupported(
            first.rule,
            f"target {target} cannot take this model: {first.reason}{more}",
            where=where,
            hint=first.remedy,
            findings=tuple(findings),
        )


@dataclass(frozen=True)
class Judgement:
    """Whether one way to run a model is accurate enough, on the inputs the artefact will be proven on.

    Attributes:
        snr_db: signal-to-noise ratio of the worst output against the source.
        reason: what limit is missed and by how much; empty when all hold.
    """

    snr_db: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether no limit is missed."""
        return not self.reason


Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # arrays by input name -> arrays by output name
Gate = Callable[[str, Run], Judgement]  # (precision, how to run it) -> is it within that precision's limits?


@dataclass(frozen=True)
class Prepared:
    """A graph made legal for a target.

    Attributes:
        graph: the graph to plan and emit (the input graph itself when nothing had to change).
        decisions: what was changed.
        evidence: measurements behind the decisions; never part of hashed content.
        chosen: options of ``plan`` that were settled on the way, because the graph depends on them.
    """

    graph: Graph
    decisions: tuple[Decision, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a backend is going to emit. Backends subclass it with their own resources.

    Attributes:
        runtimes: every ``runtime`` that ``open_session`` takes for the emitted files; all are proven.
        decisions: choices nobody literally asked for.
        evidence: measurements behind them; may hold timings, so it never enters hashed content.
    """

    target: Target
    runtimes: tuple[str, ...]
    decisions: tuple[Decision, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """Options which, given to ``plan`` again, give the same plan on any machine."""
        return {}


@dataclass(frozen=True)
class EmitResult:
    """What ``emit`` wrote.

    Attributes:
        folder: where.
        files: names relative to ``folder``, sorted.
        evidence: sizes and the like.
    """

    folder: Path
    files: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerProfile:
    """What is known of single layers, by node name.

    Attributes:
        gaps: error of each node's output against its reference.
        milliseconds: time of each node in one run.
        not_measured: what could not be taken, and why.
    """

    gaps: Mapping[str, Gap]
    milliseconds: Mapping[str, float]
    not_measured: tuple[NotMeasured, ...] = ()


@dataclass(frozen=True)
class Twin:
    """One more comparison that a backend offers for its proof, stricter than the one with the source can be.

    Attributes:
        name: for people: what is compared with what.
        made: runs the emitted form, or a twin of it without what only the target rounds.
        graph: what it must compute, executed in float64 by rubicc's own executor.
        limit: largest gap.
    """

    name: str
    made: Run
    graph: Graph
    limit: MaxGap


@dataclass(frozen=True)
class Facts:
    """What ``inspect`` shows of emitted files that are no graph.

    Attributes:
        operators: name to count, as the target calls them.
        opset: version of the target's operators.
        weight_bytes: as stored.
        activation_bytes: of the largest set of values that are alive at once; ``None`` for free shapes.
    """

    meta: ModelMeta | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    opset: int
    weight_bytes: int
    activation_bytes: int | None


@dataclass(frozen=True)
class Checked:
    """What a target says of files in its own form, which it may not have written.

    Attributes:
        findings: errors and warnings.
        lines: the whole of it for people.
        details: the whole of it as plain JSON values.
        placements: pictures of it, as plain values of :class:`rubicc.evidence.report.Placement`.
    """

    findings: tuple[Finding, ...]
    lines: tuple[str, ...]
    details: Mapping[str, Any]
    placements: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Widths:
    """The widths in which a target keeps the weights and inputs of one layer.

    Attributes:
        pairs: (bits of weights, bits of activations), 32 for float; empty: it computes the layer in floats.
        reason: what that rests on, for people.
    """

    pairs: tuple[tuple[int, int], ...]
    reason: str


@dataclass(frozen=True)
class Predicted:
    """How long a target's own model says that one item takes; nothing was run.

    Attributes:
        band: (low, high) multiples of it between which the true time lies; ``None``: nobody knows.
        basis: what it rests on, and what it leaves out, for people.
    """

    seconds: float
    band: tuple[float, float] | None
    basis: str


@runtime_checkable
class Session(Protocol):
    """Runs emitted files. ``run`` may be called from several threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input specs; symbols are free dimensions."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output specs."""
        ...

    @property
    def runtime(self) -> str:
        """What executes, e.g. ``onnxruntime``."""
        ...

    @property
    def meta(self) -> ModelMeta | None:
        """What the model is beside its weights."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        ...

    def close(self) -> None:
        """Free the runtime's memory and threads."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *error: object) -> None: ...


class Backend(Protocol):
    """One target family. See ``docs/adding_a_backend.md``.

    Attributes:
        name: what stands before the colon of ``--target``.
        devices: what may stand behind it.
        summary: one line for ``rubicc targets``.
        folder: name of its folder inside the artefact.
        pipeline: key of ``rubicc.passes.pipelines.PIPELINES`` to run before ``prepare``.

    What a backend may have beside them (the driver asks with ``getattr``):
        pipelines: pipeline by precision, where one needs another.
        default_precision: taken where nobody asked for one; ``fp32`` where it is absent.
        bounded: inputs need numbers: the driver settles ``--shapes`` and binds the graph before the pipeline.
        calibrated: precisions that need calibration data; absent = int8, mixed and auto.
        exact_precisions: those whose graph must compute the source in float64; absent = fp32.
        wants: names of further options of ``prepare`` and ``plan``: ``shapes``, ``assets``, ``name``,
            ``example``, ``device_facts`` and ``strict``.
        frees_source: large networks are proven without their source in memory: nothing that the target does
            with emitted files needs the weights of the graph it emitted.
        preparing: ids of passes that ``prepare`` runs and takes options for.
        requantises: quantisers of the model are replaced, so data is needed for quantised models as well.
        proof_items: items of real signal in the proof of a target with bounded inputs; absent = 2.
        twins(graph, plan, folder): a context manager with :class:`Twin` comparisons for the proof.
        judge(folder): name and :data:`Run` of a second opinion on new data, where ``readback`` is ``None``.
        facts(folder): :class:`Facts` for ``inspect``, where ``readback`` is ``None``.
        suffix: how names of files in the target's own form end, and with it
        check_files(path, target, strict, audit): what is :class:`Checked` of such a file or folder.
        device_runtime: the runtime whose latency counts, where it is not the one that proves.
        widths(target, node, granularity): :class:`Widths` of one layer of a float graph whose weights have a
            scale per ``tensor``, ``channel`` or ``block``; `rubicc quantize --target` asks for it.
        predict(graph, target, feeds): :class:`Predicted` of a cleaned-up graph whose shapes are numbers, with
            one item to take ranges from; raises as ``prepare`` and ``plan``. `rubicc prune --latency` asks.
    """

    name: str
    devices: tuple[str, ...]
    summary: str
    folder: str
    pipeline: str

    def check(self, graph: Graph, target: Target) -> list[Finding]:
        """Every refusal and warning at once; changes and writes nothing."""
        ...

    def prepare(self, graph: Graph, target: Target, **options: Any) -> Prepared:
        """The graph rewritten into what the target executes."""
        ...

    def plan(self, graph: Graph, target: Target, **options: Any) -> Plan:
        """Resources and choices for a prepared graph."""
        ...

    def emit(self, graph: Graph, plan: Plan, folder: Path) -> EmitResult:
        """Write the target's files; equal graph and plan give equal bytes."""
        ...

    def readback(self, folder: Path) -> Graph | None:
        """The emitted graph as read from disk, or ``None`` where the target's form is no graph."""
        ...

    def profile_layers(
        self, folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None
    ) -> LayerProfile:
        """Error and time by layer of the emitted files on one batch item, for the report."""
        ...

    def open_session(self, folder: Path, **options: Any) -> Session:
        """Run the files in ``folder`` (the target's folder inside the artefact) from disk."""
        ...
