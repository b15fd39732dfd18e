"""Reading YAML that a stranger may have written: recipes, and architecture configuration files.

A recipe is data. It cannot name Python code, open files by itself, or expand: aliases, tags and duplicate
keys are refused, and size, depth and node count are bounded before anything is constructed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rubicc.errors import UsageError
from rubicc.text import first_line

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 20_000


def read_yaml_mapping(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file of at most 256 KiB.

    Args:
        path: a regular file; pipes and devices are refused, since reading one could block for ever.
        what: how errors name it, e.g. ``"recipe"``.

    Raises:
        UsageError: ``RUB-CLI-010`` not a readable file, ``RUB-CLI-011`` not acceptable YAML.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problem = f"{what} is not a regular file"
            raise UsageError("RUB-CLI-010", problem, where=str(path), hint="give a YAML file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise UsageError(
            "RUB-CLI-010", f"{what} cannot be read: {err.strerror}", where=str(path), hint="check the path"
        ) from err
    if len(raw) > MAX_BYTES:
        raise UsageError("RUB-CLI-011", f"{what} is larger than {MAX_BYTES} bytes", where=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise UsageError("RUB-CLI-011", f"{what} is not UTF-8 text", where=str(path)) from err
    return parse_yaml_mapping(text, what, where=str(path))


def parse_yaml_mapping(text: str, what: str, *, where: str = "") -> dict[str, Any]:
    """The mapping written in ``text``; an empty document is an empty mapping.

    Raises:
        UsageError: ``RUB-CLI-011``.
    """
    value = parse_yaml(text, what, where=where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError("RUB-CLI-011", f"{what} must be a mapping of keys, not {_kind(value)}", where=where)
    return value


def parse_yaml(text: str, what: str, *, where: str = "") -> Any:
    """One YAML document as plain Python values, within the limits above.

    Raises:
        UsageError: ``RUB-CLI-011``.
    """
    import yaml

    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader), what, where)
        return yaml.load(text, Loader=_strict_loader())
    except yaml.MarkedYAMLError as err:
        line = f", line {err.problem_mark.line + 1}" if err.problem_mark else ""
        problem = err.problem or "malformed YAML"
        raise UsageError(
            "RUB-CLI-011", f"{what} is not acceptable YAML: {problem}", where=where + line
        ) from err
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as err:
        what = f"{what} is not acceptable YAML: {first_line(err)}"
        raise UsageError("RUB-CLI-011", what, where=where) from err


def _check_events(events: Iterator[Any], what: str, where: str) -> None:
    import yaml

    depth = nodes = 0
    for event in events:
        line = f"{where}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(
                "RUB-CLI-011",
                f"{what} uses the YAML alias *{event.anchor}, which recipes may not",
                where=line,
                hint="write the value out",
            )
        if getattr(event, "tag", None) is not None:
            raise UsageError("RUB-CLI-011", f"{what} uses the YAML tag {event.tag!r}", where=line)
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UsageError("RUB-CLI-011", f"{what} nests deeper than {MAX_DEPTH} levels", where=line)
        if nodes > MAX_NODES:
            raise UsageError("RUB-CLI-011", f"{what} holds more than {MAX_NODES} values", where=line)


def _strict_loader() -> type:
    """A safe loader that also refuses duplicate keys and keys that are not plain scalars."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a key must be text", key_node.start_mark
                    )
                if key_node.value in seen:
                    problem = f"key {key_node.value!r} appears twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
            return {str(k): v for k, v in super().construct_mapping(node, deep=deep).items()}

    # Dates would not survive JSON; they stay the text the user wrote.
    StrictLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind in ("int", "float"):
        StrictLoader.add_constructor(f"tag:yaml.org,2002:{kind}", _decimal)
    return StrictLoader


def _decimal(loader: Any, node: Any) -> Any:
    """A number, but not to base 60: YAML 1.1 reads ``1:30`` as 90, and nobody who writes it means that."""
    if ":" in node.value:
        return node.value
    kind = node.tag.rpartition(":")[2]
    return getattr(loader, f"construct_yaml_{kind}")(node)


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", int: "a number", float: "a number"}.get(type(value), "a value")
