"""What one warp's matrix instructions hold, as layouts.

With lane = 4 * g + t and p elements of an operand in a 32-bit register (tf32: 1; f16: 2; 8 bits: 4),
mma.sync's
    a (m, k): register r, element h is row g + 8 * (r & 1), column t * p + h + 4 * p * (r >> 1)
    b (k, n): register r, element h is row t * p + h + 4 * p * r, column g
    c (m, n): registers are (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
One rule for every type (PTX ISA, "Matrix fragments for mma"); wgmma's are the same for each of four warps.
"""

from dataclasses import dataclass
from functools import lru_cache

from tilec.ir.digits import Digit
from tilec.ir.errors import TilecError
from tilec.ir.layout import Layout, column_local, column_spatial, local, register, spatial

WARP = 32


@dataclass(frozen=True)
class MmaAtom:
    """Operands and accumulator of one instruction: a (m, k), b (k, n), c (m, n)."""

    a: Layout
    b: Layout
    c: Layout


@lru_cache(64)
def mma_atom(m: int, n: int, k: int, operand_bits: int) -> MmaAtom:
    """mma.sync: m16n8 with k of 4 or 8 registers, or m8n8k4 of f64. TilecError for other shapes."""
    if (m, n, k, operand_bits) == (8, 8, 4, 64):
        return MmaAtom(spatial(8, 4), column_spatial(4, 8), spatial(8, 4) * local(1, 2))
    per_register = 32 // operand_bits
    halves = k // (4 * per_register) if per_register else 0
    if (m, n) != (16, 8) or halves not in (1, 2) or k != halves * 4 * per_register:
        raise TilecError(
            f"no mma of m{m}n{n}k{k} on {operand_bits}-bit operands: m is 16, n is 8 "
            "and k holds 128 or 256 bits, or it is m8n8k4 on 64 bits"
        )
    pair = local(1, per_register)
    a = column_local(2, halves) * spatial(8, 4) * pair
    b = local(halves, 1) * column_spatial(4, 8) * local(per_register, 1)
    return MmaAtom(a, b, local(2, 1) * spatial(8, 4) * local(1, 2))


def full_mma_atom(operand_bits: int) -> MmaAtom:
    """The largest mma.sync for operands of this size: m16n8k16 for f16, k8 for tf32, k32 for 8 bits."""
    return mma_atom(8 if operand_bits == 64 else 16, 8, 256 // operand_bits, operand_bits)


@dataclass(frozen=True)
class SparseAtom:
    """Operands of mma.sp, of twice the depth of mma.sync: `values` (m, k / 2) of a are what that has of a
    whole one, b (k, n) has twice the registers. `places` (16, 32) are those of k64, in one register.
    """

    values: Layout
    places: Layout
    b: Layout
    c: Layout


@lru_cache(4)
def sparse_atom(operand_bits: int) -> SparseAtom:
    """mma.sp m16n8k32 on 16 bits, k64 on 8 bits; TilecError for other sizes.

    A lane's places: on 16 bits columns 8 t to 8 t + 7 of rows g and g + 8; on 8 bits columns 16 (t >> 1) to
    16 (t >> 1) + 15 of row g + 8 (t & 1).
    """
    if operand_bits not in (16, 8):
        raise TilecError(f"sparse products have operands of 16 or 8 bits, not of {operand_bits}")
    half = full_mma_atom(operand_bits)
    b = local(4, 1) * column_spatial(4, 8) * local(32 // operand_bits, 1)
    lanes = Digit(8, (1, 0)), Digit(2, (0, 16)), Digit(2, (8, 0))
    places = {16: local(2, 1) * spatial(8, 4) * local(1, 8),
              8: register((16, 32), lanes, (Digit(16, (0, 1)),))}  # fmt: skip
    return SparseAtom(half.a, places[operand_bits], b, half.c)


@dataclass(frozen=True)
class WgmmaAtom:
    """What 128 threads hold of a wgmma: accumulator c (64, n), and a (64, k) if it comes from registers. Of a
    sparse one, of twice the depth, a are the values, and each warp's places are those of mma.sp.
    """

    a: Layout
    c: Layout


@lru_cache(64)
def wgmma_atom(n: int, operand_bits: int) -> WgmmaAtom:
    """wgmma.mma_async.m64nNk*: four warps' mma fragments below each other. b lies in shared memory."""
    if n % 8 or not 8 <= n <= 256:
        raise TilecError(f"wgmma's n is a multiple of 8 from 8 to 256, not {n}")
    one, warps = full_mma_atom(operand_bits), spatial(4, 1)
    return WgmmaAtom(warps * one.a, warps * local(1, n // 8) * one.c)


def ldmatrix_atom(element_bits: int = 16, trans: bool = False) -> Layout:
    """One matrix of 8 rows of 16 bytes as ldmatrix leaves it in a register of each lane: lane 4 * g + t holds
    bytes 4t .. 4t + 3 of row g; with `trans` (16-bit elements only) elements 2t and 2t + 1 of column g.
    """
    if trans and element_bits != 16:
        raise TilecError(f"ldmatrix.trans moves 16-bit elements, not {element_bits}-bit ones")
    matrix = spatial(8, 4) * local(1, 32 // element_bits)
    return matrix.permute((1, 0)) if trans else matrix
