"""mma.sync compiled: D = A B + C over whole warps and all blocks of a batch at once.

    run = matrix_product("f16"); run(pointers, warps, blocks)
Lanes of one warp position lie next to each other over the blocks, so a vector holds one element of 16
blocks. The operands are unpacked to f32 by the ISA's fragment formulas (mma.py has them in numpy, and a
test compares the two), multiplied row by row, and added to C. The machine code depends on nothing but the
CPU and is kept on disk.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from tilec.backends import cache
from tilec.backends.llvm import NativeModule, compile_native, load_native

Run = Callable[[list[int], int, int], None]
WIDE = 16


@functools.cache
def matrix_product(kind: str) -> Run:
    """m16n8k16 of f16 or bf16 with f32 sums. Pointers: four of A, two of B, four of C, four of D (u32 or
    f32 arrays from a warp's first lane on); warps times 32 times blocks lanes each."""
    code = stored(module(kind))
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        code.address("product")
    )

    def run(pointers: list[int], warps: int, blocks: int) -> None:
        table = np.array(pointers, np.int64)
        function(table.ctypes.data, warps, blocks)

    run.code = code  # type: ignore[attr-defined]  # machine code lives as long as what calls it
    return run


def stored(text: str) -> NativeModule:
    """Compiled code from the cache on disk, or compiled now and put there."""
    key = cache.key("emulator", text)
    if kept := cache.fetch(key):
        return load_native(kept["object"])
    code = compile_native(text)
    cache.keep(key, {"object": code.object_bytes})
    return code


def module(kind: str) -> str:
    """The IR: one function per vector width, and `product`, which runs the wide one and then the narrow
    rest."""
    parts = [part(kind, WIDE), part(kind, 1), DRIVER.replace("WIDE", str(WIDE))]
    return "\n".join(parts)


DRIVER = """
define void @product(ptr %table, i64 %warps, i64 %blocks) {
  %many = udiv i64 %blocks, WIDE
  %end = mul i64 %many, WIDE
  call void @productWIDE(ptr %table, i64 %warps, i64 %blocks, i64 0, i64 %end)
  call void @product1(ptr %table, i64 %warps, i64 %blocks, i64 %end, i64 %blocks)
  ret void
}
"""


class Lines:
    """IR text with fresh names."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.made = 0

    def put(self, line: str) -> None:
        self.text.append("  " + line)

    def set(self, line: str) -> str:
        self.made += 1
        self.put(f"%v{self.made} = {line}")
        return f"%v{self.made}"


def part(kind: str, width: int) -> str:
    """A function over blocks [from, to) in steps of `width`: for each warp unpack A and B, multiply, add,
    store."""
    out = Lines()
    floats = f"<{width} x float>"
    out.text.append(
        f"define internal void @product{width}(ptr %table, i64 %warps, i64 %blocks, i64 %from, i64 %to) {{"
    )
    out.text.append("entry:")
    for name, count in (("fa", 256), ("fb", 128), ("fd", 128)):
        out.put(f"%{name} = alloca [{count} x {floats}], align 64")
    out.put("%pitch = mul i64 %blocks, 32")
    out.put("br label %warp")
    loop(out, "warp", "entry", "%warps", "block.done", "exit", "0")
    out.put("%base = mul i64 %warp.i, %pitch")
    out.put("br label %block")
    loop(out, "block", "warp.body", "%to", "write.exit", "block.done", "%from", width)
    out.put("%place = add i64 %base, %block.i")
    out.put("br label %lane")
    loop(out, "lane", "block.body", "32", "lane.body", "row.start", "0")
    unpack(out, kind, width)
    out.put("br label %lane")
    out.text.append("row.start:")
    out.put("br label %row")
    loop(out, "row", "row.start", "16", "row.body", "write.start", "0")
    multiply(out, floats)
    out.put("br label %row")
    out.text.append("write.start:")
    out.put("br label %write")
    loop(out, "write", "write.start", "32", "write.body", "write.exit", "0")
    store(out, floats)
    out.put("br label %write")
    out.text += [
        "write.exit:",
        "  br label %block",
        "block.done:",
        "  br label %warp",
        "exit:",
        "  ret void",
        "}",
    ]
    return "\n".join(out.text)


def loop(
    out: Lines, name: str, before: str, end: str, back: str, after: str, start: str, step: int = 1
) -> None:
    """The head of a counted loop; its body follows, and ends in a branch back to `name` from `back`."""
    out.text.append(f"{name}:")
    out.put(f"%{name}.i = phi i64 [ {start}, %{before} ], [ %{name}.next, %{back} ]")
    out.put(f"%{name}.next = add i64 %{name}.i, {step}")
    out.put(f"%{name}.more = icmp slt i64 %{name}.i, {end}")
    out.put(f"br i1 %{name}.more, label %{name}.body, label %{after}")
    out.text.append(f"{name}.body:")


def position(out: Lines, lane: str) -> tuple[str, str, str]:
    """(g, 2 t, the lane's index in the register arrays)."""
    g = out.set(f"lshr i64 {lane}, 2")
    t = out.set(f"and i64 {lane}, 3")
    offset = out.set(f"mul i64 {lane}, %blocks")
    return g, out.set(f"shl i64 {t}, 1"), out.set(f"add i64 %place, {offset}")


def pointer(out: Lines, number: int, index: str) -> str:
    entry = out.set(f"getelementptr i64, ptr %table, i64 {number}")
    base = out.set(f"load ptr, ptr {entry}")
    return out.set(f"getelementptr i32, ptr {base}, i64 {index}")


def unpack(out: Lines, kind: str, width: int) -> None:
    """One lane's registers of A and B as floats in fa[row * 16 + k] and fb[k * 8 + n]."""
    g, t2, index = position(out, "%lane.i")
    for r in range(6):
        word = out.set(f"load <{width} x i32>, ptr {pointer(out, r, index)}, align 4")
        if r < 4:
            row = out.set(f"add i64 {g}, {8 * (r & 1)}")
            k = out.set(f"add i64 {t2}, {8 * (r >> 1)}")
            at = out.set(f"add i64 {out.set(f'mul i64 {row}, 16')}, {k}")
            step, where = 1, "%fa"
        else:
            k = out.set(f"add i64 {t2}, {8 * (r - 4)}")
            at = out.set(f"add i64 {out.set(f'mul i64 {k}, 8')}, {g}")
            step, where = 8, "%fb"
        for half, value in enumerate(halves(out, word, kind, width)):
            place = out.set(f"add i64 {at}, {half * step}")
            to = out.set(f"getelementptr <{width} x float>, ptr {where}, i64 {place}")
            out.put(f"store <{width} x float> {value}, ptr {to}")


def halves(out: Lines, word: str, kind: str, width: int) -> list[str]:
    """The two elements of each word."""
    ints, floats = f"<{width} x i32>", f"<{width} x float>"
    by = splat("i32 16", width)
    if kind == "bf16":
        low = out.set(f"shl {ints} {word}, {by}")
        high = out.set(f"and {ints} {word}, {splat('i32 -65536', width)}")
        return [out.set(f"bitcast {ints} {x} to {floats}") for x in (low, high)]
    found = []
    for x in (word, out.set(f"lshr {ints} {word}, {by}")):
        short = out.set(f"trunc {ints} {x} to <{width} x i16>")
        half = out.set(f"bitcast <{width} x i16> {short} to <{width} x half>")
        found.append(out.set(f"fpext <{width} x half> {half} to {floats}"))
    return found


def splat(value: str, width: int) -> str:
    return f"<{', '.join([value] * width)}>"


def multiply(out: Lines, floats: str) -> None:
    """fd[row * 8 + n] = sum over k, for one row."""
    start = out.set("mul i64 %row.i, 16")
    a = out.set(f"getelementptr {floats}, ptr %fa, i64 {start}")
    sums: list[str] = [splat("float 0.0", int(floats[1:].split()[0]))] * 8
    for k in range(16):
        x = out.set(f"load {floats}, ptr {out.set(f'getelementptr {floats}, ptr {a}, i64 {k}')}")
        for n in range(8):
            y = out.set(f"load {floats}, ptr {out.set(f'getelementptr {floats}, ptr %fb, i64 {k * 8 + n}')}")
            product = out.set(f"fmul contract {floats} {x}, {y}")
            sums[n] = out.set(f"fadd contract {floats} {sums[n]}, {product}")
    first = out.set("mul i64 %row.i, 8")
    for n in range(8):
        to = out.set(f"getelementptr {floats}, ptr %fd, i64 {out.set(f'add i64 {first}, {n}')}")
        out.put(f"store {floats} {sums[n]}, ptr {to}")


def store(out: Lines, floats: str) -> None:
    """One lane's registers of D: fd and C."""
    g, t2, index = position(out, "%write.i")
    for i in range(4):
        row = out.set(f"add i64 {g}, {8 * (i >> 1)}")
        at = out.set(f"add i64 {out.set(f'mul i64 {row}, 8')}, {out.set(f'add i64 {t2}, {i & 1}')}")
        product = out.set(f"load {floats}, ptr {out.set(f'getelementptr {floats}, ptr %fd, i64 {at}')}")
        old = out.set(f"load {floats}, ptr {pointer(out, 6 + i, index)}, align 4")
        total = out.set(f"fadd {floats} {product}, {old}")
        out.put(f"store {floats} {total}, ptr {pointer(out, 10 + i, index)}, align 4")
