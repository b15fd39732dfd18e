"""Port of ``ModelError.swift``: each Swift case is an error of the catalogue."""

from __future__ import annotations

from rubicc.errors import ModelRefused, Unsupported, UsageError, VerificationFailed


def tokenizer_refused(reason: str) -> Unsupported:
    """tokenizer.json asks for something that the Swift tokenizer does not do exactly."""
    return Unsupported(
        "RUB-COREML-501",
        f"tokenizer.json cannot be used: {reason}",
        hint="tokenize elsewhere and give the package's model token ids",
    )


def text_refused(reason: str) -> UsageError:
    """A text that the tokenizer cannot read exactly, or windows that cannot be."""
    return UsageError("RUB-COREML-502", f"the text cannot be tokenized: {reason}")


def signal_refused(reason: str) -> ModelRefused:
    """A read that cannot be normalised for this model."""
    return ModelRefused("RUB-COREML-503", f"the signal cannot be called: {reason}")


def scores_refused(reason: str) -> VerificationFailed:
    """Network output that the decoder cannot read."""
    return VerificationFailed("RUB-COREML-504", f"the scores cannot be decoded: {reason}")
