"""One kernel, every way it can run: its meaning, its meaning after every pass, and as emulated PTX.

    check(func, [x, y])                                     numpy arrays in storage form, or numpy scalars
    check_kernel(copy, (dt.f16, x), (dt.f16, out(7, dt.f16)), block=(4,))       a kernel of the language
Outputs come poisoned. All must agree bit by bit, or within `bound` (absolute) where sums may be taken in
another order. The emulator runs with every check on and may find nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

import tilec as tc
from tilec.backends import emulator
from tilec.backends.emulator import Report
from tilec.backends.ptx.kernel import PtxKernel
from tilec.backends.ptx.kernel import compile as compile_ptx
from tilec.ir import codec
from tilec.ir.dtype import DType
from tilec.ir.func import Func, written_arrays
from tilec.ir.packing import PackedArray, pack
from tilec.ir.passes.order import lower
from tilec.ir.run import Memory, grid_size, run
from tilec.ir.target import target
from tilec.ir.tile import ArrayType
from tilec.places import flat, machine_word
from tilec.specialise import array_type

Array = np.ndarray[Any, Any]
POISON = 0xA5


FULL = os.environ.get("TILEC_TEST_PROFILE") == "all"  # make check-all


def seeds(few: int, many: int) -> range:
    """Seeds of random cases: a few in make test, many in make check-all."""
    return range(many if FULL else few)


def values(dtype: DType, shape: int | tuple[int, ...], seed: Any, small: bool = False) -> Array:
    """Random elements in storage form; small: whole numbers of which sums and products are exact."""
    draw = np.random.default_rng(seed)
    if dtype.is_bool:
        return draw.integers(0, 2, shape).astype(np.bool_)
    if small:
        plain: Array = draw.integers(-3 if dtype.is_signed else 0, 4, shape)
    else:
        plain = draw.standard_normal(shape) * 4 if dtype.is_float else draw.integers(-(2**62), 2**62, shape)
    return codec.to_storage(np.asarray(codec.round_to(plain, dtype)), dtype)


def trace(kernel: tc.Kernel, *args: Any, **constants: Any) -> Func:
    """A kernel of the language for these arguments, as `check_kernel` takes them."""
    given = [_spec(a, i) if isinstance(a, tuple) else a for i, a in enumerate(args)]
    return kernel.compile(*given, target="reference", **constants).traced


def _spec(arg: tuple[DType, Array], i: int) -> tc.Spec:
    """What a real array would be compiled for, of any dtype."""
    dtype, data = arg
    kind = array_type(data.view(f"u{data.itemsize}"), f"a{i}")
    return tc.Spec(dtype, kind.shape, kind.strides, kind.align)


def check_kernel(
    kernel: tc.Kernel, *args: Any, name: str = "sm_80", bound: float | None = None, **constants: Any
) -> PtxKernel:
    """Runs a kernel every way: arrays as (dtype, storage), scalars and packed arrays as they are."""
    func = trace(kernel, *args, **constants)
    return check(func, [a[1] if isinstance(a, tuple) else a for a in args], name, bound)


@lru_cache(4)
def build(func: Func, name: str) -> tuple[tuple[tuple[str, Func], ...], PtxKernel]:
    """The function after each pass, and its PTX."""
    stages: list[tuple[str, Func]] = []
    done = lower(func, target(name), lambda step, seen: stages.append((step, seen)))
    return tuple(stages), compile_ptx(done, target(name))


def out(shape: int | tuple[int, ...], dtype: DType) -> Array:
    """An array to be written: poisoned, so that what is not written shows."""
    made = np.empty(shape, dtype.storage)
    if dtype.is_bool:
        made.fill(True)
    else:
        made.view(np.uint8).fill(POISON)
    return made


def check(func: Func, args: Sequence[Any], name: str = "sm_80", bound: float | None = None) -> PtxKernel:
    """Runs `func` every way and compares all written arrays; gives the compiled kernel."""
    wanted = meaning(func, args)
    stages, kernel = build(func, name)
    seen = func
    for step, after in stages:
        if after is not seen:
            compare(func, wanted, meaning(after, args), bound, f"after {step}")
        seen = after
    given = copies(args)
    report = emulate(kernel, given)
    assert report.completed and not report.findings, "\n".join(map(str, report.findings[:4])) + kernel.ptx
    compare(func, wanted, given, bound, f"as PTX for {name}")
    return kernel


def copies(args: Sequence[Any]) -> list[Any]:
    """Arrays with the same strides over memory of their own."""
    return [_copy(a) for a in args]


def _copy(arg: Any) -> Any:
    if isinstance(arg, PackedArray):
        return PackedArray(arg.bytes.copy(), arg.dtype, arg.shape)
    if not isinstance(arg, np.ndarray) or arg.ndim == 0:
        return arg
    low, high = np.lib.array_utils.byte_bounds(arg)
    start = arg.__array_interface__["data"][0]
    room = np.empty(high - low + 64, np.uint8)
    skip = (low - room.__array_interface__["data"][0]) % 64
    room = room[skip : skip + high - low]
    made = np.ndarray(arg.shape, arg.dtype, room, start - low, arg.strides)
    made[...] = arg
    return made


def meaning(func: Func, args: Sequence[Any]) -> list[Any]:
    """What the reference runner leaves in the arguments."""
    given = copies(args)
    held = [_memory(a, p.type) for a, p in zip(given, func.params, strict=True)]
    run(func, held)
    for arg, memory in zip(given, held, strict=True):
        if isinstance(arg, PackedArray):
            arg.bytes[:] = pack(memory.data, arg.dtype)
    return given


def _memory(arg: Any, kind: Any) -> Any:
    if isinstance(arg, PackedArray):
        values = arg.codes() if arg.dtype.is_float else arg.values()
        return Memory(values.astype(arg.dtype.storage), arg.dtype)
    return Memory(arg, kind.dtype) if isinstance(kind, ArrayType) else arg


def emulate(kernel: PtxKernel, args: Sequence[Any], seed: int | None = None) -> Report:
    """Launches the PTX with every check on; arrays are written in place."""
    func = kernel.func
    buffers = [
        flat(a) if isinstance(p.type, ArrayType) else a for a, p in zip(args, func.params, strict=True)
    ]
    words = [machine_word(slot, args, buffers) for slot in kernel.slots]
    held = (_memory(a, p.type) for a, p in zip(args, func.params, strict=True))
    blocks = grid_size(func, dict(zip(func.params, held, strict=True)))
    module = emulator.load(kernel.ptx)
    return module.launch(
        func.name, blocks, kernel.threads, words, shared_bytes=kernel.shared_bytes, seed=seed
    )


def tells(
    kernel: PtxKernel, args: Sequence[Any], wanted: Array, seeds: Sequence[int | None], atol: float | None
) -> bool:
    """Does any of these runs find something, hang, or leave in the last array another result than `wanted`?
    None for `atol`: equal bits.
    """
    for seed in seeds:
        given = copies(args)
        report = emulate(kernel, given, seed)
        found = given[-1]
        same = np.array_equal(found, wanted) if atol is None else np.allclose(found, wanted, atol=atol)
        if report.findings or not report.completed or not same:
            return True
    return False


def compare(func: Func, wanted: Sequence[Any], found: Sequence[Any], bound: float | None, when: str) -> None:
    """Asserts equal arrays; the first difference is told."""
    written = written_arrays(func)
    for param, want, have in zip(func.params, wanted, found, strict=True):
        if param not in written:
            continue
        if isinstance(want, PackedArray):
            assert np.array_equal(want.bytes, have.bytes), f"{param.name} differs {when}"
            continue
        assert_same(want, have, param.array_type.dtype, bound, f"{param.name} {when}")


def assert_same(want: Array, have: Array, dtype: DType, bound: float | None, what: str) -> None:
    """Equal bits (any NaN is every NaN), or values within `bound` of each other."""
    a, b = codec.from_storage(want, dtype), codec.from_storage(have, dtype)
    same = a == b
    if dtype.is_float:
        same &= np.signbit(a) == np.signbit(b)
        same |= np.isnan(a) & np.isnan(b)
    if bound is not None:
        with np.errstate(all="ignore"):
            same |= np.abs(a.astype(np.float64) - b.astype(np.float64)) <= bound
    wrong = np.argwhere(~np.atleast_1d(same))
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    shown = [(tuple(p.tolist()), b[tuple(p)], "not", a[tuple(p)]) for p in wrong[:4]]
    assert not len(wrong), f"{what}: {len(wrong)} of {a.size} differ: {shown}"
