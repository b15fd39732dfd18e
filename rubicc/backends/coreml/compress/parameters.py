"""Small constants of a program, each written once.

coremltools writes a ``const`` operation for every parameter of every operation: strides, pads, axes, ends of
slices. In a network of few weights those take more bytes than what compression leaves to gain.
"""

from __future__ import annotations

from typing import Any


def share(block: Any) -> int:
    """Let all operations of a MIL block read the first of equal constants; the others go.

    Constants in ``weight.bin`` stay as they are. Names that a nested block reads are followed; constants that
    stand inside one stay.

    Args:
        block: the protobuf message ``Block`` of a function, changed in place.

    Returns:
        Number of constants left out.
    """
    first: dict[tuple[bytes, bytes], str] = {}
    instead: dict[str, str] = {}
    kept = []
    public = set(block.outputs)
    for operation in block.operations:
        if operation.type == "const" and operation.outputs[0].name not in public:
            value = operation.attributes["val"]
            if value.WhichOneof("value") == "immediateValue":
                out = operation.outputs[0]
                key = (
                    out.type.SerializeToString(deterministic=True),
                    value.SerializeToString(deterministic=True),
                )
                if first.setdefault(key, out.name) != out.name:
                    instead[out.name] = first[key]
                    continue
        _redirect(operation, instead)
        kept.append(operation)
    left_out = len(block.operations) - len(kept)
    if left_out:
        copies = [type(operation).FromString(operation.SerializeToString()) for operation in kept]
        del block.operations[:]
        block.operations.extend(copies)
    return left_out


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
