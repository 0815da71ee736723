"""Runs emitted elementwise text over arrays: a loop around it, compiled for this machine.

run_native(lambda w, args: w.op("fadd", "float", *args), [f32, f32], f32, [a, b], width=16)
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilec.backends import llvm
from tilec.backends.convert import from_memory, to_memory
from tilec.backends.writer import Writer
from tilec.ir import codec
from tilec.ir.dtype import DType

Array = np.ndarray[Any, Any]
CPU, GPU = "define void", "define ptx_kernel void"
Body = Callable[[Writer, Sequence[str]], str]


def arch() -> str:
    return "aarch64" if platform.machine().lower() in ("arm64", "aarch64") else "x86"


def features() -> frozenset[str]:
    return frozenset(name[1:] for name in llvm.host().features.split(",") if name.startswith("+"))


def loop(w: Writer, name: str, body: Body, takes: Sequence[DType], gives: DType, kind: str = CPU) -> str:
    """A function (pointers, result pointer, count) that runs `body` over `width` elements at a time."""
    params = ", ".join([*(f"ptr %a{i}" for i in range(len(takes))), "ptr %out", "i64 %n"])
    w.lines += [f"{kind} @{name}({params}) {{", "entry:", "  br label %head", "head:"]
    w.lines += ["  %i = phi i64 [0, %entry], [%next, %head]"]
    args = [_element(w, f"%a{i}", dtype) for i, dtype in enumerate(takes)]
    out = to_memory(w, body(w, args), gives)
    place = w.let(f"getelementptr {w.stored(gives)}, ptr %out, i64 %i")
    w.line(f"store {w.vector(w.stored(gives))} {out}, ptr {place}, align 1")
    w.lines += [f"  %next = add i64 %i, {w.width}", "  %more = icmp ult i64 %next, %n"]
    w.lines += ["  br i1 %more, label %head, label %exit", "exit:", "  ret void", "}"]
    return w.module()


def _element(w: Writer, array: str, dtype: DType) -> str:
    place = w.let(f"getelementptr {w.stored(dtype)}, ptr {array}, i64 %i")
    return from_memory(w, w.let(f"load {w.vector(w.stored(dtype))}, ptr {place}, align 1"), dtype)


def run_native(body: Body, takes: Sequence[DType], gives: DType, values: Sequence[Array], width: int,
               has: frozenset[str] | None = None) -> Array:  # fmt: skip
    """What `body` gives for `values` (as the reference holds them), as the reference holds it."""
    w = Writer(arch(), width, features() if has is None else has)
    code = llvm.compile_native(loop(w, "f", body, takes, gives), opt=1)
    count = len(values[0])
    room = -(-count // width) * width
    stored_values = (
        codec.to_storage(np.asarray(v, d.reference), d) for v, d in zip(values, takes, strict=True)
    )
    padded = [np.resize(v, room) for v in stored_values]
    out = np.zeros(room, gives.storage)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*padded, out)]
    ctypes.CFUNCTYPE(None)(code.address("f"))(*pointers, ctypes.c_int64(room))
    return codec.from_storage(out[:count], gives)


def assert_same(found: Array, expected: Array, *operands: Array) -> None:
    """Equal bits, but that every NaN is one."""
    assert found.dtype == expected.dtype, f"{found.dtype} instead of {expected.dtype}"
    wrong = found != expected
    if found.dtype.kind == "f":
        wrong |= np.signbit(found) != np.signbit(expected)
        wrong &= ~(np.isnan(found) & np.isnan(expected))
    places = np.flatnonzero(wrong)[:5]
    shown = [(*(a[i] for a in operands), "gives", found[i], "not", expected[i]) for i in places]
    assert not places.size, f"{wrong.sum()} of {wrong.size} differ: {shown}"
