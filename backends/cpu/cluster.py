"""Clusters: elementwise instructions over one shape, computed in one loop nest.

Instructions join the open cluster of their shape. When somebody needs a value of it, the whole cluster is
written: what is read only inside stays in vector registers, the rest is stored. A result may be written
over an operand that dies here, since each element is read before it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tilec.backends.cpu.arena import Buffer
from tilec.backends.cpu.codes import Codes
from tilec.backends.cpu.fused import Fused, Outside, fusible
from tilec.backends.cpu.lower import Lowering, size_of
from tilec.backends.cpu.nest import Point, nest
from tilec.backends.cpu.places import Affine, Place, Ref, Shape, Splat
from tilec.backends.cpu.quads import FusedQuads
from tilec.backends.cpu.quads import fusible as quads_fusible
from tilec.backends.cpu.scattered import gathered
from tilec.backends.cpu.transpose import lies_across, turned
from tilec.backends.cpu.uses import reads
from tilec.backends.cpu.waiting import Waiting, finished
from tilec.backends.emit import elementwise
from tilec.ir.dtype import DType
from tilec.ir.func import Inst, Value, root
from tilec.ir.inst.memory import Gather

MOST = 400  # instructions of one nest; more only makes LLVM slow
MANY = 8  # scalars that take the registers: each is then worth using for several vectors at once
APART = 16  # lanes of what is read one by one
WIDEST = 64  # lanes; wider vectors than a few of the machine's make LLVM slow


@dataclass(eq=False)
class Cluster:
    """Instructions of one shape, in order. Their values are pending: env gives the cluster."""

    shape: Shape
    insts: list[Inst] = field(default_factory=list)

    def outside(self, lo: Lowering) -> dict[Value, Outside]:
        """The tiles that it reads, and where they are."""
        own = set(self.insts)
        found: dict[Value, Outside] = {}
        for value in (lo.same(v) for inst in self.insts for v in reads(inst)):
            if value not in own:
                place = lo.env[value]
                assert isinstance(place, Splat | Affine | Ref | Codes | Waiting), (
                    "what is outside is computed"
                )
                found[value] = place
        return found

    def roots(self, lo: Lowering) -> Iterator[Value | None]:
        """The arrays that it will read."""
        yield from (place.root for place in self.outside(lo).values() if isinstance(place, Ref | Codes))
        yield from (root(inst.array) for inst in self.insts if isinstance(inst, Gather))
        for place in self.outside(lo).values():
            yield from place.roots(lo) if isinstance(place, Waiting) else ()


def join(lo: Lowering, inst: Inst) -> None:
    """Puts an elementwise instruction into the cluster of its shape, or computes it if it is a scalar."""
    if inst.tile.size == 1:
        scalar(lo, inst)
        return
    shape = inst.tile.shape
    for value in map(lo.same, reads(inst)):
        place = lo.env[value]
        if place is not lo.clusters.get(shape) and not (
            isinstance(place, Codes | Waiting) and place.shape == shape
        ):
            lo.place(value)
    cluster = lo.clusters.get(shape)
    if cluster and len(cluster.insts) >= MOST:
        flush(lo, cluster)
        cluster = None
    if cluster is None:
        cluster = lo.clusters[shape] = Cluster(shape)
    cluster.insts.append(inst)
    lo.env[inst] = cluster
    lo.local[-1].add(inst)


def scalar(lo: Lowering, inst: Inst) -> None:
    """A tile of one element: a register, computed at once."""
    if isinstance(inst, Gather):
        from tilec.backends.cpu.lanes import Lanes

        register = gathered(lo, inst, [lo.scalar(v) for v in (*inst.indices, inst.other)], Lanes(1, 1))
    else:
        register = elementwise(lo.w, inst, [lo.scalar(v) for v in inst.operands])
    lo.define(inst, Splat(register, inst.tile.dtype))
    lo.used(inst)


def flush(lo: Lowering, cluster: Cluster, sink: tuple[Value, Ref] | None = None) -> None:
    """Writes the nest. `sink`: one value goes to this memory instead of the arena, and is not kept."""
    assert lo.clusters.pop(cluster.shape) is cluster, "a cluster is written once"
    outside = cluster.outside(lo)
    inner = _inner_reads(lo, cluster)
    kept = [
        inst for inst in cluster.insts if lo.uses[inst] > inner[inst] and (not sink or inst is not sink[0])
    ]
    taken: set[int] = set()
    outputs = [_destination(lo, inst, outside, inner, taken) for inst in kept]
    results: list[Value] = [*kept, *([sink[0]] if sink else [])]
    _write(lo, cluster, outside, results, [*outputs, *([sink[1]] if sink else [])])
    for inst in cluster.insts:
        lo.uses[inst] -= inner[inst]
    for inst, ref in zip(kept, outputs, strict=True):
        lo.define(inst, ref)
    for value in outside:
        if value in lo.local[-1]:
            lo.release(value, inner[value])


def _write(
    lo: Lowering, cluster: Cluster, outside: dict[Value, Outside], results: list[Value], refs: list[Ref]
) -> None:
    if fusible(cluster.insts, outside):
        Fused(lo, cluster.insts, outside).write([(value, value.tile.dtype) for value in results], refs)
        return
    if finished(lo, cluster, outside, results, refs):
        return
    there = {value: lo.place(value) for value in outside}
    values = list(there)

    def body(args: list[str], point: Point) -> list[str]:
        known = dict(zip(values, args, strict=True))
        for inst in cluster.insts:
            operands = [known[lo.same(v)] for v in reads(inst)]
            if isinstance(inst, Gather):
                known[inst] = gathered(lo, inst, operands, point.lanes)
            else:
                known[inst] = elementwise(lo.w, inst, operands)
        return [known[value] for value in results]

    places, copies = _neighbours(lo, there)
    width = lo.width(*_dtypes(cluster, lo))
    if any(isinstance(inst, Gather) for inst in cluster.insts):
        width = min(width, APART)
    scalars = sum(isinstance(place, Splat) and place.register.startswith("%") for place in there.values())
    if scalars >= MANY:
        width = min(4 * width, WIDEST)
    nest(lo.w, cluster.shape, places, refs, width, body)
    for copied in copies:
        lo.free(copied)


@dataclass(frozen=True)
class Taken:
    """A cluster that somebody computes for himself, vector by vector: `done` when that has been written."""

    lo: Lowering
    cluster: Cluster
    fused: Fused

    def done(self) -> None:
        inner = _inner_reads(self.lo, self.cluster)
        for inst in self.cluster.insts:
            self.lo.uses[inst] -= inner[inst]
        for value in self.fused.outside:
            if value in self.lo.local[-1]:
                self.lo.release(value, inner[value])


def taken(lo: Lowering, value: Value, quads: bool = False) -> Taken | None:
    """The cluster over codes that computes this value for one reader, by fields or by quads of rows, and
    nothing else.
    """
    value = lo.same(value)
    cluster = lo.env[value]
    if not isinstance(cluster, Cluster):
        return None
    inner, outside = _inner_reads(lo, cluster), cluster.outside(lo)
    alone = all(lo.uses[inst] == inner[inst] + (inst is value) for inst in cluster.insts)
    if not alone or not (quads_fusible if quads else fusible)(cluster.insts, outside):
        return None
    assert lo.clusters.pop(cluster.shape) is cluster, "a cluster is written once"
    return Taken(lo, cluster, (FusedQuads if quads else Fused)(lo, cluster.insts, outside))


def _inner_reads(lo: Lowering, cluster: Cluster) -> Counter[Value]:
    return Counter(lo.same(v) for inst in cluster.insts for v in reads(inst))


def _neighbours(lo: Lowering, outside: dict[Value, Place]) -> tuple[list[Place], list[Buffer]]:
    """The places to read, whose lanes are neighbours in memory, and the copies that this took: a tile that is
    read across is turned first, in blocks.
    """
    found, copies = list(outside.values()), []
    for i, (value, place) in enumerate(outside.items()):
        if isinstance(place, Ref) and lies_across(place):
            into = lo.new(value.tile)
            turned(lo, place, into)
            found[i] = into
            copies.append(into.buffer)
    return found, [buffer for buffer in copies if buffer]


def _dtypes(cluster: Cluster, lo: Lowering) -> set[DType]:
    found = {inst.tile.dtype for inst in cluster.insts}
    return found | {v.tile.dtype for inst in cluster.insts for v in reads(inst)}


def _destination(
    lo: Lowering, inst: Inst, outside: dict[Value, Outside], inner: Counter[Value], taken: set[int]
) -> Ref:
    """Where a result goes: where it is wanted, over an operand that dies here, or somewhere new."""
    if inst in lo.slices:
        return lo.slice_of_stack(inst)
    wanted = lo.hints.get(inst)
    dying = [wanted] if wanted else []
    dying += [place.buffer for place in outside.values() if isinstance(place, Ref) and place.buffer]
    for buffer in dying:
        fits = buffer is wanted or (not buffer.pinned and buffer.size >= size_of(inst.tile))
        if fits and id(buffer) not in taken and _only_here(lo, buffer, inst, outside, inner):
            taken.add(id(buffer))
            return lo.in_buffer(buffer, inst.tile)
    return lo.new(inst.tile)


def _only_here(
    lo: Lowering, buffer: object, inst: Inst, outside: dict[Value, Outside], inner: Counter[Value]
) -> bool:
    """Is a buffer empty but for values of this very arrangement that are read here for the last time?"""
    holding = [(v, p) for v, p in outside.items() if isinstance(p, Ref) and p.buffer is buffer]
    size = max(8, inst.tile.dtype.bits)
    aligned = all(p.dense and p.shape == inst.tile.shape and max(8, p.dtype.bits) == size for _, p in holding)
    last = all(v in lo.local[-1] and lo.uses[v] == inner[v] for v, _ in holding)
    return aligned and last and getattr(buffer, "holders", 0) == len(holding)
