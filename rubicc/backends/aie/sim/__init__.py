"""Functional emulation of AI Engine projects: our own headers and runtime, compiled with g++.

The project's graph and kernels are compiled and run as they are: buffers, streams, cascades, memory tiles
and their tilings come from the graph itself. Results are the integers the kernels compute; there are no
cycles, no timing and no contention (``docs/targets/aie-emulation.md``).
"""

from rubicc.backends.aie.sim.build import Built, build
from rubicc.backends.aie.sim.kept import built_once
from rubicc.backends.aie.sim.run import Outcome, run
from rubicc.backends.aie.sim.standalone import write_standalone

__all__ = ["Built", "Outcome", "build", "built_once", "run", "write_standalone"]
