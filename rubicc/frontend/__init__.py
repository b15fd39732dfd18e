"""Reading model files safely and lowering them to the graph."""
