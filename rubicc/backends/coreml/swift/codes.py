"""Catalogue of the Core ML target's codes 5xx: the Swift package and the ports of its algorithms."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-COREML-501": (
        "tokenizer.json that Swift cannot follow exactly",
        "The Swift package encodes byte pairs with the normalizers Lowercase or none, the pre-tokenizers "
        "Whitespace, WhitespaceSplit or none, and the usual templates; anything else it refuses instead "
        "of giving nearly the same ids. Check the message for the part that is in the way, tokenize "
        "elsewhere and give the model token ids, or save the tokenizer without that part and train with "
        "it.",
    ),
    "RUB-COREML-502": (
        "text the tokenizer does not take",
        "The text has characters for which this tokenizer.json is not followed exactly, or the windows "
        "asked for are impossible. Give upper-case ASCII sequence, and an overlap below the window's "
        "length less the template.",
    ),
    "RUB-COREML-503": (
        "signal that cannot be normalised",
        "The read is empty, was sampled at another rate than the model was trained at, or is constant. "
        "Leave the read out, or use a model for its sampling rate.",
    ),
    "RUB-COREML-504": (
        "scores that cannot be decoded",
        "The network's output has other columns than the decoder of its metadata, holds NaN or "
        "infinities, or is not log-probabilities where CTC needs them. Verify the artefact, or compile at "
        "--precision fp32.",
    ),
    "RUB-COREML-505": (
        "input or output without a Swift type",
        "Core ML arrays in Swift are float32, float16, float64 or int32. Change the type of the tensor "
        "with --input NAME=SHAPE:DTYPE, or leave that output out of the model.",
    ),
    "RUB-COREML-506": (
        "the Swift package does not reproduce its own vectors",
        "The recorded ids, signals or calls in Swift/Tests differ from what the package's algorithms give "
        "for the files beside them: a file was changed after it was written. Compile the model again.",
    ),
    "RUB-COREML-D50": (
        "Swift package without tokenizer",
        "The model reads token ids, but its tokenizer is not part of the package for the reason given; "
        "the app must make the ids itself.",
    ),
    "RUB-COREML-D51": (
        "Swift package without basecaller",
        "The model's metadata or shapes do not let the package cut reads, join frames and decode, for the "
        "reason given; the app gets the network's scores.",
    ),
    "RUB-COREML-D52": (
        "Swift decodes CTC greedily",
        "On Linux CTC models are decoded by beam search; the Swift package takes the best label of each "
        "frame, which is simpler and calls slightly other bases.",
    ),
}
