"""Where a package would run: residency rules with sources, activation memory, and an audit on a real Mac.

::

    package = load(path)                    # backends/coreml/run/load.py
    report = lint(package)                  # verdicts for every operation
    findings(report, strict=True)           # rows for `rubicc check` and --strict
    audit(package)                          # content of ane.json: verdicts, memory
    write_audit_script(folder)              # ane_audit.py, run by the user on a Mac
    merge(ane, read_dump(path))             # what Core ML planned beside what the rules say
"""

from __future__ import annotations

from rubicc.backends.coreml.lint.memory import ActivationMemory, memory, memory_of_graph
from rubicc.backends.coreml.lint.reality import SCRIPT, check_dump, merge, read_dump, write_audit_script
from rubicc.backends.coreml.lint.report import LintReport, OpVerdict, audit, findings, lines, lint, to_dict
from rubicc.backends.coreml.lint.rules import RULES

__all__ = [
    "RULES",
    "SCRIPT",
    "ActivationMemory",
    "LintReport",
    "OpVerdict",
    "audit",
    "check_dump",
    "findings",
    "lines",
    "lint",
    "memory",
    "memory_of_graph",
    "merge",
    "read_dump",
    "to_dict",
    "write_audit_script",
]
