"""The rules: condition, verdict, sources for and against, as data; words about each stand in ``codes.py``.

Nothing here was measured by us. A rule that forbids rests on at least one source; where sources contradict
each other, the other side is named and the verdict is at most ``unknown`` or a hint, unless a plan of a real
device or Apple decides it.
"""

from __future__ import annotations

import hashlib
import json

from rubicc.backends.coreml.lint import table_layers, table_types
from rubicc.backends.coreml.lint.codes import ENTRIES
from rubicc.backends.coreml.lint.rule import Rule

RULES: tuple[Rule, ...] = tuple(sorted((*table_types.ROWS, *table_layers.ROWS), key=lambda row: row.id))
BY_ID: dict[str, Rule] = {row.id: row for row in RULES}
UNKNOWN_TYPE = "RUB-COREML-411"  # stands for every operation that no rule makes eligible


def version(rules: tuple[Rule, ...] = RULES) -> str:
    """Hash over what the rules say, so that two reports can be told apart."""
    said = [
        (rule.id, rule.verdict, rule.condition, rule.sources, rule.against, ENTRIES[rule.id])
        for rule in rules
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
