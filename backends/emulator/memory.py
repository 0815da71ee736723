"""ld, ldu, st, prefetch, mov, cvta, isspacep, mapa, fences: what moves data one lane at a time.

ld.global.v4.f32 {a, b, c, d}, [p+16];
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.access import load, store
from tilec.backends.emulator.cluster import st_async
from tilec.backends.emulator.decode import Form, Getter, Setter, Step, full
from tilec.backends.emulator.device import LOCAL, PARAM, SHARED
from tilec.backends.emulator.handshake import ORDERS, RELAXED
from tilec.backends.emulator.program import Address, Symbol, Vector
from tilec.backends.emulator.ptx_types import Array, Sel, bits, numpy_type, unsigned

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

CACHES = tuple(
    [
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "nc",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::64B",
        "L2::128B",
        "L2::256B",
        "L2::evict_first",
        "L2::evict_last",
        "L2::evict_normal",
        "L2::cache_hint",
    ]
)
STRONG = ("volatile", "relaxed", "acquire", "release")
SCOPES = ("cta", "cluster", "gpu", "sys")
SPACES = tuple(
    [
        "global",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "param",
        "param::entry",
        "param::func",
        "const",
    ]
)


def space_of(f: Form) -> str:
    """The state space of an access; "cluster" for shared::cluster, "generic" when none is named."""
    space = f.take(*SPACES) or "generic"
    if space == "shared::cluster":
        return "cluster"
    return space.partition("::")[0]


def options(f: Form) -> tuple[str, int]:
    """Takes what does not change the value; (space, strong)."""
    f.take("weak")
    strong = order_of(f.take(*STRONG), f)
    f.take("mmio")
    f.take(*SCOPES) if strong else None
    space = space_of(f)
    hint = False
    while (name := f.take(*CACHES)) is not None:
        hint |= name == "L2::cache_hint"
    if hint:
        f.i.operands[-1]  # the policy operand is the last and changes no value
    return space, strong


def order_of(name: str | None, f: Form) -> int:
    """The order of a strong access: 0 for a plain one."""
    order = ORDERS[name] if name else 0
    if order & ~RELAXED:
        f.context.features.add("handshake")
    return order


def vector_length(f: Form) -> int:
    return int((f.take("v2", "v4", "v8") or "v1")[1:])


def ld(f: Form) -> Step:
    space, strong = options(f)
    count, kind = vector_length(f), f.type()
    if kind == "b128":
        f.error(".b128 loads are not known to the emulator")
    puts = f.targets(0, kind, count)
    where = f.operand(1)
    if space == "param" and isinstance(where, Address) and isinstance(where.base, Symbol):
        name = where.base.name
        if f.context.spaces.get(name) == "param":
            return ld_param(f, puts, f.context.addresses[name] - PARAM + where.offset, kind)
    space = actual_space(f, where, space)
    width = bits(kind) // 8
    note_width(f, space, width * count)
    return Step(loader(f.address(1), puts, kind, width * count, space, strong))


def actual_space(f: Form, where: Any, space: str) -> str:
    """Parameters of functions lie in local memory."""
    if space == "param" and isinstance(where, Address) and isinstance(where.base, Symbol):
        return f.context.spaces.get(where.base.name, space)
    return space


def note_width(f: Form, space: str, width: int) -> None:
    """The narrowest access decides how fine the shadows are."""
    width = min(width, 16)
    if space in ("shared", "cluster", "generic"):
        f.context.widths["shared"].add(width)
    if space in ("global", "generic"):
        f.context.widths["global"].add(width)


def ld_param(f: Form, puts: list[Setter], offset: int, kind: str) -> Step:
    dtype = numpy_type(kind)

    def run(m: Machine, s: Sel) -> None:
        for n, put in enumerate(puts):
            put(m, s, m.param_scalar(offset + n * dtype.itemsize, dtype))

    return Step(run)


def loader(
    address: Getter, puts: list[Setter], kind: str, width: int, space: str, strong: int
) -> Callable[[Machine, Sel], None]:
    dtype, count = numpy_type(kind), len(puts)

    def run(m: Machine, s: Sel) -> None:
        at = address(m, s)
        if width <= 16:
            raw = load(m, s, at, width, space, strong)
        else:
            raw = np.stack([load(m, s, at + n, 16, space, strong) for n in range(0, width, 16)], 1)
        if count == 1:
            return puts[0](m, s, raw.view(dtype))
        parts = raw.view(dtype).reshape(-1, count)
        for n, put in enumerate(puts):
            put(m, s, parts[:, n])
        return None

    return run


def st(f: Form) -> Step:
    if f.take("async"):
        return st_async(f)
    space, strong = options(f)
    count, kind = vector_length(f), f.type()
    if kind == "b128":
        f.error(".b128 stores are not known to the emulator")
    gets, width = f.sources(1, kind, count), bits(kind) // 8 * count
    space = actual_space(f, f.operand(0), space)
    note_width(f, space, width)
    address = f.address(0)
    raw = packer(gets, numpy_type(kind))

    def run(m: Machine, s: Sel) -> None:
        at, values = address(m, s), raw(m, s)
        if width <= 16:
            return store(m, s, at, values.view(unsigned(width)).reshape(-1), width, space, strong)
        halves = values.view(np.complex128)
        for n in range(width // 16):
            store(m, s, at + 16 * n, halves[:, n], 16, space, strong)
        return None

    return Step(run)


def packer(gets: list[Getter], dtype: np.dtype[Any]) -> Callable[[Machine, Sel], Array]:
    """[lanes, count] values of an instruction, contiguous."""
    if len(gets) == 1:
        return lambda m, s: np.ascontiguousarray(full(gets[0](m, s), s)).reshape(-1, 1)

    def pack(m: Machine, s: Sel) -> Array:
        first = full(gets[0](m, s), s)
        out = np.empty((len(first), len(gets)), dtype)
        out[:, 0] = first
        for n, get in enumerate(gets[1:], 1):
            out[:, n] = get(m, s)
        return out

    return pack


def prefetch(f: Form) -> Step:
    """No effect on values; the hint is free to be wrong."""
    f.take("uniform")
    f.take("tensormap")
    space_of(f)
    f.take("L1", "L2", "L2::evict_last", "L2::evict_normal")
    return Step(lambda m, s: None)


def nothing(*names: str) -> Callable[[Form], Step]:
    """Instructions that change no value here; all their modifiers are among `names`."""

    def build(f: Form) -> Step:
        while f.take(*names) is not None:
            pass
        return Step(lambda m, s: None)

    return build


def mov(f: Form) -> Step:
    kind = f.type()
    f.count(2)
    d, a = f.operand(0), f.operand(1)
    if isinstance(d, Vector):
        return unpack(f, kind, d)
    if isinstance(a, Vector):
        return pack(f, kind, a)
    put, get = f.target(0, kind), f.source(1, kind)
    return Step(lambda m, s: put(m, s, get(m, s)))


def pack(f: Form, kind: str, items: Vector) -> Step:
    """mov.b32 d, {low, high}"""
    width = bits(kind) // len(items.items)
    gets, put = [f.source(each, f"b{width}") for each in items.items], f.target(0, kind)
    dtype = numpy_type(kind)
    joined = packer(gets, unsigned(width // 8))
    return Step(lambda m, s: put(m, s, joined(m, s).view(dtype).reshape(-1)))


def unpack(f: Form, kind: str, items: Vector) -> Step:
    count = len(items.items)
    narrow = f"b{bits(kind) // count}"
    puts, get = [f.target(each, narrow) for each in items.items], f.source(1, kind)
    dtype = numpy_type(narrow)

    def run(m: Machine, s: Sel) -> None:
        parts = np.ascontiguousarray(full(get(m, s), s)).view(dtype).reshape(-1, count)
        for n, put in enumerate(puts):
            put(m, s, parts[:, n])

    return Step(run)


def cvta(f: Form) -> Step:
    """All windows lie apart in one space: the generic address is the address."""
    f.take("to")
    space_of(f)
    kind = f.type("u32", "u64")
    f.count(2)
    put, get = f.target(0, kind), f.source(1, kind)
    return Step(lambda m, s: put(m, s, get(m, s)))


def isspacep(f: Form) -> Step:
    space = space_of(f)
    put, get = f.target(0, "pred"), f.source(1, "u64")
    low, high = {"shared": (SHARED, 2 << 24), "cluster": (SHARED, LOCAL), "local": (LOCAL, PARAM),
                 "param": (PARAM, 1 << 33), "global": (1 << 33, 1 << 62), "const": (0, 0)}[space]  # fmt: skip

    def run(m: Machine, s: Sel) -> None:
        at = get(m, s)
        put(m, s, (at >= low) & (at < high))

    return Step(run)


def createpolicy(f: Form) -> Step:
    """A cache policy: any number will do."""
    f.left.clear()
    put = f.target(0, "b64")
    return Step(lambda m, s: put(m, s, np.uint64(0)))


FENCE = tuple(
    [
        "cta",
        "cluster",
        "gpu",
        "sys",
        "gl",
        "acq_rel",
        "sc",
        "acquire",
        "release",
        "level",
        "proxy",
        "alias",
        "mbarrier_init",
        "sync_restrict::shared::cta",
        "sync_restrict::shared::cluster",
    ]
)
BUILDERS: dict[str, Callable[[Form], Step]] = {
    "ld": ld, "ldu": ld, "st": st, "prefetch": prefetch, "prefetchu": prefetch, "mov": mov, "cvta": cvta,
    "isspacep": isspacep, "createpolicy": createpolicy,
    "nanosleep": nothing("u32"), "griddepcontrol": nothing("launch_dependents", "wait"),
    "discard": nothing("global", "L2"), "applypriority": nothing("global", "L2::evict_normal"),
    "pmevent": nothing("mask"), "nop": nothing(),
}  # fmt: skip
