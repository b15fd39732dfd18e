"""``compile``: one model to one proven artefact, or one clear error and nothing written."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.driver import stages
from rubicc.driver.artefact import Artefact
from rubicc.driver.bounded import MAX_ITEMS, bound, bounded_inputs
from rubicc.driver.calibration import looks_at_data, quantising
from rubicc.driver.inputs import ProofInputs, one_item, proof_inputs
from rubicc.driver.letting_go import can_go, let_go
from rubicc.driver.planning import given_options, pipeline_of, planned
from rubicc.driver.proof import (
    EXACT_MAX_PARAMETERS,
    Limits,
    Proof,
    SourceOutputs,
    prove,
    write_vectors,
)
from rubicc.errors import BudgetExceeded, ToolMissing, Unsupported, UsageError
from rubicc.evidence.decision import Decision
from rubicc.evidence.measure import interleave
from rubicc.evidence.staging import StagedDir, scratch
from rubicc.ir.graph import Graph, is_quantiser, spec_of
from rubicc.settings import Settings

if TYPE_CHECKING:
    import torch

    from rubicc.backends.base import Backend, Finding, Plan, Target, Twin
    from rubicc.frontend.lower import Lowered
    from rubicc.frontend.source import Source
    from rubicc.passes.manager import PassRecord
    from rubicc.passes.pipelines import Step
    from rubicc.shapes import Shapes

LATENCY_RUNS = 9
log = logging.getLogger("rubicc.compile")


@dataclass
class Build:
    """Everything one compilation finds out, stage by stage; the report is assembled from it.

    Attributes:
        fp32: the graph before the target changed its precision: reference of the error by layer.
        seconds: wall time per stage.
        quantised: the model came with quantisers of its own.
        asked: the precision asked for, which may be ``auto``; ``settings`` say what became of it.
        stopped_at: name of ``--until-stage``, when it ended the compilation early.
        shapes: of the inputs, for targets that need numbers; the graph is bound to them.
    """

    settings: Settings
    target: Target
    backend: Backend
    source: Source
    lowered: Lowered
    graph: Graph
    decisions: list[Decision] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    records: list[PassRecord] = field(default_factory=list)
    plan: Plan | None = None
    fp32: Graph | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    proof: Proof | None = None
    inputs: ProofInputs | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    stopped_at: str = ""
    quantised: bool = False
    asked: str = ""
    calibration_sha256: str = ""
    shapes: Shapes | None = None
    _outputs: SourceOutputs | None = None

    @property
    def limits(self) -> Limits:
        """What runtimes are held to."""
        return Limits(self.settings.max_gap, self.quantised)

    @property
    def source_outputs(self) -> SourceOutputs:
        """The source's outputs on the proof inputs, computed when first asked for."""
        if self._outputs is None:
            assert self.inputs is not None
            self._outputs = SourceOutputs(self.inputs.cases, self.lowered.reference, self.lowered.exact)
        return self._outputs

    @property
    def exact(self) -> bool:
        """Whether emitted graph and source are compared in float64 as well."""
        from rubicc.ir.io import weight_bytes

        small = weight_bytes(self.lowered.graph) <= 4 * EXACT_MAX_PARAMETERS
        return self.settings.precision in getattr(self.backend, "exact_precisions", ("fp32",)) and small


def compile_model(
    model: str | Path | torch.nn.Module, out: str | Path | None, settings: Settings
) -> Artefact:
    """Compile ``model`` for ``settings.target`` into the folder ``out``.

    Args:
        out: must not exist, or be an artefact of ours under ``force``; ``None`` only for a dry run.

    Raises:
        RubiccError: see the exit codes of the interface; nothing is written then, and what was there stays.
    """
    from rubicc.backends import registry

    target = registry.parse_target(settings.target)
    backend = registry.get(target)
    settings = with_defaults(settings, backend)
    check_options(settings, backend)
    with _folder(out, settings) as (folder, staged):
        build = _read_and_lower(model, settings, target, backend)
        _rewrite(build, folder, Path(out) if out is not None else None)
        if not build.stopped_at:
            _emit(build, folder)
            _prove(build, folder)
        return _finish(build, folder, staged, out)


@contextlib.contextmanager
def _folder(out: str | Path | None, settings: Settings) -> Iterator[tuple[Path, StagedDir | None]]:
    """Where to build: beside ``out``, or for a dry run in a temporary folder."""
    if settings.dry_run or out is None:
        with scratch() as home:
            folder = home / "dry-run"
            folder.mkdir()
            yield folder, None
        return
    force = settings.force or settings.from_stage is not None
    with StagedDir(out, force=force) as staged:
        yield staged.path, staged


def _read_and_lower(model: Any, settings: Settings, target: Target, backend: Backend) -> Build:
    from rubicc.frontend.lower import lower

    with _timed("read") as read_time:
        source = read_source(model, settings)
    with _timed("lower") as lower_time:
        lowered = lower(source, settings.inputs, settings.seed)
    # Passes rewrite a copy (weights shared): bits, costs and errors are judged on the lowered graph.
    graph, shapes = bound(lowered.graph, backend, settings)
    build = Build(settings, target, backend, source, lowered, graph, list(lowered.decisions))
    build.shapes = shapes
    build.quantised = any(map(is_quantiser, lowered.graph.all_nodes()))
    build.asked = settings.precision
    build.seconds = {**read_time, **lower_time}
    return build


def read_source(model: Any, settings: Settings) -> Source:
    """Read any MODEL form with the permissions of ``settings``."""
    from rubicc.frontend import read_model

    return read_model(
        model,
        arch=settings.arch,
        arch_config=settings.arch_config or None,
        allow_code=settings.allow_code,
        trust=settings.trust,
    )


def _rewrite(build: Build, folder: Path, out: Path | None) -> None:
    """Run the target's pipeline, from and until the stages asked for."""
    from rubicc.backends.base import refuse
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    settings = build.settings
    # Refusals come before work: the whole table, judged on the graph as the model gave it.
    with _timed("check") as took:
        build.findings = build.backend.check(build.graph, build.target)
    build.seconds |= took
    refuse(build.findings, build.target)
    steps = PIPELINES[pipeline_of(build)]
    first = stages.index_of(settings.from_stage, steps) if settings.from_stage else 0
    last = stages.index_of(settings.until_stage, steps) if settings.until_stage else len(steps)
    names = stages.names(steps)
    if first:
        assert out is not None or settings.dry_run
        build.graph = stages.load(out or Path(), first, names[first], build.source.sha256)
    if settings.dump_stages and not first:
        stages.dump(folder, 0, names[0], build.graph)

    def on_stage(index: int, pass_id: str, graph: Graph, changed: bool, seconds: float) -> None:
        if settings.dump_stages:
            stages.dump(folder, first + index + 1, pass_id, graph)

    with _timed("rewrite") as took:
        build.records = run_pipeline(
            build.graph,
            steps[first:last],
            overrides=_overrides(build, steps, last),
            check=settings.check,
            on_stage=on_stage,
            resumed=steps[:first],
        )
    build.seconds |= took
    build.decisions += [decision for record in build.records for decision in record.decisions]
    if last < len(steps):
        build.stopped_at = names[last]
        if not settings.dump_stages:
            stages.dump(folder, last, names[last], build.graph)


def _overrides(build: Build, steps: Sequence[Step], last: int) -> dict[str, dict[str, Any]]:
    """Options by pass id, without those of passes that ``--until-stage`` or ``prepare`` has to do with."""
    left_out = {step.id for step in steps[last:]} - {step.id for step in steps[:last]}
    left_out |= set(getattr(build.backend, "preparing", ()))
    given = given_options(build.settings)
    return {pass_id: options for pass_id, options in given.items() if pass_id not in left_out}


def with_defaults(settings: Settings, backend: Backend) -> Settings:
    """What the target takes where nobody asked for anything."""
    precision = getattr(backend, "default_precision", settings.precision)
    if "precision" in settings.origins or precision == settings.precision:
        return settings
    return settings.with_values("target", precision=precision)


def check_options(settings: Settings, backend: Backend) -> None:
    """Pass options are judged before any work is done; a setting that nothing reads is named.

    Raises:
        UsageError: ``RUB-PASS-001`` no such pass, ``RUB-PASS-003`` no such option or a wrong value;
            ``RUB-DRV-019`` facts of a device that nobody reads.
    """
    from rubicc.passes import registry
    from rubicc.passes.manager import make_options

    if settings.calib is not None and not looks_at_data(settings, backend):
        log.warning("calibration data is not used at precision %s", settings.precision)
    if settings.device_facts and "device_facts" not in getattr(backend, "wants", ()):
        what = f"--device-fact has no meaning for --target {settings.target}"
        raise UsageError("RUB-DRV-019", what, hint="leave it out")
    for pass_id, values in given_options(settings).items():
        make_options(registry.get(pass_id), values)


def _emit(build: Build, folder: Path) -> None:
    """Make the graph legal for the target, plan, and write the target's files."""
    settings = build.settings
    build.inputs = _proof_inputs(build)
    if can_go(build):  # its outputs are computed before the program takes memory as well
        build.source_outputs.settle(exact=build.quantised)
    with _timed("plan") as plan_time:
        prepared = planned(build, build.inputs)
    assert build.plan is not None
    build.decisions += [*prepared.decisions, *build.plan.decisions]
    build.evidence = {"prepare": dict(prepared.evidence), "plan": dict(build.plan.evidence)}
    if "measured" in build.plan.evidence:
        asked, found = settings, build.settings
        names = ["precision", "runtime", *(["layout"] if found.layout != "plain" else [])]
        what = [f"{name} {getattr(found, name)}" for name in names if getattr(asked, name) == "auto"]
        reason = str(build.plan.evidence.get("reason", ""))
        if what:
            build.decisions.append(Decision("RUB-DRV-D01", build.source.name, ", ".join(what), reason))
    with _timed("emit") as emit_time:
        home = folder / build.backend.folder
        home.mkdir()
        emitted = build.backend.emit(build.graph, build.plan, home)
    build.seconds |= plan_time | emit_time
    build.evidence["emit"] = dict(emitted.evidence)
    _no_decisions_if_strict(build)


def _proof_inputs(build: Build) -> ProofInputs:
    settings, meta, small = build.settings, build.graph.meta, build.lowered.feeds
    own = build.quantised and not getattr(build.backend, "requantises", False)
    ranges = settings.precision in quantising(build.backend) and not own
    if build.shapes is not None:
        items = getattr(build.backend, "proof_items", MAX_ITEMS)
        given = (settings.reference, settings.seed)
        return bounded_inputs(build.shapes, meta, small, *given, ranges=ranges, items=items)
    specs = [spec_of(value) for value in build.graph.inputs]
    return proof_inputs(meta, specs, small, settings.reference, settings.seed, ranges=ranges)


def _prove(build: Build, folder: Path) -> None:
    """Read the files back, run them in every runtime the plan names, compare with the source."""
    assert build.plan is not None and build.inputs is not None
    home = folder / build.backend.folder
    with _timed("prove") as took, contextlib.ExitStack() as stack:
        emitted, twins = _emitted(build, home), _twins(build, home, stack)
        if can_go(build):
            let_go(build)
        sessions: dict[str, Any] = {}
        for name in build.plan.runtimes:
            sessions[name] = build.backend.open_session(home, runtime=name, threads=build.settings.threads)
            stack.callback(sessions[name].close)
        build.proof = prove(
            build.inputs.cases,
            build.source_outputs,
            sessions,
            emitted,
            twins=twins,
            limits=build.limits,
            precision=build.settings.precision,
            meta=build.graph.meta,
        )
        _latency_budget(build, sessions)
    build.seconds |= took
    write_vectors(folder / "verify", build.proof)


def _emitted(build: Build, home: Path) -> Graph | None:
    """The graph to be compared in float64: as read back; as it was emitted where the files are no graph."""
    if not build.exact:
        return None
    return build.backend.readback(home) or build.graph


def _twins(build: Build, home: Path, stack: contextlib.ExitStack) -> Sequence[Twin]:
    own = getattr(build.backend, "twins", None)
    return () if own is None else stack.enter_context(own(build.graph, build.plan, home))


def _latency_budget(build: Build, sessions: dict[str, Any]) -> None:
    limit = build.settings.budget.latency
    if limit is None or build.proof is None or build.plan is None:
        return
    name = getattr(build.backend, "device_runtime", build.plan.resolved()["runtime"])
    if name not in sessions:
        what = f"the latency of target {build.target} cannot be measured on this machine"
        raise ToolMissing("RUB-DRV-017", what, hint="leave --budget latency out, and measure on the device")
    session = sessions[name]
    one = one_item(build.proof.inputs, build.graph)
    timing = interleave({"": lambda: session.run(one)}, 0.0, min_rounds=LATENCY_RUNS)[""]
    low, high = timing.best, timing.seconds[-1]
    build.measured["latency"] = {
        "minimum": low,
        "median": timing.median,
        "maximum": high,
        "runs": timing.count,
    }
    # Times stay out of the Decision: it is part of the manifest, which holds none.
    what = f"latency of one input {low * 1e3:.2f}-{high * 1e3:.2f} ms, limit {limit * 1e3:.2f} ms"
    if low > limit:
        hint = "raise --budget latency, choose another --runtime, or shrink the model"
        raise BudgetExceeded("RUB-DRV-005", what, where=build.source.name, hint=hint)
    if high > limit:
        build.decisions.append(
            Decision(
                "RUB-DRV-D02",
                build.source.name,
                f"latency budget of {limit * 1e3:g} ms in doubt (UNSURE)",
                "the measured spread straddles it; the figures stand in the report",
            )
        )


def _no_decisions_if_strict(build: Build) -> None:
    if build.settings.strict and build.decisions:
        raise Unsupported(
            "RUB-DRV-003",
            f"--strict and {len(build.decisions)} decision(s) had to be made: {build.decisions[0].what}",
            where=build.decisions[0].where,
            hint="choose each explicitly, or compile without --strict",
            findings=tuple(build.decisions),
        )


def _finish(build: Build, folder: Path, staged: StagedDir | None, out: str | Path | None) -> Artefact:
    from rubicc.driver.assemble import make_manifest, make_report, resolved_recipe
    from rubicc.evidence import manifest as manifests
    from rubicc.evidence import report as reports

    (folder / "recipe.yaml").write_text(resolved_recipe(build), encoding="utf-8")
    with _timed("report") as took:
        report = make_report(build, folder)
        reports.write(folder, report)
    build.seconds |= took
    manifest = make_manifest(build)
    measured = {"seconds": build.seconds, **build.measured, **build.evidence}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    limit = build.settings.budget.size
    if limit is not None and size > limit:
        raise BudgetExceeded(
            "RUB-DRV-005", f"artefact has {size} bytes, limit {limit}", where=build.source.name
        )
    if staged is None:
        return Artefact(None, manifests.seal(folder, manifest, measured), report)
    staged.commit(manifest, measured)
    assert out is not None
    return Artefact(Path(out), manifests.read(out), report)


@contextlib.contextmanager
def _timed(what: str) -> Iterator[dict[str, float]]:
    """Log and record the wall time of a stage; the yielded dict is filled at the end."""
    took: dict[str, float] = {}
    start = time.perf_counter()
    yield took
    took[what] = time.perf_counter() - start
    log.info("%-8s %6.2f s", what, took[what])
