"""Casts between every two dtypes, and the ways to and from codes and memory, against tilec.ir.codec."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.backends.native import CPU, GPU, arch, assert_same, features, loop
from tests.backends.test_emit import samples
from tilec.backends import llvm
from tilec.backends.convert import cast, from_code, to_code
from tilec.backends.writer import Writer, is_code
from tilec.ir import codec
from tilec.ir import dtype as dt
from tilec.ir.dtype import ALL, DType
from tilec.ir.target import target

Array = np.ndarray[Any, Any]
WITHOUT_HALF = frozenset({"avx512fp16", "fullfp16"})


def every(dtype: DType) -> Array:
    """All values of up to 16 bits; of wider types many, also near what a narrow type rounds at."""
    if dtype.is_bool:
        return np.array([False, True])
    if dtype.bits <= 16:
        return codec.decode(np.arange(1 << dtype.bits, dtype=dtype.code), dtype)
    ties = [near_ties(dtype, to) for to in (dt.f16, dt.bf16, dt.f6e3m2)]
    return np.concatenate([samples(dtype, 40_000, 3), *ties])


def near_ties(dtype: DType, to: DType) -> Array:
    """Values of a wide type at and beside the middle of two neighbours of a narrow float."""
    random = np.random.default_rng(9)
    codes = random.integers(0, to.max_code, 4000)
    low, high = (codec.decode(codes + i, to).astype(np.float64) for i in (0, 1))
    middle = codec.round_to((low + high) / 2, dtype)
    if not dtype.is_float:
        return np.concatenate([middle, middle + 1, middle - 1])
    up, down = (np.nextafter(middle, middle.dtype.type(end)) for end in (np.inf, -np.inf))
    return codec.round_to(np.concatenate([middle, up, down, -middle]), dtype)


def module(src: DType, make: Callable[[], Writer], kind: str = CPU) -> str:
    """One function per type to cast to."""
    texts: list[str] = []
    declarations: dict[str, str] = {}
    for dst in ALL:
        w = make()
        loop(w, f"to_{dst}", partial(_cast, src, dst), [src], dst, kind)
        texts += w.lines
        declarations |= w.declarations
    return "\n".join([*texts, *declarations.values(), ""])


def _cast(src: DType, dst: DType, w: Writer, args: Sequence[str]) -> str:
    return cast(w, args[0], src, dst)


def sources() -> list[Any]:
    """Every type; those that registers hold as codes take turns at being scalars and vectors, others are
    both.
    """
    both = [(src, width) for src in ALL if not is_code(src) for width in (1, 16)]
    turns = [(src, (1, 16)[i % 2]) for i, src in enumerate(filter(is_code, ALL))]
    return [pytest.param(src, width, id=f"{src}-{width}") for src, width in both + turns]


@pytest.mark.parametrize("src, width", sources())
def test_every_cast(src: DType, width: int) -> None:
    has = features() - WITHOUT_HALF if width == 1 else features()
    code = llvm.compile_native(module(src, lambda: Writer(arch(), width, has)), opt=1)
    values = every(src)
    room = -(-len(values) // 16) * 16
    given = codec.to_storage(np.resize(values, room).astype(src.reference), src)
    for dst in ALL:
        out = np.zeros(room, dst.storage)
        pointers = (ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(out.ctypes.data))
        ctypes.CFUNCTYPE(None)(code.address(f"to_{dst}"))(*pointers, ctypes.c_int64(room))
        found = codec.from_storage(out[: len(values)], dst)
        assert_same(found, codec.cast(values, src, dst), values)


@pytest.mark.parametrize("name", ["sm_80", "sm_90a"])
def test_every_cast_compiles_for_gpus(name: str) -> None:
    small = (dt.bool, dt.i3, dt.u8, dt.f4e2m1, dt.f8e5m2, dt.e8m0)
    for src in (*small, dt.i32, dt.u64, dt.f16, dt.bf16, dt.tf32, dt.f64):
        text = module(src, lambda: Writer("ptx"), GPU)
        assert llvm.to_ptx(text, target(name)).count(".entry") == len(ALL)


@pytest.mark.parametrize("dtype", [d for d in ALL if d.bits <= 16], ids=str)
def test_codes_and_back(dtype: DType) -> None:
    """Any bits in memory of the code's width: those above the type's are ignored."""
    word = DType(f"u{dtype.bits}", "uint", max(8, dtype.bits))
    w = Writer(arch(), 16, features())

    def through(w: Writer, args: Any) -> str:
        return to_code(w, from_code(w, args[0], dtype), dtype)[0]

    code = llvm.compile_native(loop(w, "f", through, [word], word), opt=1)
    given = np.arange(1 << 16, dtype=np.uint16).astype(dtype.code)
    out = np.zeros_like(given)
    pointers = (ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    ctypes.CFUNCTYPE(None)(code.address("f"))(*pointers, ctypes.c_int64(given.size))
    expected = (given != 0).astype(np.uint8) if dtype.is_bool else given & dtype.code.type(dtype.code_mask)
    np.testing.assert_array_equal(out, expected)
