"""Types: the registry, the numbers derived from a type's numbers, and finding one by any of its names."""

import ml_dtypes
import numpy as np
import pytest

from tilec.ir import dtype as dt
from tilec.ir.dtype import DType, dtype
from tilec.ir.errors import TilecError

ML_DTYPES = [
    "int1", "int2", "int4", "uint1", "uint2", "uint4", "bfloat16", "float4_e2m1fn", "float6_e2m3fn",
    "float6_e3m2fn", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu",
]  # fmt: skip
FLOATS = [d for d in dt.ALL if d.is_float]
each = pytest.mark.parametrize("kind", dt.ALL, ids=str)
each_float = pytest.mark.parametrize("kind", FLOATS, ids=str)


def test_the_registry_is_complete_and_names_are_unique() -> None:
    names = [d.name for d in dt.ALL]
    integers = [f"{sign}{bits}" for sign in "iu" for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)]
    others = ["bool", "e8m0", "f16", "bf16", "tf32", "f32", "f64"]
    small = [f"f{n}e{e}m{n - 1 - e}" for n in range(3, 9) for e in range(1, n)]
    assert sorted(names) == sorted([*integers, *small, "f8e4m3all", "f8e5m2all", *others])
    every = [name for d in dt.ALL for name in {d.name, *d.aliases}]
    assert len(set(every)) == len(every)


@each
def test_found_by_name_alias_attribute_and_itself(kind: DType) -> None:
    assert all(dtype(name) is kind for name in (kind.name, *kind.aliases))
    assert dtype(kind) is kind is getattr(dt, kind.name)
    assert str(kind) == repr(kind) == kind.name


@each
def test_numpy_containers(kind: DType) -> None:
    width = kind.code.itemsize * 8
    assert kind.code.kind == "u" and width >= kind.bits and (width == 8 or width // 2 < kind.bits)
    assert kind.storage in (kind.code, kind.reference)
    if kind.is_integer:
        assert kind.storage == kind.reference and kind.reference.itemsize == kind.code.itemsize
        assert np.iinfo(kind.reference).min <= kind.min and kind.max <= np.iinfo(kind.reference).max


@pytest.mark.parametrize(
    ("name", "storage", "reference"),
    [
        ("u4", "uint8", "uint8"), ("i3", "int8", "int8"), ("i64", "int64", "int64"), ("bool", "bool", "bool"),
        ("f6e3m2", "uint8", "float32"), ("f8e4m3", "uint8", "float32"), ("e8m0", "uint8", "float32"),
        ("f16", "float16", "float16"), ("bf16", "uint16", "float32"), ("tf32", "float32", "float32"),
        ("f32", "float32", "float32"), ("f64", "float64", "float64"),
    ],
)  # fmt: skip
def test_what_numpy_holds_them_in(name: str, storage: str, reference: str) -> None:
    assert (dtype(name).storage, dtype(name).reference) == (np.dtype(storage), np.dtype(reference))


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_numbers_agree_with_numpy(name: str) -> None:
    kind, info = dtype(name), np.finfo(name)
    assert (kind.max, kind.min) == (info.max, info.min)
    assert (kind.smallest_normal, kind.smallest_subnormal) == (info.smallest_normal, info.smallest_subnormal)
    assert (kind.mantissa, kind.exponent, kind.bits) == (info.nmant, info.iexp, info.bits)


@pytest.mark.parametrize("name", [n for n in ML_DTYPES if "float" in n])
def test_float_numbers_agree_with_ml_dtypes(name: str) -> None:
    kind, info = dtype(name), ml_dtypes.finfo(name)
    assert (kind.max, kind.min) == (float(info.max), float(info.min))
    assert kind.smallest_subnormal == float(info.smallest_subnormal)
    assert kind.has_infinity == bool(np.isinf(np.array(np.inf).astype(getattr(ml_dtypes, name)).astype("f4")))


@pytest.mark.parametrize("name", [n for n in ML_DTYPES if "int" in n])
def test_integer_numbers_agree_with_ml_dtypes(name: str) -> None:
    info = ml_dtypes.iinfo(getattr(ml_dtypes, name))
    assert (dtype(name).min, dtype(name).max) == (int(info.min), int(info.max))


@each_float
def test_codes_of_floats_are_in_order(kind: DType) -> None:
    top = [kind.max_code]
    top += [kind.infinity_code] if kind.has_infinity else []
    top += [kind.nan_code] if kind.has_nan else []
    assert top == sorted(set(top)) and top[-1] <= kind.code_mask - kind.sign_code
    assert kind.has_nan or kind.max_code == kind.code_mask - kind.sign_code
    assert 0 < kind.smallest_subnormal <= kind.smallest_normal <= kind.max
    assert kind.unused == (13 if kind.name == "tf32" else 0)


def test_only_what_hardware_has_is_special_among_small_floats() -> None:
    assert [d.name for d in FLOATS if d.bits <= 8 and d.has_nan] == ["f8e4m3", "f8e5m2", "e8m0"]
    assert [d.name for d in FLOATS if d.bits <= 8 and d.has_infinity] == ["f8e5m2"]


def test_the_same_codes_without_special_ones() -> None:
    assert [d.name for d in dt.ALL if d.all_numbers != d] == ["f8e4m3", "f8e5m2"]
    assert (dtype("f8e4m3").all_numbers.max, dtype("f8e5m2").all_numbers.max) == (480, 7 * 2.0**14)


def test_kinds() -> None:
    assert dtype("i4").is_integer and dtype("i4").is_signed and not dtype("u4").is_signed
    assert dtype("bool").is_bool and not dtype("bool").is_integer and dtype("bool") != dtype("u1")
    assert dtype("e8m0").is_float and not dtype("e8m0").is_signed and dtype("e8m0").min == 2.0**-127
    assert (dtype("i1").min, dtype("i1").max) == (-1, 0)
    assert dtype("f3e1m1").max == 3.0 and dtype("f3e1m1").smallest_subnormal == 1.0


def test_bytes_are_for_whole_bytes() -> None:
    assert [dtype(name).bytes for name in ("u8", "bf16", "tf32", "f64", "bool")] == [1, 2, 4, 8, 1]
    with pytest.raises(AssertionError, match="u3 has no size in bytes: it is packed, count its bits"):
        _ = dtype("u3").bytes


@pytest.mark.parametrize("name", ML_DTYPES)
def test_ml_dtypes_are_known_by_class_and_by_dtype(name: str) -> None:
    cls = getattr(ml_dtypes, name)
    assert dtype(cls) == dtype(np.dtype(cls)) == dtype(name)


def test_numpy_dtypes_and_classes() -> None:
    assert dtype(np.float32) == dtype(np.dtype("f4")) == dtype("float32")
    assert dtype(np.int8) == dtype("i8") and dtype(np.uint64) == dtype("u64")
    assert dtype(bool) == dtype(np.bool_) == dtype("bool")
    assert dtype("half") == dtype("f16") and dtype("int4") == dtype("i4") and dtype("double") == dtype("f64")


def test_torch_dtypes_by_their_text() -> None:
    class BFloat16:
        def __str__(self) -> str:
            return "torch.bfloat16"

    BFloat16.__module__ = "torch"
    assert dtype(BFloat16()) == dtype("bf16")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("f6e3m1", "expected a dtype, found 'f6e3m1': did you mean .*f6e3m2"),
        ("float8_e4m3", "found 'float8_e4m3': did you mean float8_e4m3fn"),  # another type of ml_dtypes
        ("complex64", "found 'complex64': there are bool, i1 to i64"),
        (np.complex64, "complex64.*: there are bool"),
        (np.ndarray, "ndarray.*: there are bool"),
        (int, "found <class 'int'>: did you mean i32 or i64?"),
        (float, "found <class 'float'>: did you mean f32 or f64?"),
        (3, "found 3: there are"),
        (None, "found None: there are"),
    ],
)
def test_what_is_no_dtype(wrong: object, hint: str) -> None:
    with pytest.raises(TilecError, match=hint):
        dtype(wrong)


def test_the_module_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'u9'"):
        _ = dt.u9
    with pytest.raises(AttributeError, match="no attribute 'float16'"):
        _ = dt.float16
