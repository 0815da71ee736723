"""The body of a function: registers, scopes, labels, instructions with their operands.

    { .reg .pred p; setp.lt.s32 p, %r1, 4; @p bra $L; ... $L: ret; }
Labels are resolved when the whole body is read: a branch may go forward, and to a label of an enclosing
scope.
"""

from __future__ import annotations

from dataclasses import replace

from tilec.backends.emulator.parse import LINE_DIRECTIVES, Parser, fail, number
from tilec.backends.emulator.program import (
    Address,
    Function,
    Immediate,
    Instruction,
    Label,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)
from tilec.backends.emulator.ptx_types import TYPES

TARGETS = ("bra", "brx", "call")


def parse_body(parser: Parser, function: Function) -> None:
    Body(parser, function).read()


class Body:
    def __init__(self, parser: Parser, function: Function) -> None:
        self.p, self.function = parser, function
        self.labels: dict[tuple[int, str], int] = {}
        self.chains: list[tuple[int, ...]] = []  # the scopes around each instruction
        self.tables: list[tuple[str, tuple[int, ...], list[str]]] = []

    def read(self) -> None:
        p = self.p
        p.expect("{")
        depth = 1
        while depth:
            if p.accept("{"):
                p.open_scope()
                depth += 1
            elif p.accept("}"):
                depth -= 1
                if depth:
                    p.close_scope()
            elif not p.accept(";"):
                self.statement()
        self.resolve()

    def statement(self) -> None:
        p = self.p
        word = p.peek()
        after = p.tokens[p.at + 1].text if p.at + 1 < len(p.tokens) else ""
        if after == ":" and word not in (":",):
            self.label()
        elif word in LINE_DIRECTIVES:
            p.line_directive()
        elif word == ".reg":
            self.registers()
        elif word in (".local", ".shared", ".param", ".global", ".const"):
            self.variables()
        elif word.startswith("."):
            fail(p.line(), f"directive {word} in a function is not known to the emulator")
        else:
            self.instruction()

    def label(self) -> None:
        p = self.p
        name = p.next().text
        p.expect(":")
        if p.peek() == ".branchtargets":
            p.next()
            names = []
            while not p.accept(";"):
                names.append(p.next().text)
                p.accept(",")
            self.tables.append((name, tuple(p.scope_ids), names))
        elif p.peek() in (".callprototype", ".calltargets"):
            fail(p.line(), "indirect calls are not known to the emulator")
        else:
            self.labels[p.scope_ids[-1], name] = len(self.function.code)

    def registers(self) -> None:
        """.reg .b32 %r<10>, x;   (.v2 and .v4 register vectors are not produced by today's compilers)"""
        p = self.p
        p.next()
        kind = p.next().text[1:]
        if kind not in TYPES:
            fail(p.line(), f"register type .{kind} is not known to the emulator")
        while True:
            name = p.next().text
            if p.accept("<"):
                names = [f"{name}{n}" for n in range(p.integer())]
                p.expect(">")
            else:
                names = [name]
            for each in names:
                p.scopes[-1][each] = Register(f"{each}@{p.scope_ids[-1]}", kind)
            if p.accept(";"):
                return
            p.expect(",")

    def variables(self) -> None:
        p = self.p
        for variable in p.declaration(False):
            name = p.qualified(variable.name)
            p.scopes[-1][variable.name] = Symbol(name)
            self.function.variables.append(replace(variable, name=name))

    # --- instructions
    def instruction(self) -> None:
        p = self.p
        start = p.token()
        guard = self.guard() if p.peek() == "@" else None
        opcode = p.next()
        if opcode.kind != "name" or opcode.text.startswith("%"):
            fail(opcode.line, f"expected an instruction, found {opcode.text!r}")
        root, *modifiers = opcode.text.split(".")
        operands = self.operands(root, modifiers)
        end = p.tokens[p.at - 1]
        text = " ".join(p.text[start.start : end.end].split())
        self.function.code.append(
            Instruction(root, tuple(modifiers), tuple(operands), guard, start.line, text, self.place())
        )
        self.chains.append(tuple(p.scope_ids))

    def place(self) -> tuple[str, int] | None:
        return self.p.location

    def guard(self) -> Operand:
        self.p.expect("@")
        return self.primary("")

    def operands(self, root: str, modifiers: list[str]) -> list[Operand]:
        found: list[Operand] = []
        while not self.p.accept(";"):
            found.append(self.operand(root, modifiers))
            if self.p.peek() != ";":
                self.p.expect(",")
        return found

    def operand(self, root: str, modifiers: list[str]) -> Operand:
        p = self.p
        if p.accept("{"):
            return Vector(tuple(self.until("}", root, modifiers)))
        if p.accept("("):
            return Vector(tuple(self.until(")", root, modifiers)))
        if p.accept("["):
            return self.address("param" in modifiers)
        first = self.primary(root)
        if p.accept("|"):
            return Pair(first, self.primary(root))
        return first

    def until(self, end: str, root: str, modifiers: list[str]) -> list[Operand]:
        found = []
        while not self.p.accept(end):
            found.append(self.operand(root, modifiers))
            if self.p.peek() != end:
                self.p.expect(",")
        return found

    def address(self, parameter: bool) -> Address:
        p = self.p
        base = self.parameter() if parameter else self.primary("")
        offset = 0
        if p.accept("+") or p.peek() == "-":
            offset = p.integer()
        if isinstance(base, Symbol):
            base, offset = Symbol(base.name, 0), offset + base.offset
        coordinates = None
        if p.accept(","):
            coordinates = self.operand("", [])
        p.expect("]")
        return Address(base, offset, coordinates)

    def parameter(self) -> Operand:
        """In ld.param and st.param a parameter's name wins over a register of the same name."""
        token = self.p.token()
        for scope in reversed(self.p.scopes):
            if isinstance(scope.get(token.text), Symbol):
                self.p.next()
                return scope[token.text]
        return self.primary("")

    def primary(self, root: str) -> Operand:
        p = self.p
        if p.accept("!"):
            return Negated(self.primary(root))
        if p.accept("-"):
            return self.negative(root)
        token = p.next()
        if token.kind == "number":
            return number(token.text)
        if token.kind != "name":
            fail(token.line, f"expected an operand, found {token.text!r}")
        found = self.name(token.text, root, token.line)
        if isinstance(found, Symbol) and p.accept("+"):
            return Symbol(found.name, p.integer())
        return found

    def negative(self, root: str) -> Operand:
        inner = self.primary(root)
        if not isinstance(inner, Immediate):
            return Negated(inner)
        sign = {"int": 0, "f32": 1 << 31, "f64": 1 << 63}[inner.form]
        return replace(inner, value=inner.value ^ sign if sign else -inner.value)

    def name(self, name: str, root: str, line: int) -> Operand:
        if name == "_":
            return Special("_")
        for scope in reversed(self.p.scopes):
            if name in scope:
                return scope[name]
        if name == "WARP_SZ":
            return Immediate(32, "int")
        if name.startswith("%"):
            return Special(name)
        if root in TARGETS:
            return Symbol(name)
        return fail(line, f"{name!r} is not declared")

    # --- labels
    def resolve(self) -> None:
        code = self.function.code
        for n, instruction in enumerate(code):
            if instruction.root == "bra":
                code[n] = replace(instruction, operands=(self.find(instruction, self.chains[n]),))
        for name, chain, targets in self.tables:
            self.function.branch_targets[name] = tuple(Label(self.seek(t, chain, 0)) for t in targets)

    def find(self, instruction: Instruction, chain: tuple[int, ...]) -> Label:
        target = instruction.operands[0]
        if not isinstance(target, Symbol):
            fail(instruction.line, f"{instruction.text!r} needs a label")
        return Label(self.seek(target.name, chain, instruction.line))

    def seek(self, name: str, chain: tuple[int, ...], line: int) -> int:
        for scope in reversed(chain):
            if (scope, name) in self.labels:
                return self.labels[scope, name]
        return fail(line, f"label {name!r} is not defined")
