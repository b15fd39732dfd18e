"""Writes a plan as a Vitis project: ADF graph, data movers, host program, Makefile, README."""

from rubicc.backends.aie.project.write import Written, write

__all__ = ["Written", "write"]
