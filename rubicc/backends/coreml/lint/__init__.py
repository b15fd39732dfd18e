"""Where a package would run: residency rules with sources, activation memory, and an audit on a real Mac.

::

    package = load(path)                    # backends/coreml/run/load.py
    report = lint(package)                  # verdicts for every operation
    findings(report, strict=True)           # rows for `rubicc check` and --strict
    lines(report), placement(report)        # text, and the picture of report.html
    audit(package)                          # content of ane.json: verdicts, rules with sources, memory
    peak_bytes(package)                     # activations alive at once
    write_audit_script(folder)              # ane_audit.py, run by the user on a Mac
    merge(ane, read_dump(path))             # what Core ML planned beside what the rules say
"""

from __future__ import annotations

from rubicc.backends.coreml.lint.document import audit, memory_lines, to_dict
from rubicc.backends.coreml.lint.memory import ActivationMemory, memory, memory_of_graph, timeline
from rubicc.backends.coreml.lint.observed import peak_bytes, shapes_at
from rubicc.backends.coreml.lint.reality import SCRIPT, check_dump, merge, read_dump, write_audit_script
from rubicc.backends.coreml.lint.reality import lines as compared
from rubicc.backends.coreml.lint.reality import placement as planned
from rubicc.backends.coreml.lint.report import LintReport, OpVerdict, findings, lint
from rubicc.backends.coreml.lint.rules import RULES
from rubicc.backends.coreml.lint.view import legend, lines, placement

__all__ = [
    "RULES",
    "SCRIPT",
    "ActivationMemory",
    "LintReport",
    "OpVerdict",
    "audit",
    "check_dump",
    "compared",
    "findings",
    "legend",
    "lines",
    "lint",
    "memory",
    "memory_lines",
    "memory_of_graph",
    "merge",
    "peak_bytes",
    "placement",
    "planned",
    "read_dump",
    "shapes_at",
    "timeline",
    "to_dict",
    "write_audit_script",
]
