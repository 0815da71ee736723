"""PTX text to a Source: a tokeniser and a parser of statements, made for the output of any compiler.

parse(".version 8.0 .target sm_80 .address_size 64 .entry k() { ret; }").functions["k"].code[0].root == "ret"
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import NoReturn

from tilec.backends.emulator.program import Function, Immediate, Operand, Source, Symbol, Variable
from tilec.backends.emulator.ptx_types import TYPES, bits
from tilec.ir.errors import TilecError

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|(?P<string>"[^"]*")
    |(?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
       |\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+U?)
    |(?P<name>[%$_.A-Za-z][\w$.]*(?:::[\w$.]+)*)|(?P<mark>[{}()\[\],;:@!|+<>=*-])""",
    re.X | re.S,
)
MODIFIER_DIRECTIVES = {".visible", ".extern", ".weak", ".common"}
SPACES = {".global", ".const", ".shared", ".local", ".param", ".reg"}
LINE_DIRECTIVES = {".version", ".target", ".address_size", ".file", ".loc", ".pragma"}
LIMITS = {".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".reqnctapercluster", ".maxclusterrank",
          ".maxnctapersm"}  # fmt: skip
FLAGS = {".explicitcluster", ".blocksareclusters", ".noreturn", ".abi_preserve"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int
    start: int
    end: int


def tokenise(text: str) -> list[Token]:
    tokens, position, line = [], 0, 1
    while position < len(text):
        found = TOKEN.match(text, position)
        if not found:
            fail(line, f"cannot read {text[position : position + 20]!r}")
        kind, piece = str(found.lastgroup), found.group()
        if kind != "skip":
            tokens.append(Token(kind, piece, line, position, found.end()))
        line += piece.count("\n")
        position = found.end()
    return tokens


def fail(line: int, message: str) -> NoReturn:
    raise TilecError(f"PTX line {line}: {message}")


def number(text: str) -> Immediate:
    """A literal's bits and form."""
    low = text.lower()
    if low.startswith("0f"):
        return Immediate(int(low[2:], 16), "f32")
    if low.startswith("0d"):
        return Immediate(int(low[2:], 16), "f64")
    if low.startswith(("0x", "0b")):
        return Immediate(int(low.rstrip("u"), 0), "int")
    if "." in low or "e" in low:
        return Immediate(struct.unpack("<Q", struct.pack("<d", float(low)))[0], "f64")
    low = low.rstrip("u")
    return Immediate(int(low, 8) if low.startswith("0") and len(low) > 1 else int(low), "int")


class Parser:
    """Reads statements one after another; `scopes` holds the names visible at the current one."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, tokenise(text), 0
        self.source = Source()
        self.scopes: list[dict[str, Operand]] = [{}]
        self.scope_ids: list[int] = [0]
        self.made = 0
        self.location: tuple[str, int] | None = None

    # --- tokens
    def peek(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def line(self) -> int:
        return self.tokens[min(self.at, len(self.tokens) - 1)].line if self.tokens else 1

    def token(self) -> Token:
        if self.at >= len(self.tokens):
            fail(self.line(), "the text ends in the middle of a statement")
        return self.tokens[self.at]

    def next(self) -> Token:
        found = self.token()
        self.at += 1
        return found

    def accept(self, text: str) -> bool:
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            fail(self.line(), f"expected {text!r}, found {self.peek()!r}")

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        token = self.next()
        if token.kind != "number":
            fail(token.line, f"expected a number, found {token.text!r}")
        return sign * number(token.text).value

    # --- module
    def module(self) -> Source:
        while self.at < len(self.tokens):
            self.top()
        return self.source

    def top(self) -> None:
        token = self.token()
        if token.text in LINE_DIRECTIVES:
            self.line_directive()
            return
        if token.text == ".section":
            self.skip_block()
            return
        if token.text == ".alias":
            fail(token.line, ".alias is not known to the emulator")
        external = False
        while self.peek() in MODIFIER_DIRECTIVES:
            external |= self.next().text == ".extern"
        word = self.peek()
        if word in (".entry", ".func"):
            self.function_declaration()
        elif word in SPACES:
            for variable in self.declaration(external):
                self.source.variables[variable.name] = variable
                self.scopes[0][variable.name] = Symbol(variable.name)
        else:
            fail(token.line, f"{word!r} is not a directive that the emulator knows")

    def line_directive(self) -> None:
        first = self.next()
        words = []
        while self.at < len(self.tokens) and self.tokens[self.at].line == first.line and self.peek() != ";":
            words.append(self.next().text)
        self.accept(";")
        if first.text == ".version":
            self.source.version = words[0]
        elif first.text == ".target":
            self.source.target = words[0]
        elif first.text == ".file":
            self.source.files[int(words[0])] = words[1].strip('"')
        elif first.text == ".loc":
            self.location = (words[0], int(words[1]))

    def skip_block(self) -> None:
        while not self.accept("{"):
            self.next()
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self.next().text, 0)

    def function_declaration(self) -> None:
        start = self.next()
        self.accept(".noreturn")
        self.open_scope()
        results = self.parameters() if start.text == ".func" and self.peek() == "(" else []
        function = Function(self.next().text, start.text == ".entry", start.line, results=results)
        function.params = self.parameters() if self.peek() == "(" else []
        while self.peek() in LIMITS | FLAGS or self.peek() == ".pragma":
            self.limit(function)
        known = self.source.functions.get(function.name)
        if known is None or not known.defined:
            self.source.functions[function.name] = function
        if not self.accept(";"):
            self.body(function)
        self.close_scope()

    def limit(self, function: Function) -> None:
        name = self.next().text
        if name == ".pragma":
            self.next()
            self.accept(";")
            return
        values = []
        while self.token().kind == "number":
            values.append(self.integer())
            self.accept(",")
        function.directives[name[1:]] = tuple(values)

    def parameters(self) -> list[Variable]:
        self.expect("(")
        found: list[Variable] = []
        while not self.accept(")"):
            if self.peek() == ".reg":
                fail(
                    self.line(), "register parameters of functions are not known to the emulator: use .param"
                )
            found += self.declaration(False, ending=False)
            self.scopes[-1][found[-1].name] = Symbol(self.qualified(found[-1].name))
            self.accept(",")
        return [replace(v, name=self.qualified(v.name)) for v in found]

    def qualified(self, name: str) -> str:
        return f"{name}@{self.scope_ids[-1]}"

    # --- declarations
    def declaration(self, external: bool, ending: bool = True) -> list[Variable]:
        """.space .align n .type name[dims] = contents, ...; after .ptr the alignment is that of the memory
        pointed at."""
        space, align, kind, lanes = self.next().text[1:], 0, "", 1
        pointer, pointee = False, 0
        while self.peek().startswith(".") and self.peek()[1:] != "":
            word = self.next().text
            if word == ".align":
                align, pointee = (align, self.integer()) if pointer else (self.integer(), pointee)
            elif word == ".ptr":
                pointer = True
            elif word[1:] in TYPES:
                kind = word[1:]
            elif word in (".v2", ".v4"):
                lanes = int(word[2:])
            elif word not in (".global", ".shared", ".const", ".local", ".unified") and word != ".managed":
                fail(self.line(), f"{word!r} in a declaration is not known to the emulator")
        return self.declarators(
            Variable("", space, kind, bits(kind) // 8 * lanes, align, (), external, pointee), ending
        )

    def declarators(self, like: Variable, ending: bool) -> list[Variable]:
        found = []
        while True:
            name, count, unknown = self.next().text, 1, False
            while self.accept("["):
                unknown |= self.peek() == "]"
                count *= 0 if self.peek() == "]" else self.integer()
                self.expect("]")
            contents = self.contents(like.type) if self.accept("=") else ()
            if unknown and contents:
                count = len(contents)
            align = like.align or min(like.size, 16)
            found.append(replace(like, name=name, size=like.size * count, align=align, contents=contents))
            if not ending:
                return found
            if self.accept(";"):
                return found
            self.expect(",")

    def contents(self, kind: str) -> tuple[int | tuple[str, int], ...]:
        if not self.accept("{"):
            return (self.initial(kind),)
        found: list[int | tuple[str, int]] = []
        while not self.accept("}"):
            if self.peek() == "{":
                found += self.contents(kind)
            else:
                found.append(self.initial(kind))
            self.accept(",")
        return tuple(found)

    def initial(self, kind: str) -> int | tuple[str, int]:
        token = self.token()
        if token.kind == "name":
            return self.initial_address()
        negative = self.accept("-")
        literal = number(self.next().text)
        if literal.form == "f64" and kind == "f32":
            value = struct.unpack("<d", struct.pack("<Q", literal.value))[0]
            literal = Immediate(struct.unpack("<I", struct.pack("<f", value))[0], "f32")
        return -literal.value if negative else literal.value

    def initial_address(self) -> tuple[str, int]:
        name = self.next().text
        if name == "generic":
            self.expect("(")
            name = self.next().text
            self.expect(")")
        return (name, self.integer() if self.accept("+") else 0)

    # --- function bodies
    def open_scope(self) -> None:
        self.made += 1
        self.scopes.append({})
        self.scope_ids.append(self.made)

    def close_scope(self) -> None:
        self.scopes.pop()
        self.scope_ids.pop()

    def body(self, function: Function) -> None:
        from tilec.backends.emulator.parse_body import parse_body

        function.defined = True
        self.source.functions[function.name] = function
        parse_body(self, function)


def parse(text: str) -> Source:
    """The module that the text describes; TilecError names the line of what cannot be read."""
    return Parser(text).module()
