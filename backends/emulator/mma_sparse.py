"""mma.sp and wgmma.sp: products whose A keeps half of its numbers, and says in a metadata word which.

    a row of A       3 0 0 5 | 0 7 1 0        in registers  3 5 | 7 1, as a dense A of half the columns
    its metadata     0, 3    | 1, 2           two bits each, the first number's lowest: 0b1001_1100
A chunk has four places, of which two are kept: four elements (16 and 8 bits), four pairs (4 bits), or the
four halves of two elements (tf32, so 0b0100 keeps the first element and 0b1110 the second).

Who gives the metadata of rows g and g + 8, in the quad of lanes 4 g + t:
    16 and 32 bits   lane t: chunks 4 t to 4 t + 3 of row g in its lower half, of row g + 8 in its upper half
    8 and 4 bits     lane t: chunks 8 (t >> 1) to 8 (t >> 1) + 7 of row g + 8 (t & 1)
Where fewer lanes than four are needed, the selector says which ones of the quad are asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tilec.backends.emulator.decode import COLLECTIVE, Form, Getter, Run, Setter, Step, constant, full
from tilec.backends.emulator.mma import SIZES, Shape, matrix_a, matrix_b, matrix_c, product, registers_d, rows
from tilec.backends.emulator.mma import read_shape as dense_shape
from tilec.backends.emulator.program import Immediate
from tilec.backends.emulator.ptx_types import Array, Sel
from tilec.backends.emulator.warp import warps

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

SHAPES = ("m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64", "m16n8k128")
DEEPER = ("e4m3", "e5m2")  # have the deeper of the two shapes only


def mma_sparse(f: Form) -> Step:
    """d = a b + c with half of a's elements; operands d, a, b, c, the metadata, the selector."""
    f.need("sync")
    f.need("aligned")
    shape = read_shape(f)
    kind = {"f16": "b32", "f32": "f32", "s32": "s32"}[shape.d]
    puts = f.targets(0, kind, shape.c_count)
    a, b = f.sources(1, "b32", shape.a_count), f.sources(2, "b32", shape.b_count)
    c, metadata = f.sources(3, kind, shape.c_count), f.source(4, "b32")
    run = runner(shape, selector(f, shape), puts, (a, b, c), metadata)
    return Step(run, COLLECTIVE, members=constant(np.uint32(0xFFFFFFFF)))


def read_shape(f: Form) -> Shape:
    """As of a dense product, with half of A's registers."""
    shape = dense_shape(f, SHAPES)
    depths = (16,) if shape.a in DEEPER else (8, 16)
    if shape.a == "f64" or shape.k * SIZES[shape.a] // 32 not in depths:
        f.error(f"the emulator does not know mma.sp m{shape.m}n{shape.n}k{shape.k} on {shape.a}")
    return replace(shape, a_count=shape.a_count // 2)


class Deep(Protocol):
    """A shape's depth and the type of A, of mma or of wgmma."""

    @property
    def k(self) -> int: ...

    @property
    def a(self) -> str: ...


def chunks(shape: Deep) -> int:
    """How many groups of four places a row of A has."""
    return shape.k // {32: 2, 16: 4, 8: 4, 4: 8}[SIZES[shape.a]]


def givers(shape: Deep) -> int:
    """How many lanes of a quad hold the metadata of its two rows: a chunk takes four bits."""
    return 2 * chunks(shape) // 8


def selector(f: Form, shape: Deep, at: int = 5) -> int:
    what, most = f.operand(at), 4 // givers(shape)
    if not isinstance(what, Immediate) or not 0 <= what.value < most:
        f.error(f"the sparsity selector of this shape is a constant from 0 to {most - 1}")
    return int(what.value)


def codes(words: Array, shape: Deep, selected: int) -> Array:
    """Metadata [warps, 32] as four bits for each chunk, [warps, 16, chunks]."""
    n, lanes = len(words), givers(shape)
    asked = words.reshape(n, 8, 4)[:, :, selected * lanes : (selected + 1) * lanes]
    nibbles = asked[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & np.uint32(15)
    if SIZES[shape.a] >= 16:
        x = nibbles.reshape(n, 8, lanes, 2, 4).transpose(0, 3, 1, 2, 4)
    else:
        x = nibbles.reshape(n, 8, lanes // 2, 2, 8).transpose(0, 3, 1, 2, 4)
    return x.reshape(n, 16, -1)


def expanded(kept: Array, chosen: Array, name: str) -> Array:
    """A [warps, 16, k / 2] with zeros where nothing was kept: [warps, 16, k]."""
    n, groups = len(kept), chosen.shape[-1]
    if name == "tf32":
        places, per = (chosen & 3)[..., None, None] >> 1, 1
        x, room = kept.reshape(n, 16, groups, 1, 1), 2
    else:
        places, per = np.stack([chosen & 3, chosen >> 2], -1)[..., None], 2 if SIZES[name] == 4 else 1
        x, room = kept.reshape(n, 16, groups, 2, per), 4
    out = np.zeros((n, 16, groups, room, per), kept.dtype)
    np.put_along_axis(out, np.broadcast_to(places, x.shape).astype(np.int64), x, axis=3)
    return out.reshape(n, 16, -1)


def runner(
    shape: Shape, selected: int, puts: list[Setter], operands: tuple[list[Getter], ...], metadata: Getter
) -> Run:
    a, b, c = operands

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        chosen = codes(w.rows(full(metadata(m, s), s)), shape, selected)
        x = expanded(matrix_a(rows(m, s, w, a), shape.a, 16), chosen, shape.a)
        y = matrix_b(rows(m, s, w, b), shape.b)
        d = product(x, y, matrix_c(rows(m, s, w, c), shape.half), shape)
        for put, register in zip(puts, registers_d(d, shape.half), strict=True):
            put(m, s, w.flat(register))

    return run
