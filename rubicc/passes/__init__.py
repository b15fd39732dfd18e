"""Graph rewrites: one pass, one file, one class.

Start at ``registry.py`` (what a pass is), ``pipelines.py`` (which run, in which order, why), ``manager.py``
(running them) and ``harness.py`` (proving them). ``docs/writing_a_pass.md`` is the guide.
"""
