"""Where codes' bits lie: every bit has one place, packing and reading agree, reading costs what is said."""

import numpy as np
import pytest

from tilec.ir import placement
from tilec.ir.dtype import dtype, f16
from tilec.ir.placement import HALF, WORD

WIDTHS = range(1, 9)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_bit_has_one_place(bits: int) -> None:
    unit = 2 * len(placement.halves(bits))
    for slots in (unit, 2 * unit, 5 * unit):
        found = placement.positions(dtype(f"u{bits}"), slots, f16)
        assert found.shape == (slots, bits)
        np.testing.assert_array_equal(np.sort(found.ravel()), np.arange(slots * bits))
        assert placement.is_placed(dtype(f"u{bits}"), slots, f16)
        assert not placement.is_placed(dtype(f"u{bits}"), slots + 1, f16)


@pytest.mark.parametrize("bits", WIDTHS)
def test_neighbours_lie_16_bits_apart(bits: int) -> None:
    found = placement.positions(dtype(f"u{bits}"), 4 * len(placement.halves(bits)), f16)
    np.testing.assert_array_equal(found[1::2] - found[::2], HALF)
    assert (found[::2] % WORD < HALF).all()


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_puts_each_bit_in_its_place(bits: int) -> None:
    slots = 4 * len(placement.halves(bits))
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, slots)).astype(np.uint8)
    words = placement.placed(codes, dtype(f"u{bits}"), f16)
    assert words.shape == (3, slots * bits // WORD)
    held = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    read = (held[:, placement.positions(dtype(f"u{bits}"), slots, f16)] << np.arange(bits)).sum(2)
    np.testing.assert_array_equal(read, codes)


@pytest.mark.parametrize("mantissa", [10, 7])
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_fit_the_mantissa_where_they_are_wanted(bits: int, mantissa: int) -> None:
    for least in (0, 1):
        if bits + least <= mantissa:
            assert all(least <= up <= mantissa - bits for up in placement.ups(bits, mantissa, least))


@pytest.mark.parametrize(("mantissa", "costs"), [
    (10, [0.532, 0.563, 0.657, 0.625, 0.782, 0.938, 1.063, 0.75]),  # f16; u8 0.5 by byte permutations
    (7, [0.563, 0.625, 0.75, 0.875, 1.032, 1.125, 1.157]),  # bf16
])  # fmt: skip
def test_integer_instructions_per_code(mantissa: int, costs: list[float]) -> None:
    for bits, cost in enumerate(costs, 1):
        assert placement.integer_instructions(bits, mantissa) <= cost
