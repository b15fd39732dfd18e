"""Small constants of a program, each written once.

coremltools writes a ``const`` operation for every parameter of every operation: strides, pads, axes, ends of
slices. In a network of few weights those take more bytes than what compression leaves to gain.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any


def share(block: Any) -> int:
    """Let all operations of a MIL block read one of equal constants, under a short name; the others go.

    Constants in ``weight.bin``, those that are outputs and those that stand inside nested blocks stay as they
    are; names that nested blocks read are followed.

    Args:
        block: the protobuf message ``Block`` of a function, changed in place.

    Returns:
        Number of constants left out.
    """
    equal: dict[tuple[bytes, bytes], list[str]] = defaultdict(list)
    for operation in block.operations:
        if operation.type == "const" and operation.outputs[0].name not in block.outputs:
            value = operation.attributes["val"]
            if value.WhichOneof("value") == "immediateValue":
                kind = operation.outputs[0].type.SerializeToString(deterministic=True)
                equal[kind, value.SerializeToString(deterministic=True)].append(operation.outputs[0].name)
    groups = [names for names in equal.values() if len(names) > 1]
    if not groups:
        return 0
    taken = {out.name for operation in block.operations for out in operation.outputs}
    short = _fresh(taken, len(groups))
    instead = {name: new for names, new in zip(groups, short, strict=True) for name in names}
    gone = {name for names in groups for name in names[1:]}
    kept = []
    for operation in block.operations:
        if operation.type != "const":
            _redirect(operation, instead)
        elif operation.outputs[0].name in gone:
            continue
        elif operation.outputs[0].name in instead:
            _rename(operation, instead[operation.outputs[0].name])
        kept.append(type(operation).FromString(operation.SerializeToString(deterministic=True)))
    del block.operations[:]
    block.operations.extend(kept)
    return len(gone)


def _fresh(taken: set[str], count: int) -> list[str]:
    """``count`` names that nothing has."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        if f"c{number}" not in taken:
            names.append(f"c{number}")
        number += 1
    return names


def _rename(operation: Any, name: str) -> None:
    operation.outputs[0].name = name
    strings = operation.attributes["name"].immediateValue.tensor.strings.values
    if strings:
        strings[0] = name


def _redirect(operation: Any, instead: dict[str, str]) -> None:
    """Replace names among the arguments, those of nested blocks included."""
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.name in instead:
                binding.name = instead[binding.name]
    for block in operation.blocks:
        for inner in block.operations:
            _redirect(inner, instead)
        for index, name in enumerate(block.outputs):
            block.outputs[index] = instead.get(name, name)
