"""The typed QONNX graph: types, rules, execution, costs, safe files."""
