"""Rules beside reality: a dump of the ``ane_audit`` script merged into ``ane.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rubicc.backends.coreml.lint import ane_audit
from rubicc.errors import ModelRefused
from rubicc.text import first_line

SCRIPT = "ane_audit.py"
LARGEST_DUMP = 256 << 20
_SHARED = 0.5  # of the operations must have the same name
_TEXTS = ("path", "name", "type")
ENGINE = "ANE"
_SHOWN_AS = {"preferred": "good", "supported": "unsure", "elsewhere": "bad", "no data": "unsure"}
_REMEDIES = {
    "contradictions": "Believe the plan: the rule is wrong for this device and system.",
    "not_preferred": "Nothing is wrong: the engine could, and another device was thought cheaper.",
}
PLACES = ("preferred", "supported", "elsewhere", "no data")


def write_audit_script(folder: Path) -> str:
    """Put the stand-alone script into ``folder``; its file name."""
    (folder / SCRIPT).write_text(Path(ane_audit.__file__).read_text("utf-8"), encoding="utf-8")
    return SCRIPT


def read_dump(path: Path) -> dict[str, Any]:
    """A dump from disk, checked.

    Raises:
        ModelRefused: ``RUB-COREML-401``.
    """
    try:
        if path.stat().st_size > LARGEST_DUMP:
            raise _malformed(path.name, f"larger than {LARGEST_DUMP >> 20} MiB")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise _malformed(path.name, first_line(err)) from err
    return check_dump(found, path.name)


def check_dump(found: Any, where: str = "") -> dict[str, Any]:
    """A dump that has the form ``ane_audit`` writes.

    Raises:
        ModelRefused: ``RUB-COREML-401``.
    """
    if not isinstance(found, dict) or found.get("format") != ane_audit.FORMAT:
        raise _malformed(where, f"no format {ane_audit.FORMAT!r}")
    if found.get("schema_version") != ane_audit.SCHEMA_VERSION:
        raise _malformed(where, f"schema_version {found.get('schema_version')!r}")
    if not all(isinstance(found.get(key), str) for key in ("package", "units")):
        raise _malformed(where, "package and units are no texts")
    if not isinstance(found.get("system"), dict):
        raise _malformed(where, "no system")
    functions = found.get("functions")
    if not isinstance(functions, dict) or not all(isinstance(rows, list) for rows in functions.values()):
        raise _malformed(where, "no functions")
    for name, rows in functions.items():
        for index, row in enumerate(rows):
            wrong = _wrong_in(row)
            if wrong:
                raise _malformed(where, f"row {index} of function {name!r}: {', '.join(wrong)}")
    return found


def _wrong_in(row: Any) -> list[str]:
    """Keys of a row that are missing or of another type."""
    if not isinstance(row, dict):
        return ["no object"]
    wrong = [key for key in _TEXTS if not isinstance(row.get(key), str)]
    supported = row.get("supported")
    if not isinstance(supported, list) or not all(isinstance(device, str) for device in supported):
        wrong.append("supported")
    if "preferred" not in row or not isinstance(row["preferred"], str | None):
        wrong.append("preferred")
    cost = row.get("cost", "")
    number = isinstance(cost, int | float) and not isinstance(cost, bool)
    if cost is not None and not (number and 0 <= cost <= 1):  # a share of the whole
        wrong.append("cost")
    return wrong


def merge(ane: Mapping[str, Any], dump: Mapping[str, Any]) -> dict[str, Any]:
    """``ane.json`` with a key ``audit``: how the rules agree with what Core ML planned.

    Operations are matched by path and name of their first result, which Core ML keeps.

    Args:
        ane: the content of ``ane.json``.
        dump: a checked dump.

    Returns:
        A copy of ``ane`` with ``audit``: units, system, ``agreement`` (status of the rules -> where Core ML
        places them -> count), ``contradictions``, ``not_preferred``, ``resolved`` (unknown ones),
        ``unmatched``, ``places`` (name, operator, place and device of each operation in order), and shares
        of the planned cost and of the operations on the engine.

    Raises:
        ModelRefused: ``RUB-COREML-402``, the dump describes another package.
    """
    rows = {
        (row["path"], row["name"]): row for rows in dump["functions"].values() for row in rows if row["name"]
    }
    ops = [op for op in ane["ops"] if op["status"] != "weight"]
    known = {(op["path"], op["name"]) for op in ops}
    shared = known & set(rows)
    if len(shared) < _SHARED * max(len(known), sum(row["preferred"] is not None for row in rows.values()), 1):
        raise ModelRefused(
            "RUB-COREML-402",
            f"{len(shared)} of {len(known)} operations of {ane['package']} are in the dump of "
            f"{dump['package']}",
            hint="run ane_audit on the package beside this ane.json",
        )
    agreement = {status: dict.fromkeys(PLACES, 0) for status in ("eligible", "not", "unknown")}
    listed: dict[str, list[dict[str, Any]]] = {"contradictions": [], "not_preferred": [], "resolved": []}
    places: list[list[str | None]] = []
    for op in ops:
        row = rows.get((op["path"], op["name"]))
        place = _place(row)
        agreement[op["status"]][place] += 1
        places.append([op["name"], op["type"], place, row["preferred"] if row is not None else None])
        kind = _kind(op["status"], place)
        if kind is not None and row is not None:
            listed[kind].append(
                {
                    "name": op["name"],
                    "type": op["type"],
                    "rules": op["status"],
                    "rule": op["rules"][0]["rule"] if op["rules"] else "",
                    "preferred": row["preferred"],
                    "supported": row["supported"],
                    "cost": row["cost"],
                }
            )
    placed = [row for row in rows.values() if row["preferred"] is not None]
    cost = sum(row["cost"] or 0.0 for row in placed)
    on_engine = [row for row in placed if row["preferred"] == ENGINE]
    audit = {
        "units": dump["units"],
        "system": dict(dump["system"]),
        "agreement": agreement,
        **listed,
        "unmatched": len(known) - len(shared),
        "places": places,
        "engine_share_of_operations": round(len(on_engine) / len(placed), 6) if placed else None,
        "engine_share_of_cost": round(sum(r["cost"] or 0.0 for r in on_engine) / cost, 6) if cost else None,
    }
    return {**ane, "audit": audit}


def lines(merged: Mapping[str, Any]) -> list[str]:
    """The comparison as text."""
    audit = merged["audit"]
    told = [
        f"compute plan for units {audit['units']} on macOS {audit['system'].get('macos', '?')}:",
        "  " + " ".join(f"{word:>10}" for word in ("rules", *PLACES)),
    ]
    for status, row in audit["agreement"].items():
        told.append("  " + " ".join(f"{word:>10}" for word in (status, *(row[place] for place in PLACES))))
    for kind, words in _WORDS.items():
        for op in audit[kind]:
            devices = ", ".join(op["supported"])
            told.append(
                f"  {words}: {op['type']} {op['name']} is {op['rules']} [{op['rule']}], "
                f"prefers {op['preferred']}, supports {devices}"
            )
    told.append(f"  {_shares(audit)}")
    return told


def placement(merged: Mapping[str, Any]) -> dict[str, Any]:
    """Where Core ML has placed the operations, as values of :class:`rubicc.evidence.report.Placement`."""
    audit = merged["audit"]
    system = ", ".join(f"{key} {value}" for key, value in sorted(audit["system"].items()))
    return {
        "title": "Where Core ML has placed it",
        "caption": f"Its compute plan for units {audit['units']} ({system}); {_shares(audit)}.",
        "statuses": _SHOWN_AS,
        "ops": [
            [place, f"{name} ({kind})" + (f" on {device}" if device else "")]
            for name, kind, place, device in audit["places"]
        ],
        "outside": [_against(op, remedy) for key, remedy in _REMEDIES.items() for op in audit[key]],
    }


def _against(op: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Row of an operation that Core ML has placed elsewhere than the rules say."""
    return {
        "status": _place(op),
        "count": 1,
        "op": op["type"],
        "code": op["rule"],
        "reason": f"{op['name']} is {op['rules']} by the rules; Core ML prefers {op['preferred']}",
        "remedy": remedy,
        "source": "",
    }


def _shares(audit: Mapping[str, Any]) -> str:
    """How much of the plan is on the engine, and how many operations it does not name."""
    unnamed = f"{audit['unmatched']} operation(s) of the package are not in the plan"
    if audit["engine_share_of_operations"] is None:
        return f"the plan places nothing; {unnamed}"
    cost = audit["engine_share_of_cost"]
    weighed = "" if cost is None else f" and {cost:.2%} of the cost"
    return f"on the engine: {audit['engine_share_of_operations']:.2%} of the operations{weighed}; {unnamed}"


_WORDS = {"contradictions": "contradiction", "not_preferred": "not preferred", "resolved": "resolved"}


def _place(row: Mapping[str, Any] | None) -> str:
    if row is None or row["preferred"] is None:
        return "no data"
    if row["preferred"] == ENGINE:
        return "preferred"
    return "supported" if ENGINE in row["supported"] else "elsewhere"


def _kind(status: str, place: str) -> str | None:
    if place == "no data":
        return None
    if status == "unknown":
        return "resolved"
    if (status == "not") == (place == "elsewhere"):
        return "not_preferred" if place == "supported" else None
    return "contradictions"


def _malformed(where: str, what: str) -> ModelRefused:
    return ModelRefused(
        "RUB-COREML-401", f"no dump of ane_audit: {what}", where=where, hint="run ane_audit.py on a Mac"
    )
