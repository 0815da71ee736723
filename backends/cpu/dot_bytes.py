"""The matrix product of integers of up to 8 bits in i32, where the machine multiplies bytes four at a time.

    lane of the sums  +=  four unsigned bytes of b  x  four signed bytes of a           (vpdpbusd)
Both signed: something is added to b that leaves no sign (8 to i4, 128 to i8), and as often the sum of a's row
is taken off the sums before they begin. Codes need nothing where they stand for themselves and a constant.
Rows of a are copied next to each other; b comes in quads (quads.py), unpacked on the way or from memory.
"""

from __future__ import annotations

from tilec.backends.cpu import dot_along
from tilec.backends.cpu.cluster import Taken, taken
from tilec.backends.cpu.dot import Panel, Product, computed, packed_copy, registers
from tilec.backends.cpu.lanes import Lanes, read
from tilec.backends.cpu.loops import Index, add, loop, mul, step_pointer
from tilec.backends.cpu.lower import Lowering
from tilec.backends.cpu.nest import held_from
from tilec.backends.cpu.places import Ref
from tilec.backends.cpu.quads import BYTES, COLUMNS, NEEDS, ROWS, FusedQuads
from tilec.backends.cpu.right import Panels, Right, Unpacked
from tilec.backends.cpu.waiting import Finish, Waiting, wait
from tilec.backends.writer import Writer
from tilec.ir import dtype as dt
from tilec.ir.func import Value
from tilec.ir.inst import mma
from tilec.ir.tile import TileType

SIGN = -128  # the byte 0x80
ONES = 0x01010101


def dot(lo: Lowering, inst: mma.Dot) -> None:
    """By bytes where the machine can, else as those of floats are."""
    if _by_bytes(lo, inst):
        wait(lo, Waiting(inst, taken(lo, inst.b, quads=True), _write))
    else:
        dot_along.dot(lo, inst)


def _by_bytes(lo: Lowering, inst: mma.Dot) -> bool:
    a, b = inst.a.tile, inst.b.tile
    small = all(t.dtype.is_integer and t.dtype.bits <= 8 for t in (a, b))
    one_signed = dt.u8 in (a.dtype, b.dtype) and a.dtype == b.dtype
    return small and not one_signed and inst.tile.dtype == dt.i32 and a.shape[1] % ROWS == 0 and has_bytes(lo)


def has_bytes(lo: Lowering) -> bool:
    return lo.vector_bytes == BYTES and lo.w.features >= NEEDS


def _write(lo: Lowering, inst: mma.Dot, packed: Taken | None, finish: Finish | None) -> None:
    (m, k), n = inst.a.tile.shape, inst.b.tile.shape[1]
    product = Bytes(lo, dt.i32, (m, n, k // ROWS), 1 if packed else 0)
    rows = packed_copy(lo, lo.place(inst.a), inst.a.tile, inst.a.tile.dtype)
    product.a = Ref(rows.base, dt.i32, (m, k // ROWS), (k // ROWS, 1), rows.buffer)
    product.swapped = inst.a.tile.dtype == dt.u8
    product.b, start_of_b = _right(lo, inst, packed, product)
    if start_of_b:
        product.less = _sums(lo, rows, start_of_b)
    computed(product, inst, finish)
    if packed:
        packed.done()
    lo.used(inst)


def _right(lo: Lowering, inst: mma.Dot, packed: Taken | None, product: Bytes) -> tuple[Right, int]:
    """b in bytes of the sign that it needs, and what has to be added to each of them to have b."""
    (m, k), flipped = inst.a.tile.shape, inst.b.tile.dtype.is_signed and not product.swapped
    found, start = _source(lo, inst, packed, flipped)
    few = m <= registers(lo) // 2
    return (found if few else Panels(lo, found, k // ROWS, product.step, dt.i32)), start


def _source(lo: Lowering, inst: mma.Dot, packed: Taken | None, flipped: bool) -> tuple[Right, int]:
    added, value = SIGN if flipped else 0, lo.same(inst.b)
    if packed:
        assert isinstance(packed.fused, FusedQuads), "bytes are taken in quads"
        unpacked = PackedQuads(packed.fused, value, flipped)
        return unpacked, unpacked.steps[1] if unpacked.steps else added
    place = lo.place(inst.b)
    if not (isinstance(place, Ref) and (place.strides[1] == 1 or place.shape[1] == 1)):
        place = packed_copy(lo, place, inst.b.tile, inst.b.tile.dtype)
    return RowQuads(lo.w, place, flipped), added


def _sums(lo: Lowering, rows: Ref, times: int) -> Ref:
    """The sum of each row of bytes, times something."""
    w, (m, k) = lo.w, rows.shape
    into = lo.temporary(TileType(dt.i32, (m,)))
    with loop(w, 0, m) as run:
        line = step_pointer(w, rows.base, "i8", mul(w, run.index, k))
        total = "zeroinitializer"
        for first in range(0, k, BYTES):
            with w.at_width(BYTES):
                lanes = Lanes(BYTES, min(BYTES, k - first))
                few = read(w, step_pointer(w, line, "i8", first), "i8", 1, lanes)
            total = by_bytes(w, total, f"splat (i32 {ONES})", as_words(w, few))
        w.declare("llvm.vector.reduce.add.v16i32", "i32", "<16 x i32>")
        found = w.let(f"call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> {total})")
        place = step_pointer(w, into.base, "i32", run.index)
        w.line(f"store i32 {w.let(f'mul i32 {found}, {times}')}, ptr {place}, align 4")
    return into


def by_bytes(w: Writer, total: str, positive: str, any_sign: str) -> str:
    """total + four products of bytes in each of 16 lanes; all operands as 16 words."""
    words, name = f"<{COLUMNS} x i32>", "llvm.x86.avx512.vpdpbusd.512"
    w.declare(name, words, words, words, words)
    return w.let(f"call {words} @{name}({words} {total}, {words} {positive}, {words} {any_sign})")


class Bytes(Product):
    """A product whose elements of a and b are words of four bytes."""

    swapped = False  # a is the unsigned one
    less: Ref | None = None  # what each row begins with

    def lanes(self) -> int:
        """As many as the instruction has, also where there are fewer columns."""
        return COLUMNS

    def initial(self, row: Index, panel: Panel) -> list[str]:
        values = super().initial(row, panel)
        if self.less is None:
            return values
        found = []
        for r in range(panel.rows):
            place = step_pointer(self.w, self.less.base, "i32", add(self.w, row, r))
            less = self.w.spread(self.w.let(f"load i32, ptr {place}, align 4"), "i32")
            here = values[r * len(panel.lanes) : (r + 1) * len(panel.lanes)]
            found += [self.w.op("add", "i32", value, less) for value in here]
        return found

    def multiply(self, x: str, y: str, total: str) -> str:
        return by_bytes(self.w, total, x, y) if self.swapped else by_bytes(self.w, total, y, x)


def as_words(w: Writer, value: str, flipped: bool = False) -> str:
    """64 bytes as 16 words; signed ones made unsigned."""
    with w.at_width(BYTES):
        value = w.op("xor", "i8", value, w.integer(SIGN, "i8")) if flipped else value
    return w.let(f"bitcast <{BYTES} x i8> {value} to <{COLUMNS} x i32>")


class PackedQuads(Unpacked):
    """Quads of columns, computed from codes."""

    def __init__(self, fused: FusedQuads, value: Value, flipped: bool) -> None:
        super().__init__(fused, value, dt.i32)
        self.quads, self.flipped = fused, flipped
        self.steps = fused.steps(value) if flipped else None

    def vector(self, i: int, v: int) -> str:
        if self.steps:
            return as_words(self.w, self.quads.codes_at(self.at(i, v), self.steps[0]))
        return as_words(self.w, self.quads.vector(self.value, self.at(i, v), {}), self.flipped)


class RowQuads:
    """Quads of columns, from four rows in memory."""

    unroll = 2

    def __init__(self, w: Writer, ref: Ref, flipped: bool) -> None:
        self.w, self.ref, self.flipped = w, ref, flipped

    def at_panel(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        """Nothing: it is where it is."""

    def at_columns(self, column: Index, lanes: tuple[Lanes, ...]) -> None:
        self.lanes = lanes
        self.corner = step_pointer(self.w, self.ref.base, "i8", mul(self.w, column, self.ref.strides[1]))

    def at_rows(self, first: Index) -> None:
        by = mul(self.w, mul(self.w, first, ROWS), self.ref.strides[0])
        self.line = step_pointer(self.w, self.corner, "i8", by)

    def vector(self, i: int, v: int) -> str:
        lines = [self._line(i * ROWS + r, v) for r in range(ROWS)]
        halves = [self._joined(pair, 2 * COLUMNS) for pair in (lines[:2], lines[2:])]
        order = [lane // ROWS + COLUMNS * (lane % ROWS) for lane in range(BYTES)]
        kind = f"<{2 * COLUMNS} x i8>"
        mask = ", ".join(f"i32 {at}" for at in order)
        found = self.w.let(f"shufflevector {kind} {halves[0]}, {kind} {halves[1]}, <{BYTES} x i32> <{mask}>")
        return as_words(self.w, found, self.flipped)

    def _line(self, row: int, v: int) -> str:
        """16 bytes of a row."""
        by = add(self.w, mul(self.w, row, self.ref.strides[0]), mul(self.w, v * COLUMNS, self.ref.strides[1]))
        lanes = Lanes(COLUMNS, self.lanes[v].count)
        with self.w.at_width(COLUMNS):
            few = read(self.w, step_pointer(self.w, self.line, "i8", by), "i8", 1, lanes)
            return held_from(self.w, few, self.ref)

    def _joined(self, pair: list[str], lanes: int) -> str:
        kind, mask = f"<{lanes // 2} x i8>", ", ".join(f"i32 {i}" for i in range(lanes))
        return self.w.let(f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, <{lanes} x i32> <{mask}>")
