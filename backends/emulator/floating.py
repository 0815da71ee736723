"""Floating point: add sub mul fma mad div min max abs neg sqrt rcp rsqrt sin cos lg2 ex2 tanh copysign testp.

f16 and bf16 are computed in f32 or f64 and rounded once; two packed halves are an array twice as long.
.approx forms give the correctly rounded value: hardware may differ by its stated bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilec.backends.emulator import exact
from tilec.backends.emulator.decode import Form, Getter, Setter, Step
from tilec.backends.emulator.integer import binary
from tilec.backends.emulator.ptx_types import Sel
from tilec.backends.emulator.rounding import from_bf16, to_bf16

if TYPE_CHECKING:
    from tilec.backends.emulator.machine import Machine

FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64", "f32x2")
MODES = ("rn", "rz", "rm", "rp")


class Kind:
    """How values of a float type are read from and written to registers."""

    def __init__(self, name: str) -> None:
        self.name, self.base, self.packed = name, name.removesuffix("x2"), name.endswith("x2")
        self.raw = {"f16": "b16", "bf16": "b16", "f16x2": "b32", "bf16x2": "b32", "f32x2": "b64"}.get(
            name, name
        )
        self.tiny = {"f16": 2.0**-14, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}[self.base]

    def load(self, raw: Any) -> Any:
        """Register contents as an f16, f32 or f64 array."""
        if self.base in ("f32", "f64") and not self.packed:
            return raw
        flat = np.ascontiguousarray(np.atleast_1d(raw))
        if self.base == "f32":
            return flat.view(np.float32)
        return flat.view(np.float16) if self.base == "f16" else from_bf16(flat.view(np.uint16))

    def store(self, x: Any) -> Any:
        """Values of this type, canonical NaN and all, as register contents."""
        if self.base == "f64":
            return x
        if self.base == "f32":
            x = canonical(x)
            return x.view(np.uint64) if self.packed else x
        raw = to_bf16(x) if self.base == "bf16" else canonical_half(np.asarray(x, np.float16)).view(np.uint16)
        return raw.view(np.uint32) if self.packed else raw

    def flush(self, x: Any) -> Any:
        """Subnormals to zeros of the same sign."""
        return np.where(np.abs(x) < x.dtype.type(self.tiny), np.copysign(x.dtype.type(0), x), x)

    def round(self, x: Any, mode: str) -> Any:
        """A float64 that is exact or rounded to odd, to this type's values."""
        if self.base == "f32":
            return exact.narrow(x, mode)
        if self.base == "f16":
            return exact.narrow(x, mode, np.float16)
        return from_bf16(to_bf16(x, mode))


def canonical(x: Any) -> Any:
    nan = x != x
    if not np.any(nan):
        return x
    return np.where(nan, np.uint32(0x7FFFFFFF).view(np.float32), x).astype(np.float32)


def canonical_half(x: Any) -> Any:
    nan = x != x
    return np.where(nan, np.uint16(0x7FFF).view(np.float16), x) if np.any(nan) else x


def elementwise(
    f: Form, kind: Kind, arity: int, function: Callable[..., Any], ftz: bool, sat: bool, mixed: bool = False
) -> Step:
    """A step that loads, flushes, computes, saturates, flushes and stores; `mixed`: f32 may be told of all
    operands but the last that they are halves (add.f32.bf16)."""
    f.count(arity + 1)
    put: Setter = f.target(0, kind.raw)
    half = f.take("f16", "bf16") if mixed and kind.name == "f32" else None
    kinds = [*[kind if half is None else Kind(half)] * (arity - 1), kind]
    gets: list[Getter] = [f.source(n, each.raw) for n, each in enumerate(kinds, 1)]
    if kind.name in ("f32", "f64") and not (ftz or sat or half) and arity == 2:
        a, b = gets
        return Step(lambda m, s: put(m, s, kind.store(function(a(m, s), b(m, s)))))

    def run(m: Machine, s: Sel) -> None:
        values = [each.load(get(m, s)) for each, get in zip(kinds, gets, strict=True)]
        if half is not None:
            values = [np.float32(v) for v in values]
        if ftz:
            values = [kind.flush(v) for v in values]
        x = function(*values)
        if sat:
            x = np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))
        put(m, s, kind.store(kind.flush(x) if ftz else x))

    return Step(run)


def options(f: Form, *more: str) -> tuple[Kind, str, bool, bool]:
    mode = f.take(*MODES, *more) or "rn"
    ftz, sat = bool(f.take("ftz")), bool(f.take("sat"))
    return Kind(f.type(*FLOATS)), mode, ftz, sat


def add(f: Form, sign: int = 1) -> Step:
    kind, mode, ftz, sat = options(f)

    def function(a: Any, b: Any) -> Any:
        b = b if sign > 0 else -b
        if mode == "rn":  # f32 is wide enough that rounding its sum to bf16 is innocent
            return a + b
        if kind.base == "f64":
            return exact.add64(a, b, mode)
        x = exact.add_odd(a, b)
        if mode == "rm":
            x = np.where((x == 0) & (np.signbit(a) != np.signbit(b)), -0.0, x)
        return kind.round(x, mode)

    return elementwise(f, kind, 2, function, ftz, sat, mixed=True)


def sub(f: Form) -> Step:
    return add(f, -1)


def mul(f: Form) -> Step:
    kind, mode, ftz, sat = options(f)

    def function(a: Any, b: Any) -> Any:
        if mode == "rn" and kind.base != "bf16":
            return a * b
        if kind.base == "f64":
            return exact.mul64(a, b, mode)
        return kind.round(np.multiply(a, b, dtype=np.float64), mode)

    return elementwise(f, kind, 2, function, ftz, sat)


def fma(f: Form) -> Step:
    relu = f.take("relu")
    kind, mode, ftz, sat = options(f)

    def function(a: Any, b: Any, c: Any) -> Any:
        if kind.base == "f32":
            x = exact.fma32(a, b, c, mode)
        elif kind.base == "f64":
            x = exact.fma64(a, b, c, mode)
        else:
            x = kind.round(exact.fma_odd(a, b, c), mode)
        return np.where(x != x, x, np.maximum(x, x.dtype.type(0))) if relu else x

    return elementwise(f, kind, 3, function, ftz, sat, mixed=True)


def div(f: Form) -> Step:
    kind, mode, ftz, sat = options(f, "approx", "full")

    def function(a: Any, b: Any) -> Any:
        if kind.base == "f64" and mode in ("rz", "rm", "rp"):
            return exact.div64(a, b, mode)
        if mode in ("rz", "rm", "rp"):
            return exact.narrow(np.divide(a, b, dtype=np.float64), mode)
        return fast_quotient(a, b) if mode == "approx" else np.divide(a, b)

    return elementwise(f, kind, 2, function, ftz, sat)


def fast_quotient(a: Any, b: Any) -> Any:
    """div.approx.f32: its reciprocal vanishes where 2^126 < |b| < 2^128, so 0, or NaN where a is infinite."""
    huge = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(huge, a * np.copysign(np.float32(0), b), np.divide(a, b))


def negate(f: Form) -> Step:
    kind, _, ftz, _ = options(f)
    return elementwise(f, kind, 1, np.negative, ftz, False)


def absolute(f: Form) -> Step:
    kind, _, ftz, _ = options(f)
    return elementwise(f, kind, 1, np.abs, ftz, False)


def extremum(largest: bool) -> Callable[[Form], Step]:
    """min and max: a NaN operand gives the other one, or NaN with .NaN; -0 is below +0."""

    def build(f: Form) -> Step:
        ftz, propagate = bool(f.take("ftz")), f.take("NaN")
        sign = f.take("xorsign")
        if sign and not f.take("abs"):
            f.error("xorsign goes with .abs")
        kind = Kind(f.type(*FLOATS))

        def function(*values: Any) -> Any:
            found = values[0]
            for value in values[1:]:
                found = pick(found, value, largest, bool(propagate), bool(sign))
            return found

        return elementwise(f, kind, f.count(3, 4) - 1, function, ftz, False)

    return build


def pick(a: Any, b: Any, largest: bool, propagate: bool, sign: bool) -> Any:
    x, y = (np.abs(a), np.abs(b)) if sign else (a, b)
    first = (x > y) if largest else (x < y)
    first |= (x == y) & (np.signbit(x) != largest)
    found = np.where(first, x, y)
    found = np.where(x != x, y, np.where(y != y, x, found))
    if propagate:
        found = np.where((x != x) | (y != y), x.dtype.type(np.nan), found)
    return np.where(np.signbit(a) != np.signbit(b), -found, found) if sign else found


def function64(compute: Callable[[Any], Any]) -> Callable[[Form], Step]:
    """A function of one operand, computed in float64 and rounded; directed roundings where the form has
    them."""

    def build(f: Form) -> Step:
        mode = f.take(*MODES, "approx") or "rn"
        ftz = bool(f.take("ftz"))
        kind = Kind(f.type(*FLOATS))

        def function(a: Any) -> Any:
            if kind.base == "f64":
                return compute64(compute, a, mode)
            return kind.round(compute(a.astype(np.float64)), "rn" if mode == "approx" else mode)

        return elementwise(f, kind, 1, function, ftz, False)

    return build


def compute64(compute: Callable[[Any], Any], a: Any, mode: str) -> Any:
    if mode not in ("rz", "rm", "rp"):
        return compute(a)
    return exact.sqrt64(a, mode) if compute is np.sqrt else exact.div64(1.0, a, mode)


def reciprocal(a: Any) -> Any:
    return 1.0 / a


def inverse_root(a: Any) -> Any:
    return np.copysign(1.0, a) / np.sqrt(np.abs(a)) if np.ndim(a) == 0 else np.where(a < 0, np.nan, invert(a))


def invert(a: Any) -> Any:
    return np.copysign(1.0 / np.sqrt(np.abs(a)), a)


def copysign(f: Form) -> Step:
    """The bits of b under the sign of a."""
    kind = f.type("f32", "f64")
    raw, top = ("b32", np.uint32(1 << 31)) if kind == "f32" else ("b64", np.uint64(1 << 63))
    return binary(f, raw, lambda a, b: (b & ~top) | (a & top))


TESTS: dict[str, Callable[[Any, float], Any]] = {
    "finite": lambda x, tiny: np.isfinite(x), "infinite": lambda x, tiny: np.isinf(x),
    "number": lambda x, tiny: x == x, "notanumber": lambda x, tiny: x != x,
    "normal": lambda x, tiny: np.isfinite(x) & (np.abs(x) >= tiny),
    "subnormal": lambda x, tiny: (np.abs(x) < tiny) & (x != 0),
}  # fmt: skip


def testp(f: Form) -> Step:
    test, kind = TESTS[f.need(*TESTS)], Kind(f.type("f32", "f64"))
    f.count(2)
    put, a = f.target(0, "pred"), f.source(1, kind.raw)
    return Step(lambda m, s: put(m, s, test(a(m, s), kind.tiny)))


BUILDERS: dict[str, Callable[[Form], Step]] = {
    "fma": fma, "copysign": copysign, "testp": testp,
    "sqrt": function64(np.sqrt), "rcp": function64(reciprocal), "rsqrt": function64(inverse_root),
    "sin": function64(np.sin), "cos": function64(np.cos), "lg2": function64(np.log2),
    "ex2": function64(np.exp2),
    "tanh": function64(np.tanh),
}  # fmt: skip
