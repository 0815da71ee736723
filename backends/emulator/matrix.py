"""ldmatrix and stmatrix, movmatrix: 8x8 matrices of 16-bit elements between shared memory and the lanes of
a warp.

Row r of matrix i is the 16 bytes at the address that lane 8 i + r gives. Lane (g, t) holds elements (g, 2t)
and (g, 2t + 1) of matrix i in register i; with .trans elements (2t, g) and (2t + 1, g).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.access import load, store
from tilec.backends.emulator.decode import COLLECTIVE, Form, Step, constant, full
from tilec.backends.emulator.lanes import part
from tilec.backends.emulator.memory import note_width, space_of
from tilec.backends.emulator.ptx_types import Array, Sel
from tilec.backends.emulator.warp import warps

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

ALL = constant(np.uint32(0xFFFFFFFF))


def options(f: Form) -> tuple[int, bool, str]:
    f.need("sync")
    f.need("aligned")
    f.need("m8n8")
    count, transposed = int(f.need("x1", "x2", "x4")[1:]), bool(f.take("trans"))
    space = space_of(f)
    f.type("b16")
    note_width(f, "shared", 16)
    return count, transposed, "shared" if space == "generic" else space


def ldmatrix(f: Form) -> Step:
    count, transposed, space = options(f)
    puts, address = f.targets(0, "b32", count), f.address(1)

    def run(m: Machine, s: Sel) -> None:
        mine = m.lane[s] < 8 * count
        givers = part(s, mine)
        assert givers is not None, "a whole warp is here"
        at = address(m, s)
        raw = load(m, givers, at if givers is s else at[mine], 16, space)
        rows = warps(m, givers).rows(raw)[:, : 8 * count]
        matrices = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, count, 8, 8)
        registers = pairs(matrices.transpose(0, 1, 3, 2) if transposed else matrices)
        w = warps(m, s)
        for n, put in enumerate(puts):
            put(m, s, w.flat(registers[:, n]))

    return Step(run, COLLECTIVE, members=ALL)


def pairs(matrices: Array) -> Array:
    """[warps, count, 8, 8] of 16 bits to [warps, count, 32] registers."""
    return np.ascontiguousarray(matrices).view(np.uint32).reshape(*matrices.shape[:2], 32)


def stmatrix(f: Form) -> Step:
    count, transposed, space = options(f)
    address, gets = f.address(0), f.sources(1, "b32", count)

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        registers = np.stack([w.rows(full(get(m, s), s)) for get in gets], 1)
        matrices = registers.reshape(-1, count, 8, 4).view(np.uint16)
        if transposed:
            matrices = np.ascontiguousarray(matrices.transpose(0, 1, 3, 2))
        raw = np.zeros(w.lanes.shape, np.complex128)
        raw[:, : 8 * count] = matrices.reshape(-1, 8 * count, 8).view(np.complex128)[..., 0]
        mine = m.lane[s] < 8 * count
        givers = part(s, mine)
        assert givers is not None, "a whole warp is here"
        store(m, givers, address(m, s)[mine], w.flat(raw)[mine], 16, space)

    return Step(run, COLLECTIVE, members=ALL)


def movmatrix(f: Form) -> Step:
    """Transposes a matrix held in registers."""
    for name in ("sync", "aligned", "m8n8", "trans"):
        f.need(name)
    f.type("b16")
    put, get = f.target(0, "b32"), f.source(1, "b32")

    def run(m: Machine, s: Sel) -> None:
        w = warps(m, s)
        matrix = np.ascontiguousarray(w.rows(get(m, s))).view(np.uint16).reshape(-1, 1, 8, 8)
        put(m, s, w.flat(pairs(matrix.transpose(0, 1, 3, 2))[:, 0]))

    return Step(run, COLLECTIVE, members=ALL)


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "ldmatrix": ldmatrix,
    "stmatrix": stmatrix,
    "movmatrix": movmatrix,
}
