"""QONNX to MIL, one converter per family of operators."""

from rubicc.backends.coreml.lowering.check import findings, supported
from rubicc.backends.coreml.lowering.context import Weight
from rubicc.backends.coreml.lowering.program import Lowered, lower

__all__ = ["Lowered", "Weight", "findings", "lower", "supported"]
