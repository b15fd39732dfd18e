"""Small MIL programs saved as packages, for the tests of the lint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.coreml.lint import LintReport, lint
from rubicc.backends.coreml.lint.report import OpVerdict
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Operation, Package, Program, TensorType, Value
from rubicc.backends.coreml.tools import OPSETS, coremltools, quiet

Inputs = Mapping[str, tuple[Sequence[Any], str]]


def half(*shape: int) -> np.ndarray:
    """Seeded float16 weights."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float16)


def save(
    folder: Path,
    inputs: Inputs,
    build: Callable[..., Any],
    *,
    target: str = "iOS17",
    flexible: Mapping[str, Any] | None = None,
) -> Path:
    """Write the package of a program; ``build(mb, **inputs)`` returns its outputs."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types
    from coremltools.converters.mil.mil import Program as MilProgram

    kinds = {"fp16": types.fp16, "fp32": types.fp32, "int32": types.int32}
    program = MilProgram()
    spec = {name: mb.placeholder(shape=tuple(s), dtype=kinds[kind]) for name, (s, kind) in inputs.items()}
    opset = OPSETS[target].target
    with quiet(), Function(spec, opset_version=opset) as function:
        found = build(mb, **function.inputs)
        function.set_outputs(list(found) if isinstance(found, tuple | list) else [found])
        program.add_function("main", function)
    path = folder / "Small.mlpackage"
    given = [ct.TensorType(name=name, shape=shape) for name, shape in (flexible or {}).items()]
    with quiet():
        model = ct.convert(
            program,
            minimum_deployment_target=opset,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            **({"inputs": given} if given else {}),
        )
        model.save(str(path))
    return path


def read(folder: Path, inputs: Inputs, build: Callable[..., Any], **options: Any) -> Package:
    """The package read back."""
    return load(save(folder, inputs, build, **options))


def edited(
    package: Package,
    shapes: Mapping[str, tuple[int | None, ...]] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Package:
    """The package with other shapes, or other operators, for operations named by their result.

    For what coremltools' builder does not write.
    """
    shapes, kinds = shapes or {}, kinds or {}

    def value_of(value: Value) -> Value:
        if value.name not in shapes or not isinstance(value.type, TensorType):
            return value
        return Value(value.name, TensorType(value.type.dtype, shapes[value.name]))

    def changed(op: Operation) -> Operation:
        outputs = tuple(value_of(value) for value in op.outputs)
        return replace(op, outputs=outputs, type=kinds.get(outputs[0].name, op.type))

    main = package.main
    function = replace(
        main, block=replace(main.block, operations=tuple(changed(op) for op in main.block.operations))
    )
    return replace(package, program=Program({main.name: function}))


def verdicts(report: LintReport) -> dict[str, OpVerdict]:
    """Operation by the name of its first result."""
    return {op.name: op for op in report.ops}


def held(op: OpVerdict) -> dict[int, str]:
    """Number of a rule -> its verdict, without the positive one."""
    return {int(a.rule[-3:]): a.verdict for a in op.applied if a.verdict != "eligible"}


def table(report: LintReport, names: Sequence[str]) -> dict[str, tuple[str, dict[int, str]]]:
    """Status and rules of the named operations."""
    found = verdicts(report)
    return {name: (found[name].status, held(found[name])) for name in names}


__all__ = ["edited", "half", "held", "lint", "load", "read", "save", "table", "verdicts"]
