"""Kernels of the array: C++ templates on aie_api (``include/``), and a plan's instances of them."""

from rubicc.backends.aie.kernels.instances import Instance, write

__all__ = ["Instance", "write"]
