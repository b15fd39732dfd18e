"""From settings to a prepared graph and a plan; whatever the settings leave open is settled here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rubicc.driver.calibration import calibration_of, quantising
from rubicc.driver.inputs import ProofInputs
from rubicc.driver.proof import SourceGate
from rubicc.settings import KEYS, Settings

if TYPE_CHECKING:
    from rubicc.backends.base import Prepared
    from rubicc.driver.compile import Build


def given_options(settings: Settings) -> dict[str, dict[str, Any]]:
    """Options by pass id, full names."""
    from rubicc.passes.manager import parse_overrides

    flat = {f"passes.{p}.{o}": v for p, options in settings.passes.items() for o, v in options.items()}
    return parse_overrides(flat)


def pipeline_of(build: Build) -> str:
    """Name of the target's pipeline; some have another for a precision that was asked for."""
    own: dict[str, str] = getattr(build.backend, "pipelines", {})
    return own.get(build.asked, build.backend.pipeline)


def planned(build: Build, inputs: ProofInputs) -> Prepared:
    """Prepare and plan; afterwards the settings say what was chosen where they left something open.

    Raises:
        RubiccError: as the backend's ``prepare`` and ``plan``.
    """
    settings = build.settings
    calibration = calibration_of(build, inputs)
    cache = {"inputs": inputs.digest(), "calib": calibration.sha256, "limits": asdict(settings.max_gap)}
    asked: dict[str, Any] = {
        "runtime": settings.runtime,
        "threads": settings.threads,
        "batch": settings.batch,
        "streams": settings.streams,
        "seconds": settings.tune,
        "objective": settings.objective,
        "gate": SourceGate(inputs.cases, build.source_outputs, build.limits, build.graph.meta),
        "cache": cache | {"passes": given_options(settings)} if settings.cache else None,
    }
    asked |= _wanted(build, inputs)
    build.fp32 = build.graph
    prepared = build.backend.prepare(
        build.graph,
        build.target,
        precision=settings.precision,
        layout=settings.layout,
        feeds=next(iter(inputs.cases.values())),
        calib=calibration.feeds,
        quantised=build.quantised,
        max_gap=settings.max_gap,
        options=given_options(settings),
        **asked,
    )
    build.graph = prepared.graph
    chosen = {"precision": settings.precision, "layout": settings.layout, **prepared.chosen}
    passes = {**settings.passes, **chosen.pop("passes", {})}
    build.plan = build.backend.plan(build.graph, build.target, **(asked | chosen))
    if build.plan.resolved().get("precision") in quantising(build.backend):
        build.calibration_sha256 = calibration.sha256
        build.decisions += calibration.decisions
    # Some targets resolve less than others.
    found = {key: value for key, value in build.plan.resolved().items() if key in KEYS}
    changed = {key: value for key, value in found.items() if value != getattr(settings, key)}
    if passes != dict(settings.passes):
        changed["passes"] = passes
    build.settings = settings.with_values("measured", **changed)
    return prepared


def _wanted(build: Build, inputs: ProofInputs) -> dict[str, Any]:
    """What only some targets take, for those that ask for it."""
    case = next(iter(inputs.cases))
    known: dict[str, Any] = {
        "shapes": build.shapes,
        "assets": build.source.assets,
        "name": build.source.name,
        "strict": build.settings.strict,
        "device_facts": build.settings.device_facts,
        "example": lambda: (inputs.cases[case], build.source_outputs.reference(case)),
    }
    return {name: known[name] for name in getattr(build.backend, "wants", ())}
