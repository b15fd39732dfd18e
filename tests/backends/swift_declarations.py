"""Swift's tokens and declarations, for :mod:`swift_machine`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift_values import SwiftError

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)|(?P<number>0x[0-9A-Fa-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[-+]?\d+)?)
    |(?P<name>[@#]?[A-Za-z_]\w*|\$\d)|(?P<mark>->|\.\.<|&&|\|\||\?\?|[=!<>+\-*/]=|<<|>>|[-+*/%&|<>=!?:;,.(){}\[\]])""",
    re.VERBOSE,
)
PRECEDENCE = {
    **dict.fromkeys(("<<", ">>"), 9),
    **dict.fromkeys(("*", "/", "%", "&"), 8),
    **dict.fromkeys(("+", "-", "|"), 7),
    "..<": 6,
    "??": 5,
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">="), 4),
    "&&": 3,
    "||": 2,
    "?": 1,
}
_MODIFIERS = {"public", "static", "mutating", "private", "internal"}
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Token:
    """A lexical unit; ``text`` of a string literal is its parts: text, or source of an interpolation."""

    kind: str
    text: Any
    line: int
    newline: bool
    space: bool


def lex(source: str) -> list[Token]:
    """Tokens of a source."""
    found: list[Token] = []
    at, line, newline, space = 0, 1, True, True
    while at < len(source):
        if source[at] == '"':
            parts, end = _string(source, at + 1)
            found.append(Token("string", parts, line, newline, space))
        else:
            match = _TOKEN.match(source, at)
            if match is None:
                raise SwiftError(f"line {line}: {source[at : at + 20]!r}")
            end = match.end()
            if match.lastgroup == "space":
                newline = newline or "\n" in match[0]
                line, space, at = line + match[0].count("\n"), True, end
                continue
            found.append(Token(str(match.lastgroup), match[0], line, newline, space))
        at, newline, space = end, False, False
    return [*found, Token("end", "", line, True, True)]


def _string(source: str, at: int) -> tuple[list[tuple[str, str]], int]:
    parts: list[tuple[str, str]] = []
    text = ""
    while source[at] != '"':
        if source[at] != "\\":
            text, at = text + source[at], at + 1
        elif source[at + 1] == "(":
            parts, text = [*parts, ("text", text)], ""
            begun, depth, at = at + 2, 1, at + 2
            while depth:
                depth += {"(": 1, ")": -1}.get(source[at], 0)
                at += 1
            parts.append(("code", source[begun : at - 1]))
        elif source[at + 1] == "u":
            end = source.index("}", at)
            text, at = text + chr(int(source[at + 3 : end], 16)), end + 1
        else:
            text, at = text + _ESCAPES[source[at + 1]], at + 2
    return [*parts, ("text", text)], at + 1


@dataclass
class Parameter:
    label: str | None
    name: str
    kind: Any
    inout: bool
    default: str | None


@dataclass
class Function:
    name: str
    parameters: list[Parameter]
    throws: bool
    static: bool
    mutating: bool
    result: Any
    body: list[Token]
    run: Callable[..., Any] | None = None


@dataclass
class Type:
    name: str
    kind: str
    fields: dict[str, tuple[Any, bool, list[Token] | None]] = field(default_factory=dict)
    statics: dict[str, tuple[Any, list[Token]]] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    cases: dict[str, Any] = field(default_factory=dict)
    made: Any = None
    held: dict[str, Any] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.fields or name in self.statics or name in self.functions or name in self.cases


class Declarations:
    """Reads declarations: types with their members; bodies are kept as tokens."""

    def __init__(self, tokens: Sequence[Token], types: dict[str, Type]) -> None:
        self.tokens, self.at, self.types = tokens, 0, types

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def is_(self, *texts: str) -> bool:
        return self.next.kind != "string" and self.next.text in texts

    def skip(self, text: str) -> bool:
        if self.is_(text):
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.skip(text):
            raise SwiftError(f"line {self.next.line}: {self.next.text!r} where {text!r} belongs")

    def word(self) -> str:
        self.at += 1
        token = self.tokens[self.at - 1]
        if token.kind != "name":
            raise SwiftError(f"line {token.line}: {token.text!r} where a name belongs")
        return str(token.text)

    def file(self) -> None:
        """Everything in a file."""
        while self.next.kind != "end":
            if self.skip("import"):
                self.word()
            else:
                self.declaration("", None)

    def declaration(self, prefix: str, owner: Type | None) -> None:
        modifiers = set()
        while self.is_(*_MODIFIERS):
            modifiers.add(self.word())
        kind = self.word()
        if kind in ("struct", "enum", "extension"):
            self.type_body(kind, prefix)
        elif owner is None:
            raise SwiftError(f"line {self.next.line}: {kind} outside a type")
        elif kind == "case":
            self.cases(owner)
        elif kind in ("let", "var"):
            self.property(owner, kind, "static" in modifiers)
        elif kind in ("func", "init"):
            self.function(owner, kind, modifiers)
        else:
            raise SwiftError(f"line {self.next.line}: {kind}")

    def type_body(self, kind: str, prefix: str) -> None:
        name = self.word()
        if name == "CodingKeys":
            name = f"{prefix}.{name}"
        while self.skip("."):
            name = self.word()
        if self.skip(":"):
            self.type()
            while self.skip(","):
                self.type()
        if kind != "extension" and name in self.types:
            raise SwiftError(f"{name} declared twice")
        owner = self.types[name] if kind == "extension" else self.types.setdefault(name, Type(name, kind))
        self.need("{")
        while not self.skip("}"):
            self.declaration(name, owner)

    def cases(self, owner: Type) -> None:
        while True:
            name = self.word()
            owner.cases[name] = ()
            if self.is_("("):
                owner.cases[name] = self.parameters(labels_needed=False)
            elif self.skip("="):
                owner.cases[name] = self.next.text[0][1]
                self.at += 1
            if not self.skip(","):
                return

    def property(self, owner: Type, kind: str, static: bool) -> None:
        name = self.word()
        found = self.type() if self.skip(":") else None
        if owner.has(name):
            raise SwiftError(f"{owner.name}.{name} declared twice")
        if self.is_("{"):
            body = self.braces()
            owner.functions[name] = [Function(name, [], False, static, False, found, body)]
            owner.fields[name] = (found, False, None)
            return
        value = self.until_newline() if self.skip("=") else None
        if static:
            assert value is not None
            owner.statics[name] = (found, value)
        else:
            owner.fields[name] = (found, kind == "var", value)

    def function(self, owner: Type, kind: str, modifiers: set[str]) -> None:
        name = self.word() if kind == "func" else "init"
        parameters = self.parameters()
        self.skip("async")
        throws = self.skip("throws")
        result = self.type() if self.skip("->") else None
        made = Function(
            name, parameters, throws, "static" in modifiers, "mutating" in modifiers, result, self.braces()
        )
        labels = [[p.label for p in other.parameters] for other in owner.functions.get(name, [])]
        if [p.label for p in parameters] in labels or name in owner.fields or name in owner.statics:
            raise SwiftError(f"{owner.name}.{name} declared twice")
        owner.functions.setdefault(name, []).append(made)

    def parameters(self, labels_needed: bool = True) -> list[Parameter]:
        self.need("(")
        found: list[Parameter] = []
        while not self.skip(")"):
            if not labels_needed and self.tokens[self.at + 1].text != ":":
                found.append(Parameter(None, f"_{len(found)}", self.type(), False, None))
            else:
                label = self.word()
                name = self.word() if not self.is_(":") else label
                self.need(":")
                inout = self.skip("inout")
                kind = self.type()
                default = None
                if self.skip("="):
                    default = "None" if self.is_("nil") else str(self.next.text)
                    self.at += 1
                found.append(Parameter(None if label == "_" else label, name, kind, inout, default))
            self.skip(",")
        return found

    def type(self) -> Any:
        """A type as nested tuples: ``("optional", ("array", ("name", "Int32")))``."""
        while self.is_("@Sendable"):
            self.at += 1
        made: Any
        if self.skip("["):
            first = self.type()
            made = ("dictionary", first, self.type()) if self.skip(":") else ("array", first)
            self.need("]")
        elif self.skip("("):
            parts: list[tuple[str, Any]] = []
            while not self.skip(")"):
                label = self.word() if self.tokens[self.at + 1].text == ":" else ""
                self.skip(":")
                parts.append((label, self.type()))
                self.skip(",")
            throws = self.skip("throws")
            made = ("function", throws, self.type()) if self.skip("->") else ("tuple", tuple(parts))
        else:
            names = [self.word()]
            if names == ["MLShapedArray"]:
                self.generic()
            while self.is_(".") and not self.next.newline:
                self.need(".")
                names.append(self.word())
            made = ("name", ".".join(names) if names[0] == "Unicode" else names[-1])
            if names == ["Set"]:
                self.need("<")
                made = ("set", self.type())
                self.need(">")
        while self.is_("?") and not self.next.space:
            self.at += 1
            made = ("optional", made)
        return made

    def generic(self) -> None:
        """``<Float>``, which the machine does not look at."""
        if self.skip("<"):
            self.type()
            self.need(">")

    def braces(self) -> list[Token]:
        """The tokens between a brace and its partner."""
        begun, depth = self.at + 1, 0
        while True:
            depth += 1 if self.is_("{") else -1 if self.is_("}") else 0
            self.at += 1
            if depth == 0:
                return [*self.tokens[begun : self.at - 1], self.tokens[-1]]
            if self.next.kind == "end":
                raise SwiftError("a brace has no partner")

    def until_newline(self) -> list[Token]:
        """The tokens of a value that ends with its line, brackets closed."""
        begun, depth = self.at, 0
        while True:
            depth += 1 if self.is_("(", "[", "{") else -1 if self.is_(")", "]", "}") else 0
            if depth < 0 or (depth == 0 and self.tokens[self.at + 1].newline):
                self.at += depth >= 0
                return [*self.tokens[begun : self.at], self.tokens[-1]]
            self.at += 1
