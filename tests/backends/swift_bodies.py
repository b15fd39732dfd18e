"""Translation of Swift's statements and expressions to Python, for :mod:`swift_machine`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import swift_values as values
from swift_declarations import PRECEDENCE, Declarations, Function, Token, Type, lex
from swift_values import SwiftError


@dataclass
class Name:
    """A local name: what it is called in Python, whether it may change, its declared type."""

    python: str
    mutable: bool
    kind: Any = None


class Bodies(Declarations):
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

    # Statements

    def body(self) -> None:
        """All statements; a single expression is what the function gives."""
        begun = len(self.lines)
        count = 0
        while self.next.kind != "end":
            first = self.next.text
            self.statement()
            count += 1
        if count == 1 and len(self.lines) > begun and first not in _STATEMENTS:
            last = self.lines[-1].strip()
            if last.startswith("_ = "):
                self.lines[-1] = "    " * self.depth + "return " + last[4:]

    def block(self) -> None:
        self.need("{")
        self.scopes.append({})
        self.depth += 1
        plain, self.plain = self.plain, False
        self.emit("pass")
        while not self.skip("}"):
            self.statement()
        self.plain = plain
        self.depth -= 1
        self.scopes.pop()

    def statement(self) -> None:
        word = str(self.next.text) if self.next.kind == "name" else ""
        if word in _STATEMENTS:
            self.at += 1
            getattr(self, f"do_{word}")()
        elif word == "_" and self.tokens[self.at + 1].text == "=":
            self.at += 2
            self.emit(f"_ = {self.expression()}")
        elif self.is_("try", "-", "!"):
            self.emit(f"_ = {self.expression()}")
        else:
            self.assignment()

    def assignment(self) -> None:
        target = self.postfix()
        sign = str(self.next.text) if self.next.kind == "mark" else ""
        if sign == "=" or (len(sign) == 2 and sign[1] == "=" and sign[0] in "+-*/"):
            self.at += 1
            value = self.expression()
            if sign != "=":
                value = f"op[{sign[0]!r}]({self.code(target)}, {value})"
            self.store(target, value)
            return
        self.emit(f"_ = {self.operators(0, self.code(target))}")

    def store(self, target: Any, value: str) -> None:
        self.changing(target)
        form = target[0]
        if form == "local":
            name: Name = target[1]
            new = f"take({self.constant(name.kind)}, {value})" if name.kind is not None else value
            old = "None" if name.kind is not None else name.python
            self.emit(f"{name.python} = assign({old}, {new})")
        elif form == "field":
            self.emit(f"set_field({target[1]}, {target[2]!r}, {value})")
        elif form == "item":
            self.emit(f"set_item({target[1]}, {target[2]}, {value})")
        else:
            raise self.fail("this cannot be assigned to")

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

    def do_let(self, mutable: bool = False) -> None:
        name = self.word()
        kind = self.type() if self.skip(":") else None
        if not self.skip("="):
            if kind is None:
                raise self.fail(f"{name} has neither type nor value")
            made = self.declare(name, True, kind)
            if kind[0] == "optional":
                self.emit(f"{made} = None")
            return
        value = self.expression()
        if kind is not None:
            value = f"take({self.constant(kind)}, {value})"
        self.emit(f"{self.declare(name, mutable, kind)} = settle({value})")

    def do_var(self) -> None:
        self.do_let(True)

    def conditions(self) -> str:
        """Conditions of if, guard and while; the names they bind are declared in the present scope."""
        parts: list[str] = []
        plain, self.plain = self.plain, True
        while True:
            if self.is_("let", "var"):
                mutable = self.word() == "var"
                name = self.word()
                self.need("=")
                value = self.expression()
                parts.append(f"({self.declare(name, mutable)} := settle({value})) is not None")
            else:
                parts.append(f"true({self.expression()})")
            if not self.skip(","):
                break
        self.plain = plain
        return " and ".join(parts)

    def do_if(self, word: str = "if") -> None:
        self.scopes.append({})
        self.emit(f"{word} {self.conditions()}:")
        self.block()
        self.scopes.pop()
        if self.skip("else"):
            self.emit("else:")
            if self.skip("if"):
                self.depth += 1
                self.do_if()
                self.depth -= 1
            else:
                self.block()

    def do_while(self) -> None:
        self.do_if("while")

    def do_guard(self) -> None:
        test = self.conditions()
        self.need("else")
        self.emit(f"if not ({test}):")
        before = len(self.lines)
        self.block()
        if not any(word in self.lines[-1] for word in ("raise", "return", "continue", "break")):
            raise self.fail(f"guard falls through after {self.lines[before:]}")

    def do_for(self) -> None:
        pair = self.skip("(")
        names = [self.word()]
        while pair and self.skip(","):
            names.append(self.word())
        if pair:
            self.need(")")
        self.need("in")
        plain, self.plain = self.plain, True
        source = self.expression()
        self.scopes.append({})
        made = [self.declare(name, False) for name in names]
        test = self.expression() if self.skip("where") else None
        self.plain = plain
        target = f"({', '.join(made)})" if pair else made[0]
        self.emit(f"for {target} in each({source}):")
        if test is not None:
            self.depth += 1
            self.emit(f"if not true({test}): continue")
            self.depth -= 1
        self.block()
        self.scopes.pop()

    def do_return(self) -> None:
        if self.is_("}") or self.next.newline:
            self.emit("return None")
        else:
            self.emit(f"return {self.expression()}")

    def do_throw(self) -> None:
        if self.running is not None and not self.running.throws and not self.trying:
            raise self.fail("throw in a function that does not say so")
        self.emit(f"raise Thrown({self.expression()})")

    def do_break(self) -> None:
        self.emit("break")

    def do_continue(self) -> None:
        self.emit("continue")

    def do_do(self) -> None:
        self.emit("try:")
        self.trying += 1
        self.block()
        self.trying -= 1
        caught = self.fresh("error")
        self.emit(f"except Exception as {caught}:")
        self.depth += 1
        self.emit(f"caught_{caught} = thrown({caught})")
        self.depth -= 1
        word = "if"
        while self.skip("catch"):
            self.depth += 1
            name, test = "error", "True"
            if self.skip("let"):
                name = self.word()
                self.need("as")
                test = f"is_a(caught_{caught}, {self.word()!r})"
            self.emit(f"{word} {test}:")
            self.scopes.append({name: Name(f"caught_{caught}", False)})
            self.block()
            self.scopes.pop()
            self.depth -= 1
            word = "elif"

    def do_switch(self) -> None:
        self.plain = True
        subject = self.fresh("subject")
        self.emit(f"{subject} = {self.expression()}")
        self.plain = False
        self.need("{")
        word, seen = "if", []
        while self.skip("case"):
            self.need(".")
            case = self.word()
            seen.append(case)
            self.scopes.append({})
            self.emit(f"{word} case_of({subject}, {case!r}):")
            self.depth += 1
            self.emit("pass")
            if self.skip("("):
                place = 0
                while not self.skip(")"):
                    self.need("let")
                    self.emit(f"{self.declare(self.word(), False)} = {subject}.values[{place}]")
                    self.skip(",")
                    place += 1
            self.need(":")
            while not self.is_("case", "}"):
                self.statement()
            self.depth -= 1
            self.scopes.pop()
            word = "elif"
        self.need("}")
        self.emit(f"else: every_case({subject}, {seen!r})")

    # Expressions

    def expression(self, level: int = 0) -> str:
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
            if self.is_("(") and not self.next.space:
                return self.call(node, name, *self.arguments())
            if self.is_("{") and not self.plain:
                return self.call(node, name, [None], [self.closure()])
            if name == "self" and node[0] in ("type", "library"):
                return ("code", self.constant(("name", node[1].name if node[0] == "type" else node[1])), None)
            if node[0] == "type" and name in self.types and not node[1].has(name):
                return ("type", self.types[name], None)
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
        if name in values.MUTATING or any(
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
        work = values.FUNCTIONS.get((name, tuple(labels)))
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
            made = self.types[name]
            if called:
                self.check_init(made)
                labels, given = self.arguments()
                return ("code", f"new({self.constant(made)}, {tuple(labels)!r}{_after(given)})", None)
            return ("type", made, None)
        if called:
            return self.library(name, *self.arguments())
        if name in values.NAMED or name in ("Unicode",):
            return ("library", name, None)
        raise self.fail(f"{name} is not declared")

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
            inner = Bodies(lex(part), self.types, self.owner, self.running, self.constants)
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
        if str(self.next.text) in _STATEMENTS:
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


_STATEMENTS = {
    *("let", "var", "if", "while", "guard", "for", "return", "throw", "break", "continue", "do", "switch"),
}


def _after(given: list[str]) -> str:
    return "".join(f", {one}" for one in given)


def _value(text: str) -> int | float:
    plain = text.replace("_", "")
    if plain.startswith("0x"):
        return int(plain, 16)
    return float(plain) if "." in plain or "e" in plain else int(plain)
