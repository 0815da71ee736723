"""`tilec bench loops`, or `tilec bench linear --static`: the loops of matrix products, without a GPU.

    f16 x u4, M = 16       sm_80     260 instructions    32 products    8.13 each    ...
A round's instructions are counted in the machine code that ptxas makes; registers, spills and shared memory
are its own words. Nothing here is a time but the compiler's. With `--emulate`: what the emulator finds, and
how many of shared memory's wavefronts and global memory's sectors the loops need (tilec.ops.loops_traffic).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import tilec as tc
from tilec import ops
from tilec.backends import cache
from tilec.ir.layouts import mma_b
from tilec.ops.tiling import Weighted
from tilec.scripts import replaced

TARGETS = ("sm_80", "sm_89", "sm_90a")
WEIGHTS = ("u1", "u2", "u3", "u4", "i4", "u5", "u6", "u7", "u8",
           "f4e2m1", "f4e3m0", "f6e2m3", "f6e3m2", "f8e4m3", "f8e5m2")  # fmt: skip
LINE = "{:<26}{:>8}{:>14}{:>10}{:>7}{:>11}{:>8}{:>9}{:>9}"
HEAD = ("kernel", "target", "instructions", "products", "each", "registers", "spills", "shared", "seconds")
TRAFFIC = "{:<26}{:>8}{:>10}{:>12}{:>14}{:>14}"


@dataclass(frozen=True)
class Peer:
    """Another compiler's loop of the same problem."""

    name: str
    instructions: str
    products: int
    source: str


OURS = "kernels written for this comparison in each language, assembled by ptxas, counted by nvdisasm"
PEERS = (
    Peer("Triton, int32 weights", "889", 32, f"W4A16, group 128, 16x128x128; {OURS}"),
    Peer("Triton, uint8 weights", "1423-1612", 32, "the same, two weights joined from a byte"),
    Peer("cuTile, uint8 weights", "1174", 32, "the same"),
    Peer("CUDA by hand", "305", 32, "the same, weights in the order of fragments, lop3; not run"),
    Peer("Triton, TileLang, CuTe", "2.1-2.5 each", 64, f"f16 x f16, 128x128x32 and 128x128x64; {OURS}"),
)


@dataclass(frozen=True)
class Case:
    """A kernel: how it is compiled for a target, and a small problem of it with numbers."""

    name: str
    compile: Callable[[str], tc.Compiled]
    small: Callable[[], object]
    targets: tuple[str, ...] = ("sm_80", "sm_90a")


def table(runs: int) -> Iterator[str]:
    """A line for each kernel and target, then what is known of others."""
    yield LINE.format(*HEAD)
    for case in (*tiles(), *cases()):
        for target in case.targets:
            if target in TARGETS:
                yield _line(case, target)
    yield "instructions and products of one round of the loop; spills and shared memory in bytes; seconds"
    yield "of a compile with nothing cached, ptxas included, in this process"
    yield "of others, measured once, not in this run:"
    for peer in PEERS:
        yield f"{peer.name:<26}{'':>8}{peer.instructions:>14}{peer.products:>10}   {peer.source}"


def traffic_table() -> Iterator[str]:
    """A line for each kernel and target: how its loop uses memory, on the emulator."""
    from tilec.ops.loops_traffic import traffic

    yield TRAFFIC.format("kernel", "target", "findings", "wavefronts", "sectors, loop", "sectors, rest")
    for case in cases():
        for target in case.targets:
            if target in TARGETS:
                used = traffic(case.small, target)
                numbers = (used.findings, used.shared, used.inside, used.outside)
                yield TRAFFIC.format(case.name, target, numbers[0], *map(str, numbers[1:]))
    yield "wavefronts of shared memory, sectors of global memory: how many there are for one that is needed;"
    yield "1 is ideal, - where the loop has none (wgmma and TMA move tiles by themselves)"


def tiles() -> Iterator[Case]:
    """Each kind of weight in one tile, as peers were measured in, whatever is chosen for a problem."""
    form = Weighted(16, mma_b(tc.f16, (128, 128), 4), placed=tc.f16)
    for weight in WEIGHTS:
        made = partial(_compiled, weight, 16, None, form)
        yield Case(f"f16 x {weight}, 16x128x128", made, lambda: None, ("sm_80",))


def cases() -> Iterator[Case]:
    """Products of f16 whose extents are multiples of 8, and of 128; linear layers of each kind of weight."""
    for multiple in (8, 128):
        m, n, k = (tc.dim(name, multiple=multiple) for name in "mnk")
        yield Case(f"f16 x f16, by {multiple}", partial(_dense, m, n, k), _small_product)
    for weight in WEIGHTS:
        yield _layer(weight, 16)
    for rows in (32, 64, 128):
        yield _layer("u4", rows)
    for weight in ("u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"):
        yield _layer(weight, 16, "int8")
    yield _layer("u4", 128, "int8")
    for weight, rows in (("u4", 1), ("u3", 16), ("u4", 16), ("u4", 64), ("f16", 16), ("f16", 128)):
        yield _sparse_layer(weight, rows)
    small = (("u4", 16), ("f4e2m1", 16), ("f6e3m2", 16), ("f8e4m3", 16), ("u4", 128), ("f4e2m1", 128))
    for weight, rows in small:
        yield replace(_layer(weight, rows, "f8e4m3"), targets=("sm_89", "sm_90a"))


def _dense(m: Any, n: Any, k: Any, target: str) -> tc.Compiled:
    return ops.matmul.compile(m=m, n=n, k=k, target=target)


def _layer(weight: str, m: int, activations: str | None = None) -> Case:
    name = f"{activations or 'f16'} x {weight}, M = {m}"
    made = partial(_compiled, weight, m, activations, None)
    return Case(name, made, lambda: _small_layer(weight, m, activations))


def _compiled(
    weight: str, m: int, activations: str | None, schedule: Weighted | None, target: str
) -> tc.Compiled:
    return ops.linear.compile(
        m=m, n=4096, k=4096, weight=weight, group_size=128, activations=activations, schedule=schedule,
        target=target,
    )  # fmt: skip


def _sparse_layer(weight: str, m: int) -> Case:
    """Weights that keep two of each four: a product does the work of two."""

    def made(target: str) -> tc.Compiled:
        return ops.linear.compile(
            m=m, n=4096, k=4096, weight=weight, group_size=128, sparsity="2:4", target=target
        )

    def small() -> object:
        x, w = (_normal(*shape).astype(np.float16) for shape in ((m, 512), (256, 512)))
        held = ops.sparsify(ops.prune_2_4(w), None if weight == "f16" else weight)
        return ops.linear(x, held)

    return Case(f"f16 x {weight} 2:4, M = {m}", made, small)


def _small_product() -> object:
    a, b = (_normal(*shape).astype(np.float16) for shape in ((256, 256), (256, 1024)))
    return ops.matmul(a, b)


def _small_layer(weight: str, m: int, activations: str | None) -> object:
    held = ops.quantize(_normal(256, 512), weight, group_size=128)
    return ops.linear(_normal(m, 512).astype(np.float16), held, activations=activations)


def _normal(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def _line(case: Case, target: str) -> str:
    start = time.perf_counter()
    with replaced(cache, "fetch", lambda name: None), replaced(cache, "keep", lambda name, parts: None):
        made = case.compile(target)
        used = made.resources
    seconds = time.perf_counter() - start
    loop = made.hot_loop
    assert loop is not None and loop.products, "products are in a loop"
    return LINE.format(
        case.name, target, loop.instructions, loop.products, f"{loop.instructions / loop.products:.2f}",
        used.registers, used.spill_bytes, used.shared_bytes, f"{seconds:.2f}",
    )  # fmt: skip
