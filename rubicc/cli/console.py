"""What the command prints and where: results to stdout, everything else to stderr.

Names of nodes, files and reads come from strangers, so every control character is made visible before it
reaches a terminal.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from rubicc.errors import RubiccError
from rubicc.text import clean

SCHEMA_VERSION = 1
LOGGER = "rubicc"


class Console:
    """Result and error printing for one command.

    Args:
        verb: name written into JSON documents.
        as_json: one JSON document on stdout instead of text.
        verbosity: -1 quiet, 0 normal, 1 ``-v``, 2 ``-vv``.
        log_json: log lines on stderr as JSON objects.
    """

    def __init__(
        self, verb: str, *, as_json: bool = False, verbosity: int = 0, log_json: bool = False
    ) -> None:
        self.verb = verb
        self.as_json = as_json
        self.verbosity = verbosity
        self.log_json = log_json

    @property
    def bars(self) -> bool:
        """Whether progress bars may be drawn: only on a terminal, never with -q or --log-json."""
        return self.verbosity >= 0 and not self.log_json and sys.stderr.isatty()

    def start_logging(self) -> None:
        """Send log records and Python warnings to stderr in the asked form."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_JsonLines() if self.log_json else _Plain())
        levels = {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}
        logger = logging.getLogger(LOGGER)
        logger.handlers[:] = [handler]
        logger.setLevel(levels[min(self.verbosity, 1)])
        logger.propagate = False
        if self.verbosity < 2:
            # Third-party chatter (exporters, runtimes) is for -vv; ours goes through the logger above.
            warnings.simplefilter("ignore")
            logging.getLogger().setLevel(logging.ERROR)

    def result(self, value: Any, text: str | Iterable[str]) -> None:
        """Print the verb's result: ``value`` as JSON, or ``text`` (already cleaned lines)."""
        if self.as_json:
            self._document({"ok": True, "result": plain(value)})
        else:
            write(sys.stdout, text if isinstance(text, str) else "\n".join(text))

    def error(self, error: RubiccError) -> None:
        """Print an error to stderr, and under ``--format json`` also as a document on stdout."""
        findings = getattr(error, "findings", ())
        if self.as_json:
            body = error.to_dict() | ({"findings": plain(findings)} if findings else {})
            self._document({"ok": False, "error": body})
        if self.log_json:
            line = {"level": "error", "message": clean(str(error)), "code": error.code}
            write(sys.stderr, json.dumps(line))
            return
        if findings:
            write(sys.stderr, "\n".join(findings_table(findings)))
        head, _, rest = clean(str(error)).partition(":")
        write(sys.stderr, colour(head, "31;1", sys.stderr) + ":" + rest)

    def _document(self, body: Mapping[str, Any]) -> None:
        document = {"schema_version": SCHEMA_VERSION, "verb": self.verb, **body}
        write(sys.stdout, json.dumps(document, indent=1, allow_nan=False))


def write(stream: TextIO, text: str) -> None:
    """One write of ``text`` and a newline; what the terminal's encoding lacks is escaped, never fatal."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = text.encode(encoding, errors="backslashreplace").decode(encoding)
    stream.write(safe + "\n")
    stream.flush()


def colour(text: str, code: str, stream: TextIO) -> str:
    """``text`` in an ANSI colour where the stream is a colour terminal and NO_COLOR is unset."""
    plain_terminal = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain_terminal or not stream.isatty() else f"\x1b[{code}m{text}\x1b[0m"


def plain(value: Any) -> Any:
    """JSON values from results: dataclasses and tuples unfold, infinities become texts, paths texts."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> list[str]:
    """Aligned text columns; columns whose index is in ``right`` (e.g. ``"23"``) are right-aligned."""
    cells = [[clean("" if item is None else item) for item in row] for row in rows]
    widths = [max(len(str(row[i])) for row in [header, *cells]) for i in range(len(header))]
    lines = []
    for row in [header, *cells]:
        pairs = enumerate(zip(row, widths, strict=True))
        parts = [c.rjust(w) if str(i) in right else c.ljust(w) for i, (c, w) in pairs]
        lines.append("  ".join(parts).rstrip())
    return lines


def facts(pairs: Mapping[str, object]) -> list[str]:
    """Aligned ``key  value`` lines; ``None`` values are left out."""
    shown = {key: value for key, value in pairs.items() if value is not None}
    width = max((len(key) for key in shown), default=0)
    return [f"{clean(key).ljust(width)}  {clean(value)}" for key, value in shown.items()]


def decision_line(decision: Any) -> str:
    """One Decision, without its reason."""
    return f"decision[{clean(decision.code)}] {clean(decision.where)}: {clean(decision.what)}"


def findings_table(findings: Iterable[Any]) -> list[str]:
    """Refusals and warnings of a target, one row each with its remedy below; or decisions."""
    lines = []
    for f in findings:
        if not hasattr(f, "rule"):
            lines.append(f"{decision_line(f)} ({clean(f.reason)})")
            continue
        place = " ".join(clean(part) for part in (f.node, f"({f.source})" if f.source else "") if part)
        lines.append(f"{clean(f.severity)}[{clean(f.rule)}]{' ' * bool(place)}{place}: {clean(f.reason)}")
        if f.remedy:
            lines.append(f"    remedy: {clean(f.remedy)}")
    return lines


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = clean(record.getMessage())
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(line)
