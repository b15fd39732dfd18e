"""Writes the package: sources copied or filled in, tests, vectors, README. Equal input gives equal bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from rubicc.backends.coreml.swift import vectors as recorded
from rubicc.backends.coreml.swift.design import MASKED, TOKENIZER, Design, Reads, Tensor, design
from rubicc.backends.coreml.swift.names import comment, literal, number
from rubicc.backends.coreml.swift.vectors import Vectors
from rubicc.backends.coreml.swift.verification import verify
from rubicc.evidence.decision import Decision
from rubicc.spec import ModelMeta, TensorSpec

_TEMPLATES = files("rubicc.backends.coreml.swift.templates")
_PLACE = re.compile(r"__([A-Za-z_]+?)__")
_TOOLS = "5.9"
# Deployment target -> iOS and macOS of the same operator set.
_PLATFORMS = {
    "iOS16": ("16.0", "13.0"),
    "iOS17": ("17.0", "14.0"),
    "iOS18": ("18.0", "15.0"),
    "iOS26": ("26.0", "26.0"),
}
_SEQUENCE_SOURCES = ("DNA", "Heap", "Tokenizer", "TokenizerFile")
_READ_SOURCES = ("Signal", "Chunks", "Calls")
_DECODERS = {"ctc": "CTC", "flipflop": "FlipFlop", "crf": "CRF"}


def decisions(
    *,
    name: str,
    meta: ModelMeta | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    assets: Mapping[str, bytes],
) -> tuple[Decision, ...]:
    """What the package will leave out or do otherwise, ``RUB-COREML-D5x``.

    Raises:
        Unsupported: ``RUB-COREML-505``.
    """
    return design(name, meta, inputs, outputs, assets).decisions


def write(
    folder: Path,
    *,
    name: str,
    meta: ModelMeta | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    assets: Mapping[str, bytes],
    vectors: Vectors | None,
    target: str = "iOS17",
    features: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Write ``folder/Swift`` for the model file ``name.mlpackage`` beside it; names of the files, sorted.

    Args:
        inputs, outputs: as the compiled model has them; symbols are free dimensions.
        assets: files that came with the model; ``tokenizer.json`` is used.
        vectors: a verified run for the package's unit test of the model, or ``None``.
        target: deployment target, a key of ``tools.OPSETS``.
        features: names that differ in the Core ML package, by the network's.

    Raises:
        Unsupported: ``RUB-COREML-505``.
        VerificationFailed: ``RUB-COREML-506``: read back from disk, the vectors are not what was written.
    """
    made = design(name, meta, inputs, outputs, assets, features)
    content = _content(made, vectors, target)
    for path, body in content.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    verify(folder, name=name, meta=meta, inputs=inputs, outputs=outputs)
    return tuple(sorted(content))


def _content(made: Design, vectors: Vectors | None, target: str) -> dict[str, bytes]:
    sources, tests = f"Swift/Sources/{made.module}", f"Swift/Tests/{made.module}Tests"
    values = _values(made, target)
    content = {
        "Swift/Package.swift": _fill("Package.swift", values),
        "Swift/README.md": _fill("README.md", values),
        f"{sources}/Facts.swift": _fill("Facts.swift", values),
        f"{sources}/{made.type}.swift": _fill("Model.swift", values),
        f"{sources}/ModelError.swift": _copy("ModelError"),
        f"{tests}/LoadVectors.swift": _copy("LoadVectors"),
    }
    run = recorded.model(vectors) if vectors is not None else None
    if run is not None:
        content[f"{tests}/Vectors/model_vectors.json"] = recorded.text(run)
        content[f"{tests}/ModelTests.swift"] = _fill("ModelTests.swift", values)
    if made.sequences is not None:
        content |= {f"{sources}/{part}.swift": _copy(part) for part in _SEQUENCE_SOURCES}
        content[f"{sources}/Sequences.swift"] = _fill("Sequences.swift", values)
        content[f"{sources}/{TOKENIZER}"] = made.sequences.data
        content[f"{tests}/TokenizerTests.swift"] = _fill("TokenizerTests.swift", values)
        content[f"{tests}/Vectors/tokenizer_vectors.json"] = recorded.text(recorded.tokenizer(made.sequences))
    if made.reads is not None:
        assert made.meta is not None and made.meta.decoder is not None
        parts = (*_READ_SOURCES, _DECODERS[made.meta.decoder.kind])
        content |= {f"{sources}/{part}.swift": _copy(part) for part in parts}
        content[f"{sources}/Basecaller.swift"] = _fill("Basecaller.swift", values)
        content[f"{tests}/BasecallerTests.swift"] = _fill("BasecallerTests.swift", values)
        scores = recorded.recorded_scores(made, vectors)
        content[f"{tests}/Vectors/basecaller_vectors.json"] = recorded.text(
            recorded.basecaller(made.reads, scores)
        )
    if not any(path.startswith(f"{tests}/Vectors/") for path in content):
        # Package.swift names the folder, and an absent resource is an error there.
        content[f"{tests}/Vectors/none.json"] = b"{}\n"
    return content


def _copy(name: str) -> bytes:
    return _TEMPLATES.joinpath(f"{name}.swift").read_bytes()


def _fill(name: str, values: Mapping[str, str]) -> bytes:
    """The template with each ``__key__`` replaced; one that has no value is an error here, not in Xcode."""
    text = _TEMPLATES.joinpath(f"{name}.tmpl").read_text(encoding="utf-8")
    return _PLACE.sub(lambda match: values[match.group(1)], text).encode()


def _values(made: Design, target: str) -> dict[str, str]:
    ios, macos = _PLATFORMS[target]
    arch = made.meta.arch if made.meta is not None else "custom"
    task = made.meta.task if made.meta is not None else "generic"
    values = {
        "tools": _TOOLS,
        "ios": ios,
        "macos": macos,
        "Module": made.module,
        "Type": made.type,
        "title": comment(made.name),
        "file": comment(made.name),
        "name": literal(made.name),
        "arch": literal(arch),
        "task": literal(task),
        "resources": f', resources: [.copy("{TOKENIZER}")]' if made.sequences is not None else "",
        "facts": "".join(f"    {line}\n" for line in _facts(made)),
        "use": _use(made),
        "note": _note(made),
    }
    values |= _interface(made.inputs, made.outputs)
    values |= _test_parts(made.inputs, made.outputs)
    if made.sequences is not None:
        values["window_arguments"] = _lines(
            (
                _window_argument(tensor, made.sequences.roles[tensor.name], made.sequences.tokens)
                for tensor in made.inputs
            ),
            12,
            ",",
        )
    if made.reads is not None:
        values["signal_field"] = made.inputs[0].field
        values["scores_field"] = made.outputs[0].field
    return values


def _facts(made: Design) -> list[str]:
    if made.sequences is not None:
        return [
            "/// Tokens of one prediction.",
            f"public static let tokens = {made.sequences.tokens}",
            f"static let pad: Int32? = {made.sequences.tokenizer.pad}",
        ]
    if made.reads is None:
        return []
    reads, plan = made.reads, made.reads.plan
    return [
        "/// Samples a second that the model was trained on.",
        f"public static let samplingRate = {number(reads.sampling_rate)}",
        f"static let normalisation = Normalisation.{_case(reads)}",
        "/// How reads are cut, in samples.",
        "public static let plan = "
        f"Plan(length: {plan.length}, overlap: {plan.overlap}, stride: {plan.stride}, "
        f"fixed: {str(plan.fixed).lower()})",
        f"static let batch = {reads.batch}",
        "static let decoder = ReadDecoder(",
        f"    find: {reads.find}, letters: {literal(reads.decoder.letters)},",
        f"    qualityScale: {number(reads.decoder.quality_scale)}, "
        f"qualityBias: {number(reads.decoder.quality_bias)})",
    ]


def _case(reads: Reads) -> str:
    names = {"quantile": ("lower", "upper", "shift", "scale"), "picoampere": ("mean", "deviation")}
    kind, given = reads.normalisation.kind, reads.normalisation.values
    if not given:
        return kind
    pairs = zip(names[kind], given, strict=True)
    return f"{kind}({', '.join(f'{label}: {number(value)}' for label, value in pairs)})"


def _interface(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """Fields of ``Input`` and ``Output`` and the code between them and Core ML's features."""
    return {
        "input_fields": _lines(
            (
                f"/// {comment(t.name)}: {_shape(t)}\n        public var {t.field}: MLShapedArray<{t.scalar}>"
                for t in inputs
            ),
            8,
        ),
        "input_parameters": ", ".join(f"{t.field}: MLShapedArray<{t.scalar}>" for t in inputs),
        "input_assignments": _lines((f"self.{t.field} = {t.field}" for t in inputs), 12),
        "input_checks": _lines(
            (f"try check({literal(t.feature)}, {t.field}.shape, {list(t.shape)})" for t in inputs), 8
        ),
        "input_features": _lines(
            (f"{literal(t.feature)}: MLFeatureValue(shapedArray: {t.field})," for t in inputs), 16
        ),
        "output_fields": _lines(
            (
                f"/// {comment(t.name)}: {_shape(t)}\n"
                f"        public let {t.field}: MLShapedArray<{_given(t)}>"
                for t in outputs
            ),
            8,
        ),
        "output_assignments": _lines(
            (
                f"{t.field} = MLShapedArray<{_given(t)}>("
                f"converting: try Self.array(features, {literal(t.feature)}))"
                for t in outputs
            ),
            8,
        ),
    }


def _given(tensor: Tensor) -> str:
    """Outputs are widened, so that no app needs ``Float16``, which Macs with Intel chips lack."""
    return "Float" if tensor.scalar == "Float16" else tensor.scalar


def _test_parts(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    return {
        "test_arguments": _lines(
            (
                f"{t.field}: MLShapedArray<{t.scalar}>(\n"
                f"                scalars: try tensor(vectors.inputs, {literal(t.name)})"
                f".values.map {{ {t.scalar}($0) }},\n"
                f"                shape: try tensor(vectors.inputs, {literal(t.name)}).shape)"
                for t in inputs
            ),
            12,
            ",",
        ),
        "test_checks": _lines(
            (
                f"compare(\n            output.{t.field}.scalars.map {{ Double($0) }},\n"
                f"            try tensor(vectors.outputs, {literal(t.name)}), vectors.snr)"
                for t in outputs
            ),
            8,
        ),
        "wrong_arguments": _lines(
            (
                f"{t.field}: MLShapedArray<{t.scalar}>(scalars: [0], shape: [1, 1, 1, 1, 1, 1])"
                for t in inputs
            ),
            12,
            ",",
        ),
    }


def _window_argument(tensor: Tensor, role: str, tokens: int) -> str:
    scalars = {
        "ids": "window.ids",
        "mask": f"window.mask.map {{ {tensor.scalar}($0) }}",
        "bias": f"window.mask.map {{ ({tensor.scalar}($0) - 1) * {number(-MASKED)} }}",
        "zeros": "window.ids.map { _ in Int32(0) }",
    }[role]
    shape = [1, 1, 1, tokens] if role == "bias" else [1, tokens]
    return f"{tensor.field}: MLShapedArray<{tensor.scalar}>(scalars: {scalars}, shape: {shape})"


def _use(made: Design) -> str:
    if made.sequences is not None:
        first = made.outputs[0].field
        return (
            f"4. `let tokenizer = try {made.type}.tokenizer()` once, then\n"
            f"   `let windows = try await model.predict(sequence: dna, tokenizer: tokenizer)`.\n"
            f"   `windows[0].{first}` is the first window's; `DNA.reverseComplement` gives the other strand."
        )
    if made.reads is not None:
        return (
            "4. `let call = try await Basecaller(model: model).call(RawRead(samples: dac, offset: offset,\n"
            "   scale: range / digitisation, samplingRate: rate))`; `call.sequence` and\n"
            "   `call.qualities` are what a FASTQ record holds."
        )
    fields = ", ".join(f"{tensor.field}: ..." for tensor in made.inputs)
    return (
        f"4. `let output = try await model.predict(.init({fields}))`; `predict(batch:)` takes several inputs."
    )


def _note(made: Design) -> str:
    """What the package does otherwise, from its decisions; nothing to say is a plain line about safety."""
    said = [f"{decision.what}: {decision.reason}." for decision in made.decisions]
    if any(tensor.scalar == "Float16" for tensor in made.inputs):
        said.append("Float16 inputs need Apple silicon.")
    return (
        "Note: " + " ".join(comment(text) for text in said)
        if said
        else "Predictions run off the main thread."
    )


def _shape(tensor: Tensor) -> str:
    dims = " x ".join("any" if dim < 0 else str(dim) for dim in tensor.shape)
    return f"{_given(tensor)}, {dims or 'scalar'}"


def _lines(parts: Iterable[str], indent: int, join: str = "") -> str:
    return f"{join}\n".join(" " * indent + part for part in parts)
