"""Translation of Swift's expressions to Python, for :mod:`swift_machine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import swift_library as library
import swift_values as values
from swift_declarations import PRECEDENCE, Declarations, Function, Token, Type, lex
from swift_values import SwiftError


@dataclass
class Name:
    """A local name: what it is called in Python, whether it may change, its declared type."""

    python: str
    mutable: bool
    kind: Any = None


class Expressions(Declarations, ABC):
    """Translates one body. ``constants`` takes what Python source cannot hold: types and functions."""

    def __init__(
        self,
        tokens: list[Token],
        types: dict[str, Type],
        owner: Type,
        function: Function | None,
        constants: list[Any],
    ) -> None:
        super().__init__(tokens, types)
        self.owner, self.running, self.constants = owner, function, constants
        self.instance = function is not None and not function.static
        self.scopes: list[dict[str, Name]] = [{}]
        self.lines: list[str] = []
        self.depth = 1
        self.made = 0
        self.trying = 0
        self.plain = False  # no trailing closure: what follows is a block

    def fail(self, what: str) -> SwiftError:
        return SwiftError(f"{self.owner.name}, line {self.next.line}: {what}")

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def constant(self, value: Any) -> str:
        self.constants.append(value)
        return f"K[{len(self.constants) - 1}]"

    def fresh(self, name: str) -> str:
        self.made += 1
        return f"{name}_{self.made}"

    def declare(self, name: str, mutable: bool, kind: Any = None) -> str:
        if name in self.scopes[-1]:
            raise self.fail(f"{name} declared twice in one scope")
        made = self.fresh(name if name != "_" else "ignored")
        if name != "_":
            self.scopes[-1][name] = Name(made, mutable, kind)
        return made

    def local(self, name: str) -> Name | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def expression(self, level: int = 0) -> str:
        if self.skip("await"):
            return self.expression(level)
        if self.is_("try"):
            self.at += 1
            maybe = self.is_("?") and not self.next.space
            self.at += maybe
            self.trying += 1
            value = self.expression(level)
            self.trying -= 1
            return f"maybe(lambda: {value})" if maybe else value
        return self.operators(level, self.unary())

    def operators(self, level: int, left: str) -> str:
        while True:
            token = self.next
            sign = str(token.text) if token.kind == "mark" else ""
            power = PRECEDENCE.get(sign, 0)
            if not power or power <= level or (sign == "?" and not token.space):
                return left
            self.at += 1
            if sign == "?":
                yes = self.expression()
                self.need(":")
                left = f"({yes} if true({left}) else {self.expression()})"
            elif sign == "??":
                made = self.fresh("held")
                right = self.expression(power - 1)
                left = f"({made} if ({made} := {left}) is not None else {right})"
            elif sign in ("&&", "||"):
                left = f"(true({left}) {'and' if sign == '&&' else 'or'} true({self.expression(power)}))"
            else:
                left = f"op[{sign!r}]({left}, {self.expression(power)})"

    def unary(self) -> str:
        if self.skip("-"):
            return f"op['-'](0, {self.unary()})"
        if self.skip("!"):
            return f"(not true({self.unary()}))"
        if self.skip("&"):
            node = self.postfix()
            self.changing(node)
            return self.code(node)
        return self.code(self.postfix())

    def code(self, node: Any) -> str:
        form = node[0]
        if form == "local":
            return str(node[1].python)
        if form == "field":
            return f"get({node[1]}, {node[2]!r})"
        if form == "item":
            return f"item({node[1]}, {node[2]})"
        if form == "type":
            return self.constant(node[1])
        return str(node[1])

    def postfix(self) -> Any:
        node = self.primary()
        while True:
            token = self.next
            if self.is_("?") and not token.space and self.tokens[self.at + 1].text in (".", "["):
                self.at += 1
                made = self.fresh("held")
                rest = self.rest(("code", made, None))
                return (
                    "code",
                    f"(None if ({made} := {self.code(node)}) is None else {self.code(rest)})",
                    None,
                )
            found = self.one(node)
            if found is None:
                return node
            node = found

    def rest(self, node: Any) -> Any:
        while (found := self.one(node)) is not None:
            node = found
        return node

    def one(self, node: Any) -> Any:
        """The node with the next suffix, or ``None``."""
        if self.is_("."):
            self.at += 1
            name = self.word()
            nested = self.types.get(name) if node[0] == "type" and not node[1].has(name) else None
            if nested is not None and self.is_("(") and not self.next.space:
                return self.begin(nested)
            if self.is_("(") and not self.next.space:
                return self.call(node, name, *self.arguments())
            if self.is_("{") and not self.plain:
                return self.call(node, name, [None], [self.closure()])
            if name == "self" and node[0] in ("type", "library"):
                return ("code", self.constant(("name", node[1].name if node[0] == "type" else node[1])), None)
            if nested is not None:
                return ("type", nested, None)
            if node[0] == "library":
                return ("library", f"{node[1]}.{name}", None)
            root = node[1] if node[0] == "local" else node[3] if node[0] in ("field", "item") else node[-1]
            return ("field", self.code(node), name, root)
        if self.is_("[") and not self.next.newline and not self.next.space:
            self.at += 1
            plain, self.plain = self.plain, False
            index = self.expression()
            self.plain = plain
            self.need("]")
            root = node[1] if node[0] == "local" else node[3] if node[0] in ("field", "item") else node[-1]
            return ("item", self.code(node), index, root)
        return None

    def arguments(self) -> tuple[list[str | None], list[str]]:
        self.need("(")
        plain, self.plain = self.plain, False
        labels: list[str | None] = []
        given: list[str] = []
        while not self.skip(")"):
            label = None
            if self.next.kind == "name" and self.tokens[self.at + 1].text == ":":
                label = self.word()
                self.need(":")
            labels.append(label)
            given.append(self.expression())
            if not self.is_(")"):
                self.need(",")
        self.plain = plain
        if self.is_("{") and not self.plain and not self.next.newline:
            labels.append(None)
            given.append(self.closure())
        return labels, given

    def call(self, node: Any, name: str, labels: list[str | None], given: list[str]) -> Any:
        if name in library.MUTATING or any(
            f.mutating for made in self.types.values() for f in made.functions.get(name, [])
        ):
            self.changing(node)
        self.check_try(name)
        if node[0] == "library":
            return self.library(f"{node[1]}.{name}", labels, given)
        return ("code", f"call({self.code(node)}, {name!r}, {tuple(labels)!r}{_after(given)})", None)

    def check_try(self, name: str) -> None:
        found = [f for made in self.types.values() for f in made.functions.get(name, [])]
        if found and all(f.throws for f in found) and not self.trying:
            raise self.fail(f"{name} can throw but is not marked with try")

    def library(self, name: str, labels: list[str | None], given: list[str]) -> Any:
        if name == "JSONDecoder" and not labels:
            return ("code", "json_decoder()", None)
        work = library.FUNCTIONS.get((name, tuple(labels)))
        if work is None:
            raise self.fail(f"{name} with the labels {labels} is not known")
        return ("code", f"{self.constant(work)}({', '.join(given)})", None)

    def primary(self) -> Any:
        token = self.next
        self.at += 1
        if token.kind == "number":
            return ("code", repr(_value(token.text)), None)
        if token.kind == "string":
            return ("code", self.text(token), None)
        if token.text == "(":
            return self.tuple()
        if token.text == "[":
            return self.bracket()
        if token.text == "{":
            self.at -= 1
            return ("code", self.closure(), None)
        if token.text == ".":
            return ("code", repr(self.word()), None)
        if token.kind != "name":
            raise self.fail(f"unexpected {token.text!r}")
        return self.name(str(token.text))

    def name(self, name: str) -> Any:
        if name in ("true", "false", "nil"):
            return ("code", {"true": "True", "false": "False", "nil": "None"}[name], None)
        if name[0] == "$":
            return ("code", f"given[{name[1:]}]", None)
        called = self.is_("(") and not self.next.space
        local = self.local(name)
        if local is not None:
            if called:
                return ("code", f"{local.python}({', '.join(self.arguments()[1])})", None)
            return ("local", local, None)
        if name == "self":
            return ("code", "self", "self") if self.instance else ("type", self.owner, None)
        if name == "Self":
            return ("type", self.owner, None)
        return self.member(name, called)

    def member(self, name: str, called: bool) -> Any:
        """A name that is not local: of this type, a type, or of the library."""
        own = self.owner
        static = (
            name in own.statics or name in own.cases or any(f.static for f in own.functions.get(name, []))
        )
        if own.has(name):
            if static == self.instance:
                raise self.fail(f"{name} needs {'Self.' if static else 'an instance'}")
            holder = ("type", own, None) if static else ("code", "self", "self")
            if called:
                return self.call(holder, name, *self.arguments())
            return ("field", self.code(holder), name, "self" if not static else None)
        if name in self.types:
            if name == "MLShapedArray":
                self.generic()
                called = True
            return self.begin(self.types[name]) if called else ("type", self.types[name], None)
        if called:
            return self.library(name, *self.arguments())
        if name in values.NAMED or name in ("Unicode",):
            return ("library", name, None)
        raise self.fail(f"{name} is not declared")

    def begin(self, made: Type) -> Any:
        """``Type(...)``"""
        self.check_init(made)
        labels, given = self.arguments()
        return ("code", f"new({self.constant(made)}, {tuple(labels)!r}{_after(given)})", None)

    def check_init(self, made: Type) -> None:
        inits = made.functions.get("init", [])
        if inits and all(f.throws for f in inits) and not self.trying:
            raise self.fail(f"{made.name} can throw but is not marked with try")

    def tuple(self) -> Any:
        plain, self.plain = self.plain, False
        parts = [self.expression()]
        while self.skip(","):
            parts.append(self.expression())
        self.need(")")
        self.plain = plain
        return ("code", f"({', '.join(parts)})", None)

    def bracket(self) -> Any:
        """An array or dictionary literal, or the initialiser of an array type."""
        begun = self.at
        try:
            kind = self.type()
            if self.skip("]") and self.is_("(") and not self.next.space:
                labels, given = self.arguments()
                if labels != ["repeating", "count"]:
                    raise self.fail(f"array with the labels {labels}")
                return ("code", f"repeated({self.constant(kind)}{_after(given)})", None)
        except SwiftError:
            pass
        self.at = begun
        plain, self.plain = self.plain, False
        if self.skip(":"):
            self.need("]")
            self.plain = plain
            return ("code", "{}", None)
        parts = []
        while not self.skip("]"):
            parts.append(self.expression())
            if not self.is_("]"):
                self.need(",")
        self.plain = plain
        return ("code", f"Array([{', '.join(parts)}])", None)

    def text(self, token: Token) -> str:
        parts = []
        for kind, part in token.text:
            if kind == "text":
                parts.append(repr(part))
                continue
            inner = type(self)(lex(part), self.types, self.owner, self.running, self.constants)
            inner.scopes, inner.made = self.scopes, self.made + 500
            parts.append(f"shown({inner.expression()})")
        return " + ".join(parts) if len(parts) == 1 else f"({' + '.join(parts)})"

    def closure(self) -> str:
        """A lambda where one expression says it all, else a function before the statement."""
        self.need("{")
        plain, self.plain = self.plain, False
        self.scopes.append({})
        names: list[str] = []
        end = self.at
        while self.tokens[end].kind == "name" and self.tokens[end + 1].text == ",":
            end += 2
        if self.tokens[end].kind == "name" and self.tokens[end + 1].text == "in":
            while not self.skip("in"):
                names.append(self.declare(self.word(), False))
                self.skip(",")
        head = ", ".join(names) if names else "*given"
        if str(self.next.text) in STATEMENTS:
            made = self.fresh("closure")
            self.emit(f"def {made}({head}):")
            self.depth += 1
            while not self.skip("}"):
                self.statement()
            self.depth -= 1
            source = made
        else:
            source = f"(lambda {head}: {self.expression()})"
            self.need("}")
        self.scopes.pop()
        self.plain = plain
        return source

    def changing(self, target: Any) -> None:
        """Refuse to change what ``let`` holds, and ``self`` outside a mutating function."""
        root = target[3] if target[0] in ("field", "item") else target[1]
        if isinstance(root, Name):
            if not root.mutable:
                raise self.fail(f"{root.python} is a constant")
        elif root == "self":
            function = self.running
            if function is None or not (function.mutating or function.name == "init"):
                raise self.fail("self changes in a function that is not mutating")

    @abstractmethod
    def statement(self) -> None:
        """A statement of a closure; see :mod:`swift_bodies`."""


STATEMENTS = {
    *("let", "var", "if", "while", "guard", "for", "return", "throw", "break", "continue", "do", "switch"),
}


def _after(given: list[str]) -> str:
    return "".join(f", {one}" for one in given)


def _value(text: str) -> int | float:
    plain = text.replace("_", "")
    if plain.startswith("0x"):
        return int(plain, 16)
    return float(plain) if "." in plain or "e" in plain else int(plain)
