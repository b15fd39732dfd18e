"""Post-training quantisation: observe on calibration data, insert QONNX quantisers, correct, lower to QDQ."""
