"""mma.sync: every operand as matrices, by the ISA's fragment formulas.

With g = lane >> 2, t = lane & 3 and p elements in a register:
    A: register r, element h   row g + 8 (r & 1), column t p + h + 4 p (r >> 1)
    B: register r, element h   row (k) t p + h + 4 p r, column g
    C, D: c[2 r + i]           row g + 8 r, column 2 t + i      (f16: the pair of a row in one register)
Products are exact in the accumulator's type or wider; sums are in no certain order, as on hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, Form, Getter, Run, Setter, Step, constant
from tilec.backends.emulator.fast import matrix_product
from tilec.backends.emulator.lanes import size
from tilec.backends.emulator.program import Register
from tilec.backends.emulator.ptx_types import Array, Sel, bits
from tilec.backends.emulator.rounding import E4M3, E5M2, decode, from_bf16
from tilec.backends.emulator.warp import Warps, warps

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

SIZES = {
    "f16": 16,
    "bf16": 16,
    "tf32": 32,
    "s8": 8,
    "u8": 8,
    "e4m3": 8,
    "e5m2": 8,
    "s4": 4,
    "u4": 4,
    "f64": 64,
}


@cache
def small_values(name: str) -> Array:
    codes = np.arange(256)
    return decode(codes, E4M3 if name == "e4m3" else E5M2).astype(np.float32)


def elements(words: Array, name: str) -> Array:
    """Registers [...] as values [..., p], in the type that sums them."""
    if name == "f64":
        return words[..., None]
    if name == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32)[..., None]
    if name in ("s4", "u4"):
        nibbles = (words[..., None] >> (np.arange(8, dtype=np.uint32) * 4)) & np.uint32(15)
        values = nibbles.astype(np.float32)
        return np.where(values >= 8, values - 16, values) if name == "s4" else values
    narrow = words[..., None].view({"f16": "f2", "s8": "i1"}.get(name, f"u{SIZES[name] // 8}"))
    if name == "bf16":
        return from_bf16(narrow)
    if name in ("e4m3", "e5m2"):
        return small_values(name)[narrow]
    return narrow.astype(np.float32)


def matrix_a(registers: list[Array], name: str, rows: int) -> Array:
    """[warps, 32] per register to [warps, rows, k]."""
    x = np.stack([elements(r, name) for r in registers])
    halves, n, p = rows // 8, x.shape[1], x.shape[-1]
    x = x.reshape(len(registers) // halves, halves, n, 8, 4, p)
    return x.transpose(2, 1, 3, 0, 4, 5).reshape(n, rows, -1)


def matrix_b(registers: list[Array], name: str) -> Array:
    """[warps, 32] per register to [warps, k, 8]."""
    x = np.stack([elements(r, name) for r in registers])
    n, p = x.shape[1], x.shape[-1]
    return x.reshape(len(registers), n, 8, 4, p).transpose(1, 0, 3, 4, 2).reshape(n, -1, 8)


def matrix_c(registers: list[Array], half: bool) -> Array:
    """[warps, 32] per register to [warps, rows, 8]."""
    n = registers[0].shape[0]
    if half:
        x = np.stack([r[..., None].view(np.float16).astype(np.float32) for r in registers])  # [r, n, 32, i]
        return x.reshape(len(registers), n, 8, 4, 2).transpose(1, 0, 2, 3, 4).reshape(n, -1, 8)
    x = np.stack(registers).reshape(len(registers) // 2, 2, n, 8, 4)
    return x.transpose(2, 0, 3, 4, 1).reshape(n, -1, 8)


def registers_d(d: Array, half: bool) -> list[Array]:
    """[warps, rows, 8] back to [warps, 32] per register."""
    n, rows = d.shape[:2]
    x = d.reshape(n, rows // 8, 8, 4, 2)
    if half:
        packed = np.ascontiguousarray(x).astype(np.float16).view(np.uint32)[..., 0]
        return [packed[:, r].reshape(n, 32) for r in range(rows // 8)]
    return [np.ascontiguousarray(x[:, r, :, :, i]).reshape(n, 32) for r in range(rows // 8) for i in range(2)]


@dataclass(frozen=True)
class Shape:
    """One mma.sync instruction: its sizes, types and how many registers each operand has."""

    m: int
    n: int
    k: int
    d: str
    a: str
    b: str
    c: str
    saturate: bool
    a_count: int
    b_count: int

    @property
    def half(self) -> bool:
        return self.d == "f16"

    @property
    def c_count(self) -> int:
        return self.m // 8 * (1 if self.half else 2)


def product(a: Array, b: Array, c: Array, shape: Shape) -> Array:
    """a @ b + c over warps, in the accumulator's type."""
    if shape.d == "s32":
        wide = np.rint(np.matmul(a, b)).astype(np.int64) + c
        return (np.clip(wide, -(2**31), 2**31 - 1) if shape.saturate else wide).astype(np.int32)
    return np.asarray(np.matmul(a, b) + c)


MANY = 2000  # products of warps after which compiled code pays for itself
SHAPES = ("m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64", "m8n8k4", "m8n8k16", "m8n8k32")


def mma(f: Form) -> Step:
    if f.take("sp", "sp::ordered_metadata"):
        from tilec.backends.emulator.mma_sparse import mma_sparse

        return mma_sparse(f)
    f.need("sync")
    f.need("aligned")
    shape = read_shape(f)
    raw = "b64" if shape.a == "f64" else "b32"
    kind = {"f16": "b32", "f32": "f32", "s32": "s32", "f64": "f64"}[shape.d]
    puts = f.targets(0, kind, shape.c_count)
    a, b = f.sources(1, raw, shape.a_count), f.sources(2, raw, shape.b_count)
    if raw == "b64":
        a, b = f.sources(1, "f64", shape.a_count), f.sources(2, "f64", shape.b_count)
    c = f.sources(3, kind, shape.c_count)
    run = runner(shape, puts, a, b, c)
    return Step(accelerated(f, shape, run), COLLECTIVE, members=constant(np.uint32(0xFFFFFFFF)))


def accelerated(f: Form, shape: Shape, run: Run) -> Run:
    """`run`, or compiled code once a launch has seen many products of whole warps in all blocks."""
    slots = [slot for n in (1, 2, 3, 0) for slot in word_slots(f, n)]
    if (shape.m, shape.k, shape.d) != (16, 16, "f32") or shape.a not in ("f16", "bf16") or None in slots:
        return run
    numbers = [slot for slot in slots if slot is not None]

    def either(m: Machine, s: Sel) -> None:
        whole = 32 * m.blocks
        m.launch.products += size(s) // 32
        if m.launch.products < MANY or not isinstance(s, slice) or s.start % whole or s.stop % whole:
            return run(m, s)
        pointers = [m.pointer(slot, s.start) for slot in numbers]
        return matrix_product(shape.a)(pointers, (s.stop - s.start) // whole, m.blocks)

    return either


def word_slots(f: Form, n: int) -> list[int | None]:
    """Views of an operand's registers as plain words; None for what is no 4-byte register."""
    items = f.vector(n, len(getattr(f.operand(n), "items", "1")))
    return [
        f.context.view(r.name, r.type, np.dtype("u4"))
        if isinstance(r, Register) and bits(r.type) == 32
        else None
        for r in items
    ]


def read_shape(f: Form, shapes: tuple[str, ...] = SHAPES) -> Shape:
    name = f.need(*shapes)
    m, n, k = (int(x) for x in name.replace("m", "").replace("n", " ").replace("k", " ").split())
    f.need("row")
    f.need("col")
    saturate = bool(f.take("satfinite"))
    types = [f.left.pop(0) for _ in range(min(4, len(f.left)))]
    if (
        len(types) < 4
        or types[1] not in SIZES
        or types[2] not in SIZES
        or types[0] not in ("f16", "f32", "s32", "f64")
    ):
        f.error(f"the emulator does not know mma.sync on {', '.join(types)}")
    per = max(1, 32 // SIZES[types[1]])
    if k % (4 * per) or m * n * k < 8 * 8 * 4 or (m, SIZES[types[1]]) == (8, 16):
        f.error(f"the emulator does not know mma.sync {name} on {types[1]}")
    d, a, b, c = types
    return Shape(m, n, k, d, a, b, c, saturate, m // 8 * (k // (4 * per)), k // (4 * per))


def runner(
    shape: Shape, puts: list[Setter], a: list[Getter], b: list[Getter], c: list[Getter]
) -> Callable[[Machine, Sel], None]:
    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        x = matrix_a(rows(m, s, w, a), shape.a, shape.m)
        y = matrix_b(rows(m, s, w, b), shape.b)
        d = product(x, y, matrix_c(rows(m, s, w, c), shape.half), shape)
        for put, register in zip(puts, registers_d(d, shape.half), strict=True):
            put(m, s, w.flat(register))

    return run


def rows(m: Machine, s: Sel, w: Warps, gets: list[Getter]) -> list[Array]:
    return [w.rows(get(m, s)) for get in gets]


def wmma(f: Form) -> Step:
    f.error("wmma is not known to the emulator: its fragments are not specified; use mma")


BUILDERS: dict[str, Callable[[Form], Step]] = {"mma": mma, "wmma": wmma}
