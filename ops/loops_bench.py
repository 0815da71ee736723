"""`tilec bench loops`: the hot loops of matrix products, instruction by instruction, without a GPU.

    W4A16 16x4096x4096     sm_80     260 instructions    32 HMMA    8.13 each    ...
A round's instructions are counted in the machine code that ptxas makes; registers, spills and shared memory
are its own words. `--runs` has no part in it: nothing here is a time but the compiler's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import tilec as tc
from tilec import cache, ops
from tilec.scripts import replaced

TARGETS = ("sm_80", "sm_90a")
WEIGHTS = ("u1", "u2", "u3", "u4", "i4", "u5", "u6", "u7", "u8", "f4e2m1", "f6e3m2", "f8e4m3")
LINE = "{:<24}{:>8}{:>14}{:>14}{:>7}{:>10}{:>8}{:>9}{:>9}"
Make = Callable[[str], tc.Compiled]


def table(runs: int) -> Iterator[str]:
    """A line for each kernel and target."""
    yield LINE.format(
        "kernel", "target", "instructions", "products", "each", "registers", "spills", "shared", "seconds"
    )
    for name, make in _kernels():
        for target in TARGETS:
            yield _line(name, target, make)
    yield "instructions and products of one round of the loop; spills and shared memory in bytes; seconds"
    yield "of a compile with nothing cached, ptxas included"


def _kernels() -> Iterator[tuple[str, Make]]:
    """Products of f16 whose extents are multiples of 8, and of 128; linear layers of each kind of weight."""
    for multiple in (8, 128):
        m, n, k = (tc.dim(name, multiple=multiple) for name in "mnk")
        yield f"f16 x f16, by {multiple}", lambda target, m=m, n=n, k=k: ops.matmul.compile(  # type: ignore[misc]
            m=m, n=n, k=k, target=target
        )
    for weight in WEIGHTS:
        yield f"f16 x {weight}, M = 16", lambda target, weight=weight: ops.linear.compile(  # type: ignore[misc]
            m=16, n=4096, k=4096, x="f16", weight=weight, group_size=128, target=target
        )


def _line(name: str, target: str, make: Make) -> str:
    start = time.perf_counter()
    with replaced(cache, "fetch", lambda name: None), replaced(cache, "keep", lambda name, parts: None):
        made = make(target)
        used = made.resources
    seconds = time.perf_counter() - start
    loop = made.hot_loop
    assert loop is not None and loop.products, "products are in a loop"
    return LINE.format(
        name, target, loop.instructions, loop.products, f"{loop.instructions / loop.products:.2f}",
        used.registers, used.spill_bytes, used.shared_bytes, f"{seconds:.2f}",
    )  # fmt: skip
