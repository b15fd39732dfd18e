"""Quantised, palettised and sparse weights in the forms that Core ML stores."""

from rubicc.backends.coreml.compress.account import decisions
from rubicc.backends.coreml.compress.write import Stored, constant

__all__ = ["Stored", "constant", "decisions"]
