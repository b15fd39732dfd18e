"""The Swift sources' algorithms in Python, function by function, names in snake_case.

They exist to be tested against the reference tokenizer and the project's own decoders, and to make the
vectors of the package's unit tests. ``tests/backends/test_coreml_swift_drift.py`` fails when Swift and port
drift apart. Swift's ``[Float]`` is ``array('f')`` here, which rounds what is stored to float32.
"""
