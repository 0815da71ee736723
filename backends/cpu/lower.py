"""A function under construction: where each value is, and how long it is needed.

    lo = Lowering(func, Writer("x86"), vector_bytes=64);  lo.body(func.body)

Every instruction type has an emitter in one of the tables of cpu/*.py. Elementwise ones wait in a cluster
(cluster.py) until somebody needs their values; reads of arrays are addresses until the array is written;
scalars are registers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.convert import resized
from tilec.backends.cpu.arena import Arena, Buffer
from tilec.backends.cpu.codes import Codes
from tilec.backends.cpu.loops import Index, step_pointer
from tilec.backends.cpu.nest import nest, only, width_for
from tilec.backends.cpu.places import Affine, Place, Ref, Splat
from tilec.backends.cpu.uses import reads
from tilec.backends.cpu.waiting import Waiting
from tilec.backends.writer import Writer
from tilec.ir.dtype import DType
from tilec.ir.errors import Loc
from tilec.ir.func import Arg, Block, Func, Inst, Value, mnemonic, root
from tilec.ir.inst import shape as sh
from tilec.ir.tile import TileType, dense_strides

if TYPE_CHECKING:
    from tilec.backends.cpu.cluster import Cluster

Emitter = Callable[["Lowering", Any], None]


@dataclass(frozen=True)
class ArrayPlace:
    """An array in memory. `offset` in elements, for packed arrays, whose elements have no address."""

    base: str
    dtype: DType
    extents: tuple[Index, ...]
    strides: tuple[Index, ...]
    packed: bool = False
    offset: Index = 0
    raw: bool = True

    def permuted(self, order: Sequence[int]) -> ArrayPlace:
        """The same memory with its axes in another order."""
        extents, strides = (tuple(x[axis] for axis in order) for x in (self.extents, self.strides))
        return replace(self, extents=extents, strides=strides)


@dataclass(frozen=True)
class Several:
    """What a loop or a branch gives."""

    places: tuple[Place, ...]


Anywhere = Place | Codes | Waiting | ArrayPlace | Several


@dataclass(frozen=True)
class Report:
    """A place in the kernel that talks to the host: an assertion's message, a print's label."""

    text: str
    loc: Loc | None
    type: TileType | None = None


@dataclass
class Lowering:
    """The function under construction: its text, where each value is, and how often it will still be read."""

    func: Func
    w: Writer
    vector_bytes: int
    arena: Arena = field(default_factory=Arena)
    env: dict[Value, Anywhere | Cluster] = field(default_factory=dict)
    uses: Counter[Value] = field(default_factory=Counter)
    local: list[set[Value]] = field(default_factory=list)  # what each open block defines
    lazy: dict[Value, None] = field(default_factory=dict)  # values that are still in an array, or packed
    temporaries: list[list[Buffer]] = field(default_factory=list)  # by instruction, inner ones last
    hints: dict[Value, Buffer] = field(default_factory=dict)  # where a value had best be
    slices: dict[Value, tuple[sh.Stack, int]] = field(default_factory=dict)  # what is read by a stack alone
    cut_up: set[Value] = field(default_factory=set)  # tiles of which parts are read
    stacks: dict[Value, Ref] = field(default_factory=dict)  # stacks of which some slices are there
    clusters: dict[tuple[int, ...], Cluster] = field(default_factory=dict)  # those open, by shape
    tables: list[Any] = field(default_factory=list)  # numpy arrays that the code reads
    reports: list[Report] = field(default_factory=list)
    block: str = "%block"

    def __post_init__(self) -> None:
        self.aliased = frozenset(self.func.schedule.get("alias", ()))  # parameters that may overlap others

    # Values.

    def same(self, value: Value) -> Value:
        """The value itself: conversions between layouts are nothing here."""
        while isinstance(value, sh.Convert | sh.Annotate):
            value = value.x
        return value

    def place(self, value: Value) -> Place:
        """Where a tile is; computes it if it waits in a cluster."""
        from tilec.backends.cpu.cluster import Cluster, flush

        value = self.same(value)
        found = self.env[value]
        if isinstance(found, Cluster):
            flush(self, found)
            found = self.env[value]
        if isinstance(found, Waiting):
            found.run(self)
            found = self.env[value]
        if isinstance(found, Codes):
            found = self._unpacked(value, found)
        assert isinstance(found, Splat | Affine | Ref), f"{value} is no tile"
        return found

    def array(self, value: Value) -> ArrayPlace:
        found = self.env[value]
        assert isinstance(found, ArrayPlace), f"{value} is no array"
        return found

    def scalar(self, value: Value) -> str:
        """The register of a tile of one element; products and stacks leave it in memory."""
        assert value.tile.size == 1, f"{value} is no scalar"
        return only(self.w, self.place(value))

    def index(self, value: Value) -> Index:
        """An integer scalar as i64."""
        element, dtype = self.w.held(value.tile.dtype), value.tile.dtype
        scalar = self.scalar(value)
        if not scalar.startswith("%"):
            return int(scalar)
        return resized(self.w, scalar, element, "i64", dtype.is_signed)

    def memory(self, value: Value) -> Ref:
        """The tile in memory, any strides; formulas and splats are written out."""
        found = self.place(value)
        return found if isinstance(found, Ref) else self.copy(found, value.tile, self.temporary(value.tile))

    def define(self, value: Value, place: Anywhere) -> None:
        """Says where a value is, for as long as it will be read."""
        self.local[-1].add(value)
        self._hold(value, place)
        if not self.uses[value]:
            self._drop(value)

    def _hold(self, value: Value, place: Anywhere) -> None:
        self.env[value] = place
        for part in place.places if isinstance(place, Several) else (place,):
            if isinstance(part, Ref | Codes) and part.buffer:
                part.buffer.holders += 1
        if isinstance(place, Codes | Waiting) or (isinstance(place, Ref) and place.root):
            self.lazy[value] = None
        else:
            self.lazy.pop(value, None)

    def _unpacked(self, value: Value, packed: Codes) -> Ref:
        """Writes out what is still packed."""
        from tilec.backends.cpu.fused import Fused

        into = self.new(TileType(packed.dtype, packed.shape))
        Fused(self, (), {value: packed}).write([(value, packed.dtype)], [into])
        self._drop(value)
        self._hold(value, into)
        return into

    def used(self, inst: Inst) -> None:
        """An instruction has been written: its operands are read once less."""
        for value in map(self.same, reads(inst)):
            if value in self.local[-1]:
                self.release(value)

    def release(self, value: Value, times: int = 1) -> None:
        """A value has been read; after the last time its place is free."""
        self.uses[value] -= times
        assert self.uses[value] >= 0, "a value is read as often as was counted"
        if not self.uses[value]:
            self._drop(value)

    def _drop(self, value: Value) -> None:
        place = self.env[value]
        self.lazy.pop(value, None)
        for part in place.places if isinstance(place, Several) else (place,):
            if isinstance(part, Ref | Codes) and part.buffer:
                part.buffer.holders -= 1
                self.free(part.buffer)

    def free(self, buffer: Buffer) -> None:
        """Gives a buffer back if nothing is in it any more."""
        if not buffer.holders and not buffer.pinned:
            self.arena.give(buffer)

    # Memory of our own.

    def table(self, table: np.ndarray[Any, Any]) -> str:
        """The address of a table, from the list that the host passes."""
        self.tables.append(np.ascontiguousarray(table))
        place = self.w.let(f"getelementptr ptr, ptr %tables, i64 {len(self.tables) - 1}")
        return self.w.let(f"load ptr, ptr {place}")

    def address(self, buffer: Buffer) -> str:
        return self.w.let(f"getelementptr i8, ptr %scratch, i64 {buffer.offset}")

    def new(self, kind: TileType, hint: Value | None = None) -> Ref:
        """A dense place for a tile: the one hinted at for a value, if nothing is in it, else a new buffer."""
        wanted = self.hints.get(hint) if hint else None
        buffer = wanted if wanted and not wanted.holders else self.arena.take(size_of(kind))
        return self.in_buffer(buffer, kind)

    def in_buffer(self, buffer: Buffer, kind: TileType) -> Ref:
        return Ref(self.address(buffer), kind.dtype, kind.shape, dense_strides(kind.shape), buffer)

    def temporary(self, kind: TileType) -> Ref:
        """A dense place that is given back when the instruction at hand has been written."""
        place = self.new(kind)
        assert place.buffer, "new places are in the arena"
        self.temporaries[-1].append(place.buffer)
        return place

    def width(self, *dtypes: DType) -> int:
        return width_for(self.w, dtypes, self.vector_bytes)

    def copy(self, place: Place, kind: TileType, into: Ref) -> Ref:
        """A tile written to `into`."""
        nest(self.w, kind.shape, [place], [into], self.width(kind.dtype), lambda args, point: args)
        return into

    def slice_of_stack(self, value: Value) -> Ref:
        """Where a tile lies that is part of a stack."""
        stack, i = self.slices[value]
        if stack not in self.stacks:
            self.stacks[stack] = self.new(stack.tile, stack)
        whole, axis = self.stacks[stack], stack.axis
        base = step_pointer(self.w, whole.base, whole.element, i * int(whole.strides[axis]))
        strides = whole.strides[:axis] + whole.strides[axis + 1 :]
        return Ref(base, whole.dtype, value.tile.shape, strides, whole.buffer)

    # Order: what has been read lazily must be read before its array is written.

    def before_write(self, array: Value) -> None:
        """Copies what later instructions read of an array that is about to change."""
        from tilec.backends.cpu.cluster import flush

        self._settle(lambda owner: self.overlap(owner, root(array)), flush)

    def overlap(self, a: Value | None, b: Value) -> bool:
        """May two arrays share memory? One with itself, and parameters where the kernel says so of either."""
        named = [v.name for v in (a, b) if isinstance(v, Arg)]
        return a is b or (len(named) == 2 and not self.aliased.isdisjoint(named))

    def before_anything(self) -> None:
        """The same for all arrays."""
        from tilec.backends.cpu.cluster import flush

        self._settle(lambda owner: owner is not None, flush)

    def _settle(self, concerns: Callable[[Value | None], bool], flush: Callable[..., None]) -> None:
        for cluster in list(self.clusters.values()):
            if any(concerns(owner) for owner in cluster.roots(self)):
                flush(self, cluster)
        for value in list(self.lazy):
            place = self.env[value]
            if isinstance(place, Waiting) and any(concerns(owner) for owner in place.roots(self)):
                place.run(self)
        for value in list(self.lazy):
            place = self.env[value]
            if isinstance(place, Codes) and concerns(place.root):
                self._unpacked(value, place)
            elif isinstance(place, Ref) and concerns(place.root):
                kind = TileType(place.dtype, place.shape)
                copied = self.copy(place, kind, self.new(kind))
                self._drop(value)
                self._hold(value, copied)

    def unpack_all(self) -> None:
        """Nothing stays packed or waits: what branches and loops compute would be there only for them."""
        for value in list(self.lazy):
            if value in self.lazy:
                self.place(value)

    # Blocks.

    def enter(self, block: Block) -> None:
        """Counts how often the values of a block are read in it."""
        self.local.append(set(block.args))
        own = {*block.args, *block.body}
        for value in (v for inst in block.body for v in reads(inst)):
            self.uses[self.same(value)] += self.same(value) in own
        for value in map(self.same, block.results):
            self.uses[value] += value in own
        for stack in (inst for inst in block.body if isinstance(inst, sh.Stack)):
            parts = {self.same(tile): (stack, i) for i, tile in enumerate(stack.tiles)}
            self.slices |= {v: at for v, at in parts.items() if v in own and self.uses[v] == 1}
        for inst in reversed(block.body):
            whole = isinstance(inst, sh.Reshape | sh.Permute) and inst not in self.cut_up
            if isinstance(inst, sh.Extract | sh.Reshape | sh.Permute) and not whole:
                self.cut_up.add(self.same(inst.x))

    def body(self, block: Block) -> None:
        """Writes a block's instructions; its values stay readable until `leave`."""
        for inst in block.body:
            self.instruction(inst)
        self.flush_all()

    def leave(self, block: Block) -> None:
        """The results have been read too."""
        for value in map(self.same, block.results):
            if value in self.local[-1]:
                self.release(value)
        self.local.pop()

    def flush_all(self) -> None:
        from tilec.backends.cpu.cluster import flush

        for cluster in list(self.clusters.values()):
            if self.clusters.get(cluster.shape) is cluster:
                flush(self, cluster)

    def instruction(self, inst: Inst) -> None:
        from tilec.backends.cpu.table import EMITTERS

        if isinstance(inst.type, TileType) and not inst.effects.writes and not self.uses[inst]:
            self.used(inst)
            return
        emit = EMITTERS.get(type(inst))
        assert emit, f"the CPU has no {mnemonic(type(inst))}"
        with self.own_temporaries():
            emit(self, inst)

    @contextmanager
    def own_temporaries(self) -> Iterator[None]:
        """Those that are asked for in here are given back after it."""
        self.temporaries.append([])
        yield
        for buffer in self.temporaries.pop():
            self.free(buffer)


def size_of(kind: TileType) -> int:
    """Bytes of a tile in memory."""
    return kind.size * max(8, kind.dtype.bits) // 8
