"""What the Swift package of a model will hold, decided from its metadata, shapes and assets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rubicc.backends.coreml.swift.names import number, property_names, type_name
from rubicc.backends.coreml.swift.ports import calls, chunks, crf, ctc, flip_flop, signal
from rubicc.backends.coreml.swift.ports.tokenizer import Tokenizer
from rubicc.backends.coreml.swift.ports.tokenizer_file import MOST_ID
from rubicc.errors import RubiccError, Unsupported
from rubicc.evidence.decision import Decision
from rubicc.spec import QUANTILE, ModelMeta, SignalSpec, TensorSpec
from rubicc.text import printable

TOKENIZER = "tokenizer.json"
# Element type of a tensor -> Swift's. Core ML has no 64-bit integers; the package's are 32-bit.
SCALARS = {"float32": "Float", "float64": "Double", "float16": "Float16", "int32": "Int32", "int64": "Int32"}
MASKED = -10000.0
_MOST_TOKENS = 512
_FRAMES_WITHOUT_FIELD = 150
_CHUNK = 4000
_BLANK_SCORE = 2.0
_LONGEST_STATE = 8
_MOST = 1e6
_MOST_SAMPLES = 1 << 24
_SIGNAL_PARAMS: dict[str, Mapping[str, float]] = {
    "med-mad": {},
    "quantile": QUANTILE,
    "pa": {"mean": 0.0, "stdev": 1.0},
    "none": {},
}


@dataclass(frozen=True)
class Tensor:
    """A typed input or output of the wrapper.

    Attributes:
        name: in the network.
        feature: in the Core ML package.
        field: in Swift.
        scalar: Swift's element type.
        shape: -1 where any length will do.
    """

    name: str
    feature: str
    field: str
    scalar: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sequences:
    """How text becomes inputs: ``roles`` by input name, ``ids``, ``mask``, ``bias`` or ``zeros``."""

    data: bytes
    tokenizer: Tokenizer
    tokens: int
    roles: Mapping[str, str]


@dataclass(frozen=True)
class Reads:
    """How reads become bases. ``find`` is the Swift expression of the path finder."""

    normalisation: signal.Normalisation
    sampling_rate: float
    plan: chunks.Plan
    batch: int
    find: str
    decoder: calls.ReadDecoder
    columns: int


@dataclass(frozen=True)
class Design:
    """Everything the writer needs.

    Attributes:
        name: of the model file, without its ending.
        module, type: Swift module and main type. Neither is called like the file: Xcode makes a class of that
            name in the app, which would hide them.
    """

    name: str
    module: str
    type: str
    meta: ModelMeta | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sequences: Sequences | None
    reads: Reads | None
    decisions: tuple[Decision, ...]


class _NotPossible(Exception):
    """Why a part is left out."""


def design(
    name: str,
    meta: ModelMeta | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    assets: Mapping[str, bytes],
    features: Mapping[str, str] | None = None,
) -> Design:
    """The package of the model file ``name`` with these inputs and outputs.

    Args:
        features: names that differ in the Core ML package, by the network's.

    Raises:
        Unsupported: ``RUB-COREML-505``.
    """
    renamed = features or {}
    typed = _tensors(inputs, renamed)
    found: list[Decision] = []
    sequences: Sequences | None = None
    reads: Reads | None = None
    if meta is not None and meta.task == "basecalling":
        try:
            reads = _reads(meta, typed, outputs)
        except _NotPossible as err:
            found.append(Decision("RUB-COREML-D51", "Swift", "no basecaller in the Swift package", str(err)))
        else:
            found += _greedy(meta)
    elif _ids(typed) is not None:
        try:
            sequences = _sequences(meta, typed, assets)
        except _NotPossible as err:
            found.append(Decision("RUB-COREML-D50", "Swift", "no tokenizer in the Swift package", str(err)))
    stem = type_name(name)
    return Design(
        name,
        f"{stem}Package",
        f"{stem}Network",
        meta,
        typed,
        _tensors(outputs, renamed),
        sequences,
        reads,
        tuple(found),
    )


def _tensors(specs: Sequence[TensorSpec], features: Mapping[str, str]) -> tuple[Tensor, ...]:
    fields = property_names([spec.name for spec in specs])
    for spec in specs:
        if spec.dtype not in SCALARS:
            raise Unsupported(
                "RUB-COREML-505", f"{spec.dtype} has no Swift type", where=spec.name, hint="change its type"
            )
    return tuple(
        Tensor(
            spec.name,
            features.get(spec.name, spec.name),
            field,
            SCALARS[spec.dtype],
            tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape),
        )
        for spec, field in zip(specs, fields, strict=True)
    )


def _ids(inputs: Sequence[Tensor]) -> Tensor | None:
    """The input that takes token ids."""
    wide = [t for t in inputs if t.scalar == "Int32" and len(t.shape) == 2]
    named = [t for t in wide if t.name == "input_ids"]
    plain = [t for t in wide if "mask" not in t.name and "type" not in t.name]
    return named[0] if named else plain[0] if len(plain) == 1 else None


def _sequences(meta: ModelMeta | None, inputs: Sequence[Tensor], assets: Mapping[str, bytes]) -> Sequences:
    data = assets.get(TOKENIZER)
    if data is None:
        raise _NotPossible("the model came without a tokenizer.json")
    config = meta.config if meta is not None else {}
    pad = config.get("pad_token_id")
    try:
        tokenizer = Tokenizer(data, pad if isinstance(pad, int) and 0 <= pad <= MOST_ID else None)
    except RubiccError as err:
        raise _NotPossible(err.what) from err
    ids = _ids(inputs)
    assert ids is not None
    batch, tokens = ids.shape
    if batch not in (1, -1):
        raise _NotPossible(f"the model takes {batch} sequences at once")
    if tokens < 0:
        longest = config.get("max_position_embeddings")
        tokens = min(longest, _MOST_TOKENS) if isinstance(longest, int) and longest > 0 else _MOST_TOKENS
    if tokens <= len(tokenizer.before) + len(tokenizer.after):
        raise _NotPossible(f"{tokens} tokens leave no room beside the template")
    if tokenizer.pad is None:
        raise _NotPossible("tokenizer.json and configuration name no padding token")
    _check_size(tokenizer, config)
    return Sequences(data, tokenizer, tokens, {t.name: _role(t, ids) for t in inputs})


def _check_size(tokenizer: Tokenizer, config: Mapping[str, object]) -> None:
    """A tokenizer with more ids than the model has embeddings belongs to another model."""
    size = config.get("vocab_size")
    largest = max(
        [*tokenizer.letters.values(), *tokenizer.made, *tokenizer.before, *tokenizer.after], default=0
    )
    if isinstance(size, int) and largest >= size:
        raise _NotPossible(f"tokenizer.json has token {largest}, the model {size} embeddings")


def _role(tensor: Tensor, ids: Tensor) -> str:
    if tensor is ids:
        return "ids"
    if "mask" in tensor.name and len(tensor.shape) == 2:
        return "mask"
    if (
        "mask" in tensor.name
        and len(tensor.shape) == 4
        and tensor.shape[1:3] == (1, 1)
        and tensor.scalar != "Int32"
    ):
        return "bias"
    if tensor.scalar == "Int32" and len(tensor.shape) == 2 and "type" in tensor.name:
        return "zeros"
    raise _NotPossible(f"the tokenizer gives nothing for the input {printable(tensor.name, 40)!r}")


def _reads(meta: ModelMeta, inputs: Sequence[Tensor], outputs: Sequence[TensorSpec]) -> Reads:
    spec, decoder = meta.signal, meta.decoder
    if spec is None or decoder is None or meta.stride is None or meta.alphabet is None:
        raise _NotPossible("the metadata lack signal, decoder, stride or alphabet")
    stride = _whole("stride", meta.stride)
    if not (isinstance(meta.alphabet, str) and meta.alphabet.isascii() and meta.alphabet.isprintable()):
        raise _NotPossible("the alphabet is not printable ASCII")
    if (
        len(inputs) != 1
        or len(inputs[0].shape) != 3
        or inputs[0].shape[1] != 1
        or inputs[0].scalar != "Float"
    ):
        raise _NotPossible("the network does not read one float32 signal (batch, 1, time)")
    if len(outputs) != 1 or len(outputs[0].shape) != 3 or not isinstance(outputs[0].shape[2], int):
        raise _NotPossible("the network does not give one array of scores (time, batch, columns)")
    batch, _, length = inputs[0].shape
    columns = outputs[0].shape[2]
    find, expression = _finder(meta, columns)
    letters = meta.alphabet if decoder.kind == "flipflop" else meta.alphabet[1:]
    return Reads(
        _normalisation(spec),
        _positive("sampling rate", spec.sampling_rate),
        _plan(meta, stride, length),
        max(1, batch),
        expression,
        calls.ReadDecoder(
            find, letters, _number("quality scale", decoder.qscale), _number("quality bias", decoder.qbias)
        ),
        columns,
    )


def _finder(meta: ModelMeta, columns: int) -> tuple[Callable[[calls.Scores], calls.BasePath], str]:
    """The port of the path finder, and the Swift expression of it."""
    assert meta.decoder is not None and meta.alphabet is not None
    kind, params, letters = meta.decoder.kind, meta.decoder.params, len(meta.alphabet)
    if kind not in ("ctc", "flipflop", "crf"):
        raise _NotPossible(f"Swift has no decoder {printable(str(kind), 40)!r}")
    if kind == "ctc":
        if columns != letters:
            raise _NotPossible(f"{columns} columns for the {letters} labels of {meta.alphabet!r}")
        return ctc.decode, "CTC.decode"
    if kind == "flipflop":
        if columns != flip_flop.TRANSITIONS or letters != 4:
            raise _NotPossible(
                f"{columns} columns; flip-flop decoding takes {flip_flop.TRANSITIONS} over 4 bases"
            )
        return flip_flop.decode, "FlipFlop.decode"
    states = 4 ** _whole("state length", params.get("state_len", 0), _LONGEST_STATE)
    blank = _number("score of the blank", params.get("blank_score", _BLANK_SCORE))
    if letters != 5 or columns not in (4 * states, crf.EDGES * states) or states < 4:
        raise _NotPossible(f"{columns} columns do not fit a CRF of {states} states over 4 bases")
    return (
        lambda scores: crf.decode(scores, states, blank),
        f"{{ try CRF.decode($0, states: {states}, blank: {number(blank)}) }}",
    )


def _normalisation(spec: SignalSpec) -> signal.Normalisation:
    usual = _SIGNAL_PARAMS.get(str(spec.normalisation))
    if usual is None:
        raise _NotPossible(f"Swift has no normalisation {printable(str(spec.normalisation), 40)!r}")
    params = {name: _number(name, spec.params.get(name, value)) for name, value in usual.items()}
    if "stdev" in params:
        _positive("stdev", params["stdev"])
    return signal.of_spec(spec.normalisation, params)


def _number(what: str, value: object) -> float:
    """A finite number of the metadata, whose values nobody checked."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MOST:
        raise _NotPossible(f"the metadata's {printable(what, 60)} is no number below {_MOST:g}")
    return float(value)


def _positive(what: str, value: object) -> float:
    found = _number(what, value)
    if found <= 0:
        raise _NotPossible(f"the metadata's {what} is not above 0")
    return found


def _whole(what: str, value: object, most: int = _MOST_SAMPLES) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise _NotPossible(f"the metadata's {what} is no whole number of 1 to {most}")
    return value


def _plan(meta: ModelMeta, stride: int, length: int) -> chunks.Plan:
    """As the engine cuts reads (``genomics/chunks.py``); a fixed length is the compiled model's."""
    asked = meta.overlap
    if asked is None:
        asked = meta.receptive_field if meta.receptive_field is not None else _FRAMES_WITHOUT_FIELD * stride
    shared = _round_up(_whole("overlap", asked), 2 * stride) if asked else 0
    if length > 0:
        if length % stride:
            raise _NotPossible(f"the model's {length} samples are no multiple of its stride {stride}")
        if shared >= length:
            raise _NotPossible(
                f"windows of {length} samples cannot overlap by the {shared} that the model needs"
            )
        return chunks.Plan(length, shared, stride, True)
    taken = _round_up(_whole("chunk", meta.chunk or max(_CHUNK, 4 * shared)), stride)
    if shared >= taken:
        raise _NotPossible(f"windows of {taken} samples cannot overlap by {shared}")
    return chunks.Plan(taken, shared, stride, False)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _greedy(meta: ModelMeta) -> list[Decision]:
    assert meta.decoder is not None
    if meta.decoder.kind != "ctc" or meta.decoder.params.get("beam_size", 5) <= 1:
        return []
    return [
        Decision(
            "RUB-COREML-D52",
            "Swift",
            "the Swift package decodes CTC greedily",
            "beam search would be a second decoder to trust on the device",
        )
    ]
