"""Reading a saved ``.mlpackage``: manifest, model file, weight references; all checked, nothing run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.run.blobs import BlobFile
from rubicc.backends.coreml.run.description import interface_of, metadata_of
from rubicc.backends.coreml.run.files import model_file, read_bounded, weight_file
from rubicc.backends.coreml.run.limits import Limits
from rubicc.backends.coreml.run.program import (
    Argument,
    Block,
    Constant,
    Function,
    Interface,
    Operation,
    Package,
    Program,
    Value,
)
from rubicc.backends.coreml.run.values import Values
from rubicc.backends.coreml.run.wire import check_size
from rubicc.errors import ModelRefused

# Operator set of a function -> oldest specification version that may hold it (coremltools, _OPSET).
OPSETS = {"CoreML5": 6, "CoreML6": 7, "CoreML7": 8, "CoreML8": 9, "CoreML9": 10}


def load(path: Path | str, limits: Limits | None = None) -> Package:
    """Read a package folder.

    Args:
        path: the ``.mlpackage`` folder.
        limits: bounds on reading and running; the defaults hold every network of the zoo many times over.

    Returns:
        The package: types, operations, description. Weights are read from disk when it is first run.

    Raises:
        ModelRefused: ``RUB-COREML-201`` to ``-222``: missing, malformed or beyond a limit.
        ToolMissing: ``RUB-COREML-001``: coremltools, whose protobuf messages are used, is not installed.
    """
    package = Path(path)
    limits = limits or Limits()
    file = model_file(package, limits)
    model, mil = _parse(file, limits)
    if model.WhichOneof("Type") != "mlProgram":
        raise ModelRefused(
            "RUB-COREML-211", f"model of kind {model.WhichOneof('Type') or 'none'}", where=str(file)
        )
    if not min(OPSETS.values()) <= model.specificationVersion <= max(OPSETS.values()):
        raise ModelRefused(
            "RUB-COREML-212", f"specification version {model.specificationVersion}", where=str(file)
        )
    return _Reader(package, file, limits, mil).package(model)


def _parse(file: Path, limits: Limits) -> tuple[Any, Any]:
    """The Model message and the module of MILSpec messages."""
    tools.coremltools()
    with tools.quiet():
        from coremltools.proto import MIL_pb2, Model_pb2
    from google.protobuf.message import DecodeError

    data = read_bounded(file, limits.model_bytes)
    check_size(data, Model_pb2.Model.DESCRIPTOR, limits, str(file))
    model = Model_pb2.Model()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ModelRefused(
            "RUB-COREML-210",
            f"no valid model message of {len(data)} bytes",
            where=str(file),
            hint="copy the whole package again",
        ) from err
    return model, MIL_pb2


class _Reader:
    """Turns the messages of one file into a :class:`Package`."""

    def __init__(self, package: Path, file: Path, limits: Limits, mil: Any) -> None:
        self.path = package
        self.file = file
        self.limits = limits
        self.values = Values(mil, limits, self.blob_file)
        self.files: dict[str, BlobFile] = {}
        self.operations = 0

    def blob_file(self, name: str) -> BlobFile:
        if name not in self.files:
            self.files[name] = BlobFile(weight_file(self.path, self.file, name))
        return self.files[name]

    def package(self, model: Any) -> Package:
        functions = {
            name: self.function(name, message, model.specificationVersion)
            for name, message in sorted(model.mlProgram.functions.items())
        }
        for file in self.files.values():
            file.refuse_overlaps()
        default, interfaces = self.interfaces(model.description, functions)
        return Package(
            path=self.path,
            specification=model.specificationVersion,
            program=Program(functions),
            default=default,
            interfaces=interfaces,
            metadata=metadata_of(model.description),
            limits=self.limits,
        )

    def interfaces(
        self, description: Any, functions: dict[str, Function]
    ) -> tuple[str, dict[str, Interface]]:
        """Default function, and the description of every function that has one."""
        described = {message.name: message for message in description.functions}
        default = description.defaultFunctionName or "main"
        if not described:
            described = {default: description}
        for name in (default, *described):
            if name not in functions:
                raise ModelRefused(
                    "RUB-COREML-217",
                    f"the description names function {name!r}; there are {sorted(functions)[:5]}",
                    where=str(self.file),
                )
        made = {
            name: interface_of(message, functions[name], self.limits) for name, message in described.items()
        }
        if default not in made:
            raise ModelRefused(
                "RUB-COREML-217", f"function {default!r} has no description", where=str(self.file)
            )
        return default, made

    def function(self, name: str, message: Any, specification: int) -> Function:
        where = f"function {name!r}"
        opset = message.opset
        if OPSETS.get(opset, 99) > specification:
            raise ModelRefused(
                "RUB-COREML-212", f"operator set {opset!r} in specification {specification}", where=where
            )
        if opset not in message.block_specializations:
            raise ModelRefused("RUB-COREML-212", f"no block for operator set {opset!r}", where=where)
        inputs = self.named(message.inputs, where)
        block = self.block(message.block_specializations[opset], where, 0)
        return Function(name, opset, inputs, block)

    def named(self, messages: Any, where: str) -> tuple[Value, ...]:
        for message in messages:
            if not message.name:
                raise ModelRefused("RUB-COREML-217", "a value without a name", where=where)
        return tuple(Value(message.name, self.values.type(message.type, where)) for message in messages)

    def block(self, message: Any, where: str, depth: int) -> Block:
        if depth > self.limits.depth:
            raise ModelRefused(
                "RUB-COREML-203", f"blocks nested more than {self.limits.depth} deep", where=where
            )
        return Block(
            inputs=self.named(message.inputs, where),
            operations=tuple(self.operation(operation, depth) for operation in message.operations),
            outputs=tuple(message.outputs),
        )

    def operation(self, message: Any, depth: int) -> Operation:
        index = self.operations
        self.operations += 1
        if index >= self.limits.operations:
            raise ModelRefused(
                "RUB-COREML-203",
                f"more than {self.limits.operations} operations",
                where=str(self.file),
                hint="raise Limits(operations=...) when you trust the file",
            )
        where = f"operation {index} ({message.type[:60]!r})"
        outputs = self.named(message.outputs, where)
        attributes = {name: self.values.constant(value, where) for name, value in message.attributes.items()}
        name = attributes.pop("name", None)
        made = Operation(
            type=message.type,
            name=_name(name, outputs),
            inputs={name: self.argument(held, where) for name, held in sorted(message.inputs.items())},
            outputs=outputs,
            attributes=attributes,
            blocks=tuple(self.block(block, where, depth + 1) for block in message.blocks),
            index=index,
        )
        if made.type == "const" and ("val" not in attributes or len(outputs) != 1 or made.inputs):
            raise ModelRefused("RUB-COREML-217", "a const needs a value and one result", where=where)
        return made

    def argument(self, message: Any, where: str) -> Argument:
        bindings: list[str | Constant] = []
        for binding in message.arguments:
            kind = binding.WhichOneof("binding")
            if kind == "name":
                bindings.append(binding.name)
            elif kind == "value":
                bindings.append(self.values.constant(binding.value, where))
            else:
                raise ModelRefused("RUB-COREML-217", "a parameter bound to nothing", where=where)
        return Argument(tuple(bindings))


def _name(attribute: Constant | None, outputs: tuple[Value, ...]) -> str:
    """Name of an operation for messages: its own, or that of its first result."""
    if attribute is not None and isinstance(attribute.immediate, str):
        return attribute.immediate
    return outputs[0].name if outputs else ""
