"""The matrix product of one block: mma.sync on fragments, or fused multiply-adds where no matrix unit serves.

The pass that chose the layouts guarantees that a, b and c are tilings of the atom's fragments by the same
warps, so that slots with the same atom coordinates belong together in every thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.convert import cast
from tilec.backends.ptx.emitter import Fragment
from tilec.backends.ptx.threads import predicate
from tilec.backends.writer import held
from tilec.ir import dtype as dt
from tilec.ir.atoms import mma_atom
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst.arith import Cast, Full
from tilec.ir.inst.mma import Dot
from tilec.ir.inst.shape import Broadcast
from tilec.ir.layout import Layout

if TYPE_CHECKING:
    from tilec.backends.ptx.emitter import Emitter

Slots = Mapping[tuple[int, ...], int]
SHIFTED = 0x4B400000  # 1.5 * 2^23 as f32: integers of 22 bits added to its bits are added to the number


@dataclass(frozen=True)
class Kept:
    """What an instruction is told of a sparse operand: its form, the register of places, who gives theirs."""

    form: str
    register: str
    selector: int


@dataclass(frozen=True)
class Sparse:
    """A left operand of which one of `per` columns is held: `places(i, step)` says which, for the instruction
    of row i and step."""

    per: int
    places: Callable[[int, int], Kept]


def by_coordinates(layout: Layout, product: tuple[int, ...] = ()) -> Slots:
    """The slot that holds each coordinate offset from the thread's first element; of one of its products."""
    found: dict[tuple[int, ...], int] = {}
    for s, (*of, row, column) in enumerate(layout.slot_part().tolist()):
        if tuple(of) == product:
            found.setdefault((row, column), s)
    return found


def products(layout: Layout) -> list[tuple[int, ...]]:
    """The products that a thread has a part in, as offsets from its first: several where a tile has three
    axes."""
    return sorted({tuple(point[:-2]) for point in layout.slot_part().tolist()})


def ptx_type(dtype: DType) -> str:
    """PTX's name of an operand's type: s8, u8, f16, e4m3 ..."""
    if dtype.is_integer:
        return f"{'s' if dtype.is_signed else 'u'}{dtype.bits}"
    return f"e{dtype.exponent}m{dtype.mantissa}" if dtype.bits == 8 else dtype.name


def dot(e: Emitter, inst: Dot) -> Fragment:
    a, b, c = e.fragment(inst.a), e.fragment(inst.b), e.fragment(inst.c)
    if not inst.atom:
        return _fma(e, a, b, c)
    m, n, k = inst.atom
    if a.layout.shape[-1] % k:
        a, b = _zero_padded(e, a, -1), _zero_padded(e, b, -2)
    if becomes_floats(e, inst):
        c = Fragment(c.dtype, c.layout, [str(SHIFTED)] * len(c.slots))
    atom = mma_atom(m, n, k, a.dtype.bits)
    return multiplied(e, (a, b, c), (m, n, k), (offsets(atom.a), offsets(atom.b), offsets(atom.c)))


def becomes_floats(e: Emitter, x: Value) -> bool:
    """Whether a product is sums of few bytes, of at most 2^22, that are only cast to f32. They start from the
    bits of 1.5 * 2^23 then, and are that float plus the sums: a subtraction makes the cast, which takes a
    quarter of a conversion's time before sm_90.
    """
    if not isinstance(x, Dot) or not x.atom or x.tile.dtype != dt.i32 or not is_zero(x.c):
        return False
    kinds = x.a.tile.dtype, x.b.tile.dtype
    most = x.a.tile.shape[-1] << sum(kind.bits - kind.is_signed for kind in kinds)
    users = e.users.get(x, [])
    return most <= 1 << 22 and bool(users) and all(isinstance(u, Cast) and u.dtype == dt.f32 for u in users)


def is_zero(x: Value) -> bool:
    """Is it the number 0 everywhere?"""
    constant = x.x if isinstance(x, Broadcast) else x
    return isinstance(constant, Full) and constant.value == 0


def as_floats(e: Emitter, inst: Inst) -> Fragment | None:
    """The cast of such a product; None for others."""
    if not isinstance(inst, Cast) or not becomes_floats(e, inst.x):
        return None
    x, shift = e.fragment(inst.x), e.writer.constant(1.5 * 2.0**23, dt.f32)
    wide = [e.let(f"bitcast i32 {slot} to float") for slot in x.slots]
    return Fragment(dt.f32, x.layout, [e.writer.op("fsub", "float", w, shift) for w in wide])


def offsets(layout: Layout) -> list[tuple[int, ...]]:
    """The coordinates of each slot from the thread's first element."""
    return [tuple(point) for point in layout.slot_part().tolist()]


def multiplied(
    e: Emitter,
    factors: tuple[Fragment, Fragment, Fragment],
    shape: tuple[int, int, int],
    parts: tuple[list[tuple[int, ...]], ...],
    sparse: Sparse | None = None,
) -> Fragment:
    """a @ b + c by instructions of one shape (m, n, k), whose operands' elements lie at `parts`. Of a sparse
    a there are the columns that are kept."""
    (a, b, c), (m, n, k) = factors, shape
    out, deep = list(c.slots), k // sparse.per if sparse else k
    for product in products(c.layout):
        places = [by_coordinates(f.layout, product) for f in factors]
        rows = sorted({r // m for r, _ in places[2]})
        columns = sorted({s // n for _, s in places[2]})
        for step, i in itertools.product(range(-(-b.layout.shape[-2] // k)), rows):
            left = _words(e, a, [places[0][i * m + r, step * deep + s] for r, s in parts[0]])
            kept = sparse.places(i, step) if sparse else None
            for j in columns:
                right = _words(e, b, [places[1][step * k + r, j * n + s] for r, s in parts[1]])
                mine = [places[2][i * m + r, j * n + s] for r, s in parts[2]]
                sums = [out[s] for s in mine]
                found = _mma(e, shape, (a.dtype, b.dtype, c.dtype), (left, right, sums), kept)
                for s, value in zip(mine, found, strict=True):
                    out[s] = value
    return Fragment(c.dtype, c.layout, out)


def _zero_padded(e: Emitter, tile: Fragment, axis: int) -> Fragment:
    """Zeros where a fragment goes past the summed axis: what is undefined there must not reach the sums."""
    outside = tile.layout.points()[..., axis] >= tile.layout.shape[axis]
    zero, kind = e.writer.constant(0, tile.dtype), held(tile.dtype)
    slots = list(tile.slots)
    for s in np.flatnonzero(outside.any(0)).tolist():
        real = predicate(e, ~outside[:, s])
        slots[s] = zero if real is None else e.let(f"select i1 {real}, {kind} {slots[s]}, {kind} {zero}")
    return Fragment(tile.dtype, tile.layout, slots)


def _words(e: Emitter, tile: Fragment, slots: list[int]) -> list[str]:
    """Registers of one operand: as many elements as fit 32 bits in each."""
    per = 32 // tile.dtype.bits
    return [
        e.word([tile.slots[s] for s in slots[i : i + per]], tile.dtype) for i in range(0, len(slots), per)
    ]


def _mma(
    e: Emitter,
    shape: tuple[int, int, int],
    types: tuple[DType, DType, DType],
    operands: tuple[list[str], list[str], list[str]],
    kept: Kept | None,
) -> list[str]:
    """One mma.sync: d = a @ b + c on a warp's fragments; sums of 16 bits travel two in a register."""
    (m, n, k), (a, b, c) = shape, operands
    halves = types[2].bits == 16
    if halves:
        c = [e.word(c[i : i + 2], types[2]) for i in range(0, len(c), 2)]
    into, kind = ("f", "float") if types[2].is_float and not halves else ("r", "i32")
    names = [ptx_type(t) for t in (types[2], types[0], types[1], types[2])]
    lists, at = [], 0
    for count in (len(c), len(a), len(b), len(c)):
        lists.append("{" + ", ".join(f"${at + i}" for i in range(count)) + "}")
        at += count
    form, more = (f"mma.{kept.form}", f", ${at}, {kept.selector}") if kept else ("mma", "")
    text = f"{form}.sync.aligned.m{m}n{n}k{k}.row.col.{'.'.join(names)} {', '.join(lists)}{more};"
    constraints = ",".join([f"={into}"] * len(c) + ["r"] * (len(a) + len(b)) + [into] * len(c))
    given = ", ".join([f"i32 {x}" for x in (*a, *b)] + [f"{kind} {x}" for x in c])
    if kept:
        constraints, given = f"{constraints},r", f"{given}, i32 {kept.register}"
    result = "{ " + ", ".join([kind] * len(c)) + " }"
    whole = e.let(f'call {result} asm "{text}", "{constraints}"({given}) #1')
    found = [e.let(f"extractvalue {result} {whole}, {i}") for i in range(len(c))]
    return [x for word in found for x in e.unword(word, types[2])] if halves else found


def _fma(e: Emitter, a: Fragment, b: Fragment, c: Fragment) -> Fragment:
    """c[r, s] += a[r, k] * b[k, s] element by element; a thread holds the rows of a and columns of b that it
    needs.
    """
    out = list(c.slots)
    for product in products(c.layout):
        left, right, mine = (by_coordinates(f.layout, product) for f in (a, b, c))
        for k in range(a.layout.shape[-1]):
            for (r, s), slot in mine.items():
                x, y = a.slots[left[r, k]], b.slots[right[k, s]]
                out[slot] = _multiply_add(e, x, y, out[slot], (a.dtype, b.dtype, c.dtype))
    return Fragment(c.dtype, c.layout, out)


def _multiply_add(e: Emitter, x: str, y: str, z: str, types: tuple[DType, DType, DType]) -> str:
    """x * y + z: fused in f32 or f64, which hold the operands exactly, then rounded to the sums' dtype."""
    sum_ = types[2]
    wide = sum_ if sum_.is_integer or sum_.bits == 64 else dt.f32
    x, y, z = (cast(e.writer, v, have, wide) for v, have in zip((x, y, z), types, strict=True))
    if sum_.is_integer:
        return e.writer.op("add", held(sum_), z, e.writer.op("mul", held(sum_), x, y))
    return cast(e.writer, e.writer.call("llvm.fma", held(wide), x, y, z), wide, sum_)
