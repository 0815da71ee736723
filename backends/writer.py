"""LLVM IR as text: one function, written line by line.

    w = Writer("x86", width=16)
    w.op("fadd", "float", x, "%y")        # emits  %v0 = fadd <16 x float> %x, %y  and gives "%v0"

`width` is how many elements one register holds: 1 writes scalars, more writes vectors, and everything else is
the same. How an element lies in a register is `held(dtype)`: as itself where LLVM has the type, else as an
integer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tilec.ir import codec
from tilec.ir.dtype import DType

FLOATS = {(5, 10): "half", (8, 7): "bfloat", (8, 10): "float", (8, 23): "float", (11, 52): "double"}
MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64"}


def held(dtype: DType) -> str:
    """LLVM's type of one element in a register.

    bool is i1; integers of fewer than 8 bits are an i8 (sign- or zero-extended); floats of 8 bits and fewer,
    and scales, are an i8 that holds the code (zero-extended); tf32 is a float.
    """
    if dtype.is_bool:
        return "i1"
    if dtype.is_integer or dtype.bits <= 8:
        return f"i{max(8, dtype.bits)}"
    return FLOATS[dtype.exponent, dtype.mantissa]


def is_code(dtype: DType) -> bool:
    """Is it a float that registers hold as a code?"""
    return dtype.is_float and dtype.bits <= 8


@dataclass
class Writer:
    """The lines of one function. `arch`: ptx, x86 or aarch64; `features`: the CPU's, in LLVM's terms."""

    arch: str
    width: int = 1
    features: frozenset[str] = frozenset()
    lines: list[str] = field(default_factory=list)
    declarations: dict[str, str] = field(default_factory=dict)
    current: str = "entry"
    _fresh: int = 0

    @property
    def native_half(self) -> bool:
        """Does the machine round + - * of f16 once, in one instruction?"""
        return self.arch == "ptx" or bool(self.features & {"avx512fp16", "fullfp16"})

    # Lines and names.

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def name(self) -> str:
        """A fresh register."""
        self._fresh += 1
        return f"%v{self._fresh}"

    def let(self, rhs: str) -> str:
        """Emits `%vN = rhs` and gives its name."""
        name = self.name()
        self.lines.append(f"  {name} = {rhs}")
        return name

    def label(self, stem: str) -> str:
        """A fresh name for a block (without `%`)."""
        self._fresh += 1
        return f"{stem}{self._fresh}"

    def start(self, label: str) -> None:
        """What follows is in block `label` (also `current`, for phis)."""
        self.lines.append(f"{label}:")
        self.current = label

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")

    @contextmanager
    def at_width(self, width: int) -> Iterator[Writer]:
        """Writes vectors of another width for a while."""
        before, self.width = self.width, width
        try:
            yield self
        finally:
            self.width = before

    # Types and constants.

    def vector(self, element: str) -> str:
        """The type of a register of `width` elements."""
        return element if self.width == 1 else f"<{self.width} x {element}>"

    def held(self, dtype: DType) -> str:
        """`held`, but that a CPU's registers hold bf16 as i16: LLVM has no way back from f32 to bf16 there.
        """
        element = held(dtype)
        return "i16" if element == "bfloat" and self.arch != "ptx" else element

    def stored(self, dtype: DType) -> str:
        """LLVM's type of one element in memory (unpacked)."""
        return "i8" if dtype.is_bool else self.held(dtype)

    def type(self, dtype: DType) -> str:
        return self.vector(self.held(dtype))

    def splat(self, text: str, element: str) -> str:
        """The constant `text` in every element."""
        return text if self.width == 1 else f"splat ({element} {text})"

    def integer(self, value: int, element: str) -> str:
        """An integer constant; its low bits count."""
        return self.splat(signed(value, element), element)

    def real(self, value: float, element: str = "float") -> str:
        return self.splat(float_text(value, element), element)

    def constant(self, value: object, dtype: DType) -> str:
        """A value of `dtype`, rounded as a cast would if it is not one."""
        element = self.held(dtype)
        if dtype.is_bool:
            return self.splat("true" if value else "false", element)
        if element in MANGLED:
            return self.real(np.asarray(codec.round_to(np.asarray(value), dtype)).item(), element)
        of = codec.encode if dtype.is_float else codec.round_to
        return self.integer(np.asarray(of(np.asarray(value), dtype)).item(), element)

    def spread(self, scalar: str, element: str) -> str:
        """A scalar register in every element."""
        if self.width == 1:
            return scalar
        kind = self.vector(element)
        one = self.let(f"insertelement {kind} poison, {element} {scalar}, i64 0")
        return self.let(f"shufflevector {kind} {one}, {kind} poison, <{self.width} x i32> zeroinitializer")

    # Operations on registers of `width` elements of the LLVM type `element`.

    def op(self, name: str, element: str, *args: str) -> str:
        """add, fmul, fneg, and, ..."""
        return self.let(f"{name} {self.vector(element)} {', '.join(args)}")

    def compare(self, how: str, element: str, a: str, b: str) -> str:
        """icmp on integers, fcmp on floats."""
        name = "fcmp" if element in MANGLED else "icmp"
        return self.op(f"{name} {how}", element, a, b)

    def select(self, condition: str, element: str, a: str, b: str) -> str:
        kind = self.vector(element)
        return self.let(f"select {self.vector('i1')} {condition}, {kind} {a}, {kind} {b}")

    def convert(self, name: str, source: str, x: str, into: str) -> str:
        """trunc, sext, fpext, bitcast, uitofp, ...; nothing between equal types."""
        if source == into:
            return x
        return self.let(f"{name} {self.vector(source)} {x} to {self.vector(into)}")

    def call(self, name: str, element: str, *args: str, extra: str = "") -> str:
        """An intrinsic over registers of one type: call("llvm.fma", "float", a, b, c)."""
        kind = self.vector(element)
        full = f"{name}.{self.mangled(element)}"
        self.declare(full, kind, *[kind] * len(args), *(["i1"] if extra else []))
        given = ", ".join(f"{kind} {x}" for x in args)
        return self.let(f"call {kind} @{full}({given}{extra})")

    def mangled(self, element: str) -> str:
        """How an intrinsic's name spells a register's type."""
        scalar = MANGLED.get(element, element)
        return scalar if self.width == 1 else f"v{self.width}{scalar}"

    def declare(self, name: str, result: str, *args: str) -> None:
        """Notes a declaration for the module; one name has one signature."""
        text = f"declare {result} @{name}({', '.join(args)})"
        assert self.declarations.setdefault(name, text) == text, f"{name} has two signatures"

    def module(self, definitions: Sequence[str] = ()) -> str:
        """Other text, this function's lines, and the declarations."""
        return "\n".join([*definitions, *self.lines, *self.declarations.values(), ""])


def signed(value: int, element: str) -> str:
    """An integer as LLVM prints it: two's complement of the element's width."""
    bits = int(element[1:])
    value &= (1 << bits) - 1
    return str(value - (1 << bits) if value >> bits - 1 else value)


def float_text(value: float, element: str) -> str:
    """A float constant by its bits; `value` is exact in `element`."""
    if element == "half":
        return f"0xH{int(np.float16(value).view(np.uint16)):04X}"
    if element == "bfloat":
        return f"0xR{int(np.float32(value).view(np.uint32)) >> 16:04X}"
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
