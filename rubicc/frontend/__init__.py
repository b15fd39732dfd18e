"""Reading model files safely and lowering them to the graph."""

from rubicc.frontend.reader import read_model

__all__ = ["read_model"]
