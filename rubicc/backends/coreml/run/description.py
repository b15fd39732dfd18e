"""The model description: inputs, outputs, states and texts as an app sees them, held to the program."""

from __future__ import annotations

from typing import Any

from rubicc.backends.coreml.run.limits import Limits
from rubicc.backends.coreml.run.program import (
    DictionaryType,
    Feature,
    Function,
    Interface,
    Metadata,
    Shapes,
    StateType,
    TensorType,
    ValueType,
)
from rubicc.errors import ModelRefused

# ArrayFeatureType.ArrayDataType (FeatureTypes.proto) -> element type.
ARRAY_DTYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 65552: "fp16", 131080: "int8"}
KINDS = {
    "multiArrayType": "array",
    "imageType": "image",
    "dictionaryType": "dictionary",
    "int64Type": "int64",
    "doubleType": "double",
    "stringType": "string",
    "sequenceType": "sequence",
    "stateType": "array",
}
DEFAULTS = ("intDefaultValue", "floatDefaultValue", "doubleDefaultValue")


def metadata_of(description: Any) -> Metadata:
    """Author, version and other texts."""
    held = description.metadata
    return Metadata(
        description=held.shortDescription,
        version=held.versionString,
        author=held.author,
        licence=held.license,
        user=dict(held.userDefined),
    )


def interface_of(message: Any, function: Function, limits: Limits) -> Interface:
    """Features of one function, from a ModelDescription or FunctionDescription.

    Raises:
        ModelRefused: ``RUB-COREML-216`` names, kinds or types that the function does not have.
    """
    where = f"description of function {function.name!r}"
    made = Interface(
        inputs=tuple(_feature(feature, limits, where) for feature in message.input),
        outputs=tuple(_feature(feature, limits, where) for feature in message.output),
        states=tuple(_feature(feature, limits, where) for feature in message.state),
    )
    takes = {value.name: value.type for value in function.inputs}
    held = {name for name, type_ in takes.items() if isinstance(type_, StateType)}
    _same_names("inputs", {feature.name for feature in made.inputs}, set(takes) - held, where)
    _same_names("states", {feature.name for feature in made.states}, held, where)
    _same_names("outputs", {feature.name for feature in made.outputs}, set(function.block.outputs), where)
    for feature in (*made.inputs, *made.states):
        _fits(feature, takes[feature.name], where)
    for feature in made.outputs:
        type_ = function.types.get(feature.name)
        if type_ is not None:
            _fits(feature, type_, where)
    return made


def _same_names(what: str, described: set[str], there: set[str], where: str) -> None:
    if described != there:
        odd = sorted(described ^ there)
        raise ModelRefused(
            "RUB-COREML-216", f"{what} {', '.join(map(repr, odd[:5]))} stand on one side only", where=where
        )


def _fits(feature: Feature, type_: ValueType, where: str) -> None:
    """Refuse a feature whose element type or rank the program's value cannot have."""
    tensor = type_.wrapped if isinstance(type_, StateType) else type_
    if feature.kind == "dictionary" or isinstance(tensor, DictionaryType):
        good = feature.kind == "dictionary" and isinstance(tensor, DictionaryType)
    elif feature.kind in ("array", "image"):
        good = isinstance(tensor, TensorType) and _array_fits(feature, tensor)
    else:
        good = isinstance(tensor, TensorType)
    if not good:
        raise ModelRefused(
            "RUB-COREML-216",
            f"{feature.name!r} is described as {feature.kind} {feature.dtype}, made as {type_}",
            where=where,
        )


def _array_fits(feature: Feature, tensor: TensorType) -> bool:
    if feature.dtype and feature.dtype != tensor.dtype:
        return False
    if feature.shapes is None or tensor.variadic or tensor.shape == ():
        return True
    every = feature.shapes.enumerated or (feature.shapes.default,)
    if feature.kind == "image":
        every = tuple(shape[-2:] for shape in every)
        return all(_matches(shape, tensor.shape[-2:]) for shape in every)
    if feature.shapes.ranges and len(feature.shapes.ranges) != len(tensor.shape):
        return False
    return all(_matches(shape, tensor.shape) for shape in every)


def _matches(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size is None or size == given for given, size in zip(shape, declared, strict=True)
    )


def _feature(message: Any, limits: Limits, where: str) -> Feature:
    field = message.type.WhichOneof("Type")
    kind = KINDS.get(field or "", "none")
    held = message.type.stateType.arrayType if field == "stateType" else message.type.multiArrayType
    dtype, shapes, default = "", None, None
    if kind == "array":
        dtype = ARRAY_DTYPES.get(held.dataType, "")
        if not dtype:
            raise ModelRefused(
                "RUB-COREML-216", f"{message.name!r} has array type number {held.dataType}", where=where
            )
        shapes = _array_shapes(held, message.name, limits, where)
        chosen = held.WhichOneof("defaultOptionalValue")
        default = float(getattr(held, chosen)) if chosen in DEFAULTS else None
    elif kind == "image":
        shapes = _image_shapes(message.type.imageType)
    return Feature(
        name=message.name,
        kind=kind,
        dtype=dtype,
        shapes=shapes,
        optional=message.type.isOptional,
        description=message.shortDescription,
        default=default,
    )


def _array_shapes(held: Any, name: str, limits: Limits, where: str) -> Shapes | None:
    default = tuple(held.shape)
    flexible = held.WhichOneof("ShapeFlexibility")
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    if flexible == "enumeratedShapes":
        enumerated = tuple(tuple(shape.shape) for shape in held.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        ranges = tuple(
            (int(size.lowerBound), None if size.upperBound < 0 else int(size.upperBound))
            for size in held.shapeRange.sizeRanges
        )
    if any(size < 0 for shape in (default, *enumerated) for size in shape):
        raise ModelRefused("RUB-COREML-213", f"{name!r} is described with a negative size", where=where)
    if max(len(default), len(ranges), *(len(shape) for shape in enumerated), 0) > limits.rank:
        raise ModelRefused("RUB-COREML-203", f"{name!r} has more than {limits.rank} axes", where=where)
    return Shapes(default, enumerated, ranges) if default or enumerated or ranges else None


def _image_shapes(held: Any) -> Shapes:
    """Height and width of an image; channels come from the program."""
    sizes = held.enumeratedSizes.sizes if held.WhichOneof("SizeFlexibility") == "enumeratedSizes" else ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    if held.WhichOneof("SizeFlexibility") == "imageSizeRange":
        ranges = tuple(
            (int(side.lowerBound), None if side.upperBound < 0 else int(side.upperBound))
            for side in (held.imageSizeRange.heightRange, held.imageSizeRange.widthRange)
        )
    return Shapes((held.height, held.width), tuple((size.height, size.width) for size in sizes), ranges)
