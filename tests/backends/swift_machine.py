"""Runs the package's Swift: the part of the language that its algorithms use, read and carried out here.

No Swift compiler is on the machines that test this project. This reads ``.swift`` files with a parser of
its own (precedences and declarations: The Swift Programming Language, "Language Reference"), translates
each function to Python over :mod:`swift_values`, and runs it, so that a test can hold the Swift text
itself against the references. It refuses what the compiler would refuse, as far as it looks: names
nobody declared or declared twice in a scope, ``let`` changed, arguments without their labels, throwing
calls without ``try``, types that do not meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import swift_library as library
import swift_values as values
from swift_bodies import Bodies
from swift_declarations import Declarations, Function, Type, lex
from swift_values import Array, Range, Struct, SwiftError, Thrown, settle, take


class Case(Struct):
    """A case of an enumeration, with its values."""

    def __init__(self, name: str, given: tuple[Any, ...]) -> None:
        self.case, self.values = name, given


class Json:
    """``Decoder``, ``JSONDecoder`` and the containers of one value or a list."""

    def __init__(self, machine: Machine, data: Any = None) -> None:
        self.machine, self.data, self.place = machine, data, 0


class Machine:
    """The types of some Swift files, translated."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.types: dict[str, Type] = {}
        for source in sources:
            Declarations(lex(source), self.types).file()
        self.constants: list[Any] = []
        self.names: dict[str, Any] = {
            **{
                f.__name__: f
                for f in (settle, take, values.assign, values.item, values.set_item, Array, Thrown)
            },
            **{name: getattr(self, name) for name in _RUNTIME},
            "op": values.OPERATORS,
            "K": self.constants,
        }
        for made in self.types.values():
            base = Case if made.kind == "enum" else Struct
            made.made = type(made.name, (base,), {"swift": made})
            for functions in made.functions.values():
                for function in functions:
                    function.run = self.translate(made, function)

    def translate(self, owner: Type, function: Function) -> Callable[..., Any]:
        """The function in Python; ``self`` first."""
        body = Bodies(function.body, self.types, owner, function, self.constants)
        names = [body.declare(p.name, p.inout, None) for p in function.parameters]
        body.scopes.append({})
        body.body()
        lines = "\n".join(body.lines) or "    pass"
        source = f"def run(self{''.join(', ' + name for name in names)}):\n{lines}\n"
        space: dict[str, Any] = {}
        exec(compile(source, f"<{owner.name}.{function.name}>", "exec"), self.names, space)
        run: Callable[..., Any] = space["run"]
        return run

    def value(self, owner: Type, tokens: list[Any]) -> Any:
        """The value of a default or a static constant."""
        body = Bodies(tokens, self.types, owner, None, self.constants)
        return eval(body.expression(), self.names)  # noqa: S307 - our own translation

    # What translated code calls.

    def new(self, made: Type, labels: tuple[str | None, ...] = (), *given: Any) -> Any:
        """``Type(...)``"""
        self_ = object.__new__(made.made)
        inits = made.functions.get("init", [])
        stored = {name: held for name, held in made.fields.items() if name not in made.functions}
        for name, (kind, mutable, default) in stored.items():
            if default is not None:
                self_.__dict__[name] = settle(take(kind, self.value(made, default)))
            elif mutable and kind[0] == "optional":
                self_.__dict__[name] = None
        if inits:
            self.run_one(inits, self_, labels, given)
        else:
            wanted = [n for n, (_, mutable, default) in stored.items() if mutable or default is None]
            rest = [n for n in wanted if n in labels]
            if list(labels) != rest:
                raise SwiftError(f"{made.name}({labels}) where {wanted} belong")
            for name, value in zip(rest, given, strict=True):
                self_.__dict__[name] = settle(take(stored[name][0], value))
        if missing := [name for name in stored if name not in self_.__dict__]:
            raise SwiftError(f"{made.name} begins without {missing}")
        return self_

    def run_one(
        self, functions: list[Function], self_: Any, labels: tuple[str | None, ...], given: tuple[Any, ...]
    ) -> Any:
        """Run the overload that takes these labels."""
        for function in functions:
            found = _matched(function, labels, given)
            if found is not None:
                assert function.run is not None
                result = function.run(self_, *found)
                return result if function.result is None else take(function.result, result)
        raise SwiftError(f"{functions[0].name} has no overload with the labels {labels}")

    def call(self, base: Any, name: str, labels: tuple[str | None, ...] = (), *given: Any) -> Any:
        """``base.name(...)``"""
        made = base if isinstance(base, Type) else getattr(type(base), "swift", None)
        if isinstance(made, Type):
            if name in made.functions and (name not in made.fields):
                return self.run_one(made.functions[name], base, labels, given)
            if name in made.cases and isinstance(base, Type):
                found = _matched(Function(name, made.cases[name], *_CASE), labels, given)
                return made.made(name, tuple(found or ()))
            return self.get(base, name)(*given)
        if isinstance(base, Json):
            return getattr(self, f"json_{name}")(base, *given)
        kind, work = library.METHODS.get((name, labels), (None, None))
        if kind is None or work is None or not isinstance(base, kind):
            raise SwiftError(f"{type(base).__name__} has no {name}{labels}")
        return work(base, *given)

    def get(self, base: Any, name: str) -> Any:
        """``base.name``"""
        if isinstance(base, Type):
            if name in base.statics:
                if name not in base.held:
                    kind, tokens = base.statics[name]
                    value = self.value(base, tokens)
                    base.held[name] = settle(value if kind is None else take(kind, value))
                return base.held[name]
            if base.cases.get(name) == ():
                return base.made(name, ())
            if name in base.functions:
                return lambda *given: self.call(base, name, (None,) * len(given), *given)
            raise SwiftError(f"{base.name} has no {name}")
        if not isinstance(base, Struct):
            return library.attribute(base, name)
        made: Type = type(base).swift  # type: ignore[attr-defined]
        if name in made.fields and name in made.functions:
            return self.run_one(made.functions[name], base, (), ())
        if name not in base.__dict__:
            raise SwiftError(f"{made.name}.{name} is not there or not set")
        return base.__dict__[name]

    def set_field(self, base: Any, name: str, value: Any) -> None:
        """``base.name = value``"""
        made: Type = type(base).swift
        kind, mutable, _ = made.fields[name]
        if not mutable and name in base.__dict__:
            raise SwiftError(f"{made.name}.{name} is a constant")
        base.__dict__[name] = settle(take(kind, value))

    @staticmethod
    def repeated(kind: Any, value: Any, count: Any) -> Array:
        """``[T](repeating: value, count: count)``"""
        value = take(kind, value)
        return Array([settle(value) for _ in range(count)], type(value) if values.is_number(value) else None)

    @staticmethod
    def true(value: Any) -> bool:
        """A condition."""
        if not isinstance(value, bool):
            raise SwiftError(f"{value!r} is no condition")
        return value

    @staticmethod
    def each(value: Any) -> Any:
        """What ``for`` goes over."""
        if isinstance(value, dict):
            return list(value.items())
        if not isinstance(value, (Array, Range, set)):
            raise SwiftError(f"for over {type(value).__name__}")
        return iter(value)

    @staticmethod
    def shown(value: Any) -> str:
        """A value in an interpolation."""
        return str(value)

    @staticmethod
    def maybe(work: Callable[[], Any]) -> Any:
        """``try?``"""
        try:
            return work()
        except Thrown:
            return None

    @staticmethod
    def thrown(error: Exception) -> Any:
        """What ``catch`` catches; what would stop the app goes on."""
        if isinstance(error, Thrown):
            return error.value
        raise error

    @staticmethod
    def is_a(value: Any, name: str) -> bool:
        """``as name``"""
        return type(value).__name__ == name

    @staticmethod
    def case_of(value: Any, name: str) -> bool:
        """Whether a value is of the case."""
        return bool(value.case == name)

    @staticmethod
    def every_case(value: Any, seen: list[str]) -> None:
        """A switch that got past its cases."""
        raise SwiftError(f"{value!r} is none of {seen}")

    # Codable

    def json_decoder(self) -> Json:
        """``JSONDecoder()``"""
        return Json(self)

    def json_decode(self, base: Json, kind: Any, data: Any = None) -> Any:
        """``JSONDecoder().decode(T.self, from:)`` and ``container.decode(T.self)``."""
        if data is not None:
            try:
                return self.decoded(kind, json.loads(data))
            except ValueError as err:
                raise Thrown(f"not JSON: {err}") from err
        if not isinstance(base.data, list):
            return self.decoded(kind, base.data)
        if base.place >= len(base.data):
            raise Thrown("the list is at its end")
        base.place += 1
        return self.decoded(kind, base.data[base.place - 1])

    def json_unkeyedContainer(self, base: Json) -> Json:
        """``decoder.unkeyedContainer()``"""
        if not isinstance(base.data, list):
            raise Thrown("no list")
        return Json(self, base.data)

    @staticmethod
    def json_singleValueContainer(base: Json) -> Json:
        """``decoder.singleValueContainer()``"""
        return base

    def decoded(self, kind: Any, data: Any) -> Any:
        """``data`` as ``kind``, as ``JSONDecoder`` reads it."""
        form = kind[0]
        if form == "optional":
            return None if data is None else self.decoded(kind[1], data)
        if form == "array" and isinstance(data, list):
            return settle(Array(self.decoded(kind[1], part) for part in data))
        if form == "dictionary" and isinstance(data, dict):
            return {key: self.decoded(kind[2], part) for key, part in data.items()}
        if form == "name" and kind[1] in values.NAMED:
            wanted = values.NAMED[kind[1]]
            fits = values.is_number(data) if kind[1] in values.NUMBERS else type(data) is wanted
            if fits and not (issubclass(wanted, int) and isinstance(data, float)):
                try:
                    return values.typed(wanted, data) if kind[1] in values.NUMBERS else data
                except SwiftError as err:
                    raise Thrown(str(err)) from err
        elif form == "name" and kind[1] in self.types:
            return self.structure(self.types[kind[1]], data)
        raise Thrown(f"{kind} from {type(data).__name__}")

    def structure(self, made: Type, data: Any) -> Any:
        """A structure from an object, by its own ``init(from:)`` or by its coding keys."""
        if "init" in made.functions:
            return self.new(made, ("from",), Json(self, data))
        if not isinstance(data, dict):
            raise Thrown(f"{made.name} from {type(data).__name__}")
        keys = self.types.get(f"{made.name}.CodingKeys")
        self_ = object.__new__(made.made)
        for name, (kind, _, _) in made.fields.items():
            if name in made.functions:
                continue
            if keys is not None and name not in keys.cases:
                raise SwiftError(f"{made.name}.CodingKeys lack {name}")
            key = (keys.cases[name] if keys is not None else None) or name
            if key not in data and kind[0] != "optional":
                raise Thrown(f"{made.name} without {key}")
            self_.__dict__[name] = self.decoded(kind, data.get(key))
        return self_


_RUNTIME = (
    *("new", "call", "get", "set_field", "repeated", "true", "each", "shown", "maybe", "thrown", "is_a"),
    *("case_of", "every_case", "json_decoder"),
)
_CASE: tuple[Any, ...] = (False, True, False, None, [])


def _matched(function: Function, labels: tuple[str | None, ...], given: tuple[Any, ...]) -> list[Any] | None:
    """Arguments in the order of the parameters, ``None`` where the labels are others."""
    found: list[Any] = []
    place = 0
    for parameter in function.parameters:
        if place < len(labels) and labels[place] == parameter.label:
            found.append(take(parameter.kind, given[place]))
            place += 1
        elif parameter.default is not None:
            default = None if parameter.default == "None" else int(parameter.default)
            found.append(take(parameter.kind, default))
        else:
            return None
    return found if place == len(labels) else None
