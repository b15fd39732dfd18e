"""The ``native`` runtime: rubicc's own C++ kernels for CPUs, compiled once per machine.

``lower`` reads an emitted ``model.onnx`` into a :class:`~rubicc.backends.cpu_gpu.native.program.Program`,
``pack`` lays its weights out for the kernels, ``build`` compiles the kernels, ``engine`` runs them.
"""
