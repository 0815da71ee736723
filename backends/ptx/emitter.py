"""The state of one kernel being written: what each IR value is in one thread, and the words that pack small
elements.

A tile is a `Fragment`: one LLVM scalar per slot of its layout. A scalar is its LLVM name. An array is a
pointer with its extents and strides, each an LLVM name or an integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tilec.backends.convert import from_memory, stored, to_memory
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.facts import Facts
from tilec.ir.func import Func, Inst, Value, root
from tilec.ir.layout import Layout
from tilec.ir.signature import Slot
from tilec.ir.target import Target

if TYPE_CHECKING:
    from tilec.backends.ptx.reports import Report

WORD = 32
NEAR = 200  # lines of text for which a tile that was made again is kept
Piece = tuple[str, int, int]  # a register, the first of its bits, and how many


@dataclass(frozen=True)
class Fragment:
    """One thread's part of a tile: an LLVM scalar per slot."""

    dtype: DType
    layout: Layout
    slots: Sequence[str]


@dataclass(frozen=True)
class Remade:
    """A tile that is written anew where it is used: `read` gives its slots."""

    dtype: DType
    layout: Layout
    read: Callable[[], Sequence[str]]


@dataclass(frozen=True)
class ArrayRef:
    """Where an array is: `base` is a pointer in its address space; integers are known, names are LLVM values.

    Extents are i32, strides i64 and in elements. `offset` counts elements of a packed array before the first.
    The base of a `moving` array is not there at the kernel's entry.
    """

    base: str
    extents: tuple[str | int, ...]
    strides: tuple[str | int, ...]
    offset: str | int = 0
    moving: bool = False


@dataclass(frozen=True)
class Field:
    """The bits of an element of a view, lowest first, in registers. Where codes are placed, `number` is which
    of its unit's it is, and `mate` the bits of the code that shares its register when both are wider.
    """

    pieces: tuple[Piece, ...]
    number: int | None = None
    mate: tuple[Piece, ...] = ()

    @property
    def half_apart(self) -> tuple[Piece, ...]:
        """The bits of the element in the other half of the same words."""
        if self.number is not None:
            return self.mate
        return tuple((word, first + 16, size) for word, first, size in self.pieces)


@dataclass(frozen=True)
class Token:
    """A copy under way; whether it is asynchronous is the copy's business."""


@dataclass
class Emitter:
    """Everything that emitters share. `once` keeps values made at the kernel's entry, by what they are."""

    func: Func
    target: Target
    facts: Facts
    writer: Writer
    entry: list[str] = field(default_factory=list)
    values: dict[Value, Any] = field(default_factory=dict)
    once: dict[Any, str] = field(default_factory=dict)
    words: dict[tuple[str, ...], str] = field(default_factory=dict)  # elements -> the register they share
    upper: dict[str, str] = field(default_factory=dict)  # the lower half of such a register -> the upper
    fields: dict[str, Field] = field(default_factory=dict)  # where an element of a view comes from
    at_field: dict[tuple[Piece, ...], str] = field(default_factory=dict)  # and back
    codes: dict[Value, list[str]] = field(default_factory=dict)  # words of views placed for bytes
    narrow: dict[str, str] = field(default_factory=dict)  # an i64 -> the i32 that it is, zero-extended
    globals: list[str] = field(default_factory=list)
    rows: dict[str, list[Any]] = field(default_factory=dict)  # constants of threads or lanes: see tables.py
    recent: dict[Value, tuple[str, int, Fragment | None]] = field(default_factory=dict)  # when remade last
    read_only: frozenset[Value] = frozenset()
    read_once: frozenset[Value] = frozenset()
    users: dict[Value, list[Inst]] = field(default_factory=dict)
    lazy: set[Value] = field(default_factory=set)
    maps: list[Slot] = field(default_factory=list)  # tensor maps that the kernel takes besides its arguments
    says: list[Report] = field(default_factory=list)  # what it may print, and what it asserts
    tid: str = "%tid"
    role: str = ""  # of the warps that this is written for, where there are two: producer or consumer
    block: str = "entry"

    @property
    def threads(self) -> int:
        """Those that hold tiles."""
        return self.func.warps * self.target.warp_size

    @property
    def all_threads(self) -> int:
        """With those of a producer."""
        return self.func.all_warps * self.target.warp_size

    def let(self, rhs: str) -> str:
        return self.writer.let(rhs)

    def line(self, text: str) -> None:
        self.writer.line(text)

    @contextmanager
    def at_entry(self) -> Iterator[None]:
        """What is written inside stands at the kernel's entry, before everything that uses it."""
        body, self.writer.lines = self.writer.lines, self.entry
        yield
        self.writer.lines = body

    def policy(self, array: Value) -> str | None:
        """What tells the L2 cache how long to keep an array, if a kernel has said something about it."""
        if root(array) not in self.read_once:
            return None
        if "evict first" not in self.once:
            with self.at_entry():
                text = "createpolicy.fractional.L2::evict_first.b64 $0, 1.0;"
                self.once["evict first"] = self.let(f'call i64 asm "{text}", "=l"()')
        return self.once["evict first"]

    def barrier(self) -> None:
        """All threads, or all of this role, wait for each other."""
        if self.role:
            self.line(f'call void asm sideeffect "bar.sync 1, {self.threads};", "~{{memory}}"() #2')
        else:
            self.call("llvm.nvvm.barrier0", "void")  # the name that LLVM 20 knows too

    def start_block(self, name: str) -> None:
        """What follows is in block `name`; phis name it."""
        self.writer.start(name)
        self.block = name

    def call(self, name: str, result: str, *args: str) -> str:
        """Calls an intrinsic: arguments with their types; the name of its result, "" for void."""
        self.writer.declare(name, result, *(arg.rpartition(" ")[0] for arg in args))
        text = f"call {result} @{name}({', '.join(args)})"
        if result != "void":
            return self.let(text)
        self.line(text)
        return ""

    def constant_table(self, kind: str, items: Sequence[int]) -> str:
        """A module constant: its name. Not in constant memory, which is small and gives one word."""
        name = f"@table{len(self.globals)}"
        text = ", ".join(f"{kind} {item}" for item in items)
        self.globals.append(
            f"{name} = internal addrspace(1) constant [{len(items)} x {kind}] [{text}], align 16"
        )
        return name

    def scalar(self, value: Value) -> str:
        found = self.values[value]
        assert isinstance(found, str), f"{value} is no scalar"
        return found

    def fragment(self, value: Value) -> Fragment:
        found = self.values[value]
        if isinstance(found, Remade):
            return self._remade(value, found)
        assert isinstance(found, Fragment), f"{value} is no tile"
        return found

    def held(self, value: Value) -> Any:
        """What a value of any type is."""
        found = self.values[value]
        return self._remade(value, found) if isinstance(found, Remade) else found

    def _remade(self, value: Value, tile: Remade) -> Fragment:
        """Made again, unless that was done a few lines before."""
        block, line, fragment = self.recent.get(value, ("", 0, None))
        if fragment is None or block != self.block or len(self.writer.lines) - line > NEAR:
            fragment = Fragment(tile.dtype, tile.layout, tile.read())
            self.recent[value] = self.block, len(self.writer.lines), fragment
        return fragment

    def array(self, value: Value) -> ArrayRef:
        found = self.values[value]
        assert isinstance(found, ArrayRef), f"{value} is no array"
        return found

    # -- words: several small elements in one 32-bit register ---------------------------------------

    def word(self, slots: Sequence[str], dtype: DType) -> str:
        """The integer (of 8 to 32 bits) whose bits are these elements, the first lowest."""
        key = tuple(slots)
        if key in self.words:
            return self.words[key]
        lane, whole = stored(dtype), f"i{memory_bits(dtype) * len(slots)}"
        packed = [to_memory(self.writer, slot, dtype) for slot in slots]
        if len(packed) == 1:
            return packed[0] if lane == whole else self.let(f"bitcast {lane} {packed[0]} to {whole}")
        vector = "poison"
        for i, item in enumerate(packed):
            vector = self.let(f"insertelement <{len(packed)} x {lane}> {vector}, {lane} {item}, i32 {i}")
        return self.let(f"bitcast <{len(packed)} x {lane}> {vector} to {whole}")

    def unword(self, word: str, dtype: DType, count: int = 0) -> list[str]:
        """The elements in an integer; `count` of them, or as many as 32 bits hold."""
        lane, bits = stored(dtype), memory_bits(dtype)
        count = count or WORD // bits
        whole = f"i{bits * count}"
        if count == 1:
            raw = [word if lane == whole else self.let(f"bitcast {whole} {word} to {lane}")]
        else:
            vector = self.let(f"bitcast {whole} {word} to <{count} x {lane}>")
            raw = [self.let(f"extractelement <{count} x {lane}> {vector}, i32 {i}") for i in range(count)]
        slots = [from_memory(self.writer, x, dtype) for x in raw]
        if slots == raw:
            self.words[tuple(slots)] = word
        return slots


def memory_bits(dtype: DType) -> int:
    """Bits of one element in unpacked memory: whole bytes."""
    return max(8, dtype.bits)
