"""Comparisons and selections: setp, set, selp, slct.

setp.ltu.and.f32 p|q, a, b, !c      p = unordered(a < b) and not c,  q = not(a < b) and not c
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator.decode import Form, Getter, Setter, Step
from tilec.backends.emulator.floating import Kind
from tilec.backends.emulator.program import Operand, Pair
from tilec.backends.emulator.ptx_types import Sel, bits, numpy_type

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}
COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor
}  # fmt: skip
HALVES = ("f16", "bf16", "f16x2", "bf16x2")


def comparison(name: str, floating: bool) -> Callable[[Any, Any], Any]:
    if name == "num":
        return lambda a, b: (a == a) & (b == b)
    if name == "nan":
        return lambda a, b: (a != a) | (b != b)
    if name in UNORDERED:
        ordered = ORDERED[UNORDERED[name]]
        return lambda a, b: ordered(a, b) | (a != a) | (b != b)
    if floating and name == "ne":  # ordered: false where a NaN is
        return lambda a, b: (a < b) | (a > b)
    return ORDERED[name]


NAMES = (*ORDERED, *UNORDERED, "num", "nan")


def compared(f: Form, first: int) -> tuple[Callable[[Machine, Sel], Any], str]:
    """The comparison that the modifiers name, over operands `first` and the next; and the type compared."""
    name, ftz = f.need(*NAMES), f.take("ftz")
    kind = f.type()
    if kind in HALVES or kind in ("f32", "f64"):
        form = Kind(kind)
        a, b = f.source(first, form.raw), f.source(first + 1, form.raw)
        test = comparison(name, True)

        def run(m: Machine, s: Sel) -> Any:
            x, y = form.load(a(m, s)), form.load(b(m, s))
            return test(form.flush(x), form.flush(y)) if ftz else test(x, y)

        return run, kind
    a, b = f.source(first, kind), f.source(first + 1, kind)
    test = comparison(name, False)
    return (lambda m, s: test(a(m, s), b(m, s))), kind


def halves(x: Any, which: int) -> Any:
    return x[which::2]


def setp(f: Form) -> Step:
    combine = f.take(*COMBINE)
    test, kind = compared(f, 1)
    where = f.operand(0)
    c = f.source(3, "pred") if combine else None
    if kind.endswith("x2"):
        return setp_pair(f, test, where)
    p, q = (where.first, where.second) if isinstance(where, Pair) else (where, None)
    put, also = f.target(p, "pred"), f.target(q, "pred") if q else None
    if not combine and also is None:
        return Step(lambda m, s: put(m, s, test(m, s)))
    return Step(setp_run(put, also, test, COMBINE[combine] if combine else None, c))


def setp_run(
    put: Setter,
    also: Setter | None,
    test: Getter,
    combine: Callable[[Any, Any], Any] | None,
    c: Getter | None,
) -> Getter:
    def run(m: Machine, s: Sel) -> None:
        x = test(m, s)
        y = np.logical_not(x)
        if combine and c:
            third = c(m, s)
            x, y = combine(x, third), combine(y, third)
        put(m, s, x)
        if also:
            also(m, s, y)

    return run


def setp_pair(f: Form, test: Getter, where: Operand) -> Step:
    if not isinstance(where, Pair):
        f.error("a packed comparison gives two predicates, p|q")
    put, also = f.target(where.first, "pred"), f.target(where.second, "pred")

    def run(m: Machine, s: Sel) -> None:
        x = test(m, s)
        put(m, s, halves(x, 0))
        also(m, s, halves(x, 1))

    return Step(run)


def set_(f: Form) -> Step:
    """set: all ones (or 1.0) where the comparison holds."""
    combine = f.take(*COMBINE)
    name = next((n for n in f.left if n in NAMES), None) or f.error("needs a comparison")
    result = f.type()
    f.left.insert(0, f.left.pop(f.left.index(name)))
    test, _ = compared(f, 1)
    c = f.source(3, "pred") if combine else None
    put = f.target(0, Kind(result).raw if result in HALVES else result)

    def run(m: Machine, s: Sel) -> None:
        x = test(m, s)
        if combine and c:
            x = COMBINE[combine](x, c(m, s))
        put(m, s, truth(x, result))

    return Step(run)


def truth(x: Any, result: str) -> Any:
    if result in HALVES:
        one = np.uint16(0x3C00 if result.startswith("f16") else 0x3F80)
        flat = np.where(x, one, np.uint16(0))
        return flat.view(np.uint32) if result.endswith("x2") else flat
    dtype = numpy_type(result)
    return np.where(x, dtype.type(1) if dtype.kind == "f" else ~dtype.type(0), dtype.type(0))


def selp(f: Form) -> Step:
    kind = f.type()
    raw = f"b{bits(kind)}" if kind != "pred" else f.error("selp on predicates is not an instruction")
    put, a, b, p = f.target(0, raw), f.source(1, raw), f.source(2, raw), f.source(3, "pred")
    if kind in ("f32", "f64"):
        put, a, b = f.target(0, kind), f.source(1, kind), f.source(2, kind)
    return Step(lambda m, s: put(m, s, np.where(p(m, s), a(m, s), b(m, s))))


def slct(f: Form) -> Step:
    """d = c >= 0 ? a : b."""
    ftz, kind, third = f.take("ftz"), f.type(), f.type("s32", "f32")
    form = Kind("f32")
    put, a, b, c = f.target(0, kind), f.source(1, kind), f.source(2, kind), f.source(3, third)

    def run(m: Machine, s: Sel) -> None:
        x = c(m, s)
        put(m, s, np.where((form.flush(x) if ftz else x) >= 0, a(m, s), b(m, s)))

    return Step(run)


BUILDERS: dict[str, Callable[[Form], Step]] = {"setp": setp, "set": set_, "selp": selp, "slct": slct}
