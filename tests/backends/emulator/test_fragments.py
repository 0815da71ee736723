"""The emulator's fragment maps, written from the ISA's formulas, against the project's layout atoms."""

import numpy as np
import pytest

from tilec.backends.emulator.matrix import pairs
from tilec.backends.emulator.mma import matrix_a, matrix_b, matrix_c, registers_d
from tilec.backends.emulator.wgmma import Group, Shape, accumulators
from tilec.ir.atoms import ldmatrix_atom, mma_atom, wgmma_atom

NAMES = {16: "f16", 32: "tf32", 8: "u8", 64: "f64"}
CODES = {16: np.float16, 32: np.float32, 8: np.uint8, 64: np.float64}


def words(digits, bits):
    """[32, slots] small whole numbers as registers of [1, 32] each."""
    raw = np.ascontiguousarray(digits.astype(CODES[bits]))
    if bits == 64:
        return [raw[None, :, r] for r in range(raw.shape[1])]
    packed = raw.view(np.uint32)
    return [packed[None, :, r] for r in range(packed.shape[1])]


def operand_places(bits, layout, build):
    """For every element of the operand the number lane * slots + slot of who holds it, by the emulator."""
    number = np.arange(32 * layout.slots).reshape(32, layout.slots)
    found = 0
    for place in (1, 16, 256):  # base-16 digits are exact in every type
        found = found + place * build(words(number // place % 16, bits), NAMES[bits])[0]
    return found


def atom_places(layout):
    """The same by the layout: points[thread, slot] holds that number."""
    found = np.full(layout.shape, -1)
    for thread in range(layout.threads):
        for slot in range(layout.slots):
            found[layout.at(thread, slot)] = thread * layout.slots + slot
    return found


@pytest.mark.parametrize(
    ("m", "n", "k", "bits"),
    [
        (16, 8, 8, 16),
        (16, 8, 16, 16),
        (16, 8, 4, 32),
        (16, 8, 8, 32),
        (16, 8, 16, 8),
        (16, 8, 32, 8),
        (8, 8, 4, 64),
    ],
)
def test_mma(m, n, k, bits):
    atom = mma_atom(m, n, k, bits)
    found = operand_places(bits, atom.a, lambda r, name: matrix_a(r, name, m))
    np.testing.assert_array_equal(found, atom_places(atom.a))
    np.testing.assert_array_equal(operand_places(bits, atom.b, matrix_b), atom_places(atom.b))
    number = np.arange(32 * atom.c.slots, dtype=np.float32).reshape(32, atom.c.slots)
    registers = [number[None, :, r] for r in range(atom.c.slots)]
    c = matrix_c(registers, False)
    np.testing.assert_array_equal(c[0], atom_places(atom.c))
    for one, other in zip(registers_d(c, False), registers, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n", [8, 64, 256])
def test_wgmma_accumulators(n):
    atom = wgmma_atom(n, 16)
    number = np.arange(128 * atom.c.slots, dtype=np.float32).reshape(4, 32, atom.c.slots)
    group = Group(np.arange(4)[None], np.arange(4)[None], 0)
    shape = Shape(n, 16, "f32", "f16", "f16", False)
    found = accumulators([number[:, :, r] for r in range(atom.c.slots)], group, shape)
    np.testing.assert_array_equal(found[0], atom_places(atom.c))


@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(trans):
    matrix = np.arange(64, dtype=np.uint16).reshape(1, 1, 8, 8)
    register = pairs(matrix.transpose(0, 1, 3, 2) if trans else matrix)[0, 0]
    layout = ldmatrix_atom(16, trans)
    for lane in range(32):
        for slot, element in enumerate(register[lane : lane + 1].view(np.uint16)):
            assert divmod(int(element), 8) == layout.at(lane, slot)
