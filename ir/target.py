"""Targets: what a machine can do, as data.

Passes price things with these numbers and emitters ask for features by name; nothing asks which target it is.
    target("sm_90a").shared_bytes_per_block == 227 * 1024
    target("sm_80").has("wgmma") is False
    parse_target("emulator:sm_80") == Place("emulator", target("sm_80"))
Limits are those of the CUDA programming guide's table of compute capabilities, features those of the PTX ISA
(a test holds every one against the assembler), rates those of a board of its kind (ir/boards.py).
"""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, NamedTuple

from tilec.ir.boards import BOARDS, Rates
from tilec.ir.errors import TilecError

KIB = 1024

FEATURES = {
    "cp_async": "cp.async: 4, 8 or 16 bytes from global to shared memory, past the registers",
    "ldmatrix": "ldmatrix: 8x8 blocks of 16-bit elements from shared memory into mma's fragments",
    "stmatrix": "stmatrix: the way back",
    "mma": "mma.sync: one warp's matrix product",
    "wgmma": "wgmma: four warps' matrix product, operands in shared memory",
    "tma": "cp.async.bulk.tensor: boxes of a tensor between global and shared memory",
    "mbarrier": "mbarrier: barriers in shared memory that count arrivals",
    "mbarrier_wait": "mbarrier.try_wait, and arrivals that expect bytes",
    "clusters": "blocks that run at once and read each other's shared memory",
    "setmaxnreg": "setmaxnreg: registers move between warps",
    "elect": "elect.sync: one lane of a warp",
    "bf16_fma": "fma, minimum and maximum of bf16",
    "bf16_arithmetic": "add, sub and mul of bf16",
    "f32x2": "two f32 in one instruction",
    "redux": "redux.sync: a warp's integer sum, minimum, maximum, and, or, xor",
    "redux_f32": "redux.sync: a warp's f32 minimum and maximum",
    "cvt_tf32": "cvt to tf32",
    "cvt_bf16x2": "cvt of two f32 to two bf16 or f16",
    "cvt_f8": "cvt between pairs of f8e4m3 or f8e5m2 and of f16",
    "cvt_f6": "cvt between pairs of f6e2m3 or f6e3m2 and of f16",
    "cvt_f4": "cvt between pairs of f4e2m1 and of f16",
    "approx_bf16": "ex2.approx and tanh.approx of bf16",
    "vector_red": "red of 2 or 4 neighbouring f32 at once",
}


@dataclass(frozen=True)
class Mma:
    """A shape of mma.sync: (m, k) of dtype `a` times (k, n) of dtype `b`, summed in `acc`."""

    m: int
    n: int
    k: int
    a: str
    b: str
    acc: str

    @property
    def name(self) -> str:
        return f"m{self.m}n{self.n}k{self.k}"


@dataclass(frozen=True)
class Target:
    """A machine that code is made for. Numbers are maxima; 0 where there is no such thing."""

    name: str
    kind: Literal["ptx", "cpu"]
    sm: int = 0  # compute capability, 90 for 9.0
    ptx_version: int = 0  # what is written; 84 for PTX ISA 8.4, which the driver of CUDA 12.4 reads
    oldest_ptx_version: int = 0  # the first that knows this target
    features: frozenset[str] = frozenset()
    mma: tuple[Mma, ...] = ()
    mma_sparse: tuple[Mma, ...] = ()  # mma.sp, the larger k of each dtype; a keeps two of each four
    slow_mma: frozenset[str] = frozenset()  # operands that mma.sync multiplies no faster than f16
    wgmma: tuple[Mma, ...] = ()  # for four warps: n is the step of its own, up to WGMMA_COLUMNS
    wgmma_sparse: tuple[Mma, ...] = ()
    atomic_add: frozenset[str] = frozenset()  # dtypes with an add of their own in global memory
    warp_size: int = 1
    max_threads: int = 1  # of a block
    max_threads_per_sm: int = 0
    max_blocks_per_sm: int = 0
    max_registers_per_thread: int = 0
    registers_per_sm: int = 0
    shared_bytes_per_block: int = 0  # with the driver's opt-in; without it 48 KiB
    shared_bytes_per_sm: int = 0
    shared_bytes_reserved: int = 0  # of the SM's, by the system, for every block
    rates: Rates | None = None

    def __post_init__(self) -> None:
        unknown = sorted(self.features - FEATURES.keys())
        assert not unknown, f"{self.name}: {unknown} is not described in FEATURES"

    def has(self, feature: str) -> bool:
        """Whether the target has a feature of FEATURES."""
        assert feature in FEATURES, f"{feature!r} is not described in FEATURES"
        return feature in self.features

    @property
    def needs_layouts(self) -> bool:
        """Whether tiles are spread over threads, so that every value needs a layout."""
        return self.kind == "ptx"

    @property
    def max_warps(self) -> int:
        return self.max_threads // self.warp_size


class Place(NamedTuple):
    """Who runs a kernel ("reference", "cpu", "emulator", "cuda:0", "compile": nobody), made for what.

    The target of "cuda:0" is None: only the driver knows it (of_capability).
    """

    runner: str
    target: Target | None

    @property
    def device(self) -> int:
        """The number of the GPU."""
        kind, _, number = self.runner.partition(":")
        assert kind == "cuda", f"{self.runner} is no GPU"
        return int(number)


def _products(m: int, n: int, k: int, operands: str, *accumulators: str) -> tuple[Mma, ...]:
    """The products of one shape: operands "f16 u8*i8" are f16 with f16, and u8 with i8."""
    pairs = [(pair.split("*") * 2)[:2] for pair in operands.split()]
    return tuple(Mma(m, n, k, a, b, acc) for a, b in pairs for acc in accumulators)


_F8 = "f8e4m3 f8e5m2 f8e4m3*f8e5m2 f8e5m2*f8e4m3"
_MMA_80 = (
    *_products(16, 8, 8, "f16", "f32", "f16"),
    *_products(16, 8, 16, "f16", "f32", "f16"),
    *_products(16, 8, 8, "bf16", "f32"),
    *_products(16, 8, 16, "bf16", "f32"),
    *_products(16, 8, 4, "tf32", "f32"),
    *_products(16, 8, 8, "tf32", "f32"),
    *_products(8, 8, 4, "f64", "f64"),
    *_products(16, 8, 16, "i8 u8 i8*u8 u8*i8", "i32"),
    *_products(16, 8, 32, "i8 u8 i8*u8 u8*i8", "i32"),
    *_products(16, 8, 32, "i4 u4 i4*u4 u4*i4", "i32"),
    *_products(16, 8, 64, "i4 u4 i4*u4 u4*i4", "i32"),
)
_SPARSE_80 = (
    *_products(16, 8, 32, "f16", "f32", "f16"),
    *_products(16, 8, 32, "bf16", "f32"),
    *_products(16, 8, 64, "i8 u8 i8*u8 u8*i8", "i32"),
)
_MMA_89 = (*_MMA_80, *_products(16, 8, 32, _F8, "f32"))
_SPARSE_89 = (*_SPARSE_80, *_products(16, 8, 64, _F8, "f32"))

WGMMA_COLUMNS = 256
_WGMMA = (
    *_products(64, 8, 16, "f16", "f32", "f16"),
    *_products(64, 8, 16, "bf16", "f32"),
    *_products(64, 8, 8, "tf32", "f32"),
    *_products(64, 8, 32, "i8 u8 i8*u8 u8*i8", "i32"),
    *_products(64, 8, 32, _F8, "f32"),
)

_SPARSE_WGMMA = (
    *_products(64, 8, 32, "f16", "f32", "f16"),
    *_products(64, 8, 32, "bf16", "f32"),
    *_products(64, 8, 64, "i8 u8 i8*u8 u8*i8", "i32"),
    *_products(64, 8, 64, _F8, "f32"),
)

_80 = frozenset(("cp_async", "ldmatrix", "mma", "mbarrier", "bf16_fma", "redux", "cvt_tf32", "cvt_bf16x2"))
_89 = _80 | {"cvt_f8"}
_90 = _89 | {"stmatrix", "tma", "mbarrier_wait", "clusters", "elect"}
_90 = _90 | {"bf16_arithmetic", "approx_bf16", "vector_red"}
_90A = _90 | {"wgmma", "setmaxnreg"}
_100A = _90 | {"setmaxnreg", "f32x2", "redux_f32", "cvt_f6", "cvt_f4"}
_120 = _90 | {"f32x2"}


SM_80 = Target(
    "sm_80",
    "ptx",
    sm=80,
    ptx_version=80,
    oldest_ptx_version=70,
    features=_80,
    mma=_MMA_80,
    mma_sparse=_SPARSE_80,
    atomic_add=frozenset(("i32", "u32", "i64", "u64", "f16", "f32", "f64")),
    warp_size=32,
    max_threads=1024,
    max_threads_per_sm=2048,
    max_blocks_per_sm=32,
    max_registers_per_thread=255,
    registers_per_sm=65536,
    shared_bytes_per_block=163 * KIB,
    shared_bytes_per_sm=164 * KIB,
    shared_bytes_reserved=KIB,
    rates=BOARDS["A100"],
)
SM_86 = replace(
    SM_80,
    name="sm_86",
    sm=86,
    oldest_ptx_version=71,
    max_threads_per_sm=1536,
    max_blocks_per_sm=16,
    shared_bytes_per_block=99 * KIB,
    shared_bytes_per_sm=100 * KIB,
    rates=BOARDS["RTX 3090"],
)
SM_89 = replace(
    SM_86,
    name="sm_89",
    sm=89,
    ptx_version=84,
    oldest_ptx_version=78,
    features=_89,
    mma=_MMA_89,
    mma_sparse=_SPARSE_89,
    max_blocks_per_sm=24,
    rates=BOARDS["RTX 4090"],
)
SM_90 = replace(
    SM_80,
    name="sm_90",
    sm=90,
    ptx_version=84,
    oldest_ptx_version=78,
    features=_90,
    mma=_MMA_89,
    slow_mma=frozenset(("f8e4m3", "f8e5m2")),
    mma_sparse=_SPARSE_89,
    atomic_add=SM_80.atomic_add | {"bf16"},
    shared_bytes_per_block=227 * KIB,
    shared_bytes_per_sm=228 * KIB,
    rates=BOARDS["H100"],
)
SM_90A = replace(
    SM_90,
    name="sm_90a",
    oldest_ptx_version=80,
    features=_90A,
    wgmma=_WGMMA,
    wgmma_sparse=_SPARSE_WGMMA,
)
SM_100A = replace(
    SM_90,
    name="sm_100a",
    sm=100,
    ptx_version=86,
    oldest_ptx_version=86,
    features=_100A,
    rates=BOARDS["B200"],
)
SM_120 = replace(
    SM_89,
    name="sm_120",
    sm=120,
    ptx_version=87,
    oldest_ptx_version=87,
    features=_120,
    atomic_add=SM_90.atomic_add,
    rates=BOARDS["RTX 5090"],
)
CPU = Target("cpu", "cpu", shared_bytes_per_block=1 << 30)  # shared: in the arena

TARGETS = {t.name: t for t in (SM_80, SM_86, SM_89, SM_90, SM_90A, SM_100A, SM_120, CPU)}


def target(name: str) -> Target:
    """The target of this name; TilecError names the nearest where there is none."""
    if name in TARGETS:
        return TARGETS[name]
    raise TilecError(f"no target {name!r}: expected one of {', '.join(TARGETS)}{_near(name, tuple(TARGETS))}")


def parse_target(text: str) -> Place:
    """Reads "reference", "cpu", "emulator:sm_80", "cuda:0" (or "cuda") and "sm_90a" (compile only)."""
    runner, colon, rest = text.partition(":")
    if text == "reference" or text == "cpu":
        return Place(text, CPU)
    if runner == "cuda" and (not colon or rest.isdecimal()):
        return Place(f"cuda:{int(rest or 0)}", None)
    if runner == "emulator":
        return Place("emulator", _emulated(rest))
    if text in TARGETS:
        return Place("compile", TARGETS[text])
    places = ("reference", "cpu", "emulator:sm_80", "cuda:0", *(name for name in TARGETS if name != "cpu"))
    raise TilecError(f"no target {text!r}: expected one of {', '.join(places)}{_near(text, places)}")


def of_capability(major: int, minor: int) -> Target:
    """The target for a GPU of this compute capability: its own, else the nearest older one that any newer GPU
    runs (those named with an a run on no other)."""
    sm = major * 10 + minor
    own = [t for t in TARGETS.values() if t.sm == sm]
    older = [t for t in TARGETS.values() if 0 < t.sm < sm and not t.name.endswith("a")]
    if not own and not older:
        raise TilecError(f"this GPU has compute capability {major}.{minor}: tilec needs 8.0 (sm_80) or newer")
    return own[-1] if own else older[-1]


def _emulated(name: str) -> Target:
    gpus = tuple(n for n, t in TARGETS.items() if t.kind == "ptx")
    if name in gpus:
        return TARGETS[name]
    text, near = f"emulator:{name}" if name else "emulator", _nearest(name, gpus) or gpus[0]
    raise TilecError(
        f"no target {text!r}: the emulator runs {', '.join(gpus)}; did you mean emulator:{near}?"
    )


def _near(name: str, names: tuple[str, ...]) -> str:
    """The end of a message: "; did you mean sm_90a?", or nothing."""
    nearest = _nearest(name, names)
    return f"; did you mean {nearest}?" if nearest else ""


def _nearest(name: str, names: tuple[str, ...]) -> str | None:
    """By number the newest target that is not newer than what was asked for, else by spelling."""
    number = re.fullmatch(r"(?:sm|compute)?[_-]?(\d{2,3})[af]?", name.lower())
    if number:
        gpus = [n for n in names if n.startswith("sm_")]
        older = [n for n in gpus if TARGETS[n].sm <= int(number[1])]
        return (older or gpus[:1])[-1]
    return next(iter(get_close_matches(name.lower(), names, 1, 0.7)), None)
