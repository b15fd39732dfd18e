"""Core ML: QONNX to an Xcode-ready ML Program package, proven by running the package from disk."""
