"""Reads the text that tilec.ir.text prints.

    func = parse(show(func))
Types of results are derived, so what stands after their colon is skipped. Raises TilecError with the line
that does not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tilec.ir.digits import Digit
from tilec.ir.dtype import ALL, DType
from tilec.ir.errors import TilecError
from tilec.ir.fields import block_fields, operand_fields
from tilec.ir.func import Arg, Block, Func, Inst, Value
from tilec.ir.inst import INSTRUCTIONS
from tilec.ir.layout import Layout
from tilec.ir.swizzle import Swizzle
from tilec.ir.tile import ArrayType, Dim, TileType, TokenType, Type

TOKEN = re.compile(
    r"""\s*(?:(?P<value>%[\w.*]+)|(?P<text>"(?:\\.|[^"\\])*")
        |(?P<number>-?(?:inf|nan)\b|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)|(?P<word>[A-Za-z_][\w.*]*)|(?P<mark>.))""",
    re.VERBOSE,
)
DTYPES = {each.name: each for each in ALL}


def parse(text: str) -> Func:
    """The function of a text."""
    lines = [line.split("  # ")[0] for line in text.splitlines() if line.strip()]
    return _Reader(lines).func()


class _Line:
    """The tokens of one line, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(m.lastgroup or "", m.group(m.lastgroup or 0)) for m in TOKEN.finditer(text.rstrip())]
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1] if self.at <= len(self.tokens) else ""

    def accept(self, mark: str) -> bool:
        if self.peek() == mark and self.kind() != "text":
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise self.error(f"{mark!r}")

    def error(self, wanted: str) -> TilecError:
        found = self.peek() or "the end of the line"
        return TilecError(f"expected {wanted}, found {found!r} in the IR text: {self.text.strip()}")

    def sequence(self, end: str, item: Callable[[], Any]) -> tuple[Any, ...]:
        """item, item, ... end"""
        found: list[Any] = []
        while not self.accept(end):
            if found:
                self.expect(",")
            found.append(item())
        return tuple(found)


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self.lines = [_Line(line) for line in lines]
        self.place = 0
        self.values: dict[str, Value] = {}
        self.layouts: dict[str, Layout] = {}

    def line(self) -> _Line:
        if self.place >= len(self.lines):
            raise TilecError("expected '}', found the end of the IR text")
        self.place += 1
        return self.lines[self.place - 1]

    def func(self) -> Func:
        line = self.line()
        while line.accept("layout"):
            name = line.next()
            self.layouts[name] = read_layout(line.text.split("=", 1)[1].strip())
            line = self.line()
        line.expect("func")
        name = line.next()
        params = self.args(line)
        schedule = self.attributes(line) if line.peek(1) != "" else {}
        line.expect("{")
        body, _ = self.body("}")
        return Func(name, params, Block((), body), schedule)

    def body(self, end: str) -> tuple[tuple[Inst, ...], tuple[Value, ...]]:
        """Instructions up to the line that begins with `end`, and the values on that line."""
        found = []
        while not (line := self.line()).accept(end):
            found.append(self.inst(line))
        return tuple(found), line.sequence("", lambda: self.value(line))

    def inst(self, line: _Line) -> Inst:
        name = line.next() if line.kind() == "value" else None
        if name:
            line.expect("=")
        kind = INSTRUCTIONS.get(word := line.next())
        if kind is None:
            raise TilecError(f"expected an instruction, found {word!r} in the IR text: {line.text.strip()}")
        given: dict[str, Any] = {}
        for i, field in enumerate(operand_fields(kind)):
            if i:
                line.expect(",")
            given[field] = self.operand(line)
        given |= self.attributes(line)
        given |= {field: self.block(field) for field in block_fields(kind)}
        inst = kind(**given)
        if name:
            self.values[name] = inst
        return inst

    def block(self, name: str) -> Block:
        line = self.line()
        line.expect(name)
        args = self.args(line)
        body, results = self.body("yield")
        return Block(args, body, results)

    def operand(self, line: _Line) -> Any:
        if line.accept("("):
            return line.sequence(")", lambda: self.operand(line))
        return None if line.accept("_") else self.value(line)

    def value(self, line: _Line) -> Value:
        if line.kind() != "value" or line.peek() not in self.values:
            raise line.error("a value defined above")
        return self.values[line.next()]

    # Arguments and types.

    def args(self, line: _Line) -> tuple[Arg, ...]:
        line.expect("(")
        args: tuple[Arg, ...] = line.sequence(")", lambda: self.arg(line))
        return args

    def arg(self, line: _Line) -> Arg:
        name = line.next()
        line.expect(":")
        arg = Arg(self.type(line), name[1:])
        self.values[name] = arg
        return arg

    def type(self, line: _Line) -> Type:
        if line.accept("token"):
            return TokenType()
        element = self.dtype(line)
        shape = line.sequence("]", lambda: self.literal(line)) if line.accept("[") else ()
        layout = self.layouts[line.next()] if line.accept("@") else None
        if line.peek() != "{":
            return TileType(element, shape, layout)
        return ArrayType(element, shape, layout=layout, **self.attributes(line))

    def dtype(self, line: _Line) -> DType:
        if line.peek() not in DTYPES:
            raise line.error("a type")
        return DTYPES[line.next()]

    def attributes(self, line: _Line) -> dict[str, Any]:
        return dict(line.sequence("}", lambda: self.pair(line))) if line.accept("{") else {}

    def pair(self, line: _Line) -> tuple[str, Any]:
        name = line.next()
        line.expect("=")
        return name, self.literal(line)

    def literal(self, line: _Line) -> Any:
        if line.accept("("):
            return line.sequence(")", lambda: self.literal(line))
        kind, text = line.kind(), line.next()
        match kind:
            case "number":
                return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
            case "text":
                return self.dim(line, json.loads(text)) if line.peek() == ":" else json.loads(text)
            case "word":
                return self.word(line, text)
        line.at -= 1
        raise line.error("a constant")

    def word(self, line: _Line, text: str) -> Any:
        constants = {"true": True, "false": False, "none": None, **DTYPES, **self.layouts}
        return constants[text] if text in constants else self.dim(line, text)

    def dim(self, line: _Line, name: str) -> Dim:
        return Dim(name, int(line.next()) if line.accept(":") else 1)


def read_layout(text: str) -> Layout:
    """{[8, 4] thread 8:1,0; slot 4:0,1 ^ 3,4,3}"""
    shape, rest = text.strip("{}").lstrip("[").split("] ", 1)
    groups, _, swizzle = rest.partition(" ^ ")
    named = (group.split() for group in groups.split("; "))
    return Layout(
        tuple((name, tuple(map(_digit, digits))) for name, *digits in named),
        _integers(shape),
        Swizzle(*_integers(swizzle)) if swizzle else None,
    )


def _digit(text: str) -> Digit:
    extent, stride = text.split(":")
    return Digit(int(extent), _integers(stride))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n.strip())
