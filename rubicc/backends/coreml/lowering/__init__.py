"""QONNX to MIL, one converter per family of operators."""
