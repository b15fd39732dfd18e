"""CPU and GPU through ONNX Runtime and OpenVINO."""
