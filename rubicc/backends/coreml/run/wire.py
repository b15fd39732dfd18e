"""Counting what a large protobuf file holds before it is parsed.

Two bytes can declare an empty message that costs a hundred in memory, so a file within the size limit could
still fill the machine. The bytes are walked by the schema (wire format: protobuf.dev/programming-guides/
encoding), without making anything, and refused when they declare too much.
"""

from __future__ import annotations

from typing import Any

from rubicc.backends.coreml.run.limits import MIB, Limits
from rubicc.errors import ModelRefused

# Smaller files are parsed at once: at worst half a million empty messages, about 100 MB.
SMALL = MIB
OPERATION = "CoreML.Specification.MILSpec.Operation"
NESTING = 100


def check_size(data: bytes, descriptor: Any, limits: Limits, where: str) -> None:
    """Refuse a serialised message that declares more messages or operations than allowed.

    Args:
        data: the file's bytes.
        descriptor: protobuf descriptor of the outermost message.
        limits: bounds.
        where: the file, for messages.

    Raises:
        ModelRefused: ``RUB-COREML-203`` too many, ``RUB-COREML-210`` bytes that are no protobuf message.
    """
    if len(data) <= SMALL:
        return
    walk = _Walk(data, limits, where)
    walk.message(descriptor, len(data))


class _Walk:
    """Position in the bytes, and what was counted so far."""

    def __init__(self, data: bytes, limits: Limits, where: str) -> None:
        self.data = data
        self.at = 0
        self.limits = limits
        self.where = where
        self.messages = 0
        self.operations = 0

    def message(self, descriptor: Any, end: int) -> None:
        """Walk one message and those inside it, without recursion."""
        fields = {id(descriptor): descriptor.fields_by_number}
        open_until: list[tuple[Any, int]] = [(descriptor, end)]
        while open_until:
            descriptor, end = open_until[-1]
            if self.at >= end:
                open_until.pop()
                continue
            tag = self.varint()
            number, wire = tag >> 3, tag & 7
            if wire != 2:
                self.skip(wire)
                continue
            length = self.varint()
            if self.at + length > end:
                raise self.broken()
            known = fields.setdefault(id(descriptor), descriptor.fields_by_number).get(number)
            inner = None if known is None else known.message_type
            if inner is None:
                self.count(known is not None and known.type == known.TYPE_STRING)
                self.at += length
                continue
            self.count(True)
            self.operations += inner.full_name == OPERATION
            if self.operations > self.limits.operations:
                raise self.too_many(f"more than {self.limits.operations} operations")
            if len(open_until) > NESTING:
                raise self.broken()
            open_until.append((inner, self.at + length))

    def count(self, made: bool) -> None:
        self.messages += made
        if self.messages > self.limits.messages:
            raise self.too_many(f"more than {self.limits.messages} messages")

    def skip(self, wire: int) -> None:
        """Step over a number of one of the fixed or variable widths."""
        if wire == 0:
            self.varint()
        elif wire == 1:
            self.at += 8
        elif wire == 5:
            self.at += 4
        else:
            raise self.broken()

    def varint(self) -> int:
        value = shift = 0
        data = self.data
        while shift < 70:
            if self.at >= len(data):
                raise self.broken()
            byte = data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise self.broken()

    def broken(self) -> ModelRefused:
        return ModelRefused(
            "RUB-COREML-210",
            f"no protobuf message at byte {self.at}",
            where=self.where,
            hint="copy the file again",
        )

    def too_many(self, what: str) -> ModelRefused:
        return ModelRefused(
            "RUB-COREML-203", what, where=self.where, hint="raise Limits(...) when you trust the file"
        )
