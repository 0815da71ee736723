"""Packing against the definition: element i has bits [i * n, (i + 1) * n) of one little-endian number."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilec.ir import codec, packing
from tilec.ir import dtype as dt
from tilec.ir.dtype import DType, dtype
from tilec.ir.errors import TilecError

each = pytest.mark.parametrize("kind", dt.ALL, ids=str)


def random_codes(kind: DType, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    codes = rng.integers(0, kind.code_mask, count, dtype=kind.code, endpoint=True)
    return codes & 1 if kind.is_bool else codes


def by_definition(codes: list[int], bits: int) -> bytes:
    number = sum(code << i * bits for i, code in enumerate(codes))
    return number.to_bytes(math.ceil(len(codes) * bits / 8), "little")


@each
@pytest.mark.parametrize("count", [0, 1, 3, 7, 8, 9, 31, 32, 33, 257])
def test_bits_lie_where_the_definition_says(kind: DType, count: int) -> None:
    codes = random_codes(kind, count)
    packed = packing.pack(codes, kind)
    assert packed.dtype == np.uint8 and packed.tobytes() == by_definition(codes.tolist(), kind.bits)


@each
@pytest.mark.parametrize("count", [0, 1, 9, 64, 257])
def test_unpack_undoes_pack(kind: DType, count: int) -> None:
    codes = random_codes(kind, count)
    elements = codes if kind.is_float else codec.decode(codes, kind)
    again = packing.unpack(packing.pack(elements, kind), kind, count)
    assert again.dtype == elements.dtype and np.array_equal(again, elements)


@given(st.data(), st.sampled_from([d for d in dt.ALL if d.is_integer]))
def test_any_integers(data: st.DataObject, kind: DType) -> None:
    values = data.draw(st.lists(st.integers(int(kind.min), int(kind.max))))
    packed = packing.pack(np.array(values, kind.reference), kind)
    assert packed.tobytes() == by_definition([v & kind.code_mask for v in values], kind.bits)
    assert packing.unpack(packed, kind, len(values)).tolist() == values


def test_the_picture_in_the_docstring() -> None:
    one_hot = [packing.pack([7 * (i == k) for i in range(8)], dtype("u3")).tolist() for k in range(8)]
    bits = ["".join(f"{byte:08b}" for byte in row) for row in one_hot]
    owners = "".join(next(str(k) for k in range(8) if bits[k][at] == "1") for at in range(24))
    assert (owners[:8], owners[8:16], owners[16:]) == ("22111000", "54443332", "77766655")


def test_shapes_lists_and_strides() -> None:
    u4 = dtype("u4")
    assert packing.pack([[1, 2], [3, 4]], u4).tolist() == [0x21, 0x43]
    assert packing.pack(np.arange(12)[::3], u4).tolist() == [0x30, 0x96]
    assert packing.pack(np.array([True, False, True]), dtype("u1")).tolist() == [0b101]
    assert packing.unpack(np.array([0x21, 0x43, 0x99], np.uint8), u4, 3).tolist() == [1, 2, 3]


def test_signed_types_take_values_or_unsigned_codes() -> None:
    i4 = dtype("i4")
    assert packing.pack([-1, 7, -8], i4).tolist() == packing.pack(np.uint8([15, 7, 8]), i4).tolist()
    assert packing.unpack(np.uint8([0x7F, 0x08]), i4, 3).tolist() == [-1, 7, -8]


@pytest.mark.parametrize(
    ("elements", "name", "message"),
    [
        ([1, 16], "u4", "pack takes values of u4, 0 to 15, found 16"),
        ([0, -1], "u4", "pack takes values of u4, 0 to 15, found -1"),
        ([8], "i4", "pack takes values of i4, -8 to 7, found 8"),
        (np.uint8([16]), "i4", "pack takes values of i4, 0 to 15, found 16"),
        ([64], "f6e3m2", "pack takes codes of f6e3m2, 0 to 63, found 64"),
        ([2], "bool", "pack takes values of bool, 0 to 1, found 2"),
        ([0.5], "f6e3m2", "pack takes codes of f6e3m2, found float64 elements: round or encode them first"),
        ([0.5], "i4", "pack takes values of i4, found float64 elements"),
    ],
)
def test_what_does_not_fit_is_named(elements: object, name: str, message: str) -> None:
    with pytest.raises(TilecError, match=message):
        packing.pack(elements, dtype(name))  # type: ignore[arg-type]


def test_unpack_says_what_it_needs() -> None:
    with pytest.raises(TilecError, match="unpacking 10 elements of u3 takes 4 bytes, found 3"):
        packing.unpack(np.zeros(3, np.uint8), dtype("u3"), 10)
    with pytest.raises(TilecError, match="unpack takes an array of uint8, found int64"):
        packing.unpack([1, 2], dtype("u3"), 1)


@each
def test_packed_array(kind: DType) -> None:
    codes = random_codes(kind, 35)
    array = packing.packed(packing.pack(codes, kind), kind.name, (5, 7))
    assert (array.dtype, array.shape, array.nbytes) == (kind, (5, 7), math.ceil(35 * kind.bits / 8))
    assert np.array_equal(array.codes(), codes.reshape(5, 7))
    assert np.array_equal(array.values(), codec.decode(codes, kind).reshape(5, 7), equal_nan=kind.is_float)


def test_packed_takes_one_extent_and_any_name_of_a_dtype() -> None:
    array = packing.packed(np.uint8([0x21]), ml_dtypes.int4, 2)
    assert array.shape == (2,) and array.values().tolist() == [1, 2]


def test_packed_checks_its_bytes() -> None:
    with pytest.raises(TilecError, match=r"u3\[5, 7\] packs into 14 bytes, found uint8 of shape \(15,\)"):
        packing.packed(np.zeros(15, np.uint8), "u3", (5, 7))
    for wrong in (np.zeros(14, np.int8), np.zeros((2, 7), np.uint8)):
        with pytest.raises(TilecError, match=r"packed data is one-dimensional uint8, found u?int8 of shape"):
            packing.packed(wrong, "u3", (5, 7))
    with pytest.raises(TilecError, match="expected a dtype, found 'u9'"):
        packing.packed(np.zeros(14, np.uint8), "u9", (5, 7))
