"""Vectors to and from memory: runs of elements, masked ones, strided ones.

read(w, "%p", "float", 1, Lanes(16, 5))     the first 5 of 16 lanes are read, the others are undefined
"""

from __future__ import annotations

from dataclasses import dataclass

from tilec.backends.convert import stored
from tilec.backends.cpu.loops import Index, mul, step_pointer
from tilec.backends.writer import Writer, held
from tilec.ir.dtype import DType

SIZES = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "i32": 4, "float": 4, "i64": 8, "double": 8}


def memory_type(dtype: DType) -> str:
    """LLVM's type of one element in memory (unpacked), bf16 by its bits."""
    return "i16" if held(dtype) == "bfloat" else stored(dtype)


@dataclass(frozen=True)
class Lanes:
    """A vector of `width` lanes of which the first `count` mean something; `mask`: a register that says
    which do.
    """

    width: int
    count: int
    mask: str | None = None

    @property
    def all(self) -> bool:
        return self.width == self.count and self.mask is None

    @property
    def text(self) -> str:
        """The mask as an operand (of `width` i1, or one)."""
        if self.mask is not None:
            return self.mask
        if self.width == 1:
            return "true" if self.count else "false"
        return f"<{', '.join('i1 ' + str(int(lane < self.count)) for lane in range(self.width))}>"


def read(
    w: Writer, pointer: str, element: str, stride: Index, lanes: Lanes, other: str = "", align: int = 0
) -> str:
    """One vector: lanes that mean nothing are `other` (0: never poison, which would spoil a division) and
    touch no memory. `align`: in bytes, an element's unless said otherwise (for neighbours only).
    """
    align = align or SIZES[element]
    if stride == 0 and lanes.mask is None:
        return w.spread(w.let(f"load {element}, ptr {pointer}, align {SIZES[element]}"), element)
    if stride != 1:
        return _read_apart(w, pointer, element, stride, lanes, other)
    kind, other = w.vector(element), other or "zeroinitializer"
    if lanes.all:
        return w.let(f"load {kind}, ptr {pointer}, align {align}")
    if w.width == 1:
        return _read_one(w, pointer, element, lanes.text, other)
    name = f"llvm.masked.load.{w.mangled(element)}.p0"
    masks = w.vector("i1")
    w.declare(name, kind, "ptr", "i32", masks, kind)
    return w.let(f"call {kind} @{name}(ptr {pointer}, i32 {align}, {masks} {lanes.text}, {kind} {other})")


def write(w: Writer, register: str, pointer: str, element: str, stride: Index, lanes: Lanes) -> None:
    """Lanes that mean nothing are not written."""
    kind = w.vector(element)
    if stride != 1 and w.width > 1:
        _write_apart(w, register, pointer, element, stride, lanes)
    elif lanes.all:
        w.line(f"store {kind} {register}, ptr {pointer}, align {SIZES[element]}")
    elif w.width == 1:
        place = safe(w, lanes.text, pointer)
        w.line(f"store {kind} {register}, ptr {place}, align {SIZES[element]}")
    else:
        name, masks = f"llvm.masked.store.{w.mangled(element)}.p0", w.vector("i1")
        w.declare(name, "void", kind, "ptr", "i32", masks)
        w.line(
            f"call void @{name}({kind} {register}, ptr {pointer}, i32 {SIZES[element]}, {masks} {lanes.text})"
        )


def safe(w: Writer, condition: str, pointer: str) -> str:
    """The address where the condition holds, else one that nobody reads."""
    return pointer if condition == "true" else w.let(f"select i1 {condition}, ptr {pointer}, ptr %scratch")


def lane(w: Writer, vector: str, element: str, index: int) -> str:
    """One lane as a scalar."""
    return vector if w.width == 1 else w.let(f"extractelement {w.vector(element)} {vector}, i64 {index}")


def joined(w: Writer, scalars: list[str], element: str, rest: str = "zeroinitializer") -> str:
    """A vector of scalars; lanes past them come from `rest`."""
    if w.width == 1:
        return scalars[0]
    vector = rest
    for i, scalar in enumerate(scalars):
        vector = w.let(f"insertelement {w.vector(element)} {vector}, {element} {scalar}, i64 {i}")
    return vector


def lane_mask(w: Writer, lanes: Lanes, index: int) -> str:
    """Does one lane mean something?"""
    if lanes.mask is None:
        return "true" if index < lanes.count else "false"
    return lane(w, lanes.mask, "i1", index)


def chosen(w: Writer, lanes: Lanes, element: str, register: str, other: str) -> str:
    """The register where lanes mean something, else `other`."""
    return register if lanes.all or not other else w.select(lanes.text, element, register, other)


def _read_one(w: Writer, pointer: str, element: str, condition: str, other: str) -> str:
    found = w.let(f"load {element}, ptr {safe(w, condition, pointer)}, align {SIZES[element]}")
    return w.let(f"select i1 {condition}, {element} {found}, {element} {other}")


def _read_apart(w: Writer, pointer: str, element: str, stride: Index, lanes: Lanes, other: str) -> str:
    found = []
    for i in range(min(lanes.width, lanes.count)):
        place = safe(w, lane_mask(w, lanes, i), step_pointer(w, pointer, element, mul(w, i, stride)))
        found.append(w.let(f"load {element}, ptr {place}, align {SIZES[element]}"))
    return chosen(w, lanes, element, joined(w, found, element), other)


def _write_apart(w: Writer, register: str, pointer: str, element: str, stride: Index, lanes: Lanes) -> None:
    for i in range(min(lanes.width, lanes.count)):
        place = safe(w, lane_mask(w, lanes, i), step_pointer(w, pointer, element, mul(w, i, stride)))
        w.line(f"store {element} {lane(w, register, element, i)}, ptr {place}, align {SIZES[element]}")
