"""Torch forms of every operator a gradient can pass; importing this package fills the table."""

from rubicc.training.ops import conv, elementwise, index, linear, norm, quant, recurrent, shape
from rubicc.training.ops.registry import BUILDERS, Builder, DataDependent, Run, Site

__all__ = [
    "BUILDERS",
    "Builder",
    "DataDependent",
    "Run",
    "Site",
    "conv",
    "elementwise",
    "index",
    "linear",
    "norm",
    "quant",
    "recurrent",
    "shape",
]
