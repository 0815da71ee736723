"""The IR as text that people read and `parse` reads back: parse(show(f)) prints the same.

    layout L0 = {[32, 2] thread 32:1,0; slot 2:0,1}
    func double(%x: f32[n:64] {strides=(1), align=16}) {warps=1} {
      %0 = full {value=0, dtype=i32} : i32
      %1 = load %x, (%0), %2 {shape=(64)} : f32[64]@L0
      store %x, (%0), %3 {inside=(0)}
    }
Everything follows from the fields of an instruction: values in their order, then the attributes that differ
from their defaults, then blocks. Layouts are named at the top. Types after a colon are for readers; those of
arguments count. Extents of views are numbered anew, lines of the user's source appear with lines=True as
comments.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from tilec.ir.dtype import ALL, DType
from tilec.ir.fields import block_fields, operand_fields, settings
from tilec.ir.func import Arg, Block, Func, Inst, Value, mnemonic
from tilec.ir.layout import Layout
from tilec.ir.parse import parse
from tilec.ir.tile import UNIT, ArrayType, Dim, TileType, TupleType, Type

__all__ = ["describe", "parse", "show"]
RESERVED = {"true", "false", "none", "inf", "nan", "token", *(dtype.name for dtype in ALL)}
WORD = re.compile(r"[A-Za-z_][\w.*]*")


def show(func: Func, lines: bool = False) -> str:
    """The whole function. `lines` adds the user's line to each instruction that has one."""
    printer = _Printer(lines)
    text = printer.func(func)
    layouts = [f"layout {name} = {layout}" for layout, name in printer.layouts.items()]
    return "\n".join([*layouts, *text]) + "\n"


def describe(inst: Inst) -> str:
    """One instruction, its operands without numbers: for messages."""
    printer = _Printer(lines=True)
    return printer.line(inst).strip()


class _Printer:
    def __init__(self, lines: bool) -> None:
        self.lines = lines
        self.names: dict[Value, str] = {}
        self.used: set[str] = set()
        self.count = 0
        self.layouts: dict[Layout, str] = {}
        self.views: dict[str, str] = {}

    def func(self, func: Func) -> list[str]:
        head = f"func {func.name}({self.args(func.params)}) {self.attributes(dict(func.schedule))}".rstrip()
        return [head + " {", *self.block(func.body, "  "), "}"]

    def block(self, block: Block, indent: str) -> list[str]:
        out: list[str] = []
        for inst in block.body:
            out.append(indent + self.line(inst))
            for name in block_fields(type(inst)):
                inner = getattr(inst, name)
                out.append(f"{indent}  {name}({self.args(inner.args)}):")
                out += self.block(inner, indent + "    ")
                out.append(f"{indent}    yield {', '.join(map(self.value, inner.results))}".rstrip())
        return out

    def line(self, inst: Inst) -> str:
        operands = ", ".join(self.operand(getattr(inst, name)) for name in operand_fields(type(inst)))
        words = [mnemonic(type(inst)), operands, self.attributes(settings(inst))]
        text = " ".join(word for word in words if word)
        if inst.type != UNIT:
            text = f"{self.define(inst, str(self.count))} = {text} : {self.type(inst.type)}"
            self.count += 1
        return f"{text}  # {inst.loc}" if self.lines and inst.loc else text

    def define(self, value: Value, name: str) -> str:
        """A name that nobody else has."""
        wanted, again = name, 0
        while name in self.used:
            again += 1
            name = f"{wanted}.{again}"
        self.used.add(name)
        self.names[value] = f"%{name}"
        return f"%{name}"

    def args(self, args: tuple[Arg, ...]) -> str:
        return ", ".join(f"{self.define(a, a.name or 'arg')}: {self.arg_type(a.type)}" for a in args)

    def value(self, v: Value) -> str:
        unknown = mnemonic(type(v)) if isinstance(v, Inst) else getattr(v, "name", "")
        return self.names.get(v, f"%?{unknown}")

    def operand(self, v: Any) -> str:
        if isinstance(v, tuple):
            return f"({', '.join(map(self.operand, v))})"
        return "_" if v is None else self.value(v)

    # Types and attributes.

    def type(self, kind: Type) -> str:
        match kind:
            case TileType():
                return str(kind) + (f"@{self.layout(kind.layout)}" if kind.layout else "")
            case ArrayType():
                head = "" if kind.space == "global" else f"{kind.space} "
                extents = ", ".join(map(self.extent, kind.shape))
                return f"{head}{kind.dtype}[{extents}]" + (
                    f"@{self.layout(kind.layout)}" if kind.layout else ""
                )
            case TupleType():
                return f"({', '.join(map(self.type, kind.items))})"
        return str(kind)

    def arg_type(self, kind: Type) -> str:
        """An array's type in full: a tile's says all anyway."""
        if not isinstance(kind, ArrayType):
            return self.type(kind)
        rest = {
            f.name: getattr(kind, f.name) for f in fields(kind) if f.name not in ("dtype", "shape", "layout")
        }
        kept = {
            name: v for name, v in rest.items() if name in ("strides", "align") or v not in ("global", False)
        }
        return f"{self.type(kind).removeprefix(kind.space + ' ')} {self.attributes(kept)}"

    def extent(self, extent: int | Dim) -> str:
        if isinstance(extent, int):
            return str(extent)
        name = extent.name
        if re.fullmatch(r"view\d+", name):
            name = self.views.setdefault(name, f"view{len(self.views)}")
        if not WORD.fullmatch(name) or name in RESERVED or re.fullmatch(r"L\d+", name):
            return f"{json.dumps(name)}:{extent.multiple}"
        return name if extent.multiple == 1 else f"{name}:{extent.multiple}"

    def layout(self, layout: Layout) -> str:
        return self.layouts.setdefault(layout, f"L{len(self.layouts)}")

    def attributes(self, given: dict[str, Any]) -> str:
        return (
            "{" + ", ".join(f"{name}={self.literal(v)}" for name, v in given.items()) + "}" if given else ""
        )

    def literal(self, v: Any) -> str:
        match v:
            case None | bool():
                return str(v).lower()
            case tuple():
                return f"({', '.join(map(self.literal, v))})"
            case Layout():
                return self.layout(v)
            case Dim():
                return self.extent(v)
            case DType():
                return v.name
            case str():
                return json.dumps(v)
            case int():
                return repr(int(v))
        assert isinstance(v, float), f"{v!r} has no spelling"
        return repr(float(v))
