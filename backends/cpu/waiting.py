"""Products that wait until somebody reads them, and are finished in registers.

    part = tc.dot(a, b, zeros);  acc = tc.fma(part.to(tc.f32), scale, acc)
Such a product is computed where the cluster that reads it is written, which takes each vector of it as it
leaves the registers: `part` is never in memory. Anybody else has it written to memory first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilec.backends.convert import to_memory
from tilec.backends.cpu.lanes import Lanes, read, write
from tilec.backends.cpu.loops import Index, add, mul, step_pointer
from tilec.backends.cpu.nest import held_from
from tilec.backends.cpu.places import Ref, Shape, Splat
from tilec.backends.cpu.uses import reads
from tilec.backends.emit import elementwise
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value
from tilec.ir.inst import mma
from tilec.ir.inst.memory import Gather

if TYPE_CHECKING:
    from tilec.backends.cpu.cluster import Cluster, Taken
    from tilec.backends.cpu.fused import Outside
    from tilec.backends.cpu.lower import Lowering

FEW = 8  # instructions, written for each vector of a register block


@dataclass(eq=False)
class Waiting:
    """A product that starts from a constant; `packed`: its right operand, taken already."""

    inst: mma.Dot
    packed: Taken | None
    write: Callable[[Lowering, mma.Dot, Taken | None, Finish | None], None]

    @property
    def shape(self) -> Shape:
        return self.inst.tile.shape

    def roots(self, lo: Lowering) -> Iterator[Value | None]:
        """The arrays that it will read."""
        found = [lo.env[lo.same(v)] for v in (self.inst.a, self.inst.b)]
        found += self.packed.fused.outside.values() if self.packed else ()
        yield from (getattr(place, "root", None) for place in found)

    def run(self, lo: Lowering, finish: Finish | None = None) -> None:
        """Computes it: to memory, or to whoever finishes it."""
        with lo.own_temporaries():
            self.write(lo, self.inst, self.packed, finish)


def wait(lo: Lowering, waiting: Waiting) -> None:
    """What it reads is there from here on. What does not start from a constant is computed at once."""
    inst = waiting.inst
    lo.place(inst.a)
    if not waiting.packed:
        lo.place(inst.b)
    if isinstance(lo.place(inst.c), Splat) and inst.tile.size > 1:
        lo.define(inst, waiting)
    else:
        waiting.run(lo)


def finished(
    lo: Lowering,
    cluster: Cluster,
    outside: dict[Value, Outside],
    results: Sequence[Value],
    refs: Sequence[Ref],
) -> bool:
    """Computes a cluster with the one product that it alone reads, if it is such."""
    found = [value for value, place in outside.items() if isinstance(place, Waiting)]
    if len(found) != 1 or len(cluster.insts) > FEW or any(isinstance(i, Gather) for i in cluster.insts):
        return False
    rest = {value: place for value, place in outside.items() if value is not found[0]}
    places = {value: place for value, place in rest.items() if isinstance(place, Splat | Ref)}
    read_here = sum(lo.same(v) is found[0] for inst in cluster.insts for v in reads(inst))
    if len(places) < len(rest) or lo.uses[found[0]] != read_here:
        return False
    product = outside[found[0]]
    assert isinstance(product, Waiting), "it was so a moment ago"
    product.run(lo, Finish(lo, cluster.insts, found[0], places, list(zip(results, refs, strict=True))))
    return True


@dataclass(frozen=True)
class Finish:
    """Instructions on a product's vectors, what else they read, and where results go."""

    lo: Lowering
    insts: Sequence[Inst]
    product: Value
    places: dict[Value, Splat | Ref]
    results: Sequence[tuple[Value, Ref]]

    def block(
        self, row: Index, column: Index, rows: int, lanes: Sequence[Lanes], sums: Sequence[str]
    ) -> None:
        """A block of the product, row by row in `sums`; what is the same in all rows is read once."""
        w = self.lo.w
        for v, each in enumerate(lanes):
            at = add(w, column, v * each.width)
            same = {x: self.read(p, 0, at, each) for x, p in self.places.items() if self.constant(p)}
            for r in range(rows):
                known = {self.product: sums[r * len(lanes) + v], **same}
                self.vector(add(w, row, r), at, each, known)

    @property
    def dtype(self) -> DType:
        return self.product.tile.dtype

    def constant(self, place: Splat | Ref) -> bool:
        return isinstance(place, Splat) or place.strides[0] == 0

    def vector(self, row: Index, column: Index, lanes: Lanes, known: dict[Value, str]) -> None:
        for value, place in self.places.items():
            if value not in known:
                known[value] = self.read(place, row, column, lanes)
        for inst in self.insts:
            known[inst] = elementwise(self.lo.w, inst, [known[self.lo.same(v)] for v in reads(inst)])
        for value, ref in self.results:
            register = to_memory(self.lo.w, known[value], ref.dtype)
            write(self.lo.w, register, self.address(ref, row, column), ref.element, ref.strides[1], lanes)

    def read(self, place: Splat | Ref, row: Index, column: Index, lanes: Lanes) -> str:
        w = self.lo.w
        if isinstance(place, Splat):
            return w.spread(place.register, w.held(place.dtype))
        found = read(w, self.address(place, row, column), place.element, place.strides[1], lanes)
        return held_from(w, found, place)

    def address(self, ref: Ref, row: Index, column: Index) -> str:
        w = self.lo.w
        line = step_pointer(w, ref.base, ref.element, mul(w, row, ref.strides[0]))
        return step_pointer(w, line, ref.element, mul(w, column, ref.strides[1]))
