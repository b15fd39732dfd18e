"""What a package says about itself: the plan it was made from, kept in its user-defined metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rubicc
from rubicc.backends.base import Plan
from rubicc.backends.coreml.tools import DEFAULT_OPSET, OPSETS, Opset
from rubicc.errors import ModelRefused, UsageError
from rubicc.ir.graph import Graph, spec_of
from rubicc.shapes import InputShape, Shapes
from rubicc.spec import ModelMeta, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from rubicc.backends.coreml.lowering import Lowered

SCHEMA_VERSION = 1
KEY = "rubicc.description"  # of the user-defined metadata; a JSON document, the other keys are for people
HASH_KEY = "rubicc.content_sha256"
PLAIN = ("fp32", "fp16")
MIL, MIL_FP32, COREML = "mil", "mil-fp32", "coreml"
# Above this copies in float64 cost more memory than a comparison is worth, and a second run more time.
MAX_PARAMETERS = 64_000_000
AUTHOR, LICENCE = "rubicc", "see the source network"
Example = tuple[Mapping[str, "np.ndarray"], Mapping[str, "np.ndarray"]]  # inputs, outputs of the source


class Once:
    """A large value that is handed over once and not kept alive afterwards."""

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def take(self) -> Any:
        """The value the first time, ``None`` afterwards."""
        value, self._value = self._value, None
        return value


@dataclass(frozen=True, kw_only=True)
class CoremlPlan(Plan):
    """A plan of the Core ML backend.

    Attributes:
        opset: ``iOS17``.
        precision: as asked for: of the weights; see :attr:`compute`.
        shapes: what the inputs may be.
        name: of the package, without ``.mlpackage``.
        assets: files that came with the model, such as ``tokenizer.json``, by name.
        strict: what the Neural Engine does not take is an error.
        lowered: the program, made with the plan because its decisions belong there.
        example: input and the source's output for the tests of the Swift package; ``None`` = none.
    """

    opset: str = DEFAULT_OPSET
    precision: str = "fp16"
    shapes: Shapes
    name: str = "Model"
    assets: Mapping[str, bytes] = field(default_factory=dict)
    example: Callable[[], Example] | None = None
    strict: bool = False
    lowered: Once = field(default_factory=Once)

    @property
    def compute(self) -> str:
        """Element type of the program's arithmetic: ``fp32`` or ``fp16``."""
        return "fp32" if self.precision == "fp32" else "fp16"

    @property
    def target_opset(self) -> Opset:
        """Of :data:`rubicc.backends.coreml.tools.OPSETS`."""
        return OPSETS[self.opset]

    def resolved(self) -> dict[str, Any]:
        """Options that give this plan again."""
        return {"runtime": MIL, "precision": self.precision}


def package_name(name: str) -> str:
    """A name that Xcode makes a Swift class of: ``dna-bert`` becomes ``DnaBert``."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    joined = "".join(word[0].upper() + word[1:] for word in words)[:64]
    return joined if joined and not joined[0].isdigit() else f"Model{joined}"


@dataclass(frozen=True)
class Description:
    """Content of :data:`KEY`: everything a session must know beside the program.

    Attributes:
        inputs: as the package takes them: Core ML knows floats and 32-bit integers.
        outputs: symbols where a size follows from a free one of the inputs.
        batch_axes: axis of the batch in every input and output; empty where one of them has none.
        names: of the network's inputs and outputs inside the package, where Core ML needs other ones.
    """

    target: str
    precision: str
    shapes: Shapes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    meta: ModelMeta | None
    batch_axes: Mapping[str, int]
    names: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON: equal descriptions give equal bytes."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "tool": f"rubicc {rubicc.__version__}",
            "target": self.target,
            "precision": self.precision,
            "shapes": self.shapes.to_dict(),
            "inputs": [_tensor(spec) for spec in self.inputs],
            "outputs": [_tensor(spec) for spec in self.outputs],
            "meta": self.meta.to_dict() if self.meta is not None else None,
            "batch_axes": dict(self.batch_axes),
            "names": dict(self.names),
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str) -> Description:
        """Strict inverse of :meth:`to_json`.

        Raises:
            ModelRefused: ``RUB-COREML-011``.
        """
        try:
            data = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {data['schema_version']!r}")
            return cls(
                target=str(data["target"]),
                precision=str(data["precision"]),
                shapes=Shapes.from_dict(data["shapes"]),
                inputs=tuple(_spec(item) for item in data["inputs"]),
                outputs=tuple(_spec(item) for item in data["outputs"]),
                meta=ModelMeta.from_dict(data["meta"]) if data["meta"] is not None else None,
                batch_axes={str(k): int(v) for k, v in data["batch_axes"].items()},
                names={str(k): str(v) for k, v in data["names"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as err:
            raise ModelRefused(
                "RUB-COREML-011",
                f"the package's description of itself cannot be used: {type(err).__name__}: {err}"[:300],
                where=where,
                hint="restore the artefact, or compile again",
            ) from err


def describe(graph: Graph, plan: CoremlPlan, lowered: Lowered) -> Description:
    """The description of ``graph`` as ``plan`` emits it, with the types it was lowered to."""
    types = lowered.types
    return Description(
        target=str(plan.target),
        precision=plan.precision,
        shapes=plan.shapes,
        inputs=tuple(_input(spec_of(value), plan.shapes, types) for value in graph.inputs),
        outputs=tuple(_stored(spec_of(value), types) for value in graph.outputs),
        meta=graph.meta,
        batch_axes=_batch_axes(graph, plan.shapes),
        names={name: mil for name, mil in lowered.names.items() if name != mil},
    )


def metadata(graph: Graph, plan: CoremlPlan) -> dict[str, str]:
    """Facts for people in the user-defined metadata, which Xcode shows; no times, no paths."""
    meta = graph.meta
    facts: dict[str, Any] = {
        "rubicc.target": plan.target,
        "rubicc.precision": plan.precision,
        "rubicc.tool": f"rubicc {rubicc.__version__}",
    }
    if meta is not None:
        facts |= {"rubicc.arch": meta.arch, "rubicc.task": meta.task, "rubicc.stride": meta.stride}
        facts |= {"rubicc.alphabet": meta.alphabet, "rubicc.chunk": meta.chunk}
        facts["rubicc.overlap"] = meta.overlap
        if meta.signal is not None:
            facts["rubicc.normalisation"] = meta.signal.normalisation
            facts["rubicc.sampling_rate"] = meta.signal.sampling_rate
        if meta.decoder is not None:
            facts["rubicc.decoder"] = meta.decoder.kind
    return {key: str(value) for key, value in facts.items() if value is not None}


def input_text(item: InputShape, dtype: str, meta: ModelMeta | None) -> str:
    """One line about an input that the package takes as ``dtype``, shown by Xcode."""
    shape = f"{item.describe()} {dtype}"
    if meta is not None and meta.signal is not None and item.dtype.startswith("float"):
        rate = meta.signal.sampling_rate
        return f"Signal, {shape}: normalised ({meta.signal.normalisation}), {rate} samples per second."
    if "mask" in item.name:
        return f"Mask, {shape}: 1 where there is a token, 0 where there is padding."
    if not item.dtype.startswith("float"):
        return f"Token ids, {shape}."
    return f"{item.name}, {shape}."


def output_text(spec: TensorSpec, meta: ModelMeta | None) -> str:
    """One line about an output, shown by Xcode."""
    shape = " x ".join(map(str, spec.shape))
    if meta is not None and meta.decoder is not None:
        letters = f" over {meta.alphabet}" if meta.alphabet else ""
        return f"Scores for the {meta.decoder.kind} decoder, frames x batch x classes ({shape}){letters}."
    if meta is not None and meta.task == "masked-lm":
        return f"One logit per token of the vocabulary, {shape}."
    return f"{spec.name}, {shape} {spec.dtype}."


def _stored(spec: TensorSpec, types: Mapping[str, str]) -> TensorSpec:
    return TensorSpec(spec.name, spec.shape, types[spec.name])


def _input(spec: TensorSpec, shapes: Shapes, types: Mapping[str, str]) -> TensorSpec:
    """The spec with numbers where the package takes one size only."""
    item = shapes.of(spec.name)
    dims = zip(item.dims, item.bounds, strict=True)
    shape = tuple(low if low == high else dim for dim, (low, high) in dims)
    return TensorSpec(spec.name, shape, types[spec.name])


def _batch_axes(graph: Graph, shapes: Shapes) -> dict[str, int]:
    """Where the batch stands, told by the symbol of the first input's first axis in the metadata."""
    meta = graph.meta
    if meta is None or not meta.inputs or not meta.inputs[0].shape:
        return {}
    symbol = meta.inputs[0].shape[0]
    specs = (*meta.inputs, *meta.outputs)
    names = {*(value.name for value in graph.inputs), *(value.name for value in graph.outputs)}
    if not isinstance(symbol, str) or any(symbol not in spec.shape for spec in specs):
        return {}
    axes = {spec.name: spec.shape.index(symbol) for spec in specs}
    return axes if set(axes) == names and set(axes) >= {item.name for item in shapes.inputs} else {}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _spec(item: Mapping[str, Any]) -> TensorSpec:
    dims = tuple(dim if isinstance(dim, str) else int(dim) for dim in item["shape"])
    return TensorSpec(str(item["name"]), dims, str(item["dtype"]))
