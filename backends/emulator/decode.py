"""From an Instruction to a Step: a closure that acts on a selection of lanes.

A builder takes what it knows from a Form (modifiers, operands, types); a modifier that nobody takes is an
error, so that nothing unknown is ever skipped. Registers are read and written through interned views: one
array per (register, dtype), made when a machine is, so that steps are independent of the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tilec.backends.emulator.program import (
    Address,
    Function,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)
from tilec.backends.emulator.ptx_types import TYPES, Array, Sel, numpy_type, typed
from tilec.ir.errors import TilecError

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

Getter = Callable[["Machine", Sel], Any]
Setter = Callable[["Machine", Sel, Any], None]
Run = Callable[["Machine", Sel], None]

PLAIN, COLLECTIVE, FLOW = 0, 1, 2


@dataclass
class Step:
    """What one instruction does. FLOW steps send their lanes on themselves; the others fall through."""

    run: Run
    kind: int = PLAIN
    guard: Getter | None = None
    members: Getter | None = None  # a collective's member mask: its lanes meet before any goes on
    group: bool = False  # the four warps of a warpgroup meet
    instruction: Instruction = field(default=Instruction("", (), (), None, 0, ""))


@dataclass
class Context:
    """What the instructions of one kernel share: register views, addresses of variables, access widths."""

    addresses: dict[str, int] = field(default_factory=dict)
    spaces: dict[str, str] = field(default_factory=dict)
    views: dict[tuple[str, str, str], int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)  # where each function starts
    widths: dict[str, set[int]] = field(default_factory=lambda: {"shared": set(), "global": set()})
    features: set[str] = field(default_factory=set)
    watched: dict[str, int] = field(default_factory=dict)  # registers of wgmma, numbered
    functions: dict[str, Function] = field(default_factory=dict)
    returns: dict[str, list[tuple[int, list[tuple[int, int, int]]]]] = field(default_factory=dict)

    def view(self, name: str, declared: str, dtype: np.dtype[Any]) -> int:
        return self.views.setdefault((name, declared, dtype.str), len(self.views))


class Form:
    """An instruction while it is decoded."""

    def __init__(
        self, instruction: Instruction, context: Context, function: Function, start: int, at: int
    ) -> None:
        self.i, self.context, self.function, self.start, self.at = instruction, context, function, start, at
        self.left = list(instruction.modifiers)

    def error(self, message: str) -> NoReturn:
        raise TilecError(f"PTX line {self.i.line}: {message}: {self.i.text!r}")

    # --- modifiers
    def take(self, *names: str) -> str | None:
        """The one of `names` that is among the modifiers, if any; taken."""
        for name in names:
            if name in self.left:
                self.left.remove(name)
                return name
        return None

    def need(self, *names: str) -> str:
        return self.take(*names) or self.error(f"needs one of {', '.join(names)}")

    def type(self, *allowed: str) -> str:
        """The first modifier left that is a type (one of `allowed`, if given)."""
        for name in self.left:
            if name in TYPES:
                if allowed and name not in allowed:
                    self.error(f"{self.i.root} on .{name} is not an instruction that the emulator knows")
                self.left.remove(name)
                return name
        return self.error("needs a type")

    def finish(self) -> None:
        if self.left:
            self.error(f"the emulator does not know modifier .{self.left[0]} on {self.i.root}")

    # --- operands
    def count(self, *allowed: int) -> int:
        n = len(self.i.operands)
        if n not in allowed:
            self.error(f"{self.i.root} takes {' or '.join(map(str, allowed))} operands, here are {n}")
        return n

    def operand(self, n: int) -> Operand:
        if n >= len(self.i.operands):
            self.error(f"{self.i.root} needs more than {len(self.i.operands)} operands")
        return self.i.operands[n]

    def source(self, operand: int | Operand, kind: str) -> Getter:
        """Reads an operand as `kind`: an array over the lanes, or a scalar for a constant."""
        what = self.operand(operand) if isinstance(operand, int) else operand
        dtype = numpy_type(kind)
        match what:
            case Register(name, declared):
                self.fits(kind, declared, what)
                return reader(self.context.view(name, declared, dtype))
            case Immediate():
                return constant(typed(what, dtype))
            case Symbol(name, offset) if name in self.context.addresses:
                return constant(typed(Immediate(self.context.addresses[name] + offset, "int"), dtype))
            case Special(name):
                return self.special(name, dtype)
            case Negated(inner) if kind == "pred":
                return inverse(self.source(inner, "pred"))
        return self.error(f"operand {what} cannot be read as .{kind}")

    def special(self, name: str, dtype: np.dtype[Any]) -> Getter:
        if name == "_":
            self.error("_ cannot be read")
        from tilec.backends.emulator.machine import DYNAMIC, is_special

        if not is_special(name):
            self.error(f"the emulator does not know the register {name}")
        if name in DYNAMIC:
            return lambda m, s: dtype.type(m.dynamic(name))
        return casting(reader(self.context.view(name, "special", np.dtype("u8"))), dtype)

    def fits(self, kind: str, declared: str, what: Operand) -> None:
        a, b = numpy_type(kind), numpy_type(declared)
        if (a == np.bool_) != (b == np.bool_) or a.itemsize > b.itemsize:
            self.error(f"{getattr(what, 'name', what)} is declared .{declared} and used as .{kind}")

    def target(self, operand: int | Operand, kind: str) -> Setter:
        """Writes an operand as `kind`; a wider register is zero- or sign-extended."""
        what = self.operand(operand) if isinstance(operand, int) else operand
        if what == Special("_"):
            return lambda m, s, x: None
        if not isinstance(what, Register):
            self.error(f"operand {what} cannot be written")
        self.fits(kind, what.type, what)
        dtype, width = numpy_type(kind), numpy_type(what.type).itemsize
        if width > dtype.itemsize:
            dtype = np.dtype(f"{'i' if dtype.kind == 'i' else 'u'}{width}")
            return extending(self.context.view(what.name, what.type, dtype), numpy_type(kind))
        return writer(self.context.view(what.name, what.type, dtype))

    def address(self, operand: int | Operand) -> Getter:
        """An [address] as int64 per lane."""
        what = self.operand(operand) if isinstance(operand, int) else operand
        if not isinstance(what, Address):
            self.error("needs an address in brackets")
        return self.location(what)

    def location(self, what: Address) -> Getter:
        if isinstance(what.base, Register):
            wide = numpy_type(what.base.type).itemsize == 8
            base, offset = self.source(what.base, "s64" if wide else "u32"), what.offset
            if wide and not offset:
                return base
            if wide:
                return lambda m, s: base(m, s) + offset
            return lambda m, s: base(m, s).astype(np.int64) + offset
        fixed = self.source(what.base, "s64")(None, slice(0)) + what.offset  # type: ignore[arg-type]
        return lambda m, s: np.full(selected(s), fixed, np.int64)

    def vector(self, operand: int | Operand, count: int) -> list[Operand]:
        what = self.operand(operand) if isinstance(operand, int) else operand
        items: list[Operand] = list(what.items) if isinstance(what, Vector) else [what]
        if len(items) != count:
            self.error(f"needs {count} registers in braces, here are {len(items)}")
        return items

    def sources(self, operand: int | Operand, kind: str, count: int) -> list[Getter]:
        return [self.source(each, kind) for each in self.vector(operand, count)]

    def targets(self, operand: int | Operand, kind: str, count: int) -> list[Setter]:
        return [self.target(each, kind) for each in self.vector(operand, count)]


def selected(s: Sel) -> int:
    return int(s.stop - s.start) if isinstance(s, slice) else len(s)


def reader(slot: int) -> Getter:
    return lambda m, s: m.views[slot][s]


def casting(get: Getter, dtype: np.dtype[Any]) -> Getter:
    return lambda m, s: get(m, s).astype(dtype)


def constant(value: Any) -> Getter:
    return lambda m, s: value


def inverse(get: Getter) -> Getter:
    return lambda m, s: ~get(m, s)


def writer(slot: int) -> Setter:
    def put(m: Machine, s: Sel, value: Any) -> None:
        m.views[slot][s] = value

    return put


def extending(slot: int, narrow: np.dtype[Any]) -> Setter:
    if narrow.kind == "f":
        narrow = np.dtype(f"u{narrow.itemsize}")

        def put_bits(m: Machine, s: Sel, value: Any) -> None:
            m.views[slot][s] = np.ascontiguousarray(value).view(narrow)

        return put_bits

    def put(m: Machine, s: Sel, value: Any) -> None:
        m.views[slot][s] = np.asarray(value).astype(narrow)

    return put


def full(value: Any, s: Sel) -> Array:
    """A value as an array over the lanes, also where it was a scalar."""
    array = np.asarray(value)
    return array if array.ndim else np.full(selected(s), array, array.dtype)
