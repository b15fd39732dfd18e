"""Tiles on the array: cascade chains on neighbouring tiles, stages one behind the other, column by column."""

from __future__ import annotations

from rubicc.backends.aie.plan.devices import Device

Position = tuple[int, int]  # column, row
_BACK = 3  # columns behind the front whose holes are filled first


def steps(device: Device, here: Position, there: Position) -> bool:
    """Whether the cascade of ``here`` ends in ``there``."""
    if device["cascade_snake"]:
        order = _snake(device)
        return order.index(there) == order.index(here) + 1
    across, down = there[0] - here[0], here[1] - there[1]
    allowed = device["cascade_steps"]
    return ("right" in allowed and (across, down) == (1, 0)) or (
        "down" in allowed and (across, down) == (0, 1)
    )


def _snake(device: Device) -> list[Position]:
    columns = int(device["columns"])
    return [
        (column, row)
        for row in range(int(device["rows"]))
        for column in (range(columns) if row % 2 == 0 else range(columns - 1, -1, -1))
    ]


def longest(device: Device) -> int:
    """Longest cascade that placement can always begin in a fresh column or row."""
    return int(device["rows"]) if "down" in device["cascade_steps"] else int(device["columns"])


def place(chains: list[int], device: Device) -> list[list[Position]] | None:
    """Positions of every chain's tiles, or None when the array is full.

    Args:
        chains: lengths, in the order of the data flow.
    """
    if device["cascade_snake"]:
        return _along(chains, _snake(device))
    vertical = "down" in device["cascade_steps"]
    for back in (_BACK, int(device["columns"]) + int(device["rows"])):
        made = _fill(chains, device, vertical, back)
        if made is not None:
            return made
    return None


def _along(chains: list[int], order: list[Position]) -> list[list[Position]] | None:
    if sum(chains) > len(order):
        return None
    made, at = [], 0
    for length in chains:
        made.append(order[at : at + length])
        at += length
    return made


def _fill(chains: list[int], device: Device, vertical: bool, back: int) -> list[list[Position]] | None:
    """First fit along lines (columns top down, or rows left to right), holes near the front first."""
    columns, rows = int(device["columns"]), int(device["rows"])
    if vertical:
        lines = [[(column, row) for row in range(rows - 1, -1, -1)] for column in range(columns)]
    else:
        lines = [[(column, row) for column in range(columns)] for row in range(rows)]
    used: set[Position] = set()
    front, made = 0, []
    for length in chains:
        found = None
        for line in range(max(0, front - back), len(lines)):
            found = _run(lines[line], used, length)
            if found:
                front = max(front, line)
                break
        if not found:
            return None
        used.update(found)
        made.append(found)
    return made


def _run(line: list[Position], used: set[Position], length: int) -> list[Position] | None:
    """First ``length`` free places in a row of ``line``."""
    at = 0
    while at + length <= len(line):
        taken = [i for i in range(at, at + length) if line[i] in used]
        if not taken:
            return line[at : at + length]
        at = taken[-1] + 1
    return None


def neighbours(device: Device, writer: Position, reader: Position) -> bool:
    """Whether ``writer``'s core reaches the memory of ``reader``'s tile."""
    sides = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}
    step = (reader[0] - writer[0], reader[1] - writer[1])
    return step in {sides[side] for side in device["shared_memory"]}
