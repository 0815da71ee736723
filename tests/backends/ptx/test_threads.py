"""Tables over the threads as code: sums of bit fields, xors, periods, look-ups, predicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.backends.ptx.runner import seeds
from tilec.backends import emulator, llvm
from tilec.backends.ptx.emitter import Emitter
from tilec.backends.ptx.threads import per_thread, predicate
from tilec.backends.writer import Writer
from tilec.ir.facts import analyse
from tilec.ir.func import Block, Func
from tilec.ir.target import target

Table = np.ndarray[Any, Any]
SM_80 = target("sm_80")


def on_threads(tables: list[Table], write: Callable[[Emitter, Table], str]) -> Table:
    """What every thread gets of each table, [tables, threads], and the instructions that it took."""
    threads = len(tables[0])
    func = Func("k", (), Block((), ()), {"warps": threads // 32})
    e = Emitter(func, SM_80, analyse(func), Writer("ptx"))
    e.entry.append("  %tid = call range(i32 0, 1024) i32 @llvm.nvvm.read.ptx.sreg.tid.x()")
    for i, table in enumerate(tables):
        e.line(f"%at{i} = add i32 %tid, {i * threads}")
        e.line(f"%place{i} = getelementptr i32, ptr addrspace(1) %out, i32 %at{i}")
        e.line(f"store i32 {write(e, table)}, ptr addrspace(1) %place{i}")
    body = [
        *e.globals,
        "define ptx_kernel void @k(ptr addrspace(1) %out) {",
        *e.entry,
        *e.writer.lines,
        "ret void",
        "}",
    ]
    text = "\n".join([*body, "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()", "!1 = !{}"])
    found = np.full((len(tables), threads), -7, np.int32)
    report = emulator.load(llvm.to_ptx(text, SM_80)).launch("k", 1, threads, (found,))
    assert not report.findings
    return found


def flag(e: Emitter, table: Table) -> str:
    found = predicate(e, table)
    return "1" if found is None else e.let(f"zext i1 {found} to i32")


def table(seed: int, threads: int) -> Table:
    """Numbers of the kinds that layouts and swizzles give, and any others."""
    draw, t = np.random.default_rng([seed, 18]), np.arange(threads)
    bits = range((threads - 1).bit_length())
    weights = draw.choice([0, 1, 2, 3, 4, 16, 24, 48, 144, 288, 576, -8], len(bits))
    match seed % 6:
        case 0:
            return sum((t >> b & 1) * w for b, w in zip(bits, weights, strict=True)) + int(
                draw.integers(-9, 99)
            )
        case 1:
            return np.bitwise_xor.reduce(
                [(t >> b & 1) * abs(w) for b, w in zip(bits, weights, strict=True)]
            ) ^ int(draw.integers(64))
        case 2:
            return t // int(draw.integers(1, 12)) % int(draw.integers(1, 9)) * int(draw.integers(-5, 6)) + 3
        case 3:
            return np.minimum(t * int(draw.integers(1, 9)), int(draw.integers(100)))
        case 4:
            return np.full(threads, int(draw.integers(-5, 5)))
    return draw.integers(-1000, 1000, threads)


@pytest.mark.parametrize("threads", [32, 96, 128, 224])
def test_tables(threads: int) -> None:
    tables = [table(seed, threads) for seed in seeds(60, 600)]
    assert np.array_equal(on_threads(tables, per_thread), tables)


@pytest.mark.parametrize("threads", [32, 96, 128])
def test_predicates(threads: int) -> None:
    draw, t = np.random.default_rng(threads), np.arange(threads)
    tables = (
        [t < n for n in (0, 1, 5, threads)]
        + [t & 12 == n for n in (0, 4, 12)]
        + [t >= 7, t % 3 == 1, t & 1 == 0]
    )
    tables += [table(seed, threads) > 20 for seed in seeds(40, 400)] + [draw.random(threads) < 0.5]
    assert np.array_equal(on_threads(tables, flag), tables)


def test_fields_that_meet_are_xored_bit_by_bit() -> None:
    """Weights 3 and 6 share a bit: the field of both bits times 3 would add where it must xor."""
    t = np.arange(32)
    swizzled = (t & 1) * 3 ^ (t >> 1 & 1) * 6 ^ (t >> 2) * 8
    assert np.array_equal(on_threads([swizzled], per_thread), [swizzled])
