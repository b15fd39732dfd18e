"""Translation of Swift's statements to Python, for :mod:`swift_machine`."""

from __future__ import annotations

from typing import Any

from swift_expressions import STATEMENTS, Expressions, Name


class Bodies(Expressions):
    """Statements, written to ``lines``."""

    def body(self) -> None:
        """All statements; a single expression is what the function gives."""
        begun = len(self.lines)
        count = 0
        while self.next.kind != "end":
            first = self.next.text
            self.statement()
            count += 1
        if count == 1 and len(self.lines) > begun and first not in STATEMENTS:
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
        if word in STATEMENTS:
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
